"""Search and clustering on several processes: the bits of one."""

import numpy as np
import pytest
import torch

from reference_pipelines.clustering import cluster
from reference_pipelines.config.clustering import ClusteringConfig
from reference_pipelines.errors import UserError
from reference_pipelines.neighbours import engines
from reference_pipelines.neighbours import search as neighbours
from reference_pipelines.neighbours.reciprocal import encode
from reference_pipelines.neighbours.search import find_neighbours, unit_features
from tests.together import in_threads

CONFIG = ClusteringConfig(k1=10, k2=3, eps=0.5, min_samples=3)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(neighbours, "SEARCH_BLOCK", 19)
    monkeypatch.setattr(neighbours, "UNSETTLED_ROWS", 5)


def features(count=131, people=9, seed=0):
    """People's images, some of them twice and some three times, so that there are ties."""
    rng = np.random.default_rng(seed)
    people_of = rng.normal(size=(people, 12))
    rows = people_of[np.arange(count) % people] + 0.45 * rng.normal(size=(count, 12))
    rows[10:30] = rows[30:50]
    rows[60:70] = rows[30:40]
    return torch.as_tensor(rows.astype(np.float32))


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("least", [False, True])
def test_neighbours_are_those_of_one_process(count, least):
    points = unit_features(features(), "test")
    expected = find_neighbours(points, 10, least=least)
    for found in in_threads(count, lambda each: find_neighbours(points, 10, least=least, processes=each)):
        assert np.array_equal(found.indices, expected.indices)
        assert np.array_equal(found.similarities, expected.similarities)
        assert np.array_equal(found.least, expected.least)


@pytest.mark.parametrize("count", [2, 3])
def test_more_processes_than_blocks_and_than_points(count):
    points = unit_features(features(count), "test")
    expected = find_neighbours(points, 3)
    for found in in_threads(5, lambda each: find_neighbours(points, 3, processes=each)):
        assert np.array_equal(found.indices, expected.indices)
        assert np.array_equal(found.similarities, expected.similarities)


@pytest.mark.parametrize("k2", [1, 3])
def test_weights_are_those_of_one_process(k2):
    points = unit_features(features(), "test")
    found = find_neighbours(points, 10)
    expected = encode(points, found, k1=10, k2=k2)
    for weights in in_threads(3, lambda each: encode(points, found, k1=10, k2=k2, processes=each)):
        for name in ("indptr", "indices", "data"):
            assert np.array_equal(getattr(weights, name), getattr(expected, name))


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        ClusteringConfig(k1=10, k2=3, eps=0.02, relax_eps=0.1, relax_limit=0.9, min_samples=3),
        ClusteringConfig(method="kmeans", kmeans=9),
        ClusteringConfig(method="agglomerative"),
    ],
    ids=["density", "relaxed", "means", "merging"],
)
def test_clusters_are_those_of_one_process(count, config, capsys):
    points = features()
    expected, eps, _ = cluster(points, config, seed=3)
    said = capsys.readouterr().out
    for found, used, missed in in_threads(count, lambda each: cluster(points, config, seed=3, processes=each)):
        assert found.tolist() == expected.tolist()
        assert (used, missed) == (eps, None)
    assert capsys.readouterr().out == said  # once


def test_more_processes_than_images():
    points = features()[:12]
    expected = cluster(points, CONFIG)[0]
    for found, _, _ in in_threads(14, lambda each: cluster(points, CONFIG, processes=each)):
        assert found.tolist() == expected.tolist()


def test_too_few_clusters_are_refused_by_all_with_one_sentence():
    def work(processes):
        with pytest.raises(UserError, match="all images have the same feature") as refused:
            cluster(torch.ones(40, 4), CONFIG, processes=processes)
        return str(refused.value)

    assert len(set(in_threads(2, work))) == 1


@pytest.mark.parametrize("engine", ["faiss-flat", "faiss-hnsw"])
def test_an_engine_is_built_once_and_finds_what_it_finds_for_one(engine, monkeypatch):
    faiss = pytest.importorskip("faiss")
    monkeypatch.setattr(engines, "SAMPLED_ROWS", 40)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    built = []
    kind = engines._INDICES[engine]
    empty = kind.empty
    monkeypatch.setattr(kind, "empty", staticmethod(lambda *given: built.append(1) or empty(*given)))
    points = unit_features(features(), "test")
    faiss.omp_set_num_threads(1)
    expected = find_neighbours(points, 6, engine=engine)
    assert len(built) == 1
    for found in in_threads(3, lambda each: find_neighbours(points, 6, engine=engine, processes=each)):
        assert np.array_equal(found.indices, expected.indices)
        assert found.approximation == expected.approximation
    assert len(built) == 2


def test_unit_rows_are_not_copied():
    rows = unit_features(features(), "test")
    assert unit_features(rows, "test").data_ptr() == rows.data_ptr()
    mapped = rows.numpy().copy()
    assert unit_features(mapped, "test").data_ptr() == mapped.ctypes.data
    stretched = rows.clone()
    stretched[-1] *= 1.01
    torch.testing.assert_close(unit_features(stretched, "test"), rows, rtol=0, atol=2e-7)
