"""How well clusters agree with a labelling that training never saw."""

import numpy as np
from sklearn.metrics import normalized_mutual_info_score


def purity(clusters: np.ndarray, labels: np.ndarray) -> float:
    """Return the part of the clustered images whose label is their cluster's most frequent one.

    By identity it should be high; by camera a high value is the failure that MLA's paper describes: clusters of
    backgrounds instead of people. Clusters of one image each are pure whatever they are of.

    Args:
        clusters: (N,) clusters, -1 for noise, which is left out.
        labels: (N,) true ids or cameras.

    Returns:
        Between 0 and 1; 0 where every image is noise.
    """
    kept = clusters >= 0
    if not kept.any():
        return 0.0
    _, label_index = np.unique(labels[kept], return_inverse=True)
    # Counted pair by pair: a table of clusters by labels is quadratic where each image is its own cluster.
    pairs, counts = np.unique(clusters[kept] * (label_index.max() + 1) + label_index, return_counts=True)
    most = np.zeros(clusters.max() + 1, dtype=np.int64)
    np.maximum.at(most, pairs // (label_index.max() + 1), counts)
    return float(most.sum() / kept.sum())


def normalised_mutual_information(clusters: np.ndarray, labels: np.ndarray) -> float:
    """Return what clusters and labels say of each other, I / mean(H, H), over the clustered images (scikit-learn's).

    Args:
        clusters: (N,) clusters, -1 for noise, which is left out.
        labels: (N,) true ids.

    Returns:
        Between 0 and 1; 0 where every image is noise.
    """
    kept = clusters >= 0
    return float(normalized_mutual_info_score(labels[kept], clusters[kept])) if kept.any() else 0.0
