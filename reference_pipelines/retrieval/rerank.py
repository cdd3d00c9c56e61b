"""Re-ranking with k-reciprocal encoding (Zhong et al., CVPR 2017), kept sparse.

The Jaccard distance of a query and a gallery image is 1 unless they share neighbours, so only those pairs are stored;
the original distances are computed again where a block of queries is asked for.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import sparse
from torch import Tensor

from reference_pipelines.distributed.processes import ALONE, Processes
from reference_pipelines.neighbours.compiled import shared_minima
from reference_pipelines.neighbours.reciprocal import encode, join_rows
from reference_pipelines.neighbours.search import PROGRESS_ABOVE, find_neighbours, unit_features
from reference_pipelines.retrieval.distances import Distances


class _Reranked:
    """(1 - lambda) Jaccard + lambda original distances, of the queries that are asked for.

    Args:
        query: (Q, D) unit vectors.
        gallery: (G, D) unit vectors.
        largest: (Q,) by which each query's original distances are divided.
        jaccard: (Q, G) Jaccard distances; those not stored are 1.
        lambda_value: the part of the original distances.
    """

    def __init__(
        self, query: Tensor, gallery: Tensor, largest: np.ndarray, jaccard: sparse.csr_array, lambda_value: float
    ) -> None:
        self._query = query
        self._gallery = gallery
        self._largest = torch.as_tensor(largest, dtype=query.dtype, device=query.device)
        self._jaccard = jaccard
        self._lambda = lambda_value

    @property
    def shape(self) -> tuple[int, int]:
        """Q and G."""
        return len(self._query), len(self._gallery)

    def rows(self, block: slice) -> Tensor:
        """Return the (b, G) distances of the block's queries, 0 to 1, where the features are and in their type."""
        squared = (2 - 2 * self._query[block] @ self._gallery.T).clamp_(min=0)
        distances = squared.div_(self._largest[block, None]).mul_(self._lambda).add_(1 - self._lambda)
        shared = self._jaccard[block].tocoo()
        rows, columns = (torch.as_tensor(each, device=distances.device).long() for each in shared.coords)
        nearer = torch.as_tensor(shared.data - 1, dtype=distances.dtype, device=distances.device)
        distances[rows, columns] += (1 - self._lambda) * nearer
        return distances


def rerank(
    query_features: ArrayLike | Tensor,
    gallery_features: ArrayLike | Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    processes: Processes = ALONE,
) -> Distances:
    """Return the re-ranked distances of queries to a gallery, which `evaluate(..., distances=...)` ranks by.

    As in the published code neighbours are searched among queries and gallery together, k1 + 1 of them with the
    point itself, and the original distances are squared Euclidean ones, those of a point divided by its largest.
    No labels are used, but every query's distances depend on all other queries.

    Args:
        query_features: (Q, D) features; they are L2-normalised here.
        gallery_features: (G, D) features likewise, searched on the device where the query features are.
        k1: neighbours, besides the point itself, from which the reciprocal ones are taken.
        k2: neighbours, the point itself counted, over which its weights are averaged; 1 averages nothing.
        lambda_value: the part of the original distances, 0 to 1; 1 ranks as without re-ranking.
        processes: who share the work. Each passes the same and gets the distances of all.

    Raises:
        ValueError: features that are not finite (n, D) of one width, or options out of range.
    """
    if not 1 <= k2 <= k1 + 1:
        raise ValueError(f"rerank: k1 and k2 must keep 1 <= k2 <= k1 + 1, got k1={k1}, k2={k2}")
    if not 0 <= lambda_value <= 1:
        raise ValueError(f"rerank: lambda_value must be between 0 and 1, got {lambda_value}")
    query = unit_features(query_features, "rerank", "query_features")
    gallery = unit_features(gallery_features, "rerank", "gallery_features").to(query.device)
    if query.shape[1] != gallery.shape[1]:
        widths = f"{query.shape[1]} and {gallery.shape[1]}"
        raise ValueError(f"rerank: query and gallery features must have the same width, got {widths}")
    points = torch.cat([query, gallery])  # of the wider type, where they differ
    neighbours = find_neighbours(points, k1 + 1, least=True, processes=processes)
    assert neighbours.least is not None
    largest = _largest(neighbours.least, points.dtype)
    weights = encode(points, neighbours, k1=k1, k2=k2, largest=largest, processes=processes)
    count = len(query)
    shown = len(points) > PROGRESS_ABOVE and processes.first
    own = shared_minima(weights[:count][processes.place(count)], weights[count:], max_distance=1.0, shown=shown)
    jaccard = join_rows(own, processes)
    return _Reranked(points[:count], points[count:], largest[:count], jaccard, lambda_value)


def _largest(least: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """Return each point's largest squared distance; infinite, so that all are 0, where that is rounding alone."""
    squared = 2 - 2 * least
    return np.where(squared > 100 * torch.finfo(dtype).eps, squared, np.inf)
