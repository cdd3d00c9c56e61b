"""What several kinds of faults are tried on."""

import shutil

import pytest

from reference_pipelines.commands.cli import main


@pytest.fixture(scope="module")
def run(trained_run, images, tmp_path_factory):
    """A run of its own, with features beside it."""
    copy = tmp_path_factory.mktemp("faults") / "run"
    shutil.copytree(trained_run, copy)
    features = copy.parent / "features"
    assert main(["extract", str(copy), str(images), "--out", str(features), "--device", "cpu", "--workers", "0"]) == 0
    return copy
