"""Short timings, and a clock on which time passes only where a test says so."""

import pytest

from benchmarks import timing
from tests.benchmarks.support import CLOCK


@pytest.fixture(autouse=True)
def no_repeats(monkeypatch):
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.0)


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(timing, "time", CLOCK)
