"""The unsupervised objective: ClusterNCE against a memory that moves after each step (MLA Eq. 1)."""

from torch import Tensor
from torch.nn import functional

from reference_pipelines.clustering import ClusterMemory
from reference_pipelines.models import Embedding


class ClusterObjective:
    """ClusterNCE over a training list with pseudo-labels.

    Args:
        clusters: (N,) pseudo-labels of the training images.
        memory: one vector a cluster.
    """

    def __init__(self, clusters: Tensor, memory: ClusterMemory) -> None:
        self.clusters = clusters
        self.memory = memory

    def loss(self, embedding: Embedding, indices: Tensor) -> Tensor:
        """Return ClusterNCE of the batch's unit features."""
        loss: Tensor = self.memory(functional.normalize(embedding.features, dim=1), self.clusters[indices])
        return loss

    def after_step(self, embedding: Embedding, indices: Tensor) -> None:
        """Move the batch's clusters towards the features that the step was taken with."""
        self.memory.update(functional.normalize(embedding.features.detach(), dim=1), self.clusters[indices])

    def measured(self) -> dict[str, float]:
        """Return nothing: what an epoch's log says of the clusters is known before it."""
        return {}
