"""DBSCAN (Ester et al., KDD 1996) on a sparse graph of distances, whose rows several processes may share.

Clusters are the connected components of the core points (SciPy's). The labels are scikit-learn's: clusters are
numbered in the order of their first core points, and a point at the border of several belongs to the first of them.
"""

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from reference_pipelines.distributed.processes import ALONE, Processes


def dbscan(graph: sparse.csr_array, *, eps: float, min_samples: int, processes: Processes = ALONE) -> np.ndarray:
    """Return the (N,) cluster of each point, 0 ... clusters-1, and -1 for noise.

    Args:
        graph: (N, N) symmetric distances up to at least `eps`; an absent pair is farther than that. Of several
            processes each passes its share of the rows.
        eps: the largest distance of two neighbours.
        min_samples: neighbours that make a core point, the point itself counted.
        processes: who share the work; each gets all labels.
    """
    near = graph.data <= eps
    rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))[near]
    columns = graph.indices[near]
    core = processes.join(np.bincount(rows, minlength=graph.shape[0]) >= min_samples)
    first = processes.place(graph.shape[1]).start
    inner, reached = core[rows + first], core[columns]
    clusters = _clusters(rows[inner & reached] + first, columns[inner & reached], core, processes)
    border = ~inner & reached
    own = clusters[processes.place(len(core))].copy()
    far = np.where(own < 0, len(core), own)
    np.minimum.at(far, rows[border], clusters[columns[border]])
    return processes.join(np.where(far == len(core), -1, far))


def _clusters(rows: np.ndarray, columns: np.ndarray, core: np.ndarray, processes: Processes) -> np.ndarray:
    """Return the (N,) cluster of each core point, -1 of others, from each process's pairs of core points."""
    count = len(core)
    links = sparse.coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(count, count))
    components = connected_components(links, directed=False)[1]
    if processes.count > 1:
        # Points that are together for some process are together: each process's components are further nodes.
        nodes = processes.join(components[None].astype(np.int64)) + count * np.arange(1, processes.count + 1)[:, None]
        points = np.tile(np.arange(count), processes.count)
        size = count * (processes.count + 1)
        links = sparse.coo_array((np.ones(len(points), dtype=bool), (points, nodes.ravel())), shape=(size, size))
        components = connected_components(links, directed=False)[1][:count]
    clusters = np.full(count, -1)
    _, begins, which = np.unique(components[core], return_index=True, return_inverse=True)
    # SciPy does not promise in which order it numbers components.
    clusters[core] = np.argsort(np.argsort(begins))[which]
    return clusters
