"""The sparse k-reciprocal Jaccard graph against the dense published formula."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_pipelines.clustering import dbscan, jaccard_graph
from reference_pipelines.neighbours import compiled, reciprocal, search
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
    "two points": (random(2, 4, 8), 30, 6),
    "as many points as k1": (random(12, 4, 9), 12, 6),
    "duplicates": (np.repeat(random(12, 6, 6), 5, axis=0), 8, 3),
    "duplicates that are scattered": (np.random.default_rng(0).permutation(np.repeat(random(15, 6, 6), 4, 0)), 9, 4),
    "more duplicates than k1": (np.repeat(random(3, 6, 7), 20, axis=0), 6, 2),
}


def assert_equal(graph, expected, max_distance):
    """Everything up to `max_distance` is stored, explicit zeros too, and nothing else."""
    stored = np.zeros(expected.shape, dtype=bool)
    rows = np.repeat(np.arange(len(expected)), np.diff(graph.indptr))
    stored[rows, graph.indices] = True
    assert graph.nnz == stored.sum()
    assert graph.has_sorted_indices
    np.testing.assert_allclose(graph.data, expected[rows, graph.indices], rtol=0, atol=1e-6)
    assert graph.data.size == 0 or (graph.data.min() >= 0 and graph.data.max() <= max_distance)
    assert (expected[~stored] > max_distance - 1e-6).all()


@pytest.mark.parametrize("name", CASES)
def test_equals_the_dense_formula(name):
    features, k1, k2 = CASES[name]
    expected = oracle.jaccard(features, k1, k2)
    assert_equal(jaccard_graph(features, k1=k1, k2=k2, max_distance=0.999), expected, 0.999)


@pytest.mark.parametrize("name", ["random", "clustered", "paper's k", "fewer points than k1", "two points"])
def test_single_precision_is_within_1e_6(name):
    features, k1, k2 = CASES[name]
    graph = jaccard_graph(features.astype(np.float32), k1=k1, k2=k2, max_distance=0.999)
    assert_equal(graph, oracle.jaccard(features, k1, k2), 0.999)


@st.composite
def tied(draw):
    """Points whose cosines are exact in binary, so that ties are ties in every order of summation."""
    groups = draw(st.lists(st.integers(0, 15), min_size=1, max_size=10))
    members = draw(st.lists(st.sampled_from(groups), min_size=1, max_size=40))
    return np.array([[(group >> bit & 1) - 0.5 for bit in range(4)] for group in members])


@settings(max_examples=60, deadline=None)
@given(tied(), st.integers(1, 45), st.integers(1, 6), st.sampled_from([0.0, 0.3, 0.4, 0.7, 0.999]))
def test_ties_are_those_of_the_dense_formula(features, k1, k2, max_distance):
    k2 = min(k1, k2)
    graph = jaccard_graph(features, k1=k1, k2=k2, max_distance=max_distance)
    assert_equal(graph, oracle.jaccard(features, k1, k2), max_distance)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 12), st.integers(2, 8), st.integers(1, 35))
def test_any_points_have_the_distances_of_the_dense_formula(seed, count, groups, dim, k1):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(groups, dim))[rng.integers(groups, size=count)]
    features = points + 0.3 * rng.normal(size=(count, dim)) * rng.integers(0, 2, size=(count, 1))
    k2 = int(rng.integers(1, k1 + 1))
    graph = jaccard_graph(features, k1=k1, k2=k2, max_distance=0.9)
    assert_equal(graph, oracle.jaccard(features, k1, k2), 0.9)


def test_by_hand():
    # On the unit circle at 0, 60, 90 and 180 degrees. With k1 = 2 the nearest two, itself among them, are {0, 60},
    # {60, 90}, {90, 60} and {180, 90}; reciprocal besides itself are 60 and 90 alone, and the first around(1) + 1 = 2
    # columns of the expansion are the same. So 60 and 90 share both, with equal weights, and the others nothing.
    angles = np.radians([0.0, 60.0, 90.0, 180.0])
    graph = jaccard_graph(np.stack([np.cos(angles), np.sin(angles)], axis=1), k1=2, k2=1, max_distance=0.9)
    near = np.exp(-(2 - np.sqrt(3)))
    shared = 2 * near / (1 + near)
    distance = 1 - shared / (2 - shared)
    expected = np.zeros((4, 4))
    expected[1, 2] = expected[2, 1] = distance
    np.testing.assert_allclose(graph.toarray(), expected, atol=1e-12)
    assert graph.nnz == 6  # the diagonal's zeros too


@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_and_threads_change_nothing(threads, monkeypatch):
    features, k1, k2 = CASES["paper's k"]
    features = features.astype(np.float32)
    expected = jaccard_graph(features, k1=k1, k2=k2, max_distance=0.7)
    for module, name, size in (
        (search, "SEARCH_BLOCK", 40),
        (compiled, "_ROWS_AT_ONCE", 7),
        (compiled, "_PAIRS_AT_ONCE", 100),
        (compiled, "_COMPETING_ROWS", 3),
    ):
        monkeypatch.setattr(module, name, size)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        graph = jaccard_graph(features, k1=k1, k2=k2, max_distance=0.7)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(graph.indptr, expected.indptr)
    assert np.array_equal(graph.indices, expected.indices)
    assert np.array_equal(graph.data, expected.data)


def test_the_buffers_of_the_kept_pairs_grow():
    # 1,100 points in one clump are near each other: more pairs than a block's buffers hold at first.
    features = np.random.default_rng(1).normal(size=(1, 8)).repeat(1100, axis=0)
    weights = reciprocal._adjacency(np.tile(np.arange(4), (1100, 1)), 1100, np.float64) / 4
    graph = compiled.shared_minima(weights, weights, max_distance=0.5)
    assert graph.nnz == len(features) ** 2
    assert (graph.data == 0).all()


def test_similarities_that_the_search_knows_are_not_computed_again(monkeypatch):
    features, k1, k2 = CASES["paper's k"]
    points = search.unit_features(features, "test")
    found = search.find_neighbours(points, k1)
    known = {(i, int(j)) for i, row in enumerate(found.indices) for j in row}
    asked = []
    compute = reciprocal.pair_similarities

    def watched(points, rows, columns):
        asked.extend(zip(rows.tolist(), columns.tolist(), strict=True))
        return compute(points, rows, columns)

    monkeypatch.setattr(reciprocal, "pair_similarities", watched)
    reciprocal.encode(points, found, k1=k1, k2=k2)
    assert asked
    assert not any((i, j) in known or (j, i) in known for i, j in asked)


def test_nothing_is_of_size_n_by_n():
    count = 4000
    features = clustered(count, 16, 300, 11).astype(np.float32)
    jaccard_graph(features[:100], max_distance=0.4)  # compiled before
    tracemalloc.start()
    try:
        jaccard_graph(features, k1=10, k2=3, max_distance=0.4)
        assert tracemalloc.get_traced_memory()[1] < count * count / 2
    finally:
        tracemalloc.stop()


def test_a_short_input_is_quiet(capfd):
    jaccard_graph(CASES["clustered"][0], max_distance=0.4)
    assert capfd.readouterr() == ("", "")


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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CASES)
def test_dbscan_labels_are_those_of_the_dense_distances(name, dtype):
    from sklearn.cluster import DBSCAN

    features, k1, k2 = CASES[name]
    dense = oracle.jaccard(features, k1, k2)
    expected = DBSCAN(eps=0.45, min_samples=4, metric="precomputed").fit_predict(dense)
    graph = jaccard_graph(features.astype(dtype), k1=k1, k2=k2, max_distance=0.45)
    labels = dbscan(graph, eps=0.45, min_samples=4)
    assert labels.tolist() == expected.tolist()
    assert oracle.dbscan_is_consistent(dense, labels, 0.45, 4)
    if name in ("clustered", "paper's k", "duplicates"):
        assert labels.max() >= 1


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (torch.zeros(0, 3), {}, r"features .*\(N, D\) .*N > 0, got \(0, 3\)"),
        (torch.zeros(3), {}, r"features .*\(N, D\).*got \(3,\)"),
        (torch.full((3, 2), torch.inf), {}, "features .*finite"),
        (torch.ones(3, 2), {"k1": 3, "k2": 4}, "1 <= k2 <= k1, got k1=3, k2=4"),
        (torch.ones(3, 2), {"max_distance": 1.0}, r"max_distance .*0 .*below 1, got 1\.0"),
    ],
)
def test_refusals(features, options, message):
    with pytest.raises(ValueError, match=message):
        jaccard_graph(features, **{"max_distance": 0.5, **options})
