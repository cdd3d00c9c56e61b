"""DBSCAN against scikit-learn's, on one process and on several."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.cluster import DBSCAN
from sklearn.neighbors import sort_graph_by_row_values

from reference_pipelines.clustering import dbscan
from tests.together import in_threads


def symmetric(count, density, seed):
    """Distances of random pairs, a few steps apart, so that many are exactly at the radius; zero on the diagonal."""
    rng = np.random.default_rng(seed)
    there = np.triu(rng.random((count, count)) < density, 1)
    distances = np.triu(rng.integers(0, 5, (count, count)) / 4, 1)
    rows, columns = there.nonzero()
    own = np.arange(count)
    values = distances[rows, columns]
    return sparse.csr_array(
        (
            np.concatenate([values, values, np.zeros(count)]),
            (np.concatenate([rows, columns, own]), np.concatenate([columns, rows, own])),
        ),
        shape=(count, count),
    )


def scikit_learns(graph, eps, min_samples):
    ordered = sort_graph_by_row_values(sparse.csr_matrix(graph), warn_when_not_sorted=False)
    return DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit_predict(ordered)


@given(
    count=st.integers(1, 40),
    density=st.floats(0, 0.4),
    seed=st.integers(0, 10**6),
    eps=st.sampled_from([0.25, 0.5, 1.0]),
    min_samples=st.integers(1, 6),
)
def test_the_labels_are_scikit_learns(count, density, seed, eps, min_samples):
    graph = symmetric(count, density, seed)
    expected = scikit_learns(graph, eps, min_samples)
    assert dbscan(graph, eps=eps, min_samples=min_samples).tolist() == expected.tolist()


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("seed", range(8))
def test_several_processes_have_the_labels_of_one(count, seed):
    graph = symmetric(31, 0.12, seed)

    def work(processes):
        return dbscan(graph[processes.place(31)], eps=0.5, min_samples=3, processes=processes)

    expected = scikit_learns(graph, 0.5, 3)
    for labels in in_threads(count, work):
        assert labels.tolist() == expected.tolist()


def test_a_point_at_the_border_of_two_belongs_to_the_one_that_begins_first():
    # At 4 neighbours the core points are 3 and 4 alone, and 0 is near both.
    pairs = [(1, 2), (1, 3), (2, 3), (4, 5), (4, 6), (5, 6), (0, 4), (0, 3)]
    rows, columns = np.array([*pairs, *((b, a) for a, b in pairs), *((i, i) for i in range(7))]).T
    graph = sparse.csr_array((np.full(len(rows), 0.1), (rows, columns)), shape=(7, 7))
    labels = dbscan(graph, eps=0.2, min_samples=4)
    assert labels.tolist() == [0, 0, 0, 0, 1, 1, 1] == scikit_learns(graph, 0.2, 4).tolist()
