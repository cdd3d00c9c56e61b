"""Bottom-up merging of clusters by their nearest members (Lin et al., "A Bottom-up Clustering Approach", AAAI 2019).

Single linkage is Kruskal's algorithm: the first merges are the shortest edges of the minimum spanning tree over the
clusters. That tree is made of the images' nearest images in other clusters, of which as many are looked up as the
merges need; nothing is of size N x N.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from torch import Tensor

from reference_pipelines.neighbours.search import pair_similarities, unit_features

_NEAREST = 16  # images looked up at first; most steps need no more
_BLOCK = 2**24  # similarities held at once


def merge(features: ArrayLike | Tensor, clusters: np.ndarray, *, merges: int, size_weight: float = 0.0) -> np.ndarray:
    """Return the (N,) clusters after the `merges` nearest pairs of clusters, one after another, became one.

    The distance of two clusters is the squared one of their nearest members, plus `size_weight` times the number of
    images in both as they were before the first merge: so it is in the authors' code.

    Args:
        features: (N, D) features; they are L2-normalised here, and compared by squared Euclidean distance.
        clusters: (N,) clusters 0 ... K-1 so far, each image in one; `numpy.arange(N)` to begin with.
        merges: at most K-1.
        size_weight: how much large clusters are kept from growing, at least 0.

    Returns:
        (N,) clusters 0 ... K-merges-1, numbered by their first image.

    Raises:
        ValueError: features that are not finite (N, D), clusters that are not theirs, or too many merges.
    """
    points = unit_features(features, "merge")
    sizes = _check(points, clusters, merges, size_weight)
    if not merges:
        return _numbered(clusters)
    outside = len(points) - sizes[clusters]
    listed = np.minimum(_NEAREST, outside)
    edges = _edges_outside(points, clusters, np.arange(len(points)), listed)
    while True:
        rows, columns, distances = edges
        weights = distances + size_weight * (sizes[clusters[rows]] + sizes[clusters[columns]])
        tree = _spanning_tree(clusters[rows], clusters[columns], weights, len(sizes))
        order = np.argsort(tree.data, kind="stable")[:merges]
        limit = tree.data[order[-1]] if len(order) == merges else np.inf
        # An image whose list ends before the last merge's distance may have a nearer one that is not in it.
        farthest = np.zeros(len(points))
        np.maximum.at(farthest, rows, distances)
        short = np.flatnonzero((listed < outside) & (farthest + size_weight * (sizes[clusters] + 1) < limit))
        if not len(short):
            return _numbered(_joined(tree, order, len(sizes))[clusters])
        listed[short] = np.minimum(4 * listed[short], outside[short])
        kept = ~np.isin(rows, short)
        longer = _edges_outside(points, clusters, short, listed[short])
        edges = tuple(np.concatenate([part[kept], new]) for part, new in zip(edges, longer, strict=True))


def _edges_outside(
    points: Tensor, clusters: np.ndarray, rows: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Return for each of `rows` as many nearest images of other clusters as `counts` says: rows, columns, distances."""
    of_all = torch.as_tensor(clusters, device=points.device)
    found = []
    for part in np.array_split(np.arange(len(rows)), -(-len(rows) * len(points) // _BLOCK)):
        block = torch.as_tensor(rows[part], device=points.device)
        similarity = points[block] @ points.T
        similarity.masked_fill_(of_all[block, None] == of_all, -torch.inf)
        nearest = similarity.topk(int(counts[part].max(initial=0)), dim=1)
        kept = np.arange(nearest.indices.shape[1]) < counts[part][:, None]
        found.append(nearest.indices.cpu().numpy()[kept])
    ones, others = np.repeat(rows, counts), np.concatenate(found)
    # Again in double precision, so that two images are as far apart from either side.
    return ones, others, np.maximum(2 - 2 * pair_similarities(points, ones, others), 0)


def _spanning_tree(ones: np.ndarray, others: np.ndarray, weights: np.ndarray, count: int) -> sparse.coo_array:
    """Return the minimum spanning tree over `count` clusters, of the lightest edge between each pair."""
    pairs = np.minimum(ones, others) * count + np.maximum(ones, others)
    order = np.lexsort((weights, pairs))
    pairs, lightest = np.unique(pairs[order], return_index=True)
    # scipy's graphs take an edge of weight 0 for none, and identical images are at distance 0.
    above_zero = weights[order][lightest] + 1
    # Up to scipy 1.15, its spanning tree takes indices of 32 bits only.
    ends = tuple(each.astype(np.int32) for each in (pairs // count, pairs % count))
    graph = sparse.csr_array((above_zero, ends), shape=(count, count))
    tree = sparse.coo_array(minimum_spanning_tree(graph))
    tree.data = tree.data - 1
    return tree


def _joined(tree: sparse.coo_array, edges: np.ndarray, count: int) -> np.ndarray:
    """Return (K,) what each cluster belongs to once the tree's `edges` are merged."""
    rows, columns = tree.coords
    ones = np.ones(len(edges))
    graph = sparse.csr_array((ones, (rows[edges], columns[edges])), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def _numbered(clusters: np.ndarray) -> np.ndarray:
    """Number the clusters 0, 1, ... in the order of their first images."""
    _, first, inverse = np.unique(clusters, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _check(points: Tensor, clusters: np.ndarray, merges: int, size_weight: float) -> np.ndarray:
    if clusters.shape != (len(points),):
        raise ValueError(f"merge: clusters must be ({len(points)},), one a feature, got {clusters.shape}")
    if clusters.min() < 0 or not (sizes := np.bincount(clusters)).all():
        raise ValueError("merge: clusters must be 0 ... K-1, each with a member and without noise; renumber them")
    if not 0 <= merges < len(sizes):
        raise ValueError(f"merge: merges must be at least 0 and below the {len(sizes)} clusters, got {merges}")
    if size_weight < 0:
        raise ValueError(f"merge: size_weight must be at least 0, got {size_weight}")
    return sizes
