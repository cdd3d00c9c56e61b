"""DBSCAN on a sparse graph of distances (scikit-learn's)."""

import numpy as np
from scipy import sparse
from sklearn.cluster import DBSCAN
from sklearn.neighbors import sort_graph_by_row_values


def dbscan(graph: sparse.csr_array, *, eps: float, min_samples: int) -> np.ndarray:
    """Return the (N,) cluster of each point, 0 ... clusters-1, and -1 for noise.

    Args:
        graph: (N, N) distances up to at least `eps`; an absent pair is farther than that.
        eps: the largest distance of two neighbours.
        min_samples: neighbours that make a core point, the point itself counted.
    """
    ordered = sort_graph_by_row_values(sparse.csr_matrix(graph), warn_when_not_sorted=False)
    labels: np.ndarray = DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit_predict(ordered)
    return labels
