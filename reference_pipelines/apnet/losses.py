"""The supervised objective: batch-hard triplet and label-smoothed cross-entropy (APNet Eq. 6-9)."""

import torch
from torch import Tensor
from torch.nn import functional

from reference_pipelines.apnet.config import LossConfig
from reference_pipelines.models import Embedding


def batch_hard_triplet(features: Tensor, labels: Tensor, *, margin: float) -> Tensor:
    """Return the mean over the batch of [hardest positive - hardest negative + margin]_+ (APNet Eq. 6).

    Args:
        features: (B, D).
        labels: (B,) with at least two people.
        margin: m.
    """
    return _triplet(*hardest(features, labels), margin)


def hardest(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return each image's distances (B,) to its hardest positive and to its hardest negative.

    The hardest positive is the farthest image of the same person, the anchor itself where there is no other; the
    hardest negative is the nearest image of somebody else. Distances are Euclidean.

    Args:
        features: (B, D).
        labels: (B,) with at least two people.
    """
    squared = features.square().sum(dim=1)
    distances = (squared[:, None] + squared[None, :] - 2 * features @ features.T).clamp(min=1e-12).sqrt()
    same = labels[:, None] == labels[None, :]
    positive = distances.masked_fill(~same, -torch.inf).amax(dim=1)
    negative = distances.masked_fill(same, torch.inf).amin(dim=1)
    return positive, negative


def _triplet(positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    return functional.relu(positive - negative + margin).mean()


class SupervisedObjective:
    """Eq. 9 over a training list.

    Args:
        labels: (N,) labels of the training images.
        config: margin, smoothing and weight.
        features: of the network, each with a loss of its own, of which the mean is taken; the paper does not say how
            the features of a local branch are trained.
    """

    def __init__(self, labels: Tensor, config: LossConfig, *, features: int = 1) -> None:
        self.labels = labels
        self.config = config
        self.features = features
        self._distances: list[Tensor] = []  # of each step, to the hardest positive and to the hardest negative

    def loss(self, embedding: Embedding, indices: Tensor) -> Tensor:
        """Return the triplet loss before the BN neck plus the cross-entropy after it."""
        assert embedding.logits is not None
        labels, losses = self.labels[indices], []
        parts = (part.chunk(self.features, dim=1) for part in (embedding.pooled, embedding.logits))
        for pooled, logits in zip(*parts, strict=True):
            classification = functional.cross_entropy(logits, labels, label_smoothing=self.config.smoothing)
            positive, negative = hardest(pooled, labels)
            self._distances.append(torch.stack([positive.detach().mean(), negative.detach().mean()]))
            losses.append(
                classification + self.config.triplet_weight * _triplet(positive, negative, self.config.margin)
            )
        return torch.stack(losses).mean()

    def after_step(self, embedding: Embedding, indices: Tensor) -> None:
        """Do nothing: the optimiser owns every parameter."""

    def measured(self) -> dict[str, float]:
        """Return the mean distances that the triplet has seen since the last call, for the log."""
        if not self._distances or not self.config.triplet_weight:
            return {}
        positive, negative = torch.stack(self._distances).mean(dim=0).tolist()
        self._distances.clear()
        return {"hardest_positive": positive, "hardest_negative": negative}
