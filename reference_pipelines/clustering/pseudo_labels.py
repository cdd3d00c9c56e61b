"""Pseudo-labels: from features to clusters, and what can be said of the clusters."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.metrics import silhouette_score
from torch import Tensor

from reference_pipelines.clustering.agglomerative import merge
from reference_pipelines.clustering.dbscan import dbscan
from reference_pipelines.clustering.jaccard import jaccard_of_neighbours
from reference_pipelines.clustering.kmeans import kmeans
from reference_pipelines.clustering.purity import normalised_mutual_information, purity
from reference_pipelines.config.clustering import ClusteringConfig, MergingConfig
from reference_pipelines.data.records import UNKNOWN
from reference_pipelines.distributed.processes import ALONE, Processes
from reference_pipelines.errors import UserError
from reference_pipelines.neighbours.engines import Approximation
from reference_pipelines.neighbours.search import find_neighbours, unit_features

_SILHOUETTE_IMAGES = 2000
_SAME = 1e-6  # apart in no number by more than rounding
_RADII = tuple(radius / 20 for radius in range(1, 20))
_ALL_EQUAL = (
    "all images have the same feature, and no option changes that: start from other weights with --model.weights, and "
    "look whether the images differ"
)


def cluster(
    features: Tensor,
    config: ClusteringConfig,
    *,
    previous: np.ndarray | None = None,
    epoch: int = 1,
    seed: int = 0,
    processes: Processes = ALONE,
) -> tuple[np.ndarray, float | None, Approximation | None]:
    """Return one epoch's pseudo-labels of the features (N, D), and what "dbscan" found them with.

    Args:
        features: of the training images, the same on every process.
        config: the method and its options.
        previous: the labels of the epoch before, which "agglomerative" goes on from and is all that a resumed run
            needs to keep; None before the first epoch.
        epoch: 1, 2, ...; says when "agglomerative" merges.
        seed: of "kmeans".
        processes: who share the work of "dbscan"; the first does that of the other methods.

    Returns:
        (N,) clusters 0, 1, ..., -1 for noise; `config.eps`, or what it was relaxed to, None for other methods; and what
        an engine's neighbour search missed, None where it was exact.

    Raises:
        UserError: there are fewer than two clusters, so that there is nothing to contrast, or fewer images than
            k-means is to find clusters.
        ValueError: `previous` does not belong to these features.
    """
    processes.together(lambda: config.check_images(len(features)))
    if config.method == "dbscan":
        return processes.together(lambda: _by_density(features, config, processes))
    if config.method == "agglomerative":
        return processes.once(lambda: _merged(features, config.merging, previous, epoch)), None, None
    return processes.once(lambda: _by_means(features, config, seed)), None, None


def _by_means(features: Tensor, config: ClusteringConfig, seed: int) -> np.ndarray:
    clusters = kmeans(features, clusters=config.kmeans, seed=seed)
    if not clusters.any():
        raise _too_few("k-means", clusters, _ALL_EQUAL)
    return clusters


def _merged(features: Tensor, config: MergingConfig, previous: np.ndarray | None, epoch: int) -> np.ndarray:
    clusters = np.arange(len(features)) if previous is None else previous
    since = epoch - 1 - config.first
    merges = int(config.share * len(features)) if since >= 0 and since % config.every == 0 else 0
    left = len(np.unique(clusters)) - config.least
    return merge(features, clusters, merges=min(merges, max(left, 0)), size_weight=config.size_weight)


class _Density:
    """DBSCAN of the same points again and again, at other radii.

    Args:
        features: (N, D).
        config: the method's options.
        processes: who share the work.
    """

    def __init__(self, features: Tensor, config: ClusteringConfig, processes: Processes) -> None:
        self.points, self.config, self.processes = unit_features(features, "cluster"), config, processes
        self.neighbours = find_neighbours(
            self.points, config.k1, engine=config.engine, recall=config.recall, processes=processes
        )

    def graph(self, max_distance: float) -> sparse.csr_array:
        """Return this process's rows of the distances."""
        return jaccard_of_neighbours(
            self.points,
            self.neighbours,
            k1=self.config.k1,
            k2=self.config.k2,
            max_distance=max_distance,
            processes=self.processes,
        )

    def clusters(self, graph: sparse.csr_array, eps: float) -> np.ndarray:
        """Return the clusters (N,) at a radius up to which the graph goes."""
        return dbscan(graph, eps=eps, min_samples=self.config.min_samples, processes=self.processes)


def _by_density(
    features: Tensor, config: ClusteringConfig, processes: Processes
) -> tuple[np.ndarray, float, Approximation | None]:
    density = _Density(features, config, processes)
    missed = density.neighbours.approximation
    graph = density.graph(config.eps)
    clusters = density.clusters(graph, config.eps)
    if clusters.max() > 0:
        return clusters, config.eps, missed
    raised = bool((clusters < 0).any())
    others = _relaxed(config, raised)
    if others and raised:
        graph = density.graph(others[-1])
    for eps in others:
        relaxed = density.clusters(graph, eps)
        if relaxed.max() > 0:
            if processes.first:
                print(
                    f"clustering: DBSCAN found {_how_many(clusters)} at eps {config.eps:g}; "
                    f"this epoch has {relaxed.max() + 1} clusters, at eps {eps:g}",
                    flush=True,
                )
            return relaxed, eps, missed
    raise _too_few("DBSCAN", clusters, _advice(density, raised=raised, tried=others))


def _advice(density: _Density, *, raised: bool, tried: Sequence[float]) -> str:
    """Return what helps against too few clusters: a radius is named only where it was tried and gives two."""
    points, config = density.points, density.config
    if (points - points[:1]).abs().max() <= _SAME:
        return _ALL_EQUAL
    if config.k1 >= len(points):
        return (
            f"with --clustering.k1 {config.k1} each of the {len(points)} images is a neighbour of all others; lower "
            "it, to about the images of a person"
        )
    now = f"--clustering.eps (now {config.eps:g}{f', relaxed to {tried[-1]:g} in vain' if tried else ''})"
    radii = [radius for radius in _RADII if (radius > config.eps if raised else radius < config.eps)]
    graph = density.graph(max(radii, default=config.eps))
    for eps in radii if raised else reversed(radii):
        count = int(density.clusters(graph, eps).max()) + 1
        if count > 1:
            verb = "raise" if raised else "lower"
            return f"{verb} {now}: at {eps:g} there are {count} clusters; or start from better weights"
    other = "min_samples" if raised else "k1"
    value = config.min_samples if raised else config.k1
    return f"no other {now} gives two: lower --clustering.{other} (now {value}) or start from better weights"


def _relaxed(config: ClusteringConfig, raised: bool) -> list[float]:
    """Return the radii to try after `eps`, one after another."""
    step = config.relax_eps if raised else -config.relax_eps
    radii: list[float] = []
    radius = round(config.eps + step, 9)  # steps of 0.1 that reach 0.8, as the user writes them
    while step and 0 < radius <= max(config.eps, config.relax_limit):
        radii.append(radius)
        radius = round(radius + step, 9)
    return radii


def _how_many(clusters: np.ndarray) -> str:
    return "no cluster" if clusters.max() < 0 else "one cluster"


def _too_few(method: str, clusters: np.ndarray, advice: str) -> UserError:
    return UserError(
        f"clustering: training needs at least two clusters, {method} found {_how_many(clusters)} and "
        f"{int((clusters < 0).sum())} of {len(clusters)} images are noise; {advice}"
    )


def describe_clusters(
    clusters: np.ndarray, ids: np.ndarray | None = None, cameras: np.ndarray | None = None
) -> dict[str, Any]:
    """Return how many clusters there are, their sizes, the share of noise, and what ids and cameras say of them.

    Args:
        clusters: (N,) pseudo-labels, -1 for noise.
        ids: (N,) true ids, -2 of images that nobody has labelled; None where none are known.
        cameras: (N,) cameras; None where they are not known.

    Returns:
        `clusters`, `noise`, the sizes `smallest`, `median` and `largest`, `id_purity`, `camera_purity`, and `id_nmi`,
        the normalised mutual information with the ids. The last three leave noise out, and images without an id where
        they are of the ids; they are None where they cannot be known: no labels, the same one for all, one an image, or
        no cluster of two images.
    """
    sizes = np.bincount(clusters[clusters >= 0])
    known = np.ones(len(clusters), dtype=bool) if ids is None else ids != UNKNOWN
    labelled = clusters[known]
    ids = None if ids is None else ids[known]
    useful = sizes.max(initial=0) > 1
    ids = ids if useful and _tell_apart(ids) and np.bincount(labelled[labelled >= 0]).max(initial=0) > 1 else None
    cameras = cameras if useful and _tell_apart(cameras) else None
    return {
        "clusters": len(sizes),
        "noise": float((clusters < 0).mean()),
        "smallest": int(sizes.min(initial=len(clusters))) if len(sizes) else 0,
        "median": float(np.median(sizes)) if len(sizes) else 0.0,
        "largest": int(sizes.max(initial=0)),
        "id_purity": None if ids is None else purity(labelled, ids),
        "id_nmi": None if ids is None else normalised_mutual_information(labelled, ids),
        "camera_purity": None if cameras is None else purity(clusters, cameras),
    }


def silhouette(features: Tensor, clusters: np.ndarray, *, seed: int = 0) -> float | None:
    """Return the mean silhouette of clustered images by cosine distance (Rousseeuw 1987; scikit-learn's).

    It needs no labels: near 1 where clusters are tight and far apart, near 0 where they touch, below where images lie
    nearer to another cluster than to their own. That clusters are tight does not say that they are people.

    Args:
        features: (N, D) of the images.
        clusters: (N,) pseudo-labels; noise, -1, is left out.
        seed: of the sample of 2,000 images that is taken where there are more.

    Returns:
        Between -1 and 1; None where fewer than two clusters have an image in the sample, or every image its own.
    """
    clustered = np.flatnonzero(clusters >= 0)
    if len(clustered) > _SILHOUETTE_IMAGES:
        clustered = np.sort(np.random.default_rng(seed).choice(clustered, _SILHOUETTE_IMAGES, replace=False))
    labels = clusters[clustered]
    if not 2 <= len(np.unique(labels)) < len(labels):
        return None
    points = features[torch.as_tensor(clustered, device=features.device)].cpu().numpy()
    return float(silhouette_score(points, labels, metric="cosine"))


def _tell_apart(labels: np.ndarray | None) -> bool:
    """Return whether labels say which images belong together and which do not."""
    return labels is not None and 1 < len(np.unique(labels)) < len(labels)
