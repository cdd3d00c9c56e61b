"""`extract`, `search` and `cluster` as functions: what they take, and that the commands are made of them."""

import sys

import numpy as np
import pytest
from PIL import Image

import reference_pipelines
from reference_pipelines import FeatureStore
from reference_pipelines.clustering import dbscan, describe_clusters, jaccard_graph
from reference_pipelines.data import read
from reference_pipelines.errors import UserError
from reference_pipelines.neighbours import engines
from tests.conftest import says


@pytest.fixture(scope="module")
def model(run):
    return reference_pipelines.load(run, device="cpu")


@pytest.fixture(scope="module")
def gallery(model, images, tmp_path_factory):
    return reference_pipelines.extract(
        model, str(images), tmp_path_factory.mktemp("stores") / "gallery", part="gallery"
    )


def test_extract_lists_the_images_of_a_folder(model, images, gallery):
    data = read(images).gallery
    assert [path.name for path in gallery.paths] == [path.name for path in data.paths]
    np.testing.assert_array_equal(gallery.ids, data.ids)
    np.testing.assert_array_equal(gallery.features, model.embed(list(data.paths)).numpy())


def test_search_takes_images_of_every_kind_and_names_those_of_no_file(model, gallery):
    paths = list(gallery.paths[:2])
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    expected = reference_pipelines.search(model, gallery, paths, top=3)
    assert expected.queries == tuple(map(str, paths))
    assert expected.indices[:, 0].tolist() == [0, 1]  # each finds itself
    np.testing.assert_allclose(expected.similarities[:, 0], 1, atol=1e-6)
    assert (expected.engine, expected.indices.shape) == ("exact", (2, 3))
    for images in (pixels, [*pixels], [Image.open(path) for path in paths]):
        found = reference_pipelines.search(model, str(gallery.folder), images, top=3)
        assert found.queries == ("image 1", "image 2")
        np.testing.assert_array_equal(found.indices, expected.indices)
        np.testing.assert_array_equal(found.similarities, expected.similarities)
    for one in (paths[1], str(paths[1]), pixels[1], [paths[1]]):
        found = reference_pipelines.search(model, gallery, one, top=3)
        assert found.queries == (("image 1",) if isinstance(one, np.ndarray) else (str(paths[1]),))
        np.testing.assert_array_equal(found.indices, expected.indices[1:])


def test_search_by_a_store_takes_its_rows(gallery):
    every = reference_pipelines.search(gallery, gallery, top=2)
    assert every.queries == tuple(map(str, gallery.paths))
    assert every.indices[:, 0].tolist() == [*range(len(gallery))]
    some = reference_pipelines.search(gallery, gallery, [gallery.paths[4], gallery.paths[1]], top=2)
    np.testing.assert_array_equal(some.indices, every.indices[[4, 1]])
    ranked = some.to_plain()["queries"][0]["ranked"]
    assert [found["path"] for found in ranked] == [str(gallery.paths[index]) for index in some.indices[0]]


def test_search_through_an_engine_is_ranked_the_same_and_says_its_recall(gallery, monkeypatch):
    pytest.importorskip("faiss", reason="faiss is not installed")
    exact = reference_pipelines.search(gallery, gallery, top=4)
    few = reference_pipelines.search(gallery, gallery, top=4, engine="faiss-flat")
    assert (few.engine, few.approximation) == ("exact", None)
    monkeypatch.setattr(engines, "SAMPLED_ROWS", 5)
    found = reference_pipelines.search(gallery, gallery, top=4, engine="faiss-flat")
    assert (found.engine, found.approximation.recall) == ("faiss-flat", 1.0)
    assert [each.to_plain()["recall"] for each in (exact, found)] == [None, 1.0]
    np.testing.assert_array_equal(found.indices, exact.indices)
    np.testing.assert_array_equal(found.similarities, exact.similarities)


def test_faiss_that_is_asked_for_and_missing_is_an_error(gallery, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"search: .*faiss.* not installed; pip install 'attnreid\[faiss\]'"):
        reference_pipelines.search(gallery, gallery, engine="faiss-flat")


def test_cluster_is_the_trainings_and_keeps_what_it_is_of(gallery):
    found = reference_pipelines.cluster(str(gallery.folder), eps=0.7, k1=6, k2=2, min_samples=2)
    features = np.array(FeatureStore(gallery.folder).features)
    labels = dbscan(jaccard_graph(features, k1=6, k2=2, max_distance=0.7), eps=0.7, min_samples=2)
    np.testing.assert_array_equal(found.labels, labels)
    assert labels.max() > 0
    assert found.about == describe_clusters(labels, gallery.ids, gallery.cameras)
    assert found.store.folder == gallery.folder


@pytest.mark.parametrize(
    ("call", "error", "parts"),
    [
        (lambda m, g, r, out: m.extract(r, g.folder, out), TypeError, ("extract: the model", "Embedder", "load")),
        (lambda m, g, r, out: m.search(r, g, []), TypeError, ("search: queries", "FeatureStore", "load")),
        (lambda m, g, r, out: m.search(m.load(r), g), ValueError, ("search: a network needs images", "none")),
        (lambda m, g, r, out: m.search(g, g, top=0), ValueError, ("search: top must be at least 1", "0")),
        (lambda m, g, r, out: m.search(g, g, engine="annoy"), ValueError, ("search: engine", "faiss-hnsw", "'annoy'")),
        (lambda m, g, r, out: m.search(g, g, "a.jpg"), UserError, ("search: every query", "a.jpg is none")),
        (lambda m, g, r, out: m.search(g, r), UserError, ("search: ", "`extract`")),
        (lambda m, g, r, out: m.cluster(g, eps=1.0), ValueError, ("cluster: eps", "below 1", "got 1")),
        (lambda m, g, r, out: m.cluster(g, k1=3), ValueError, ("cluster: k1 and k2", "k1=3", "k2=6")),
        (lambda m, g, r, out: m.cluster(g, min_samples=0), ValueError, ("cluster: min_samples", "at least 1", "0")),
        (lambda m, g, r, out: m.cluster(g, k1=6).write(out / "no" / "l.csv"), UserError, ("cluster: cannot write",)),
    ],
)
def test_mistakes(run, gallery, tmp_path, call, error, parts):
    with pytest.raises(error) as caught:
        call(reference_pipelines, gallery, run, tmp_path)
    assert says(str(caught.value), *parts)
    assert list(tmp_path.iterdir()) == []


def test_the_functions_are_there_by_name():
    assert {"load", "extract", "search", "cluster", "export", "FeatureStore"} <= {*dir(reference_pipelines)}
