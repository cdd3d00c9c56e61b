"""How well clusters agree with a labelling that training never saw."""

import numpy as np


def purity(clusters: np.ndarray, labels: np.ndarray) -> float:
    """Return the part of the clustered images whose label is their cluster's most frequent one.

    By identity it should be high; by camera a high value is the failure that MLA's paper describes: clusters of
    backgrounds instead of people.

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
    table = np.zeros((clusters.max() + 1, label_index.max() + 1), dtype=np.int64)
    np.add.at(table, (clusters[kept], label_index), 1)
    return float(table.max(axis=1).sum() / kept.sum())
