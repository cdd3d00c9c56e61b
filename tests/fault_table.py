"""The table of what `make test-faults` has done, and to what; `tests/conftest.py` has pytest print it."""

import json
from collections.abc import Callable

import pytest

from tests.told import told_by_tests

NOTHING, WHOLE = "nothing", "nothing corrupt"


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Add a row to the table: what was hit, by which fault, how often, and what came of it.

    Where `lost` and `read` are left out the test has seen that nothing was lost and nothing damaged was read.
    """

    def told(what: str, fault: str, times: int, seen: str, *, lost: str = NOTHING, read: str = WHOLE) -> None:
        row = {"what": what, "fault": fault, "times": times, "seen": seen, "lost": lost, "read": read}
        record_property("fault", json.dumps(row))

    return told


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, where there is one."""
    rows = told_by_tests(terminalreporter, "fault")
    if rows:
        from reference_pipelines.text_table import format_table  # the library's own tests run without it

        headings = ("what", "fault", "times", "what the user saw", "lost", "read")
        merged: dict[tuple[str, ...], int] = {}
        for row in rows:
            key = tuple(row[name] for name in ("what", "fault", "seen", "lost", "read"))
            merged[key] = merged.get(key, 0) + row["times"]
        cells = [[*key[:2], str(times), *key[2:]] for key, times in merged.items()]
        terminalreporter.write_line("\n" + format_table(cells, headings, words=6))
        terminalreporter.write_line(f"{sum(row['times'] for row in rows)} faults")
