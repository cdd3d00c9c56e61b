"""k-means on unit features (scikit-learn's)."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.cluster import KMeans
from torch import Tensor

from reference_pipelines.neighbours.search import unit_features


def kmeans(features: ArrayLike | Tensor, *, clusters: int, seed: int) -> np.ndarray:
    """Return the (N,) cluster of each point, 0 ... K-1.

    Args:
        features: (N, D) features; they are L2-normalised here.
        clusters: how many to look for, at most N; K is smaller where fewer points are distinct.
        seed: of the first centers.

    Raises:
        ValueError: features that are not finite (N, D), or `clusters` out of range.
    """
    points = unit_features(features, "kmeans").cpu().numpy()
    if not 1 <= clusters <= len(points):
        raise ValueError(f"kmeans: clusters must be at least 1 and at most the {len(points)} points, got {clusters}")
    found = KMeans(clusters, n_init=1, random_state=seed).fit_predict(points)
    numbered: np.ndarray = np.unique(found, return_inverse=True)[1]
    return numbered
