"""k-reciprocal Jaccard distance, DBSCAN's definition and the cluster memory, dense and literal."""

import numpy as np


def jaccard(features, k1, k2):
    """Return the dense (N, N) distances after the published formula."""
    points = features / np.linalg.norm(features, axis=1, keepdims=True)
    # Two points at a time, so that duplicates have equal distances.
    squared = np.array([[2 - 2 * (a * b).sum() for b in points] for a in points])
    count = len(points)
    order = np.argsort(squared, axis=1, kind="stable")[:, :k1]

    def reciprocal(i, width):
        return [j for j in order[i, :width] if i in order[j, :width]]

    half = int(np.around(k1 / 2)) + 1
    weights = np.zeros((count, count))
    for i in range(count):
        own = reciprocal(i, k1)
        expanded = list(own)
        for j in own:
            candidate = reciprocal(j, half)
            if len(set(candidate) & set(own)) > 2 / 3 * len(candidate):
                expanded += candidate
        expanded = np.unique(np.array(expanded, dtype=int))
        exponentials = np.exp(-squared[i, expanded])
        weights[i, expanded] = exponentials / exponentials.sum()
    if k2 > 1:
        weights = np.stack([weights[order[i, :k2]].mean(axis=0) for i in range(count)])
    distances = np.zeros((count, count))
    for i in range(count):
        minima = np.minimum(weights[i], weights).sum(axis=1)
        distances[i] = 1 - minima / (2 - minima)
    return np.clip(distances, 0, None)


def dbscan_is_consistent(distances, labels, eps, min_samples):
    """Check DBSCAN's definition: core points that are neighbours share a cluster, and noise is near no core point."""
    near = distances <= eps
    core = near.sum(axis=1) >= min_samples
    for i in range(len(labels)):
        if core[i] and labels[i] < 0:
            return False
        core_neighbours = np.flatnonzero(near[i] & core)
        if core[i] and any(labels[j] != labels[i] for j in core_neighbours):
            return False
        if not core[i] and (labels[i] in labels[core_neighbours]) != (labels[i] >= 0):
            return False
        if labels[i] < 0 and len(core_neighbours):
            return False
    return True


def memory_update(centers, features, clusters, momentum, hard):
    """Return the centers after one batch: the literal loop over its members."""
    centers = [np.array(center, dtype=float) for center in centers]
    old = [center.copy() for center in centers]
    for cluster in sorted(set(clusters)):
        members = [feature for feature, label in zip(features, clusters, strict=True) if label == cluster]
        if hard:
            similarities = [float(member @ old[cluster]) for member in members]
            members = [members[similarities.index(min(similarities))]]
        for member in members:
            moved = momentum * centers[cluster] + (1 - momentum) * member
            centers[cluster] = moved / np.sqrt((moved**2).sum())
    return np.stack(centers)


def cluster_nce(features, clusters, centers, temperature):
    """Return MLA's Eq. 1, one feature at a time."""
    total = 0.0
    for feature, cluster in zip(features, clusters, strict=True):
        terms = [np.exp(feature @ center / temperature) for center in centers]
        total += -np.log(terms[cluster] / sum(terms))
    return total / len(features)


def single_linkage(features, clusters, merges, size_weight):
    """Return the clusters as a list of sets after the merges, each looked for among all pairs of images."""
    points = features / np.linalg.norm(features, axis=1, keepdims=True)
    groups = {cluster: {i for i in range(len(points)) if clusters[i] == cluster} for cluster in set(clusters)}
    sizes = {i: len(groups[clusters[i]]) for i in range(len(points))}
    for _ in range(merges):
        best = (np.inf, None, None)
        for one in groups:
            for other in groups:
                if one < other:
                    for i in groups[one]:
                        for j in groups[other]:
                            distance = ((points[i] - points[j]) ** 2).sum()
                            best = min(best, (distance + size_weight * (sizes[i] + sizes[j]), one, other))
        groups[best[1]] |= groups.pop(best[2])
    return list(groups.values())
