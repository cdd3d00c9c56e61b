"""Clusters of a gallery without labels, as MLA's training makes them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reference_pipelines.clustering import dbscan, describe_clusters, jaccard_of_neighbours
from reference_pipelines.clustering.labels_file import write_clusters
from reference_pipelines.config.clustering import Engine
from reference_pipelines.distributed.processes import ALONE, Processes
from reference_pipelines.errors import UserError
from reference_pipelines.features.reading import FeatureStore
from reference_pipelines.neighbours.engines import Approximation, check_engine
from reference_pipelines.neighbours.search import find_neighbours, unit_features


@dataclass(frozen=True)
class Clusters:
    """The clusters of a store of features.

    Args:
        store: that was clustered.
        labels: (N,) cluster of each image, numbered from 0; -1 for noise.
        about: how many there are, their sizes, the share of noise, and how pure they are by person and by camera where
            these are known (`describe_clusters`).
        approximation: how many of the neighbours were found, `str()` of it a sentence; None where all were.
        without_direction: how many features are all zeros, which are equally far from every image.
    """

    store: FeatureStore
    labels: np.ndarray
    about: dict[str, Any]
    approximation: Approximation | None = None
    without_direction: int = 0

    def write(self, path: str | Path) -> None:
        """Write a CSV file with a line an image, path and cluster, whole or not at all.

        Raises:
            UserError: it cannot be written.
        """
        try:
            write_clusters(Path(path), self.store.paths, self.labels)
        except OSError as error:
            raise UserError(f"cluster: cannot write {path} ({error.strerror}); name another file") from None


def cluster(
    features: FeatureStore | str | Path,
    *,
    eps: float = 0.4,
    k1: int = 30,
    k2: int = 6,
    min_samples: int = 4,
    engine: Engine = "exact",
    recall: float = 0.99,
    processes: Processes = ALONE,
) -> Clusters:
    """Cluster features by DBSCAN on k-reciprocal Jaccard distances; the defaults are MLA's.

    Args:
        features: a store, or its folder.
        eps: the largest Jaccard distance of two neighbours, above 0 and below 1.
        k1: neighbours of the k-reciprocal Jaccard distance, about the images of a person.
        k2: neighbours of its query expansion, at most k1.
        min_samples: neighbours that make a core point, the point itself counted.
        engine: that finds the neighbours: "exact", or an index of faiss that proposes them of more than 1,000 images,
            "faiss-flat" or "faiss-hnsw".
        recall: the part of the neighbours that an index is to find, above 0 and at most 1.
        processes: who share the work; each gets the clusters.

    Raises:
        ValueError: an option is out of range.
        UserError: no store, one whose features are damaged, or an engine without faiss.

    Example:
        found = reference_pipelines.cluster("features/gallery", eps=0.5)
        print(found.about["clusters"], found.about["noise"])
        found.write("labels.csv")
    """
    if not 0 < eps < 1:
        raise ValueError(f"cluster: eps must be above 0 and below 1, got {eps:g}")
    if not 1 <= k2 <= k1:
        raise ValueError(f"cluster: k1 and k2 must keep 1 <= k2 <= k1, got k1={k1}, k2={k2}")
    if min_samples < 1:
        raise ValueError(f"cluster: min_samples must be at least 1, got {min_samples}")
    check_engine("cluster", engine, recall)
    store = features if isinstance(features, FeatureStore) else FeatureStore(features, "cluster")
    without_direction = processes.together(lambda: store.check("cluster"))
    points = unit_features(store.features, "cluster")
    found = find_neighbours(points, k1, engine=engine, recall=recall, processes=processes)
    graph = jaccard_of_neighbours(points, found, k1=k1, k2=k2, max_distance=eps, processes=processes)
    labels = dbscan(graph, eps=eps, min_samples=min_samples, processes=processes)
    about = describe_clusters(labels, store.ids, store.cameras)
    return Clusters(store, labels, about, found.approximation, without_direction)
