"""Pseudo-labels: from features to clusters, and what can be said of the clusters."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from reference_pipelines.clustering.dbscan import dbscan
from reference_pipelines.clustering.jaccard import jaccard_graph
from reference_pipelines.clustering.purity import purity
from reference_pipelines.errors import UserError, require


@dataclass(frozen=True)
class ClusteringConfig:
    """Pseudo-labels from features; the defaults are MLA's.

    Args:
        k1: neighbours of the k-reciprocal Jaccard distance.
        k2: neighbours of its query expansion.
        eps: DBSCAN's radius.
        min_samples: DBSCAN's MinPts, the point itself counted.
    """

    k1: int = 30
    k2: int = 6
    eps: float = 0.4
    min_samples: int = 4

    def __post_init__(self) -> None:
        require(1 <= self.k2 <= self.k1, "clustering.k2 must be at least 1 and at most clustering.k1", self.k2)
        require(0 < self.eps < 1, "clustering.eps must be between 0 and 1", self.eps)
        require(self.min_samples >= 1, "clustering.min_samples must be at least 1", self.min_samples)


def cluster(features: Tensor, config: ClusteringConfig) -> np.ndarray:
    """Return the (N,) pseudo-labels of the features (N, D).

    Raises:
        UserError: DBSCAN finds fewer than two clusters, so that there is nothing to contrast.
    """
    graph = jaccard_graph(features, k1=config.k1, k2=config.k2, max_distance=config.eps)
    clusters = dbscan(graph, eps=config.eps, min_samples=config.min_samples)
    found = int(clusters.max()) + 1
    if found < 2:
        noise = int((clusters < 0).sum())
        what = "no cluster" if not found else "one cluster"
        raise UserError(
            f"clustering: training needs at least two clusters, DBSCAN found {what} and {noise} of {len(clusters)} "
            "images are noise; weights saved before are kept; "
            f"{'raise' if noise else 'lower'} --clustering.eps (now {config.eps}) or start from better weights"
        )
    return clusters


def describe_clusters(clusters: np.ndarray, ids: np.ndarray, cameras: np.ndarray) -> dict[str, Any]:
    """Return how many clusters there are, the share of noise, and the purity by id and by camera."""
    return {
        "clusters": int(clusters.max()) + 1,
        "noise": float((clusters < 0).mean()),
        "id_purity": purity(clusters, ids),
        "camera_purity": purity(clusters, cameras),
    }
