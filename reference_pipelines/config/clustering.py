"""How pseudo-labels are made, and what training compares them with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from reference_pipelines.errors import UserError, require

Engine = Literal["exact", "faiss-flat", "faiss-hnsw"]
"""What finds neighbours: an exact search, or an index of faiss that proposes them."""

_FORMER_SEARCH = {"exact": "exact", "approximate": "faiss-hnsw"}


@dataclass(frozen=True)
class MergingConfig:
    """Bottom-up merging over the epochs, from one cluster an image; the defaults are those of Lin et al.'s code.

    Args:
        first: epochs before the first step, in which each image is a cluster of its own.
        every: epochs from one step to the next.
        share: merges a step, as a part of the number of images, rounded down.
        size_weight: what each image in two clusters adds to their distance, which is between 0 and 4.
        least: clusters below which nothing is merged any more.
    """

    first: int = 20
    every: int = 2
    share: float = 0.05
    size_weight: float = 0.005
    least: int = 2

    def __post_init__(self) -> None:
        require(self.first >= 0, "clustering.merging.first must be at least 0", self.first)
        require(self.every >= 1, "clustering.merging.every must be at least 1", self.every)
        require(0 < self.share < 1, "clustering.merging.share must be between 0 and 1", self.share)
        require(self.size_weight >= 0, "clustering.merging.size_weight must be at least 0", self.size_weight)
        require(self.least >= 2, "clustering.merging.least must be at least 2", self.least)


@dataclass(frozen=True)
class ClusteringConfig:
    """Pseudo-labels from features; the defaults are MLA's.

    Args:
        method: "dbscan" on k-reciprocal Jaccard distances, "agglomerative" merging, or "kmeans".
        k1: neighbours of the k-reciprocal Jaccard distance.
        k2: neighbours of its query expansion.
        engine: that finds the neighbours: exact, or an index of faiss that proposes them.
        recall: the part of the neighbours that an index is to find.
        eps: DBSCAN's radius.
        min_samples: DBSCAN's MinPts, the point itself counted.
        relax_eps: by how much eps changes for an epoch, again and again, where DBSCAN finds fewer than two clusters:
            it rises, or falls where all images are one cluster. 0 stops the training instead.
        relax_limit: eps does not rise beyond this.
        merging: the steps of "agglomerative".
        kmeans: clusters of "kmeans".
    """

    method: Literal["dbscan", "agglomerative", "kmeans"] = "dbscan"
    k1: int = 30
    k2: int = 6
    engine: Engine = "exact"
    recall: float = 0.99
    eps: float = 0.4
    min_samples: int = 4
    relax_eps: float = 0.0
    relax_limit: float = 0.8
    merging: MergingConfig = MergingConfig()
    kmeans: int = 500

    def __post_init__(self) -> None:
        require(1 <= self.k2 <= self.k1, "clustering.k2 must be at least 1 and at most clustering.k1", self.k2)
        require(0 < self.recall <= 1, "clustering.recall must be above 0 and at most 1", self.recall)
        require(0 < self.eps < 1, "clustering.eps must be between 0 and 1", self.eps)
        require(self.min_samples >= 1, "clustering.min_samples must be at least 1", self.min_samples)
        require(0 <= self.relax_eps < 1, "clustering.relax_eps must be at least 0 and below 1", self.relax_eps)
        require(0 < self.relax_limit < 1, "clustering.relax_limit must be between 0 and 1", self.relax_limit)
        require(self.kmeans >= 2, "clustering.kmeans must be at least 2", self.kmeans)

    def check_images(self, count: int) -> None:
        """Refuse so few images that the method finds no clusters among them, whatever their features are.

        Raises:
            UserError: they are.
        """
        if self.method == "kmeans" and self.kmeans > count:
            raise UserError(
                f"clustering: k-means must have at least as many images as clusters, got {count} images; "
                f"set --clustering.kmeans (now {self.kmeans}) to less"
            )
        if self.method == "dbscan" and self.min_samples > count:
            raise UserError(
                f"clustering: DBSCAN needs {self.min_samples} images for a cluster, got {count} images; set "
                f"--clustering.min_samples (now {self.min_samples}) to less"
            )


@dataclass(frozen=True)
class MemoryConfig:
    """The cluster memory; the defaults are MLA's.

    Args:
        initial: a cluster's first vector: one of its members at random, or the mean of all.
        update: "hard" moves a cluster once a batch, towards its member least similar to it; "every" towards every
            member in turn.
        momentum: how much of the old vector stays, 0 to 1.
        temperature: tau of Eq. 1.
    """

    initial: Literal["random", "centroid"] = "random"
    update: Literal["hard", "every"] = "hard"
    momentum: float = 0.1
    temperature: float = 0.05

    def __post_init__(self) -> None:
        require(0 <= self.momentum <= 1, "memory.momentum must be between 0 and 1", self.momentum)
        require(self.temperature > 0, "memory.temperature must be above 0", self.temperature)


def modern_engine(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's values by dotted key, with the neighbour search of a run of before as one writes it today."""
    former = values.get("clustering.search")
    if not isinstance(former, str) or former not in _FORMER_SEARCH:
        return dict(values)
    rest = {key: value for key, value in values.items() if key != "clustering.search"}
    return {**rest, "clustering.engine": _FORMER_SEARCH[former]}
