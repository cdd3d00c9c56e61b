"""The table of what `make test-fuzz` has generated."""

import pytest

from reference_pipelines.text_table import format_table
from tests.told import told_by_tests


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    told = told_by_tests(terminalreporter, "fuzz")
    if not told:
        return
    rows = []
    for each in told:
        outcomes = dict(each["outcomes"])
        right = outcomes.pop("right", 0)
        same = outcomes.pop("same", 0)
        refused = sum(outcomes.values())
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(outcomes.items()))
        slowest = f"{each['slowest']:.2f} s, {each['grown']} MB" if "slowest" in each else ""
        rows.append((each["name"], str(right + same + refused), str(right + same), str(refused), slowest, kinds))
    total = [sum(int(row[column]) for row in rows) for column in (1, 2, 3)]
    rows.append(("all", *map(str, total), "", ""))
    terminalreporter.write_line("")
    headings = ("entry point", "cases", "right", "refused", "slowest, memory", "how refused")
    terminalreporter.write_line(format_table(rows, headings, words=1))
