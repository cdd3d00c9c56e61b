"""The sparse k-reciprocal Jaccard graph against the dense published formula."""

import numpy as np
import pytest
import torch

from reference_pipelines.clustering import dbscan, jaccard_graph
from tests.oracles import clustering as oracle


def clustered(count, dim, groups, seed):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(groups, dim))
    return centers[rng.integers(groups, size=count)] + 0.35 * rng.normal(size=(count, dim))


def random(count, dim, seed):
    return np.random.default_rng(seed).normal(size=(count, dim))


CASES = {
    "random": (random(90, 8, 0), 12, 4),
    "clustered": (clustered(120, 16, 10, 1), 15, 6),
    "paper's k": (clustered(150, 16, 8, 2), 30, 6),
    "no query expansion": (clustered(80, 8, 6, 3), 10, 1),
    "fewer points than k1": (random(7, 4, 4), 30, 6),
    "one point": (random(1, 4, 5), 30, 6),
    "duplicates": (np.repeat(random(12, 6, 6), 5, axis=0), 8, 3),
    "more duplicates than k1": (np.repeat(random(3, 6, 7), 20, axis=0), 6, 2),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_dense_formula(name):
    features, k1, k2 = CASES[name]
    expected = oracle.jaccard(features, k1, k2)
    graph = jaccard_graph(features, k1=k1, k2=k2, max_distance=0.999)
    stored = np.zeros(expected.shape, dtype=bool)
    rows = np.repeat(np.arange(len(features)), np.diff(graph.indptr))
    stored[rows, graph.indices] = True
    np.testing.assert_allclose(graph.data, expected[rows, graph.indices], atol=1e-6)
    assert (expected[~stored] > 0.999 - 1e-6).all()


def test_pairs_beyond_max_distance_are_not_stored():
    features, k1, k2 = CASES["clustered"]
    graph = jaccard_graph(features, k1=k1, k2=k2, max_distance=0.5)
    expected = oracle.jaccard(features, k1, k2)
    assert graph.data.max() <= 0.5
    assert graph.nnz == (expected <= 0.5).sum()


def test_zeros_are_stored():
    graph = jaccard_graph(CASES["duplicates"][0], k1=8, k2=3, max_distance=0.4)
    dense = oracle.jaccard(CASES["duplicates"][0], 8, 3)
    assert (graph.data < 1e-6).sum() == (dense < 1e-6).sum() > len(dense)


@pytest.mark.parametrize("name", ["clustered", "paper's k", "duplicates"])
def test_dbscan_labels_are_those_of_the_dense_distances(name):
    from sklearn.cluster import DBSCAN

    features, k1, k2 = CASES[name]
    dense = oracle.jaccard(features, k1, k2)
    expected = DBSCAN(eps=0.45, min_samples=4, metric="precomputed").fit_predict(dense)
    labels = dbscan(jaccard_graph(features, k1=k1, k2=k2, max_distance=0.45), eps=0.45, min_samples=4)
    assert labels.tolist() == expected.tolist()
    assert labels.max() >= 1
    assert oracle.dbscan_is_consistent(dense, labels, 0.45, 4)


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (torch.zeros(0, 3), {}, r"features must be \(N, D\) with N > 0"),
        (torch.zeros(3), {}, r"features must be \(N, D\)"),
        (torch.full((3, 2), torch.inf), {}, "must be finite"),
        (torch.ones(3, 2), {"k1": 3, "k2": 4}, "1 <= k2 <= k1, got k1=3, k2=4"),
        (torch.ones(3, 2), {"max_distance": 1.0}, "max_distance must be at least 0 and below 1"),
    ],
)
def test_refusals(features, options, message):
    with pytest.raises(ValueError, match=message):
        jaccard_graph(features, **{"max_distance": 0.5, **options})
