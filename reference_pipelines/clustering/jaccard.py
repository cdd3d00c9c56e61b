"""k-reciprocal Jaccard distances (Zhong et al., CVPR 2017, as the cluster-contrast code computes them), kept sparse.

Reciprocal neighbours, their expansion and the query expansion are sparse products; the sum of minima visits only
the columns that two rows share; pairs beyond `max_distance` are never stored. Nothing is of size N x N.
"""

import numpy as np
import torch
from numba import njit
from numpy.typing import ArrayLike
from scipy import sparse
from torch import Tensor
from torch.nn import functional

_SEARCH_BLOCK = 1024
_PAIR_BLOCK = 65_536


def jaccard_graph(features: ArrayLike | Tensor, *, k1: int = 30, k2: int = 6, max_distance: float) -> sparse.csr_array:
    """Return the Jaccard distances of every pair that is at most `max_distance` apart.

    Args:
        features: (N, D) features; they are L2-normalised here.
        k1: neighbours a point, itself counted, from which the reciprocal ones are taken.
        k2: neighbours, the point itself counted, over which its weights are averaged; 1 averages nothing.
        max_distance: between 0 and 1; pairs further apart are left out.

    Returns:
        (N, N) distances in [0, max_distance] with sorted columns; zeros, such as the diagonal's, are stored.

    Raises:
        ValueError: features that are not finite (N, D), or options out of range.
    """
    points = _check(features, k1, k2, max_distance)
    ranks = nearest_neighbours(points, min(k1, len(points)))
    weights = _neighbour_weights(points, ranks, k1)
    if k2 > 1:
        weights = _adjacency(ranks[:, :k2]) @ weights / min(k2, ranks.shape[1])
    weights = weights.tocsr()
    weights.sort_indices()
    columns = weights.tocsc()
    pairs = _shared_minima(
        weights.indptr,
        weights.indices,
        weights.data,
        columns.indptr,
        columns.indices,
        columns.data,
        max_distance,
    )
    graph = sparse.csr_array((pairs[2], pairs[1], pairs[0]), shape=(len(points), len(points)))
    graph.sort_indices()
    return graph


def nearest_neighbours(points: Tensor, k: int) -> np.ndarray:
    """Return (N, k) indices of the nearest rows of normalised (N, D) `points`, ties in the order of the index."""
    blocks = []
    for start in range(0, len(points), _SEARCH_BLOCK):
        similarity = points[start : start + _SEARCH_BLOCK] @ points.T
        blocks.append(torch.sort(-similarity, dim=1, stable=True).indices[:, :k].cpu().numpy())
    return np.concatenate(blocks)


def _adjacency(neighbours: np.ndarray) -> sparse.csr_array:
    """Return the 0/1 matrix with a one at [i, j] for each j in row i of the (N, k) `neighbours`."""
    count, k = neighbours.shape
    ones = np.ones(count * k, dtype=np.float32)
    indptr = np.arange(0, count * k + 1, k)
    return sparse.csr_array((ones, neighbours.ravel(), indptr), shape=(count, count))


def _neighbour_weights(points: Tensor, ranks: np.ndarray, k1: int) -> sparse.csr_array:
    """Return V: each row the softmax of minus the squared distance over the expanded reciprocal neighbours."""
    forward = _adjacency(ranks)
    reciprocal = forward.multiply(forward.T).tocsr()
    # numpy rounds half to even, as the published code does: 16 columns for k1 = 30.
    half = _adjacency(ranks[:, : int(np.around(k1 / 2)) + 1])
    half_reciprocal = half.multiply(half.T).tocsr()
    half_sizes = np.diff(half_reciprocal.indptr)
    # half_reciprocal is symmetric, so this product counts |R(i) and R_half(j)| for each j in R(i).
    overlap = (reciprocal @ half_reciprocal).multiply(reciprocal).tocoo()
    joins = 3 * overlap.data > 2 * half_sizes[overlap.col]
    joined = sparse.csr_array((overlap.data[joins], (overlap.row[joins], overlap.col[joins])), shape=forward.shape)
    expanded = (reciprocal + joined @ half_reciprocal).tocoo()
    # Squared distances of unit vectors are at most 4, so the exponentials need no shift.
    weights = np.exp(-_squared_distances(points, expanded.row, expanded.col))
    sums = np.bincount(expanded.row, weights=weights, minlength=len(points))
    softmax = (weights / sums[expanded.row]).astype(np.float32)
    return sparse.csr_array((softmax, (expanded.row, expanded.col)), shape=forward.shape)


def _squared_distances(points: Tensor, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    distances = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _PAIR_BLOCK):
        block = slice(start, start + _PAIR_BLOCK)
        cosine = (points[torch.as_tensor(rows[block])] * points[torch.as_tensor(columns[block])]).sum(dim=1)
        distances[block] = (2 - 2 * cosine).cpu().numpy()
    return distances


@njit(cache=True)
def _shared_minima(  # type: ignore[no-untyped-def]
    row_starts, row_columns, row_weights, column_starts, column_rows, column_weights, max_distance
):
    """Return indptr, indices and distances 1 - m / (2 - m), m the sum of minima, where at most `max_distance`."""
    count = len(row_starts) - 1
    shared = np.zeros(count, dtype=np.float64)
    touched = np.empty(count, dtype=np.int64)
    indptr = np.zeros(count + 1, dtype=np.int64)
    indices = []
    distances = []
    for row in range(count):
        reached = 0
        for entry in range(row_starts[row], row_starts[row + 1]):
            column, weight = row_columns[entry], row_weights[entry]
            for other in range(column_starts[column], column_starts[column + 1]):
                neighbour = column_rows[other]
                if shared[neighbour] == 0.0:
                    touched[reached] = neighbour
                    reached += 1
                shared[neighbour] += min(weight, column_weights[other])
        for position in range(reached):
            neighbour = touched[position]
            distance = max(0.0, 1.0 - shared[neighbour] / (2.0 - shared[neighbour]))
            shared[neighbour] = 0.0
            if distance <= max_distance:
                indices.append(neighbour)
                distances.append(distance)
        indptr[row + 1] = len(indices)
    return indptr, np.array(indices, dtype=np.int64), np.array(distances, dtype=np.float64)


def _check(features: ArrayLike | Tensor, k1: int, k2: int, max_distance: float) -> Tensor:
    points = torch.as_tensor(features).detach()
    if points.ndim != 2 or not len(points):
        raise ValueError(f"jaccard_graph: features must be (N, D) with N > 0, got {tuple(points.shape)}")
    if not torch.isfinite(points).all():
        raise ValueError("jaccard_graph: features must be finite, got NaN or Inf; has training diverged?")
    if not 1 <= k2 <= k1:
        raise ValueError(f"jaccard_graph: k1 and k2 must keep 1 <= k2 <= k1, got k1={k1}, k2={k2}")
    if not 0 <= max_distance < 1:
        raise ValueError(f"jaccard_graph: max_distance must be at least 0 and below 1, got {max_distance}")
    return functional.normalize(points if points.dtype == torch.float64 else points.float(), dim=1)
