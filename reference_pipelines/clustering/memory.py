"""One vector a cluster, and the loss that pulls features towards theirs (Dai et al., cluster contrast; MLA Eq. 1)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from reference_pipelines.errors import require


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


class ClusterMemory(nn.Module):
    """Unit vectors of the clusters: forward gives ClusterNCE, `update` moves the vectors after the optimiser's step.

    Args:
        centers: (K, D) first vectors; they are L2-normalised here.
        config: momentum, temperature and the kind of update.
    """

    centers: Tensor

    def __init__(self, centers: Tensor, config: MemoryConfig) -> None:
        super().__init__()
        if centers.ndim != 2 or not len(centers):
            raise ValueError(f"ClusterMemory: centers must be (K, D) with K > 0, got {tuple(centers.shape)}")
        self.config = config
        self.register_buffer("centers", functional.normalize(centers, dim=1))

    @classmethod
    def from_clusters(
        cls, features: Tensor, clusters: Tensor, config: MemoryConfig, generator: torch.Generator
    ) -> "ClusterMemory":
        """Return a memory of (N, D) `features` in (N,) `clusters`, where -1 is noise and left out."""
        centers = []
        for cluster in range(int(clusters.max()) + 1):
            members = features[clusters == cluster]
            if config.initial == "centroid":
                centers.append(members.mean(dim=0))
            else:
                centers.append(members[int(torch.randint(len(members), (), generator=generator))])
        return cls(torch.stack(centers), config)

    def forward(self, features: Tensor, clusters: Tensor) -> Tensor:
        """Return the mean ClusterNCE (MLA Eq. 1) of unit features (B, D) that belong to clusters (B,)."""
        logits = features @ self.centers.T / self.config.temperature
        return functional.cross_entropy(logits, clusters)

    @torch.no_grad()
    def update(self, features: Tensor, clusters: Tensor) -> None:
        """Move the batch's clusters towards its unit features (B, D): c <- m c + (1 - m) f, then c <- c / |c|."""
        for cluster in clusters.unique().tolist():
            members = features[clusters == cluster].to(self.centers.dtype)
            if self.config.update == "hard":
                # argmin takes the first of equals on the CPU only, and the first is meant.
                similarity = members @ self.centers[cluster]
                members = members[(similarity == similarity.min()).nonzero()[0]]
            for member in members:
                moved = self.config.momentum * self.centers[cluster] + (1 - self.config.momentum) * member
                self.centers[cluster] = functional.normalize(moved, dim=0)
