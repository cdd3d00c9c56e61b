"""What a run keeps for its report: the map of features against a singular value decomposition, and the lists."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from reference_pipelines.data import read
from reference_pipelines.reporting.examples import EMBEDDED_OF_EACH, EMBEDDED_PEOPLE, WORST, embed, principal_axes


@pytest.mark.parametrize("rows", [50, 5], ids=["tall", "wide"])
def test_the_axes_are_the_first_right_singular_vectors(rows):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(rows, 8)) * np.array([1, 5, 1, 1, 3, 1, 1, 1])
    centred = features - features.mean(axis=0)
    axes, shares = principal_axes(centred)
    _, values, vectors = np.linalg.svd(centred)
    for axis, vector in zip(axes.T, vectors, strict=False):
        assert axis[np.abs(axis).argmax()] > 0
        assert np.abs(axis @ vector) == pytest.approx(1)
    np.testing.assert_allclose(axes.T @ axes, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(shares, (values**2 / (values**2).sum())[:2])
    again, _ = principal_axes(-centred)
    np.testing.assert_allclose(again, axes)


@pytest.mark.parametrize("shape", [(4, 3), (3, 4)])
def test_features_that_are_all_alike_have_a_map_without_variance(shape):
    axes, shares = principal_axes(np.zeros(shape))
    assert np.isfinite(axes).all()
    assert shares.tolist() == [0, 0]


@pytest.mark.parametrize("rows", [50, 5], ids=["tall", "wide"])
def test_features_on_a_line_have_a_map_on_a_line(rows):
    places = np.linspace(-1, 1, rows)
    centred = np.outer(places, np.arange(1.0, 9))
    axes, shares = principal_axes(centred)
    assert shares == pytest.approx([1, 0])
    np.testing.assert_allclose(centred @ axes, np.outer(places, [np.linalg.norm(np.arange(1, 9)), 0]), atol=1e-12)


def test_the_map_is_of_some_people_evenly_with_their_cameras(market):
    data = read(market)
    torch.manual_seed(0)
    query, gallery = torch.randn(len(data.query), 6), torch.randn(len(data.gallery), 6)
    found = embed(data, query, gallery)
    points = found["points"]
    assert found["people"] == 3
    assert [p["person"] for p in points if p["query"]] == ["0007", "0007", "0008", "0008", "0009", "0009"]
    assert all(p["image"].startswith(f"{p['person']}_c{p['camera']}") for p in points)
    assert len(points) == 3 * (2 + 6)
    # The same unit features, and the first two coordinates by a decomposition.
    features = torch.nn.functional.normalize(torch.cat([query, gallery])).double().numpy()
    left, values, _ = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)
    files = [path.name for path in (*data.query.paths, *data.gallery.paths)]
    expected = np.array([(left * values)[files.index(p["image"]), :2] for p in points])
    at = np.array([p["at"] for p in points])
    np.testing.assert_allclose(np.abs(at), np.abs(expected), atol=1e-4)
    assert embed(data, query[:, :1], gallery[:, :1]) is None


def test_very_many_images_of_a_person_are_thinned(market):
    data = read(market)
    many = replace(
        data.gallery,
        paths=data.gallery.paths * 9,
        ids=np.tile(data.gallery.ids, 9),
        cameras=np.tile(data.gallery.cameras, 9),
    )
    found = embed(replace(data, gallery=many), torch.randn(len(data.query), 4), torch.randn(len(many), 4))
    of_gallery = [p["person"] for p in found["points"] if not p["query"]]
    assert max(map(of_gallery.count, set(of_gallery))) == EMBEDDED_OF_EACH // 2
    assert len(set(of_gallery)) <= EMBEDDED_PEOPLE


def test_cameras_that_are_not_known_are_not_made_up(market):
    data = replace(read(market), cameras_known=False)
    found = embed(data, torch.randn(len(data.query), 4), torch.randn(len(data.gallery), 4))
    assert {p["camera"] for p in found["points"]} == {None}


def test_a_trained_run_keeps_who_is_on_each_image_and_its_worst_queries(trained_run):
    document = json.loads((trained_run / "examples.json").read_text())
    worst = document["worst"]
    assert 0 < len(worst) <= WORST
    kept = json.loads((trained_run / "result.json").read_text())["final"]["average_precision"]
    shown = [each["average_precision"] for each in worst]
    np.testing.assert_allclose(shown, sorted(kept)[: len(worst)], atol=1e-5)
    for each in (*document["lists"], *worst):
        for entry, file in [(each, each["query"]), *((entry, entry["image"]) for entry in each["ranked"])]:
            person, camera = file.rpartition("/")[2].split("_c")
            assert entry["person"] == (person if person != "0000" else None)
            assert entry["camera"] == int(camera[0])
        assert all(entry["match"] == (entry["person"] == each["person"]) for entry in each["ranked"])
        assert document["digests"].keys() >= {each["query"], *(entry["image"] for entry in each["ranked"])}
    assert document["embedding"]["points"]
