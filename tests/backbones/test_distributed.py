"""Two processes train a backbone with attention as one does on the joined batch."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed

from tests.backbones.backbones import BACKBONES, available
from tests.backbones.distributed import PROCESSES

ROOT = Path(__file__).parents[2]


def together(command: list[str], limit: float) -> list[tuple[int, str]]:
    """Run the command once for every rank, and return exit status and output; none outlives `limit` seconds."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", command[0], str(rank), *command[1:]],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(PROCESSES)
    ]
    end = time.monotonic() + limit
    try:
        return [
            (process.wait(), output)
            for process in processes
            for output, _ in [process.communicate(timeout=max(0.0, end - time.monotonic()))]
        ]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.parametrize(
    ("names", "limit"),
    [
        # In `make test` an attended network is held to the same by tests/distributed.
        pytest.param(("resnet18",), 120, marks=pytest.mark.slow),
        pytest.param(tuple(name for name in BACKBONES if name != "resnet18"), 400, marks=pytest.mark.slow),
    ],
    ids=["resnet18", "others"],
)
def test_two_processes_train_as_one(names: tuple[str, ...], limit: float, tmp_path: Path) -> None:
    wanted = available(names)
    for status, output in together(["tests.backbones.distributed", str(tmp_path / "store"), *wanted], limit):
        assert status == 0, output
        assert output.count("as one") == len(wanted), output
