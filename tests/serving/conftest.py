"""A small trained run, made once for all tests of its uses."""

import pytest

from reference_pipelines.config.loading import load_config
from reference_pipelines.pipelines import PIPELINES


@pytest.fixture(scope="session")
def run(images, tmp_path_factory):
    """A run of one epoch on the rendered pedestrians."""
    out = tmp_path_factory.mktemp("serving") / "run"
    pipeline = PIPELINES["apnet"]
    values = {"data.image_size": "[32, 16]", "optimizer.epochs": "1", "optimizer.milestones": "[]"}
    values |= {"augment.pad": "2", "sampler.ids": "4", "data.root": str(images), "data.workers": "0"}
    words = ["--config", str(pipeline.recipes / "demo.yaml"), *(f"--{key}={value}" for key, value in values.items())]
    pipeline.train(load_config(pipeline.config, words), out)
    return out
