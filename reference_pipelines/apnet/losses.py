"""The supervised objective: batch-hard triplet and label-smoothed cross-entropy (APNet Eq. 6-9)."""

import torch
from torch import Tensor
from torch.nn import functional

from reference_pipelines.apnet.config import LossConfig
from reference_pipelines.models import Embedding


def batch_hard_triplet(features: Tensor, labels: Tensor, *, margin: float) -> Tensor:
    """Return the mean over the batch of [hardest positive - hardest negative + margin]_+ (APNet Eq. 6).

    The hardest positive is the farthest image of the same person, the anchor itself where there is no other; the
    hardest negative is the nearest image of somebody else. Distances are Euclidean.

    Args:
        features: (B, D).
        labels: (B,) with at least two people.
        margin: m.
    """
    squared = features.square().sum(dim=1)
    distances = (squared[:, None] + squared[None, :] - 2 * features @ features.T).clamp(min=1e-12).sqrt()
    same = labels[:, None] == labels[None, :]
    positive = distances.masked_fill(~same, -torch.inf).amax(dim=1)
    negative = distances.masked_fill(same, torch.inf).amin(dim=1)
    return functional.relu(positive - negative + margin).mean()


class SupervisedObjective:
    """Eq. 9 over a training list.

    Args:
        labels: (N,) labels of the training images.
        config: margin, smoothing and weight.
    """

    def __init__(self, labels: Tensor, config: LossConfig) -> None:
        self.labels = labels
        self.config = config

    def loss(self, embedding: Embedding, indices: Tensor) -> Tensor:
        """Return the triplet loss before the BN neck plus the cross-entropy after it."""
        labels = self.labels[indices]
        assert embedding.logits is not None
        classification = functional.cross_entropy(embedding.logits, labels, label_smoothing=self.config.smoothing)
        triplet = batch_hard_triplet(embedding.pooled, labels, margin=self.config.margin)
        return classification + self.config.triplet_weight * triplet

    def after_step(self, embedding: Embedding, indices: Tensor) -> None:
        """Do nothing: the optimiser owns every parameter."""
