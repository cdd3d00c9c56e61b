"""One seed, one machine, one thread: the same bits, whatever loads the images and in whatever process."""

import os
import subprocess
import sys

import pytest

from reference_pipelines.pipelines import PIPELINES
from tests.training.runs import ROOT, arguments, assert_same_run, trained


@pytest.fixture(scope="module")
def alone(images, tmp_path_factory):
    """A run of each pipeline whose images are decoded in its own process."""
    out = tmp_path_factory.mktemp("alone")
    for name in PIPELINES:
        trained(name, images, out / name)
    return out


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_twice_is_bit_by_bit_the_same(alone, images, tmp_path, pipeline):
    trained(pipeline, images, tmp_path / "again")
    assert_same_run(alone / pipeline, tmp_path / "again")


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("workers", [1, 2])
def test_whoever_loads_the_images_it_is_bit_by_bit_the_same(alone, images, tmp_path, pipeline, workers):
    trained(pipeline, images, tmp_path / "run", **{"data.workers": str(workers)})
    assert_same_run(alone / pipeline, tmp_path / "run", but=("workers",))


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_another_process_with_other_hashes_is_bit_by_bit_the_same(alone, images, tmp_path, pipeline):
    command = [sys.executable, "-m", "reference_pipelines", "train", pipeline, "--out", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONHASHSEED": "17", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *arguments(pipeline, images)], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert_same_run(alone / pipeline, tmp_path / "run")
