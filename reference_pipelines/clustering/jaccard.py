"""k-reciprocal Jaccard distances (Zhong et al., CVPR 2017, as the cluster-contrast code computes them), kept sparse.

From the neighbour search to the graph nothing is of size N x N: pairs beyond `max_distance` are never stored.
"""

from numpy.typing import ArrayLike
from scipy import sparse
from torch import Tensor

from reference_pipelines.distributed.processes import ALONE, Processes
from reference_pipelines.neighbours.compiled import shared_minima
from reference_pipelines.neighbours.reciprocal import encode
from reference_pipelines.neighbours.search import PROGRESS_ABOVE, Neighbours, find_neighbours, unit_features


def jaccard_graph(features: ArrayLike | Tensor, *, k1: int = 30, k2: int = 6, max_distance: float) -> sparse.csr_array:
    """Return the Jaccard distances of every pair that is at most `max_distance` apart.

    Args:
        features: (N, D) features; they are L2-normalised here and searched on the device where they are.
        k1: neighbours a point, itself counted, from which the reciprocal ones are taken.
        k2: neighbours, the point itself counted, over which its weights are averaged; 1 averages nothing.
        max_distance: at least 0 and below 1; pairs further apart are left out.

    Returns:
        (N, N) distances in [0, max_distance] with sorted columns; zeros, such as the diagonal's, are stored. It is
        the same on any number of threads.

    Raises:
        ValueError: features that are not finite (N, D), or options out of range.
    """
    _check(k1, k2, max_distance)
    points = unit_features(features, "jaccard_graph")
    return jaccard_of_neighbours(points, find_neighbours(points, k1), k1=k1, k2=k2, max_distance=max_distance)


def jaccard_of_neighbours(
    points: Tensor,
    neighbours: Neighbours,
    *,
    k1: int,
    k2: int,
    max_distance: float,
    processes: Processes = ALONE,
) -> sparse.csr_array:
    """Return what `jaccard_graph` does, of (N, D) unit vectors whose `k1` nearest are known.

    Of several `processes`, which all pass the same, each gets its own share of the rows.

    Raises:
        ValueError: options out of range.
    """
    _check(k1, k2, max_distance)
    weights = encode(points, neighbours, k1=k1, k2=k2, processes=processes)
    own = weights if processes.count == 1 else weights[processes.place(len(points))]
    shown = len(points) > PROGRESS_ABOVE and processes.first
    return shared_minima(own, weights, max_distance=max_distance, shown=shown)


def _check(k1: int, k2: int, max_distance: float) -> None:
    if not 1 <= k2 <= k1:
        raise ValueError(f"jaccard_graph: k1 and k2 must keep 1 <= k2 <= k1, got k1={k1}, k2={k2}")
    if not 0 <= max_distance < 1:
        raise ValueError(f"jaccard_graph: max_distance must be at least 0 and below 1, got {max_distance}")
