"""A run that was interrupted goes on as if it had not been, bit for bit; and what it refuses to go on with."""

import json
import os
import random
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from reference_pipelines.cli import main
from reference_pipelines.data.rendering import render_market
from reference_pipelines.errors import UserError
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.training.checkpoint import place_of, read_checkpoint, saved_epochs
from reference_pipelines.training.loop import Trainer
from tests.training.runs import arguments, assert_same_run, in_child, logged, trained

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
    assert "going on after epoch 2 of 4" in capsys.readouterr().out
    assert_same_run(half, whole / pipeline)
    result = json.loads((half / "result.json").read_text())
    assert result["resumed"][0]["epoch"] == 2
    assert result["resumed"][0]["changed"] == {"optimizer.epochs": [2, 4]}


@pytest.mark.parametrize("pipeline", ALL)
def test_a_run_that_fails_in_its_third_epoch_goes_on_from_the_second(
    images, tmp_path, whole, pipeline, monkeypatch, capsys
):
    step, steps = Trainer._step, []

    def fail(trainer, *arguments):
        steps.append(arguments)
        if "step 2 of epoch 3" in arguments[-1]:
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
def test_a_run_that_is_killed_again_and_again_ends_like_one_that_was_not(images, tmp_path, whole, pipeline, seed):
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
    if (out / "result.json").exists():
        assert_same_run(out, whole / pipeline)


def test_a_finished_run_says_so(half, capsys):
    before = (half / "result.json").stat().st_mtime_ns
    assert resume(half) == 0
    assert "is finished, 2 epochs" in capsys.readouterr().out
    assert (half / "result.json").stat().st_mtime_ns == before


def test_a_run_that_lacks_only_its_result_gets_it(half, halves):
    (half / "result.json").unlink()
    assert resume(half) == 0
    assert_same_run(half, halves / "apnet")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ("--optimizer.learning_rate=0.01", "--sampler.ids=3"),
            "differs in optimizer.learning_rate: 0.001 -> 0.01, sampler.ids: 4 -> 3; leave that as it was",
        ),
        (("--attention.kind=none",), "differs in attention.kind: se -> none;"),
        (("--data.image_size=[64, 32]",), "differs in data.image_size: [32, 16] -> [64, 32];"),
        (("--optimizer.epochs=1",), "optimizer.epochs must be at least the 2 epochs"),
        (("--sampler.idz=3",), "there is no option --sampler.idz; did you mean --sampler.ids"),
        (("--data.root=nowhere", "--optimizer.epochs=3"), "nowhere is not a folder"),
    ],
)
def test_another_config_is_refused_key_by_key_and_nothing_changes(half, capsys, more, message):
    before = sorted((path, path.stat().st_mtime_ns) for path in half.rglob("*"))
    error = refused(capsys, half, *more)
    assert message in error
    assert sorted((path, path.stat().st_mtime_ns) for path in half.rglob("*")) == before


def test_an_edited_config_is_refused(half, capsys):
    path = half / "config.yaml"
    path.write_text(path.read_text().replace("margin: 0.3", "margin: 0.4"))
    assert "differs in loss.margin: 0.3 -> 0.4;" in refused(capsys, half)


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
    assert "must be those that the run was trained on" in error
    assert (half / "result.json").exists()


def test_weights_that_the_run_started_from_need_not_be_there_any_more(images, halves, tmp_path):
    start = tmp_path / "start.safetensors"
    shutil.copy(halves / "apnet" / "model.safetensors", start)
    changes = {"model.weights": str(start), "attention.kind": "se"}
    plain = tmp_path / "plain"
    trained("apnet", images, plain, **{"attention.kind": "none", "optimizer.epochs": "1", "optimizer.milestones": "[]"})
    shutil.copy(plain / "model.safetensors", start)
    trained("apnet", images, tmp_path / "run", **changes)
    start.unlink()
    assert resume(tmp_path / "run", "--optimizer.epochs=3") == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["weights"] == str(start)
    assert result["weights_digest"] is not None


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "cut weights": lambda place: cut(place / "model.safetensors"),
    "cut state of the optimiser": lambda place: cut(place / "training.safetensors"),
    "a flipped bit": lambda place: flip_a_bit(place / "model.safetensors"),
    "an empty file": lambda place: (place / "training.safetensors").write_bytes(b""),
    "a missing file": lambda place: (place / "model.safetensors").unlink(),
    "no state": lambda place: (place / "state.json").unlink(),
    "half a state": lambda place: cut(place / "state.json"),
    "another's state": lambda place: (place / "state.json").write_text('{"epoch": 2}'),
    "no dictionary": lambda place: (place / "state.json").write_text("[]"),
    "a state of binary": lambda place: (place / "state.json").write_bytes(b"\x80\x04\x95\xff"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(half, damage, capsys):
    DAMAGES[damage](place_of(half, 2))
    assert resume(half) == 0
    error = capsys.readouterr().err
    assert f"warning: {place_of(half, 2)} is not whole" in error
    assert "going on from epoch 1" in error


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
    assert error.count("has not the content that was written") == 2
    assert "train again" in error


def test_where_there_is_nothing_to_go_on_with(tmp_path, half, capsys):
    assert "there is no such folder" in refused(capsys, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "name the folder of a run" in refused(capsys, tmp_path / "empty")
    shutil.rmtree(half / "checkpoints")
    assert "remove the folder and train again" in refused(capsys, half)


def test_train_points_to_resume_where_a_run_is_unfinished(half, images, capsys):
    command = ["train", "apnet", "--out", str(half), *arguments("apnet", images)]
    assert main(command) == 2
    assert "it holds a finished run" in capsys.readouterr().err
    (half / "result.json").unlink()
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "saved after epoch 2: go on with `python -m reference_pipelines resume" in error


@pytest.mark.parametrize(("key", "warning"), [("code", "the code is not what"), ("versions", "the run was made with")])
def test_other_code_is_a_warning(half, key, warning, capsys):
    path = place_of(half, 2) / "state.json"
    state = json.loads(path.read_text())
    state[key] = {"attnreid": "0.0.1", "torch": "1.0"} if key == "versions" else "another"
    path.write_text(json.dumps(state))
    (half / "result.json").unlink()
    assert resume(half) == 0
    assert f"warning: {warning}" in capsys.readouterr().err


def test_the_log_is_cut_back_to_the_checkpoint(half, whole):
    shutil.copy(half / "log.jsonl", half / "longer")
    (half / "log.jsonl").write_text((half / "longer").read_text() + '{"epoch": 3, "loss": 7.0}\n{"epoch": 4, "lo')
    (half / "longer").unlink()
    assert resume(half, "--optimizer.epochs=4") == 0
    assert_same_run(half, whole / "apnet")


def test_best_and_last_are_kept(whole):
    log = logged(whole / "apnet")
    best = max(log, key=lambda entry: entry["mAP"])
    result = json.loads((whole / "apnet" / "result.json").read_text())
    assert result["best"] == {"epoch": best["epoch"], "mAP": best["mAP"]}
    last = read_checkpoint(place_of(whole / "apnet", 4)).model
    weights = load_file(whole / "apnet" / "model.safetensors")
    assert all(torch.equal(last[name], weights[name]) for name in last)
    assert saved_epochs(whole / "apnet") == [3, 4]


def test_a_mistake_before_the_first_epoch_ends_leaves_nothing(images, tmp_path):
    with pytest.raises(UserError, match="must have an image|different people"):
        trained("apnet", images, tmp_path / "run", **{"sampler.ids": "9"})
    assert not (tmp_path / "run").exists()
