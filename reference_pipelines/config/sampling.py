"""Which images make a batch of training."""

from dataclasses import dataclass
from typing import Literal

from reference_pipelines.errors import UserError, require


@dataclass(frozen=True)
class SamplerConfig:
    """P x K batches for supervised training.

    Args:
        ids: P, people a batch.
        images: K, images a person.
        epoch: "chunks": each person's images are cut into chunks of K and the rest is dropped (APNet's released
            code); "ids": each person comes once an epoch with K images (RGA).
    """

    ids: int = 20
    images: int = 4
    epoch: Literal["chunks", "ids"] = "chunks"

    def __post_init__(self) -> None:
        require(self.ids >= 1, "sampler.ids must be at least 1", self.ids)
        require(self.images >= 1, "sampler.images must be at least 1", self.images)

    def check_people(self, people: int) -> None:
        """Refuse fewer people than a batch needs.

        Raises:
            UserError: they are.
        """
        if people < self.ids:
            raise UserError(
                f"sampler: a batch needs {self.ids} different people, the training set has {people}; "
                f"set --sampler.ids to {people} or less"
            )


@dataclass(frozen=True)
class ClusterSamplerConfig:
    """P x K batches over pseudo-labels, for unsupervised training.

    Args:
        ids: P, clusters a batch.
        images: K, images a cluster.
        other_cameras: after a cluster's first image prefer images of *other* cameras. This uses the camera labels
            of the training set, as the cluster-contrast authors' code does; false ignores cameras.
    """

    ids: int = 8
    images: int = 8
    other_cameras: bool = True

    def __post_init__(self) -> None:
        require(self.ids >= 1, "sampler.ids must be at least 1", self.ids)
        require(self.images >= 1, "sampler.images must be at least 1", self.images)
