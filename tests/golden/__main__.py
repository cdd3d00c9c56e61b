"""Measure all golden values anew and keep them: python -m tests.golden."""

import tempfile
from pathlib import Path

import torch

from reference_pipelines.pipelines import PIPELINES
from tests.golden import layers, runs, values


def main():
    torch.set_num_threads(1)
    values.write("layers", {name: layers.measured(name) for name in layers.LAYERS})
    with tempfile.TemporaryDirectory() as folder:
        values.write("runs", {name: runs.measured(name, Path(folder) / name) for name in PIPELINES})


if __name__ == "__main__":
    main()
