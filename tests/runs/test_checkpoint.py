"""Writing a checkpoint may be cut off anywhere: what bears its name is whole, and the one before is there."""

import errno
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from reference_pipelines.errors import UserError
from reference_pipelines.runs import checkpoint as module
from reference_pipelines.runs.checkpoint import (
    Checkpoint,
    clear_after,
    place_of,
    read_checkpoint,
    read_newest,
    replace_by_link,
    replace_file,
    saved_epochs,
    write_checkpoint,
)
from tests.training.runs import assert_equal_tensors, in_child


def made(epoch, values=1000):
    generator = torch.Generator().manual_seed(epoch)
    model = {"weight": torch.randn(values, generator=generator), "count": torch.tensor(epoch)}
    training = {
        "optimizer.0.exp_avg": torch.randn(3, 4, generator=generator).t(),
        "random.torch": torch.get_rng_state(),
    }
    return Checkpoint(epoch, model, training, {"rate": 0.1 + 0.2, "log": [{"epoch": epoch}]})


def assert_is(checkpoint, epoch, values=1000):
    expected = made(epoch, values)
    assert checkpoint.epoch == epoch
    assert_equal_tensors(checkpoint.model, expected.model)
    assert_equal_tensors(checkpoint.training, expected.training)
    assert checkpoint.state["rate"] == 0.1 + 0.2


def test_what_is_written_is_read_and_two_are_kept(tmp_path):
    for epoch in (0, 1, 2, 3):
        write_checkpoint(tmp_path, made(epoch))
    assert saved_epochs(tmp_path) == [2, 3]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["epoch-0002", "epoch-0003"]
    checkpoint, wrong = read_newest(tmp_path)
    assert not wrong
    assert_is(checkpoint, 3)
    assert_is(read_checkpoint(place_of(tmp_path, 2)), 2)


def test_epochs_beyond_four_digits_are_in_order(tmp_path):
    for epoch in (9999, 10000):
        write_checkpoint(tmp_path, made(epoch))
    assert read_newest(tmp_path)[0].epoch == 10000


def test_there_is_no_pickle_in_it(tmp_path):
    write_checkpoint(tmp_path, made(1))
    assert sorted(path.name for path in place_of(tmp_path, 1).iterdir()) == [
        *("model.safetensors", "state.json", "training.safetensors")
    ]
    json.loads((place_of(tmp_path, 1) / "state.json").read_text())


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

    monkeypatch.setattr(module, "open", around(open), raising=False)
    monkeypatch.setattr(module.os, "fsync", around(os.fsync))
    monkeypatch.setattr(module.os, "rename", around(os.rename))
    monkeypatch.setattr(module.shutil, "rmtree", around(module.shutil.rmtree))
    monkeypatch.setattr(Path, "mkdir", around(Path.mkdir))
    return counted


def count_calls(folder):
    with pytest.MonkeyPatch.context() as monkeypatch:
        counted = interrupted(monkeypatch, 0, lambda: None)
        write_checkpoint(folder, made(3))
    return counted[0]


def prepared(folder):
    for epoch in (1, 2):
        write_checkpoint(folder, made(epoch))
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
                write_checkpoint(folder, made(3))

        assert in_child(write) == -signal.SIGKILL
        checkpoint, wrong = read_newest(folder)
        assert not wrong
        assert_is(checkpoint, checkpoint.epoch)
        seen.add(checkpoint.epoch)
        clear_after(folder, checkpoint.epoch)
        assert not list(folder.rglob("*.partial"))
        write_checkpoint(folder, made(3))
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
                write_checkpoint(folder, made(3))
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
        write_checkpoint(tmp_path, made(1, 100_000))  # 0.4 MB
        write_checkpoint(tmp_path, made(2, 100_000))
        with pytest.raises(UserError, match="No space left on device"):
            write_checkpoint(tmp_path, made(3, 100_000))
        assert_is(read_newest(tmp_path)[0], 2, 100_000)
        assert not list(tmp_path.rglob("*.partial"))  # its space is given back
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_second_name_of_the_same_file_leaves_nothing_behind(tmp_path):
    for content in (b"one", b"another"):
        replace_file(tmp_path / "target", content)
        for _ in range(2):  # the second time it is that file already
            replace_by_link(tmp_path / "name", tmp_path / "target")
            assert (tmp_path / "name").read_bytes() == content
            assert sorted(path.name for path in tmp_path.iterdir()) == ["name", "target"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_file_that_cannot_be_written_gives_its_space_back(tmp_path, call, monkeypatch):
    replace_file(tmp_path / "file", b"before")

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.os, call, refuse)
    with pytest.raises(OSError, match="No space left"):
        replace_file(tmp_path / "file", b"after")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"before"


def test_where_a_file_stands_in_the_way(tmp_path):
    (tmp_path / "checkpoints").write_text("mine")
    with pytest.raises(UserError, match="cannot write"):
        write_checkpoint(tmp_path, made(1))
    assert (tmp_path / "checkpoints").read_text() == "mine"
