"""Miniatures that the tests train on, and what messages are asked for."""

import fcntl
import gc
import importlib.util
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from tests.fault_table import pytest_terminal_summary, tell  # noqa: F401 (pytest finds them here)

# The tests' tensors are small: a second thread only waits, and waits badly where the machine is busy.
torch.set_num_threads(1)
# No power cut is survived here, and a disk that is waited for thousands of times makes the suite slow.
os.fsync = lambda descriptor: None


def pytest_collection_finish() -> None:
    """Keep what is imported out of every later search for garbage: 5 % of the suite's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def says(message: str, *parts: str) -> bool:
    """Whether one line of the message has these parts, in this order."""
    return re.search(".*".join(map(re.escape, parts)), message) is not None


def script(name: str) -> ModuleType:
    """Return a script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_image(path: Path, seed: int, size: tuple[int, int] = (32, 16)) -> None:
    from PIL import Image  # the library's own tests run without it

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=90)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that one of pytest-xdist's workers fills; the others wait for it, and leave it the cores."""
    several = "PYTEST_XDIST_WORKER" in os.environ
    root = factory.getbasetemp().parent if several else factory.getbasetemp()
    folder = root / name
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            draft = Path(tempfile.mkdtemp(dir=root))
            make(draft)
            draft.rename(folder)
    return folder


@pytest.fixture
def market(tmp_path: Path) -> Path:
    """A folder in the Market-1501 layout: 6 train ids, 3 test ids, 2 cameras, a distractor and junk."""
    root = tmp_path / "Market-1501-v15.09.15"
    seed = 0
    for person in range(1, 10):
        folder = "bounding_box_train" if person <= 6 else "bounding_box_test"
        for camera in (1, 2):
            for frame in range(3):
                seed += 1
                write_image(root / folder / f"{person:04d}_c{camera}s1_{frame:06d}_00.jpg", seed)
            if person > 6:
                write_image(root / "query" / f"{person:04d}_c{camera}s1_000099_00.jpg", seed + 1000)
    write_image(root / "bounding_box_test" / "0000_c1s1_000001_00.jpg", 500)
    write_image(root / "bounding_box_test" / "-1_c1s1_000002_00.jpg", 501)
    return root


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered pedestrians that the small runs are trained on."""
    from reference_pipelines.rendering import render_market

    root = tmp_path_factory.mktemp("rendered") / "images"
    counts = {"train_ids": 8, "test_ids": 4, "cameras": 3, "images_per_camera": 3, "distractors": 2, "junk": 1}
    render_market(root, **counts, image_size=(64, 32), workers=1, progress=False)
    return root


@pytest.fixture(scope="session")
def trained_run(images, tmp_path_factory):
    """A run of one epoch on the rendered pedestrians."""
    from reference_pipelines.config.loading import load_config  # the library's own tests run without it
    from reference_pipelines.pipelines import PIPELINES

    out = tmp_path_factory.mktemp("trained") / "run"
    pipeline = PIPELINES["apnet"]
    values = {"data.image_size": "[32, 16]", "optimizer.epochs": "1", "optimizer.milestones": "[]"}
    values |= {"augment.pad": "2", "sampler.ids": "4", "data.root": str(images), "data.workers": "0"}
    words = ["--config", str(pipeline.recipes / "demo.yaml"), *(f"--{key}={value}" for key, value in values.items())]
    pipeline.train(load_config(pipeline.config, words), out)
    return out
