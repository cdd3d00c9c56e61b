"""A run that was interrupted goes on as if it had not been, bit for bit; and what it refuses to go on with."""

import contextlib
import dataclasses
import errno
import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from attnreid import load_checkpoint
from reference_pipelines.commands.cli import main
from reference_pipelines.config.loading import load_config
from reference_pipelines.config.sections import OptimizerConfig
from reference_pipelines.errors import UserError
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.rendering import render_market
from reference_pipelines.runs.checkpoints import place_of, read_checkpoint, saved_epochs, write_checkpoint
from reference_pipelines.runs.description import RunDescription
from reference_pipelines.runs.folder import Run, how_to_go_on, resume_command
from reference_pipelines.runs.provenance import file_digest
from reference_pipelines.runs.resume import find_checkpoint
from reference_pipelines.training.loop import Trainer
from reference_pipelines.training.session import Session
from tests.checkpoints.forging import forge_file
from tests.conftest import says
from tests.training.runs import arguments, assert_same_run, configured, in_child, logged, trained

FOUR = {"optimizer.epochs": "4"}
ALL = list(PIPELINES)


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """Runs of four epochs in one piece."""
    out = tmp_path_factory.mktemp("whole")
    for name in ALL:
        trained(name, images, out / name, **FOUR)
    return out


@pytest.fixture(scope="module")
def halves(images, tmp_path_factory):
    """Runs of two epochs, to be copied."""
    out = tmp_path_factory.mktemp("halves")
    for name in ALL:
        trained(name, images, out / name)
    return out


@pytest.fixture
def half(halves, tmp_path, request):
    folder = tmp_path / "run"
    shutil.copytree(halves / getattr(request, "param", "apnet"), folder)
    return folder


def resume(folder, *more):
    return main(["resume", str(folder), *more])


def refused(capsys, folder, *more):
    capsys.readouterr()
    assert resume(folder, *more) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("error: ")
    return error[-1]


@pytest.mark.parametrize(("half", "pipeline"), [(name, name) for name in ALL], indirect=["half"])
def test_two_and_two_epochs_are_four(half, pipeline, whole, capsys):
    torch.manual_seed(77)  # what the process did before must not matter
    np.random.seed(77)
    assert resume(half, "--optimizer.epochs", "4") == 0
    assert "after epoch 2 of 4" in capsys.readouterr().out
    assert_same_run(half, whole / pipeline)
    result = json.loads((half / "result.json").read_text())
    assert result["resumed"][0]["epoch"] == 2
    assert result["resumed"][0]["processes"] == 1
    assert result["resumed"][0]["changed"] == {"optimizer.epochs": [2, 4]}


@pytest.mark.parametrize("pipeline", ALL)
def test_a_run_that_fails_in_its_third_epoch_goes_on_from_the_second(
    images, tmp_path, whole, pipeline, monkeypatch, capsys
):
    step, steps = Trainer._step, []

    def fail(trainer, *arguments):
        steps.append(arguments)
        losses = arguments[-1]
        if losses.title.startswith("epoch 3/") and losses._seen:  # its second step
            raise RuntimeError("the power is gone")
        return step(trainer, *arguments)

    monkeypatch.setattr(Trainer, "_step", fail)
    with pytest.raises(RuntimeError, match="the power is gone"):
        trained(pipeline, images, tmp_path / "run", **FOUR)
    assert saved_epochs(tmp_path / "run") == [1, 2]
    monkeypatch.setattr(Trainer, "_step", step)
    assert resume(tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", whole / pipeline)


def test_what_is_drawn_from_the_global_generators_goes_on(images, tmp_path, monkeypatch):
    step, drawn = Trainer._step, []

    def draw(trainer, *arguments):
        drawn.append((torch.rand(()).item(), np.random.rand(), random.random()))
        return step(trainer, *arguments)

    monkeypatch.setattr(Trainer, "_step", draw)
    trained("apnet", images, tmp_path / "whole", **FOUR)
    whole = drawn.copy()
    drawn.clear()
    trained("apnet", images, tmp_path / "run")
    assert resume(tmp_path / "run", "--optimizer.epochs=4") == 0
    assert drawn == whole
    assert len(set(whole)) == len(whole) > 4


@pytest.mark.faults
@pytest.mark.parametrize("pipeline", ALL)
@pytest.mark.parametrize("seed", range(int(os.environ.get("FAULTS", "25"))))
def test_a_run_that_is_killed_again_and_again_ends_like_one_that_was_not(images, tmp_path, whole, pipeline, seed, tell):
    rng = np.random.default_rng(seed)
    out = tmp_path / "run"
    begin = ["train", pipeline, "--out", str(out), *arguments(pipeline, images, **FOUR)]
    status = in_child(lambda: main(begin), killed_after=rng.uniform(0.05, 2.5))
    kills = 0
    while status != 0:
        assert status == -9
        kills += 1
        if out.exists() and not saved_epochs(out):
            shutil.rmtree(out)  # as the message says
        command = ["resume", str(out)] if out.exists() else begin
        limit = rng.uniform(0.05, 2.5) if kills < 6 else None
        status = in_child(lambda command=command: main(command), killed_after=limit)
    assert_same_run(out, whole / pipeline)
    tell(f"train, resume {pipeline}", "SIGKILL", kills, "killed", lost="the epochs under way")


def test_a_finished_run_says_so(half, capsys):
    before = (half / "result.json").stat().st_mtime_ns
    assert resume(half) == 0
    assert says(capsys.readouterr().out, str(half), "finished, 2 epochs")
    assert (half / "result.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(("half", "pipeline"), [(name, name) for name in ALL], indirect=["half"])
def test_a_run_that_lacks_only_its_result_gets_it(half, pipeline, halves, capsys):
    (half / "result.json").unlink()
    assert resume(half) == 0
    assert_same_run(half, halves / pipeline)
    before, after = (json.loads((folder / "result.json").read_text()) for folder in (halves / pipeline, half))
    assert after["train_seconds"] == before["train_seconds"] > 0
    assert after["seconds"] > before["train_seconds"]


@pytest.mark.slow
def test_in_half_precision_the_scale_goes_on(images, tmp_path):
    trained("apnet", images, tmp_path / "whole", amp="float16")
    trained("apnet", images, tmp_path / "run", amp="float16", **{"optimizer.epochs": "1"})
    scaler = read_checkpoint(place_of(tmp_path / "run", 1)).state.scaler
    assert scaler["_growth_tracker"] > 0 or scaler["scale"] < 2**16
    assert resume(tmp_path / "run", "--optimizer.epochs=2") == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_run_that_ends_earlier_than_planned_is_as_if_it_had_been_planned(images, tmp_path, monkeypatch):
    rarely = {"evaluation.every": "3", "optimizer.milestones": "[]"}
    trained("apnet", images, tmp_path / "planned", **rarely, **{"optimizer.epochs": "1"})
    step = Trainer._step

    def fail(trainer, *arguments):
        if arguments[-1].title.startswith("epoch 2/"):
            raise RuntimeError("the power is gone")
        return step(trainer, *arguments)

    monkeypatch.setattr(Trainer, "_step", fail)
    with pytest.raises(RuntimeError, match="the power is gone"):
        trained("apnet", images, tmp_path / "run", **rarely, **{"optimizer.epochs": "3"})
    assert "mAP" not in logged(tmp_path / "run")[1]
    assert resume(tmp_path / "run", "--optimizer.epochs=1") == 0
    assert_same_run(tmp_path / "run", tmp_path / "planned")


def refuse_to_write(monkeypatch, *names):
    replace = os.replace

    def refuse(source, target):
        if Path(target).name.startswith(names):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)


@pytest.mark.parametrize("name", ["examples.json", "attention.npz", "result.json", "log.jsonl"])
def test_a_full_disk_is_one_sentence_that_says_what_is_kept(half, halves, name, monkeypatch, capsys):
    (half / "result.json").unlink()
    with monkeypatch.context() as patch:
        refuse_to_write(patch, name)
        error = refused(capsys, half)
    assert says(error, "run", "(No space left on device); ")
    if name != "log.jsonl":  # which is written before there is a run to speak of
        assert says(error, "; ", "saved after epoch 2", f"`{resume_command(half)}`")
    assert not list(half.rglob("*partial*"))
    assert resume(half) == 0
    assert_same_run(half, halves / "apnet")


def test_a_full_disk_before_anything_is_trained_takes_the_folder_back(images, tmp_path, monkeypatch):
    refuse_to_write(monkeypatch, "training.safetensors")
    with pytest.raises(UserError, match=r"No space left.*; .*nothing was trained .*run was removed$"):
        trained("apnet", images, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def stopped(monkeypatch, capsys, where, name, command):
    monkeypatch.setattr(where, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    capsys.readouterr()
    assert main(command) == 128 + signal.SIGTERM
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_stop_before_anything_is_saved_leaves_nothing(images, tmp_path, monkeypatch, capsys):
    command = ["train", "apnet", "--out", str(tmp_path / "run"), *arguments("apnet", images)]
    error = stopped(monkeypatch, capsys, Session, "place", command)
    assert says(error, "stopped by SIGTERM; ", "nothing was saved")
    assert not (tmp_path / "run").exists()


def test_a_stop_in_the_first_epoch_keeps_how_it_began(images, tmp_path, halves, monkeypatch, capsys):
    command = ["train", "apnet", "--out", str(tmp_path / "run"), *arguments("apnet", images)]
    with monkeypatch.context() as patch:
        error = stopped(patch, capsys, Trainer, "train_epoch", command)
    assert says(error, "stopped by SIGTERM; ", resume_command(tmp_path / "run"))
    assert resume(tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", halves / "apnet")


def test_a_folder_without_a_checkpoint_cannot_be_gone_on_with(tmp_path):
    (tmp_path / "config.yaml").touch()
    assert (
        how_to_go_on(tmp_path) == f"nothing was saved yet: start again, with {tmp_path} removed or into another folder"
    )
    (tmp_path / "checkpoints" / "epoch-0000").mkdir(parents=True)
    assert how_to_go_on(tmp_path).startswith("go on with: python -m reference_pipelines resume ")


@contextlib.contextmanager
def locked(folder):
    fcntl = pytest.importorskip("fcntl")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def test_a_folder_that_another_process_trains_in_is_left_alone(half, images, tmp_path, capsys):
    (half / "result.json").unlink()
    before = sorted((path, path.stat().st_mtime_ns) for path in half.rglob("*"))
    with locked(half):
        assert says(refused(capsys, half), "run: another process ", f"{half}; ")
    assert sorted((path, path.stat().st_mtime_ns) for path in half.rglob("*")) == before
    (tmp_path / "new").mkdir()
    with locked(tmp_path / "new"), pytest.raises(UserError, match="another process .*new; "):
        trained("apnet", images, tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())
    assert resume(half) == 0
    with locked(half):
        pass  # it is free again


def test_a_forked_worker_does_not_keep_the_folder_locked(tmp_path):
    run = Run(tmp_path / "run", OptimizerConfig(0.1, 0.0, 1))
    run.open_new()
    with pytest.raises(BlockingIOError), locked(tmp_path / "run"):
        pass
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        time.sleep(0.2)
        run.unlock()
        with locked(tmp_path / "run"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_another_number_of_processes_is_said(half):
    assert find_checkpoint(half, 1).notes == []
    (note,) = find_checkpoint(half, 2).notes
    assert says(note, "another number of processes (1)", "(2)")


def test_what_a_finished_run_would_change_is_not_said(half, capsys):
    assert resume(half, "--title=New") == 0
    printed = capsys.readouterr().out
    assert "is finished" in printed
    assert "->" not in printed


def change_state(half, **changes):
    """Write the newest checkpoint's description and log anew, as if they had been saved so."""
    place = place_of(half, 2)
    state = read_checkpoint(place).state
    log = changes.pop("log", state.log)
    state = dataclasses.replace(state, log=log, description=dataclasses.replace(state.description, **changes))
    pipeline = PIPELINES[state.description.pipeline]
    config = load_config(pipeline.config, [f"--config={half / 'config.yaml'}"])
    model = pipeline.build(config)
    model.set_classifier(state.description.classes)
    load_checkpoint(model, place)
    write_checkpoint(half, model, state)


def test_a_key_that_the_checkpoint_lacks_is_a_change_where_it_is_not_the_default(half, capsys):
    config = read_checkpoint(place_of(half, 2)).state.description.config
    del config["loss"]["margin"]
    del config["amp"]
    change_state(half, config=config)
    error = refused(capsys, half, "--loss.margin=0.5", "--amp=bfloat16")
    assert "loss.margin: 0.3 -> 0.5" in error
    assert "amp: none -> bfloat16" in error


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ("--optimizer.learning_rate=0.01", "--sampler.ids=3"),
            "optimizer.learning_rate: 0.001 -> 0.01, sampler.ids: 4 -> 3; ",
        ),
        (("--attention.preset=none",), "attention.preset: apnet -> none;"),
        (("--data.image_size=[64, 32]",), "data.image_size: \\[32, 16\\] -> \\[64, 32\\]; "),
        (("--optimizer.epochs=1",), "optimizer.epochs .* 2 epochs"),
        (("--sampler.idz=3",), "no option --sampler.idz; .*--sampler.ids"),
        (("--data.root=nowhere", "--optimizer.epochs=3"), "no folder .*nowhere; "),
    ],
)
def test_another_config_is_refused_key_by_key_and_nothing_changes(half, capsys, more, message):
    before = sorted((path, path.stat().st_mtime_ns) for path in half.rglob("*"))
    error = refused(capsys, half, *more)
    assert re.search(message, error)
    assert sorted((path, path.stat().st_mtime_ns) for path in half.rglob("*")) == before


def test_an_edited_config_is_refused(half, capsys):
    path = half / "config.yaml"
    path.write_text(path.read_text().replace("margin: 0.3", "margin: 0.4"))
    assert "loss.margin: 0.3 -> 0.4;" in refused(capsys, half)


def test_what_changes_no_result_may_differ(half, images, whole, tmp_path, capsys):
    moved = tmp_path / "moved"
    shutil.copytree(images, moved)
    more = (f"--data.root={moved}", "--data.workers=1", "--title=another", "--evaluation.every=1", "--device=cpu")
    assert resume(half, *more, "--optimizer.epochs=4") == 0
    printed = capsys.readouterr().out
    assert "data.workers: 0 -> 1" in printed
    assert json.loads((half / "result.json").read_text())["title"] == "another"
    for name in ("model.safetensors", "best.safetensors"):
        one, other = load_file(half / name), load_file(whole / "apnet" / name)
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_other_images_are_refused(half, tmp_path, capsys):
    counts = {"train_ids": 8, "test_ids": 4, "cameras": 3, "images_per_camera": 3, "distractors": 2, "junk": 1}
    render_market(tmp_path / "other", **counts, image_size=(64, 32), workers=1, progress=False, seed=5)
    error = refused(capsys, half, f"--data.root={tmp_path / 'other'}", "--optimizer.epochs=3")
    assert says(error, str(tmp_path / "other"), "trained on")
    assert (half / "result.json").exists()


def test_weights_that_the_run_started_from_need_not_be_there_any_more(images, halves, tmp_path):
    start = tmp_path / "start.safetensors"
    shutil.copy(halves / "apnet" / "model.safetensors", start)
    changes = {"model.weights": str(start), "attention.layer": "se"}
    plain = tmp_path / "plain"
    trained(
        "apnet", images, plain, **{"attention.preset": "none", "optimizer.epochs": "1", "optimizer.milestones": "[]"}
    )
    shutil.copy(plain / "model.safetensors", start)
    trained("apnet", images, tmp_path / "run", **changes)
    start.unlink()
    assert resume(tmp_path / "run", "--optimizer.epochs=3") == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["weights"] == str(start)
    assert result["weights_digest"] is not None


@pytest.mark.parametrize("lacking", [".attention.", "layer2.attention.", "neck.bias"])
def test_a_checkpoint_must_have_every_key_of_the_network(half, images, lacking):
    path, missing = place_of(half, 2) / "model.safetensors", []

    def without(tensors):
        missing.extend(key for key in tensors if lacking in key)
        return {key: value for key, value in tensors.items() if lacking not in key}

    forge_file(path, tensors=without)
    checkpoint = find_checkpoint(half).checkpoint
    config = configured("apnet", images, **{"optimizer.epochs": "3"})
    with pytest.raises(UserError) as refused:
        PIPELINES["apnet"].train(config, half, checkpoint=checkpoint)
    assert missing
    assert says(str(refused.value), "resume: ", "checkpoint after epoch 2", "network", f"got {len(missing)} missing (")


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def change_a_digit(path):
    content = path.read_bytes()
    place = content.index(b'mAP\\": 0.') + len(b'mAP\\": 0.')
    path.write_bytes(content[:place] + b"%d" % ((int(content[place : place + 1]) + 1) % 10) + content[place + 1 :])


DAMAGES = {
    "cut weights": lambda place: cut(place / "model.safetensors"),
    "cut state of the optimiser": lambda place: cut(place / "training.safetensors"),
    "a flipped bit": lambda place: flip_a_bit(place / "model.safetensors"),
    "an empty file": lambda place: (place / "training.safetensors").write_bytes(b""),
    "a missing file": lambda place: (place / "model.safetensors").unlink(),
    "no training state": lambda place: (place / "training.safetensors").unlink(),
    "another digit of a score": lambda place: change_a_digit(place / "model.safetensors"),
    "a flipped bit of the optimiser": lambda place: flip_a_bit(place / "training.safetensors"),
    "no description": lambda place: save_file(load_file(place / "model.safetensors"), place / "model.safetensors"),
    "another's training state": lambda place: shutil.copy(
        place_of(place.parents[1], 1) / "training.safetensors", place
    ),
    "no safetensors": lambda place: (place / "model.safetensors").write_bytes(b"\x80\x04\x95\xff"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(half, damage, capsys):
    DAMAGES[damage](place_of(half, 2))
    assert resume(half) == 0
    error = capsys.readouterr().err
    assert says(error, f"warning: {place_of(half, 2)} ", "not whole")
    assert "from epoch 1" in error


def test_a_finished_run_whose_last_checkpoint_is_damaged_is_trained_to_its_end_again(half, halves, capsys):
    cut(place_of(half, 2) / "model.safetensors")
    cut(half / "model.safetensors")
    assert resume(half) == 0
    assert "is finished" not in capsys.readouterr().out
    assert_same_run(half, halves / "apnet")


def test_best_weights_that_are_damaged_or_another_epochs_are_named(half, capsys):
    change_state(half, best={"epoch": 0, "mAP": 1.0})
    path = half / "best.safetensors"
    for content, reason in (
        (path.read_bytes()[:-100], "safetensors cannot read"),
        ((place_of(half, 1) / "model.safetensors").read_bytes(), "it is of epoch 1"),
        (None, "No such file"),
    ):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        (note,) = find_checkpoint(half).notes
        assert says(note, f"warning: {path} has not the weights of epoch 0", reason)
        assert resume(half) == 0
        assert note in capsys.readouterr().err
        path.touch()


@pytest.mark.parametrize("half", ["mla"], indirect=True)
def test_from_the_checkpoint_before_it_ends_the_same(half, halves):
    cut(place_of(half, 2) / "model.safetensors")
    (half / "result.json").unlink()
    assert resume(half) == 0
    assert_same_run(half, halves / "mla")


def test_nothing_whole_is_one_sentence(half, capsys):
    for epoch in (1, 2):
        cut(place_of(half, epoch) / "model.safetensors")
    error = refused(capsys, half)
    assert error.count("is not whole") == 2
    assert "train again" in error


def test_where_there_is_nothing_to_go_on_with(tmp_path, half, capsys):
    assert says(refused(capsys, tmp_path / "nowhere"), "nowhere", "no such folder")
    (tmp_path / "empty").mkdir()
    assert says(refused(capsys, tmp_path / "empty"), str(tmp_path / "empty"), "folder of a run")
    shutil.rmtree(half / "checkpoints")
    assert says(refused(capsys, half), str(half), "remove", "train again")


def test_train_points_to_resume_where_a_run_is_unfinished(half, images, capsys):
    command = ["train", "apnet", "--out", str(half), *arguments("apnet", images)]
    assert main(command) == 2
    assert says(capsys.readouterr().err, str(half), "finished run", "--out")
    (half / "result.json").unlink()
    assert main(command) == 2
    error = capsys.readouterr().err
    assert says(error, "after epoch 2", "`python -m reference_pipelines resume")


@pytest.mark.parametrize(("key", "warning"), [("code", "the code "), ("versions", "the run was made with")])
def test_other_code_is_a_warning(half, key, warning, capsys):
    another = {"attnreid": "0.0.1", "torch": "1.0"} if key == "versions" else "another"
    change_state(half, **{key: another})
    (half / "result.json").unlink()
    assert resume(half) == 0
    assert f"warning: {warning}" in capsys.readouterr().err


def test_the_log_is_cut_back_to_the_checkpoint(half, whole):
    shutil.copy(half / "log.jsonl", half / "longer")
    (half / "log.jsonl").write_text((half / "longer").read_text() + '{"epoch": 3, "loss": 7.0}\n{"epoch": 4, "lo')
    (half / "longer").unlink()
    assert resume(half, "--optimizer.epochs=4") == 0
    assert_same_run(half, whole / "apnet")


def test_best_weights_that_a_stop_kept_from_their_name_get_it(half):
    change_state(half, best={"epoch": 2, "mAP": 1.0})
    (half / "result.json").unlink()
    (half / "best.safetensors").write_bytes(b"those of an epoch before")
    assert resume(half) == 0
    assert (half / "best.safetensors").read_bytes() == (half / "model.safetensors").read_bytes()


def test_an_epoch_evaluated_afterwards_may_be_the_best(half):
    log = read_checkpoint(place_of(half, 2)).state.log
    del log[-1]["mAP"], log[-1]["rank1"]
    change_state(half, log=log, best={"epoch": 0, "mAP": -1.0})
    final = json.loads((half / "result.json").read_text())["final"]
    (half / "result.json").unlink()
    (half / "best.safetensors").write_bytes(b"those of an epoch before")
    assert resume(half) == 0
    best = {"epoch": 2, "mAP": final["mAP"]}
    assert best.items() < json.loads((half / "result.json").read_text())["best"].items()
    assert read_checkpoint(place_of(half, 2)).state.description.best == best
    assert logged(half)[-1]["mAP"] == final["mAP"]
    assert (half / "best.safetensors").read_bytes() == (half / "model.safetensors").read_bytes()


def test_best_and_last_are_kept(whole):
    log = logged(whole / "apnet")
    best = max(log, key=lambda entry: entry["mAP"])
    result = json.loads((whole / "apnet" / "result.json").read_text())
    assert (result["best"]["epoch"], result["best"]["mAP"]) == (best["epoch"], best["mAP"])
    assert result["best"]["chosen_on"].startswith("the test set")
    last = load_file(place_of(whole / "apnet", 4) / "model.safetensors")
    weights = load_file(whole / "apnet" / "model.safetensors")
    assert all(torch.equal(last[name], weights[name]) for name in last)
    assert saved_epochs(whole / "apnet") == [3, 4]


def test_a_mistake_before_the_first_epoch_ends_leaves_nothing(images, tmp_path):
    with pytest.raises(UserError, match=r"66 images .*noise; .*; nothing was trained .*run was removed$"):
        trained("mla", images, tmp_path / "run", **{"clustering.min_samples": "60"})
    assert not (tmp_path / "run").exists()


def test_a_run_may_begin_in_a_folder_that_is_not_there_yet(tmp_path):
    run = Run(tmp_path / "several" / "folders" / "run", OptimizerConfig(0.1, 0.0, 1))
    run.open_new()
    assert run.folder.is_dir()


def test_a_files_digest_is_the_first_16_digits_of_its_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert file_digest(tmp_path / "file") == "ba7816bf8f01cfea"


def test_a_new_run_has_taken_no_time():
    given = {
        field.name: None
        for field in dataclasses.fields(RunDescription)
        if field.default is field.default_factory is dataclasses.MISSING
    }
    run = RunDescription(**given | {"config": {"optimizer": {"epochs": 7}}})
    assert (run.epochs, run.epoch, run.seconds, run.train_seconds) == (7, 0, 0.0, 0.0)
