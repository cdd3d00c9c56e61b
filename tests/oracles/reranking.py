"""k-reciprocal re-ranking (Zhong et al., CVPR 2017) after the published formula: dense, one pair at a time."""

import numpy as np


def rerank(query, gallery, k1, k2, lambda_value):
    """Return the (Q, G) distances."""
    points = np.concatenate([query, gallery])
    points = points / np.sqrt((points**2).sum(axis=1, keepdims=True))
    count = len(points)
    # Two points at a time, so that duplicates have equal distances.
    original = np.array([[((a - b) ** 2).sum() for b in points] for a in points])
    original = (original / original.max(axis=0)).T
    order = np.argsort(original, axis=1, kind="stable")

    def reciprocal(i, width):
        return {j for j in order[i, :width] if i in order[j, :width]}

    weights = np.zeros((count, count))
    for i in range(count):
        own = reciprocal(i, k1 + 1)
        members = set(own)
        for j in own:
            candidate = reciprocal(j, int(np.around(k1 / 2)) + 1)
            if len(candidate & own) > 2 / 3 * len(candidate):
                members |= candidate
        for j in members:
            weights[i, j] = np.exp(-original[i, j])
        if members:
            weights[i] /= weights[i].sum()
    if k2 > 1:
        weights = np.array([weights[order[i, :k2]].mean(axis=0) for i in range(count)])
    final = np.zeros((len(query), len(gallery)))
    for q in range(len(query)):
        for g in range(len(gallery)):
            shared = np.minimum(weights[q], weights[len(query) + g]).sum()
            jaccard = 1 - shared / (2 - shared)
            final[q, g] = (1 - lambda_value) * jaccard + lambda_value * original[q, len(query) + g]
    return final
