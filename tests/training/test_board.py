"""What a run writes for TensorBoard, read back by TensorBoard's own reader; and what happens without it."""

import json
import sys

import numpy as np
import pytest

from reference_pipelines.commands.cli import main
from tests.conftest import says
from tests.training.runs import arguments


def read_back(folder):
    """Return every step and value of each scalar, and the steps of each image and histogram."""
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard reads it (extra tensorboard)"
    ).EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    reader.Reload()
    scalars = {tag: [(each.step, each.value) for each in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}
    pictures = {tag: [each.step for each in reader.Images(tag)] for tag in reader.Tags()["images"]}
    return scalars, pictures, reader.Tags()["histograms"]


def logged(folder):
    """Return every number of the log as TensorBoard should have it."""
    found = {}
    for line in (folder / "log.jsonl").read_text().splitlines():
        entry = json.loads(line)
        for name, value in entry.items():
            if name != "epoch" and isinstance(value, int | float):
                group = "score" if name in ("mAP", "rank1", "held_out_mAP") else "training"
                found.setdefault(f"{group}/{name}", []).append((entry["epoch"], pytest.approx(value, rel=1e-6)))
    return found


def words(pipeline, images, out, *more):
    return ["train", pipeline, "--out", str(out), *arguments(pipeline, images), *more]


@pytest.mark.parametrize("pipeline", ["apnet", pytest.param("mla", marks=pytest.mark.slow)])
def test_every_number_of_the_log_is_there_once_and_so_after_going_on(images, tmp_path, pipeline, capsys):
    pytest.importorskip("tensorboard", reason="TensorBoard reads it (extra tensorboard)")
    run = tmp_path / "run"
    assert main(words(pipeline, images, run, "--tensorboard")) == 0, capsys.readouterr().err
    scalars, pictures, histograms = read_back(run / "tensorboard")
    assert scalars == logged(run)
    assert {"training/loss", "training/learning_rate", "score/mAP", "score/rank1"} <= set(scalars)
    assert [step for step, _ in scalars["score/mAP"]] == [0, 1, 2]
    if pipeline == "mla":
        assert "training/clusters" in scalars
    lists = json.loads((run / "examples.json").read_text())["lists"]
    ranked = [tag for tag in pictures if tag.startswith("ranked/")]
    assert ranked == [f"ranked/query {number}" for number in range(1, len(lists) + 1)]
    with np.load(run / "attention.npz") as gates:
        maps = {f"attention/{name}" for name in gates.files if gates[name][0, 0].size > 1}
        assert set(histograms) == {f"attention/{name}" for name in gates.files}
    assert set(pictures) == {*ranked, *maps}
    assert {step for steps in pictures.values() for step in steps} == {2}
    # Longer, where an epoch more had been written before the process was killed.
    assert main(["resume", str(run), "--tensorboard", "--optimizer.epochs", "3"]) == 0, capsys.readouterr().err
    scalars, pictures, _ = read_back(run / "tensorboard")
    assert scalars == logged(run)
    assert [step for step, _ in scalars["training/loss"]] == [1, 2, 3]
    assert {step for steps in pictures.values() for step in steps} == {3}


def test_without_tensorboard_one_sentence_says_so_and_nothing_is_left(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert main(words("apnet", images, tmp_path / "run", "--tensorboard")) == 2
    error = capsys.readouterr().err
    assert says(error, "train: --tensorboard ", "not installed", "attnreid[tensorboard]", "log.jsonl")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
