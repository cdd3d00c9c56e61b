"""Writing a checkpoint may be cut off anywhere: what bears its name is whole, and the one before is there."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from attnreid import load_checkpoint
from reference_pipelines.errors import UserError
from reference_pipelines.runs import checkpoints as module
from reference_pipelines.runs.checkpoints import (
    clear_after,
    place_of,
    read_checkpoint,
    read_newest,
    saved_epochs,
    write_checkpoint,
)
from reference_pipelines.runs.description import Damaged, RunDescription
from reference_pipelines.runs.state import GeneratorState, OptimizerState, TrainingState, seed_generators
from tests.training.runs import assert_equal_tensors, in_child


def described(epoch):
    """What a run says of itself."""
    return RunDescription(
        pipeline="apnet",
        title="APNet",
        config={"optimizer": {"epochs": 9}},
        recipe=None,
        classes=None,
        data={"name": "data"},
        fingerprint="0",
        weights="none",
        weights_digest=None,
        chance=0.1 + 0.2,
        hardware="cpu",
        remarks=[],
        processes=1,
        command=None,
        commit=None,
        code="0",
        versions={"torch": "2"},
        epoch=epoch,
    )


def made(epoch, values=1000):
    """A network and the state of its training."""
    generator = torch.Generator().manual_seed(epoch)
    model = nn.Linear(values, 1)
    model.load_state_dict({"weight": torch.randn(1, values, generator=generator), "bias": torch.tensor([float(epoch)])})
    seed_generators(0)
    state = TrainingState(
        description=described(epoch),
        log=[{"epoch": epoch, "rate": 0.1 + 0.2}],
        optimizer=OptimizerState({"0.exp_avg": torch.randn(3, 4, generator=generator).t()}, [{"lr": 0.1}]),
        schedule={"last_epoch": epoch},
        scaler={},
        generators=GeneratorState.of(torch.device("cpu")),
        labels=torch.arange(3) if epoch % 2 else None,
        objective={"memory": torch.randn(2, generator=generator)},
    )
    return model, state


def written(folder, epoch, values=1000):
    write_checkpoint(folder, *made(epoch, values))


def assert_is(checkpoint, epoch, values=1000):
    model, state = made(epoch, values)
    assert checkpoint.epoch == epoch
    assert_equal_tensors(load_file(checkpoint.place / "model.safetensors"), model.state_dict())
    fresh = nn.Linear(values, 1)
    load_checkpoint(fresh, checkpoint.place)  # a checkpoint is what the library reads
    assert_equal_tensors(fresh.state_dict(), model.state_dict())
    assert_equal_tensors(checkpoint.state.tensors(), state.tensors())
    assert checkpoint.state.to_json() == state.to_json()
    assert checkpoint.state.description == state.description


def test_what_is_written_is_read_and_two_are_kept(tmp_path):
    for epoch in (0, 1, 2, 3):
        written(tmp_path, epoch)
    assert saved_epochs(tmp_path) == [2, 3]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["epoch-0002", "epoch-0003"]
    checkpoint, wrong = read_newest(tmp_path)
    assert not wrong
    assert_is(checkpoint, 3)
    assert_is(read_checkpoint(place_of(tmp_path, 2)), 2)


def test_epochs_beyond_four_digits_are_in_order(tmp_path):
    for epoch in (9999, 10000):
        written(tmp_path, epoch)
    assert read_newest(tmp_path)[0].epoch == 10000


def test_there_is_no_pickle_in_it(tmp_path):
    written(tmp_path, 1)
    place = place_of(tmp_path, 1)
    assert sorted(path.name for path in place.iterdir()) == ["model.safetensors", "training.safetensors"]
    with safe_open(place / "training.safetensors", "pt") as file:
        json.loads(file.metadata()["training_state"])


def test_another_epochs_training_state_is_noticed(tmp_path):
    for epoch in (1, 2):
        written(tmp_path, epoch)
    shutil.copy(place_of(tmp_path, 1) / "training.safetensors", place_of(tmp_path, 2))
    checkpoint, (said,) = read_newest(tmp_path)
    assert checkpoint.epoch == 1
    assert said == f"{place_of(tmp_path, 2)} is not whole (training.safetensors has not the content that was written)"


def test_a_checkpoint_of_an_earlier_version_is_refused_with_a_way_on(tmp_path):
    written(tmp_path, 1)
    (place_of(tmp_path, 2)).mkdir()
    (place_of(tmp_path, 2) / "state.json").write_text('{"format": 2}')
    with pytest.raises(UserError, match=r"resume: .*epoch-0002 is of an earlier one; .*--model.weights") as refused:
        read_newest(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"program": "another"}, "no description of format 3"),
        ({"format": 4}, "no description of format 3"),
        ({"epoch": "1"}, "its 'epoch' is '1'"),
        ({"weights_digest": 3}, "its 'weights_digest' is 3"),
        ({"chance": True}, "its 'chance' is True"),
        ({"remarks": {}}, "its 'remarks' is {}"),
        ({"versions": None}, "its 'versions' is None"),
    ],
)
def test_a_description_of_something_else_is_refused(change, said):
    content = described(1).to_json()
    assert RunDescription.from_json(content) == described(1)
    with pytest.raises(Damaged, match=re.escape(said)):
        RunDescription.from_json({**content, **change})
    del content["title"]
    with pytest.raises(Damaged, match="it lacks 'title'"):
        RunDescription.from_json(content)


def interrupted(monkeypatch, at, happens):
    """Have `happens` come before call number `at` that touches the disk, and count the calls."""
    counted = [0]

    def around(function):
        def call(*arguments, **options):
            counted[0] += 1
            if counted[0] == at:
                happens()
            return function(*arguments, **options)

        return call

    for place, name in (
        *((os, name) for name in ("fsync", "rename", "replace", "open")),
        (module.shutil, "rmtree"),
        *((Path, name) for name in ("mkdir", "open")),
    ):
        monkeypatch.setattr(place, name, around(getattr(place, name)))
    return counted


def count_calls(folder):
    with pytest.MonkeyPatch.context() as monkeypatch:
        counted = interrupted(monkeypatch, 0, lambda: None)
        written(folder, 3)
    return counted[0]


def prepared(folder):
    for epoch in (1, 2):
        written(folder, epoch)
    return folder


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_death_at_any_of_its_calls_leaves_the_last_whole(tmp_path):
    calls = count_calls(prepared(tmp_path / "all"))
    assert calls > 10
    seen = set()
    for at in range(1, calls + 1):
        folder = prepared(tmp_path / str(at))

        def write(folder=folder, at=at):
            with pytest.MonkeyPatch.context() as monkeypatch:
                interrupted(monkeypatch, at, die)
                written(folder, 3)

        assert in_child(write) == -signal.SIGKILL
        checkpoint, wrong = read_newest(folder)
        assert not wrong
        assert_is(checkpoint, checkpoint.epoch)
        seen.add(checkpoint.epoch)
        clear_after(folder, checkpoint.epoch)
        assert not list(folder.rglob("*.partial"))
        written(folder, 3)
        assert_is(read_newest(folder)[0], 3)
    assert seen == {2, 3}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO, errno.EDQUOT])
def test_a_refusal_at_any_of_its_calls_is_one_sentence_and_the_last_is_whole(tmp_path, number, monkeypatch):
    calls = count_calls(prepared(tmp_path / "all"))

    def refuse():
        raise OSError(number, os.strerror(number))

    refusals = 0
    for at in range(1, calls + 1):
        folder = prepared(tmp_path / str(at))
        with pytest.MonkeyPatch.context() as patch:
            interrupted(patch, at, refuse)
            with pytest.raises(UserError) as refused:
                written(folder, 3)
        refusals += 1
        assert os.strerror(number) in str(refused.value)
        checkpoint, wrong = read_newest(folder)
        assert not wrong
        assert_is(checkpoint, checkpoint.epoch)
    assert refusals == calls


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_a_disk_that_is_really_full(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        written(tmp_path, 1, 100_000)  # 0.4 MB
        written(tmp_path, 2, 100_000)
        with pytest.raises(UserError, match="No space left on device"):
            written(tmp_path, 3, 100_000)
        assert_is(read_newest(tmp_path)[0], 2, 100_000)
        assert not list(tmp_path.rglob("*.partial"))  # its space is given back
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_where_a_file_stands_in_the_way(tmp_path):
    (tmp_path / "checkpoints").write_text("mine")
    with pytest.raises(UserError, match="cannot write"):
        written(tmp_path, 1)
    assert (tmp_path / "checkpoints").read_text() == "mine"
