"""The table of what `make test-faults` has done to the commands."""

import json

import pytest

from reference_pipelines.text_table import format_table


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    told = [
        json.loads(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "fault" and getattr(report, "when", "") == "call"
    ]
    if told:
        rows = [(each["command"], each["fault"], str(each["times"]), each["seen"], each["then"]) for each in told]
        headings = ("command", "fault", "times", "what the user saw", "the same command again")
        terminalreporter.write_line("\n" + format_table(rows, headings, words=2))
