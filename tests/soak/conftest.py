"""The table of what `make test-soak` has measured."""

import pytest

from reference_pipelines.text_table import format_table
from tests.told import told_by_tests


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = [tuple(row) for row in told_by_tests(terminalreporter, "soak")]
    if rows:
        headings = ("what", "times", "figure", "at first", "at last", "growth each time, 95 %")
        terminalreporter.write_line("\n" + format_table(rows, headings, words=2))
