"""k-reciprocal encoding (Zhong et al., CVPR 2017): each point as weights over the neighbours that it shares.

The clustering distance and re-ranking are both made from it; they differ in the number of columns and in the scale of
the distances. Reciprocal neighbours, their expansion and the query expansion are sparse products. Several processes
compute some rows each: a row of a product is the same whoever computes it.
"""

import numpy as np
from scipy import sparse
from torch import Tensor

from reference_pipelines.distributed.processes import ALONE, Processes
from reference_pipelines.neighbours.compiled import look_up
from reference_pipelines.neighbours.search import Neighbours, pair_similarities


def encode(
    points: Tensor,
    neighbours: Neighbours,
    *,
    k1: int,
    k2: int,
    largest: np.ndarray | None = None,
    processes: Processes = ALONE,
) -> sparse.csr_array:
    """Return V, the (N, N) weights of each point, a row summing up to 1.

    Args:
        points: (N, D) unit vectors.
        neighbours: their nearest, as many columns as reciprocal neighbours are taken from.
        k1: of which the expansion takes the first around(k1 / 2) + 1 columns.
        k2: columns over which the weights are averaged; 1 averages nothing.
        largest: (N,) by which each row's squared distances are divided; None leaves them.
        processes: who share the work. Each passes the same and gets all weights.
    """
    weights = weigh(points, neighbours, k1=k1, largest=largest, processes=processes)
    return weights if k2 == 1 else average(weights, neighbours, k2, processes=processes)


def weigh(
    points: Tensor,
    neighbours: Neighbours,
    *,
    k1: int,
    largest: np.ndarray | None = None,
    processes: Processes = ALONE,
) -> sparse.csr_array:
    """Return the weights before they are averaged: the softmax of minus the squared distance over R*.

    A point with more duplicates than columns may be no neighbour of its own, and its row empty.
    """
    ranks = neighbours.indices
    expanded = _expanded(ranks, k1, processes)
    own = np.arange(len(ranks), dtype=np.int32)[processes.place(len(ranks))]
    places = np.repeat(np.arange(len(own)), np.diff(expanded.indptr))
    rows = own[places]
    squared = 2 - 2 * _similarities(points, neighbours, rows, expanded.indices)
    if largest is not None:
        squared = squared / largest[rows]
    # Squared distances of unit vectors are at most 4, so the exponentials need no shift.
    expanded.data = np.exp(-squared)
    expanded.data /= np.bincount(places, weights=expanded.data, minlength=len(own))[places]
    return join_rows(expanded, processes)


def average(
    weights: sparse.csr_array, neighbours: Neighbours, k2: int, *, processes: Processes = ALONE
) -> sparse.csr_array:
    """Return the query expansion: each point's weights averaged over its first `k2` neighbours."""
    ranks = neighbours.indices[processes.place(len(neighbours.indices)), :k2]
    averaged = _adjacency(ranks, len(neighbours.indices), np.float64) @ weights / ranks.shape[1]
    averaged.sort_indices()
    return join_rows(averaged, processes)


def join_rows(own: sparse.csr_array, processes: Processes) -> sparse.csr_array:
    """Return on every process the (N, M) matrix of which each has a share of the rows."""
    if processes.count == 1:
        return own
    counts, indices, data = (processes.join(each) for each in (np.diff(own.indptr), own.indices, own.data))
    return sparse.csr_array((data, indices, np.cumsum([0, *counts])), shape=(len(counts), own.shape[1]))


def _expanded(ranks: np.ndarray, k1: int, processes: Processes) -> sparse.csr_array:
    """Return this process's rows of the matrix whose pattern is R*: the reciprocal neighbours and those of theirs
    that mostly agree.
    """
    own = processes.place(len(ranks))
    reciprocal = _reciprocal(ranks, own)
    # numpy rounds half to even, as the published code does: 16 columns for k1 = 30.
    half = join_rows(_reciprocal(ranks[:, : int(np.around(k1 / 2)) + 1], own), processes)
    half_sizes = np.diff(half.indptr)
    # `half` is symmetric, so this product counts |R(i) and R_half(j)| for each j in R(i).
    joined = (reciprocal @ half).multiply(reciprocal).tocsr()
    joined.data = (3 * joined.data > 2 * half_sizes[joined.indices]).astype(np.float32)
    joined.eliminate_zeros()
    expanded = (reciprocal + joined @ half).tocsr()
    expanded.sort_indices()
    return expanded


def _reciprocal(ranks: np.ndarray, own: slice) -> sparse.csr_array:
    """Return some rows of the 0/1 matrix of the pairs that are among each other's neighbours."""
    count = len(ranks)
    back = _adjacency(ranks, count, np.float32).T.tocsr()
    return _adjacency(ranks[own], count, np.float32).multiply(back[own]).tocsr()


def _adjacency(ranks: np.ndarray, count: int, dtype: type[np.floating]) -> sparse.csr_array:
    """Return the 0/1 matrix (n, count) with a one at [i, j] for each j in row i of the (n, k) `ranks`."""
    rows, k = ranks.shape
    indptr = np.arange(0, rows * k + 1, k)
    return sparse.csr_array((np.ones(rows * k, dtype=dtype), ranks.ravel(), indptr), shape=(rows, count))


def _similarities(points: Tensor, neighbours: Neighbours, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the cosines of (P,) pairs, computing only those that the neighbour search has not."""
    similarities = look_up(neighbours.indices, neighbours.similarities, rows, columns)
    unknown = np.isnan(similarities).nonzero()[0]
    similarities[unknown] = pair_similarities(points, rows[unknown], columns[unknown])
    return similarities
