"""Small runs of both programs, and what of two runs must be the same."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from reference_pipelines.config.loading import load_config
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.runs.checkpoints import read_newest

ROOT = Path(__file__).parents[2]
SMALL = {
    "data.image_size": "[32, 16]",
    "optimizer.epochs": "2",
    "optimizer.milestones": "[1]",
    "evaluation.every": "1",
    "augment.pad": "2",
}
SPECIFIC = {
    "apnet": {"sampler.ids": "4", "attention.levels": "2"},
    "mla": {
        "sampler.ids": "3",
        "sampler.images": "4",
        "iterations": "3",
        "clustering.k1": "6",
        "clustering.k2": "2",
        "clustering.min_samples": "2",
    },
}
# What tells one run from its repetition: when, by which command, where, and after which interruptions.
PASSING = ("seconds", "train_seconds", "command", "resumed", "hardware", "processes", "code", "commit")


def arguments(pipeline, root, **changes):
    recipe = PIPELINES[pipeline].recipes / "demo.yaml"
    values = {**SMALL, **SPECIFIC[pipeline], "data.root": str(root), **changes}
    return ["--config", str(recipe), *(f"--{key}={value}" for key, value in values.items())]


def configured(pipeline, root, **changes):
    return load_config(PIPELINES[pipeline].config, arguments(pipeline, root, **changes))


def trained(pipeline, root, out, **changes):
    return PIPELINES[pipeline].train(configured(pipeline, root, **changes), out)


def lasting(document, but=()):
    """Drop from a log, a result or a checkpoint's state what passes, and the keys `but`."""
    if isinstance(document, dict):
        return {key: lasting(value, but) for key, value in document.items() if key not in (*PASSING, *but)}
    return [lasting(item, but) for item in document] if isinstance(document, list) else document


def logged(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_equal_tensors(one, other):
    assert one.keys() == other.keys()
    differing = [name for name in one if not torch.equal(one[name], other[name])]
    assert not differing


def assert_same_run(one, other, but=()):
    """Weights (last and best), optimiser, schedule, scaler, generators, memory, labels, log and result are equal.

    `but` are keys of the descriptions in which they may differ.
    """
    for name in ("model.safetensors", "best.safetensors"):
        assert_equal_tensors(load_file(one / name), load_file(other / name))
    (first, _), (second, _) = read_newest(one), read_newest(other)
    assert first.epoch == second.epoch
    assert_equal_tensors(load_file(first.place / "model.safetensors"), load_file(second.place / "model.safetensors"))
    assert_equal_tensors(first.state.tensors(), second.state.tensors())
    assert lasting(first.state.to_json(), but) == lasting(second.state.to_json(), but)
    assert lasting(first.state.description.to_json(), but) == lasting(second.state.description.to_json(), but)
    assert lasting(logged(one)) == lasting(logged(other))
    labels = [sorted((folder / "pseudo_labels").glob("*")) for folder in (one, other)]
    assert [path.name for path in labels[0]] == [path.name for path in labels[1]]
    for mine, theirs in zip(*labels, strict=True):
        assert np.array_equal(np.load(mine), np.load(theirs))
    results = [lasting(json.loads((folder / "result.json").read_text()), but) for folder in (one, other)]
    assert results[0] == results[1]
    for folder in (one, other):
        assert not list(folder.rglob("*partial*"))


def in_child(function, *, killed_after=None):
    """Run `function` in a forked process, kill it after so many seconds, and return its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    if killed_after is not None:
        time.sleep(killed_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Together:
    """torchrun with some processes, in a group of its own, which never outlives the test."""

    def __init__(self, command, *, processes=2, module="reference_pipelines"):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        self.process = subprocess.Popen(
            [*launcher, "-m", module, *command],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in (*self.ranks().values(), self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
        self.process.wait()

    def ranks(self):
        """Return the process of each rank that lives."""
        try:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        except OSError:
            return {}
        found = {}
        for child in children:
            try:
                variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            found |= {int(value[5:]): int(child) for value in variables if value.startswith(b"RANK=")}
        return found

    def wait_until(self, reached, limit=120.0):
        """Wait until `reached()`, and fail where it stops before."""
        end = time.monotonic() + limit
        while not reached():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < end
            time.sleep(0.01)

    def finish(self, limit=120.0):
        """Return exit status, what was printed, and the seconds it took."""
        began = time.monotonic()
        printed, _ = self.process.communicate(timeout=limit)
        return self.process.returncode, printed, time.monotonic() - began


def epochs_logged(folder):
    try:
        return (folder / "log.jsonl").read_text().count("\n") - 1
    except OSError:
        return -1
