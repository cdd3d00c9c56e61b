"""The table of what `make test-soak` has measured."""

import json

import pytest

from reference_pipelines.text_table import format_table


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = [
        tuple(json.loads(value))
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "soak" and getattr(report, "when", "") == "call"
    ]
    if rows:
        headings = ("what", "times", "figure", "at first", "at last", "growth each time, 95 %")
        terminalreporter.write_line("\n" + format_table(rows, headings, words=2))
