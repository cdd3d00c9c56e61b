"""Training on what nobody labelled, on several sets at once, and on labels with gaps."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch

import reference_pipelines
from reference_pipelines.clustering import describe_clusters, silhouette
from reference_pipelines.commands.cli import main
from reference_pipelines.config.sections import PeopleSplit
from reference_pipelines.data import read
from reference_pipelines.data.records import UNKNOWN
from reference_pipelines.errors import UserError
from reference_pipelines.pipelines.opening import open_run
from reference_pipelines.reporting.table import format_results, learning_lines
from reference_pipelines.serving.listing import list_images
from tests.conftest import says
from tests.training.runs import arguments, assert_equal_tensors, logged, trained


@pytest.fixture(scope="module")
def photographs(images, tmp_path_factory):
    """The training images without what their names say."""
    root = tmp_path_factory.mktemp("photographs") / "crops"
    root.mkdir()
    for number, path in enumerate(read(images).train.paths):
        shutil.copy(path, root / f"{number:03d}.jpg")
    return root


@pytest.fixture(scope="module")
def run(photographs, tmp_path_factory):
    out = tmp_path_factory.mktemp("unlabelled") / "run"
    return out, trained("mla", photographs, out)


def test_photographs_are_clustered_and_scores_are_not_claimed(run, photographs):
    folder, result = run
    assert result["final"] is None
    assert (result["start"], result["chance"], result["best"]) == ({}, None, {})
    assert says(" ".join(result["remarks"]), "no scores", "no query and gallery", "--data.test")
    log = logged(folder)
    assert [entry["epoch"] for entry in log] == [0, 1, 2]
    for entry in log[1:]:
        assert "mAP" not in entry
        assert entry["id_purity"] is None
        assert -1 <= entry["silhouette"] <= 1
        assert {"clusters", "noise", "smallest", "median", "largest"} <= set(entry)
    with open(folder / "clusters.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [str(path) for path in sorted(photographs.glob("*.jpg"))]
    assert [int(row["cluster"]) for row in rows] == np.load(folder / "pseudo_labels" / "epoch-0002.npy").tolist()
    assert not (folder / "ranks.npz").exists()
    assert not (folder / "best.safetensors").exists()


def test_what_comes_after_such_a_run(run, images, tmp_path, capsys):
    folder, result = run
    assert " - " in format_results([result])
    assert learning_lines([result]) == [f"{result['title']}: no query and gallery, so no scores"]
    assert main(["report", str(folder), "--out", str(tmp_path / "page.html")]) == 0
    assert says((tmp_path / "page.html").read_text(), "no scores")
    assert main(["evaluate", str(folder)]) == 2
    assert says(capsys.readouterr().err, "without query and gallery", "--data")
    assert main(["evaluate", str(folder), "--data", str(images), "--workers", "0"]) == 0
    assert open_run(folder).pipeline == "mla"


def test_it_is_resumed(run, photographs, tmp_path):
    folder, result = run
    out = tmp_path / "run"
    trained("mla", photographs, out, **{"optimizer.epochs": "1"})
    assert main(["resume", str(out), "--optimizer.epochs", "2"]) == 0
    again = json.loads((out / "result.json").read_text())
    assert again["clustering"] == result["clustering"]
    assert (out / "clusters.csv").read_text() == (folder / "clusters.csv").read_text()
    weights = [open_run(each).model.state_dict() for each in (folder, out)]
    assert_equal_tensors(*weights)


def test_a_labelled_set_elsewhere_scores_it(photographs, images, tmp_path):
    result = trained("mla", photographs, tmp_path / "run", **{"data.test": str(images)})
    assert 0 < result["final"]["mAP"] <= 1
    assert result["chance"] == pytest.approx(trained("mla", images, tmp_path / "own")["chance"])
    assert result["final"]["queries"] == len(read(images).query)
    assert main(["evaluate", str(tmp_path / "run"), "--workers", "0"]) == 0
    (written,) = (tmp_path / "run" / "evaluations").glob("*.json")
    assert json.loads(written.read_text())["scores"]["mAP"] == result["final"]["mAP"]


def test_labels_are_refused_where_there_are_none(photographs, tmp_path, capsys):
    assert main(["train", "apnet", "--out", str(tmp_path / "run"), *arguments("apnet", photographs)]) == 2
    assert says(capsys.readouterr().err, "nobody is labelled", "train mla")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("pipeline", ["apnet", "mla"])
def test_several_sets_are_trained_on_at_once(images, tmp_path, pipeline):
    root = tmp_path / "people"
    data = read(images)
    for path, person in zip(data.train.paths, data.train.ids.tolist(), strict=True):
        (root / f"p{person}").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / f"p{person}" / f"c{path.name[6]}_{path.name}")
    changes = {
        "data.also": str(root),
        "optimizer.epochs": "1",
        "data.test_people": "0",
        "optimizer.milestones": "[]",
    }
    result = trained(pipeline, images, tmp_path / "run", **changes)
    assert says(result["data"]["summary"], f"{root}: train {2 * len(data.train)} images of 16 ids")
    assert result["data"]["name"] == "rendered plaza + people"
    assert result["data"]["fingerprint"] != data.fingerprint()
    assert main(["evaluate", str(tmp_path / "run"), "--workers", "0"]) == 0


def test_the_unknown_are_left_out_of_labels_and_of_purity(images, tmp_path):
    data = read(images)
    with open(tmp_path / "own.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "id", "camera", "split"])
        for part in ("train", "query", "gallery"):
            each = data.part(part)
            for number, (path, person, camera) in enumerate(zip(each.paths, each.ids, each.cameras, strict=True)):
                rows.writerow([path, "" if part == "train" and number % 3 == 0 else person, camera, part])
    result = trained(
        "apnet", tmp_path / "own.csv", tmp_path / "apnet", **{"optimizer.epochs": "1", "optimizer.milestones": "[]"}
    )
    assert result["final"]["mAP"] > 0
    result = trained(
        "mla", tmp_path / "own.csv", tmp_path / "mla", **{"optimizer.epochs": "1", "optimizer.milestones": "[]"}
    )
    clusters = np.load(tmp_path / "mla" / "pseudo_labels" / "epoch-0001.npy")
    known = np.arange(len(clusters)) % 3 > 0
    expected = describe_clusters(clusters[known], data.train.ids[known])
    assert result["clustering"]["id_purity"] == pytest.approx(expected["id_purity"])
    assert result["clustering"]["id_nmi"] == pytest.approx(expected["id_nmi"])


def test_purity_leaves_the_unknown_out():
    clusters, ids = np.array([0, 0, 0, 1, 1, -1]), np.array([1, 1, UNKNOWN, 2, 1, 2])
    assert describe_clusters(clusters, ids)["id_purity"] == pytest.approx(3 / 4)
    assert describe_clusters(clusters, np.full(6, UNKNOWN))["id_purity"] is None
    assert describe_clusters(clusters, np.array([1, UNKNOWN, UNKNOWN, 2, UNKNOWN, UNKNOWN]))["id_purity"] is None
    alone = np.array([1, UNKNOWN, 1, UNKNOWN, 2, UNKNOWN])  # of each cluster one image has a label
    assert describe_clusters(np.array([0, 0, 1, 1, 2, 2]), alone)["id_purity"] is None


def literal_silhouette(points, labels):
    """Mean of (b - a) / max(a, b) by loops, by cosine distance."""
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    values = []
    for i, label in enumerate(labels):
        if label < 0:
            continue
        mean = {}
        for other in set(labels) - {-1}:
            members = [j for j in range(len(labels)) if labels[j] == other and j != i]
            if members:
                mean[other] = float(np.mean([1 - unit[i] @ unit[j] for j in members]))
        if label not in mean:
            values.append(0.0)
            continue
        a, b = mean.pop(label), min(mean.values())
        values.append((b - a) / max(a, b))
    return float(np.mean(values))


def test_silhouette_is_the_literal_one():
    points = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = np.random.default_rng(0).integers(-1, 4, 30)
    labels[0] = 7  # alone
    assert silhouette(points, labels) == pytest.approx(literal_silhouette(points.numpy(), labels.tolist()), abs=1e-9)
    two = np.arange(30) % 2
    assert silhouette(points, two) == pytest.approx(literal_silhouette(points.numpy(), two.tolist()), abs=1e-9)
    assert silhouette(points, np.zeros(30, dtype=int)) is None
    assert silhouette(points, np.arange(30)) is None
    assert silhouette(points, np.full(30, -1)) is None


def test_silhouette_of_many_images_is_of_a_seeded_sample():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(5, 8, generator=generator)
    labels = np.arange(5000) % 5
    points = centres[torch.as_tensor(labels)] + 0.3 * torch.randn(5000, 8, generator=generator)
    one, same, other = (silhouette(points, labels, seed=seed) for seed in (1, 1, 2))
    assert one == same != other
    assert one == pytest.approx(other, abs=0.03)


def test_nothing_to_train_on_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="it is empty"):
        trained("mla", tmp_path / "empty", tmp_path / "run")


def test_a_set_is_trained_on_once(images, tmp_path):
    with pytest.raises(UserError, match="once, .*images is named twice"):
        trained("apnet", images, tmp_path / "run", **{"data.also": str(images)})


def test_people_are_split_after_the_training_as_in_it(images, tmp_path):
    """Else people who were trained on would be tested on, or calibrated with, without a word."""
    root = tmp_path / "people"
    data = read(images)
    for path, person in zip(data.train.paths, data.train.ids.tolist(), strict=True):
        (root / f"p{person}").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / f"p{person}" / f"c{path.name[6]}_{path.name}")
    changes = {"data.split_seed": "3", "optimizer.epochs": "1", "optimizer.milestones": "[]", "sampler.ids": "3"}
    result = trained("apnet", root, tmp_path / "run", **changes)
    wanted = read(root, split=PeopleSplit(0.5, 3))
    assert set(wanted.query.people()) != set(read(root).query.people())
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(root), "--workers", "0"]) == 0
    (written,) = (tmp_path / "run" / "evaluations").glob("*.json")
    assert json.loads(written.read_text())["scores"]["mAP"] == result["final"]["mAP"]
    model = reference_pipelines.load(tmp_path / "run")
    listing = list_images(root, part="gallery", layout="people", split=model.split)
    assert sorted(listing.paths) == sorted(wanted.gallery.paths)
