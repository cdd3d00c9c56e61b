"""A small trained run, made once for all tests of its uses."""

import pytest


@pytest.fixture(scope="session")
def run(trained_run):
    """A run of one epoch on the rendered pedestrians."""
    return trained_run
