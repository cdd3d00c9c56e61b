"""`calibrate`, `same` and `evaluate --open-set` as a user types them, and `Embedder.same`."""

import dataclasses
import errno
import json
import os
import shutil

import numpy as np
import pytest

import reference_pipelines
from reference_pipelines.commands.cli import main
from reference_pipelines.data import read
from reference_pipelines.errors import UserError
from reference_pipelines.matching import calibrate
from reference_pipelines.rendering import render_market
from reference_pipelines.serving import calibration_file
from reference_pipelines.serving.calibrating import calibrate_model
from reference_pipelines.serving.extraction import extract
from tests.conftest import says

RATES = (0.1, 0.05, 1e-5)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """People enough for thresholds."""
    root = tmp_path_factory.mktemp("people") / "images"
    counts = {"train_ids": 1, "test_ids": 36, "cameras": 3, "images_per_camera": 2, "distractors": 3, "junk": 1}
    render_market(root, **counts, image_size=(64, 32), seed=5, workers=1, progress=False)
    return root


@pytest.fixture(scope="module")
def calibrated(run, people, tmp_path_factory):
    """A copy of the run, calibrated by the command, and what it printed."""
    copy = shutil.copytree(run, tmp_path_factory.mktemp("calibrated") / "run")
    calibrate_model(reference_pipelines.load(copy, device="cpu"), people, rates=RATES)
    return copy


@pytest.fixture(scope="module")
def pair(people):
    query = read(people).query
    return [str(path) for path in query.paths[:2]]


def refused(capsys, *words):
    assert main([*map(str, words)]) == 2
    return capsys.readouterr().err


def test_calibrate_writes_what_the_features_give(run, people, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    words = ["calibrate", str(copy), "--data", str(people), "--rate", "0.05", "0.1", "0.00001", "--workers", "0"]
    assert main([*words, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    data, model = read(people), reference_pipelines.load(copy, device="cpu")
    paths, ids, cameras = (
        [*getattr(data.query, name), *getattr(data.gallery, name)] for name in ("paths", "ids", "cameras")
    )
    some = [row for row, person in enumerate(ids) if person > 0]
    paths, ids, cameras = ([values[row] for row in some] for values in (paths, ids, cameras))
    expected = calibrate(model.embed(paths).numpy(), np.array(ids), np.array(cameras), rates=RATES)
    stored = model.calibration()
    assert stored.calibration.to_plain() == expected.to_plain()
    assert stored.file == copy / "model.calibration.json"
    assert says(printed, "all, pooled", "10 %", f"{expected.pooled.points[0].threshold:.4f}")
    assert says(printed, "0.001 %: not estimable: it takes 1,000,000 impostor pairs")
    own = len(expected.camera_pairs)
    assert printed.count("\ncameras ") == own
    assert ("pairs of cameras have too few images" in printed) == (own < 3)
    if own:
        assert says(printed, "0.001 %: not estimable", "the pooled threshold is used")
    assert says(printed, "written to", str(stored.file))
    content = json.loads(stored.file.read_text())
    assert content["data"]["fingerprint"] == data.fingerprint()
    assert content["model"] == model.identity.to_plain()
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pooled"] == json.loads(json.dumps(expected.to_plain()["pooled"]))


def test_it_is_calibrated_with_the_networks_own_normalisation(run, people, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    model = reference_pipelines.load(copy, device="cpu")
    model.identity = dataclasses.replace(model.identity, normalisation=((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))
    found = calibrate_model(model, people, rates=RATES).calibration
    data = read(people)
    rows = {
        path: row
        for part in (data.gallery, data.query)
        for path, *row in zip(part.paths, part.ids, part.cameras, strict=True)
    }
    kept = [
        (path, *rows[path]) for path in dict.fromkeys([*data.query.paths, *data.gallery.paths]) if rows[path][0] > 0
    ]
    paths, ids, cameras = zip(*kept, strict=True)
    expected = calibrate(model.embed(list(paths)).numpy(), np.array(ids), np.array(cameras), rates=RATES)
    assert found.to_plain() == expected.to_plain()


def test_same_is_the_threshold_on_the_similarity(calibrated, pair, capsys):
    model = reference_pipelines.load(calibrated, device="cpu")
    first, second = model.embed(pair)
    point = model.calibration().calibration.pooled.at(0.05)
    verdict = model.same(*pair, rate=0.05)
    assert verdict.similarity == pytest.approx(float(first @ second), abs=1e-6)
    assert (verdict.threshold, verdict.same) == (point.threshold, verdict.similarity >= point.threshold)
    assert model.same(pair[0], pair[0], rate=0.05).same
    words = ["same", str(calibrated), *pair, "--rate", "0.05", "--device", "cpu"]
    assert main([*words, "--json", "--prior", "0.1", "--cameras", "1", "1"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["a"], answer["b"], answer["same"]) == (*pair, verdict.same)
    assert answer["threshold"] == verdict.threshold
    assert answer["probability"] < verdict.probability
    assert says(answer["scale"], "pooled", "both of camera 1")
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert says(printed, "same person", f"{verdict.similarity:.4f}", f"{point.threshold:.4f}")
    assert says(printed, "false-match rate 5 %", "expected", "pooled: no cameras given")
    same = model.same(pair[0], pair[0], rate=0.05)
    assert main(["same", str(calibrated), pair[0], pair[0], "--rate", "0.05"]) == 0
    assert says(capsys.readouterr().out, "same person: similarity 1.0000 >=", f"{same.probability:.3f}")


def test_a_gallery_of_other_images_is_said_to_be_unlike(calibrated, people, pair, tmp_path, capsys):
    model = reference_pipelines.load(calibrated, device="cpu")
    own = extract(model, people, tmp_path / "own", part="gallery").folder
    words = ["same", str(calibrated), *pair, "--rate", "0.05", "--gallery"]
    assert main([*words, str(own)]) == 0
    assert says(capsys.readouterr().out, f"{own} looks like the calibration's images")
    odd = shutil.copytree(own, tmp_path / "odd")
    others = np.random.default_rng(0).normal(size=np.load(odd / "features.npy").shape).astype(np.float32)
    np.save(odd / "features.npy", others / np.linalg.norm(others, axis=1, keepdims=True))
    assert main([*words, str(odd)]) == 0
    assert says(capsys.readouterr().out, f"note: {odd} looks unlike the calibration's images", "less alike")
    assert main([*words, str(odd), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gallery"]["unlike"] is True
    few = extract(model, people, tmp_path / "few", part="query").folder
    meta = json.loads((few / "meta.json").read_text())
    meta["model"]["digest"] = "another"
    (few / "meta.json").write_text(json.dumps(meta))
    assert says(refused(capsys, *words, few), "same: ", str(few), "differ in digest", "another")


def test_evaluate_open_set(calibrated, people, tmp_path, capsys):
    out = tmp_path / "scores.json"
    words = ["evaluate", str(calibrated), "--data", str(people), "--open-set", "--workers", "0", "--device", "cpu"]
    assert main([*words, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    found = json.loads(out.read_text())["open_set"]
    pooled = reference_pipelines.load(calibrated, device="cpu").calibration().calibration.pooled
    verification = found["verification"]
    assert (verification["genuine"], verification["impostors"]) == (pooled.genuine, pooled.impostors)
    assert verification["people"] == 36
    assert [point["rate"] for point in verification["points"]] == [1e-2, 1e-3, 1e-4]
    assert verification["points"][2]["threshold"] is None
    assert says(printed, "one person or two", f"{pooled.genuine:,} genuine and {pooled.impostors:,} impostor pairs")
    assert says(printed, "FMR 0.01 %: not estimable")
    roc = np.array(verification["roc"])
    assert 2 <= len(roc) <= 200
    assert (np.diff(roc[:, 0]) > 0).all()
    assert found["identification"]["people"] == [18, 18]
    assert says(printed, "who is it, or nobody", "18 people who are not")
    stored = found["calibration"]
    assert [each["rate"] for each in stored["points"]] == [0.1, 0.05]
    for each in stored["points"]:
        assert each["fmr"] == pytest.approx(each["rate"], rel=0.02)  # the images that it was calibrated on
        assert each["fmr_interval"][0] < each["fmr"] < each["fmr_interval"][1]
    assert says(printed, "looks like", "which is no test of it")
    assert main(words) == 0
    assert [path for path in (calibrated / "evaluations").iterdir() if "open_set" in path.name]


def test_evaluate_open_set_without_a_calibration(run, images, tmp_path, capsys):
    out = tmp_path / "scores.json"
    words = ["evaluate", str(run), "--open-set", "--workers", "0", "--device", "cpu", "--out", str(out)]
    assert main(words) == 0
    assert says(capsys.readouterr().out, "stored calibration: none")
    found = json.loads(out.read_text())["open_set"]
    assert all(point["reason"] for point in found["verification"]["points"])
    assert found["calibration"] == {"missing": "none; `calibrate` makes one"}


def test_refusals_of_calibrate_write_nothing(run, people, images, market, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")

    def wrong(*words):
        error = refused(capsys, "calibrate", *words, "--workers", "0", "--device", "cpu")
        assert not (copy / "model.calibration.json").exists()
        return error

    assert says(wrong(copy), "calibrate: --data is missing")
    assert says(wrong(copy, "--data", tmp_path / "none"), "none")
    assert says(wrong(copy, "--data", people, "--rate", "1.5"), "calibrate: --rate must be above 0", "got 1.5")
    assert says(wrong(copy, "--data", people, "--part", "train"), "calibrate: ", "at least 2 people", "got 1")
    assert says(wrong(tmp_path / "gone", "--data", people), "calibrate: there is no", "gone")
    next((market / "query").glob("*.jpg")).write_bytes(b"no image")
    assert says(wrong(copy, "--data", market), "cannot")
    model = reference_pipelines.load(copy, device="cpu")
    model.calibration_file = None
    with pytest.raises(UserError, match="must come from a weights file"):
        calibrate_model(model, people)


def test_a_file_that_cannot_be_written_is_refused_before_and_after(run, people, tmp_path, capsys, monkeypatch):
    copy = shutil.copytree(run, tmp_path / "run")
    file = copy / "model.calibration.json"
    file.mkdir()
    before = sorted(copy.iterdir())
    assert says(refused(capsys, "calibrate", copy, "--data", tmp_path / "unread"), "calibrate: ", str(file), "folder")
    file.rmdir()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(calibration_file.tempfile, "TemporaryFile", full)
    error = refused(capsys, "calibrate", copy, "--data", tmp_path / "unread")
    assert says(error, "calibrate: cannot write", str(file), os.strerror(errno.ENOSPC))
    monkeypatch.undo()
    monkeypatch.setattr(os, "replace", full)  # the disk is full in the end
    error = refused(capsys, "calibrate", copy, "--data", people, "--workers", "0", "--device", "cpu")
    assert says(error, "calibrate: cannot write", str(file), os.strerror(errno.ENOSPC))
    assert sorted(copy.iterdir()) == [path for path in before if path != file]


def test_refusals_of_same(run, calibrated, pair, people, tmp_path, capsys):
    def wrong(folder, *words):
        return refused(capsys, "same", folder, *pair, "--rate", "0.05", *words)

    assert says(wrong(run), "same: the network must be calibrated first", "model.calibration.json", "`calibrate`")
    assert says(refused(capsys, "same", calibrated, *pair), "same: rate must be one", "(0.1, 0.05, 1e-05)", "got 0.01")
    error = refused(capsys, "same", calibrated, *pair, "--rate", "1e-5")
    assert says(error, "same: the false-match rate 1e-05 is not estimable")
    assert says(wrong(calibrated, "--prior", "2"), "same: prior must be above 0 and below 1, got 2")
    assert says(wrong(calibrated, "--no-flip"), "model.calibration.json", "differs in flip (True, now False)")
    assert says(wrong(calibrated, "--gallery", people), "same: ", str(people))
    assert says(refused(capsys, "same", calibrated, pair[0]), "B is missing")
    assert says(refused(capsys, "same", calibrated, pair[0], "gone.jpg", "--rate", "0.05"), "gone.jpg")
    file = shutil.copytree(calibrated, tmp_path / "run") / "model.calibration.json"
    whole, model = json.loads(file.read_text()), reference_pipelines.load(file.parent, device="cpu")
    for content, parts in (
        ("{", ("must be a calibration",)),
        (json.dumps({**whole, "format": 99}), ("must be a calibration", "format 99")),
        (json.dumps({key: value for key, value in whole.items() if key != "calibration"}), ("lacks 'calibration'",)),
        (json.dumps({**whole, "calibration": {**whole["calibration"], "pooled": 3}}), ("must be a calibration",)),
        (json.dumps({**whole, "model": {**whole["model"], "digest": "x"}}), ("differs in digest (x, now",)),
    ):
        file.write_text(content)
        with pytest.raises(UserError) as damaged:
            model.calibration()
        assert says(str(damaged.value), "same: ", str(file), *parts)
    error = refused(capsys, "evaluate", file.parent, "--data", people, "--open-set", "--workers", "0")
    assert says(error, "evaluate: ", str(file), "differs in digest (x, now")
    model = reference_pipelines.load(calibrated, device="cpu")
    with pytest.raises(ValueError, match="same: a and b must be one image each, got 2 and 1"):
        model.same(pair, pair[0], rate=0.05)
