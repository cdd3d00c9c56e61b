"""What tests record of their cases, read for the tables that `make test-fuzz`, `test-faults` and `test-soak` print."""

import json
from typing import Any

import pytest


def told_by_tests(terminalreporter: pytest.TerminalReporter, name: str) -> list[Any]:
    """Return what the tests of this run recorded under a name, as JSON, in their order."""
    return [
        json.loads(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        for kind, value in getattr(report, "user_properties", ())
        if kind == name and getattr(report, "when", "") == "call"
    ]
