"""The head of both papers: pooled feature, BN neck (Luo et al., CVPRW 2019), and a classifier if there are labels."""

from typing import NamedTuple

from torch import Tensor, nn

from reference_pipelines.models.parts import PartClassifier


class Embedding(NamedTuple):
    """What the network says of a batch.

    Args:
        pooled: (N, D) features before the BN neck, for the triplet loss.
        features: (N, D) features after it, for matching and clustering.
        logits: (N, classes), those of several features beside each other, or None for a model without a classifier.
    """

    pooled: Tensor
    features: Tensor
    logits: Tensor | None


class ReidModel(nn.Module):
    """Backbone, BN neck without shift, and a bias-free classifier.

    Args:
        backbone: maps (N, 3, H, W) to pooled features (N, width), or to what `pool` makes them of.
        width: D, the width of the pooled feature.
        pool: maps what the backbone returns to (N, width); None where it pools by itself.
        features: of which the pooled feature is the concatenation, equally wide; each has a classifier of its own.
        classes: identities to tell apart in training; None where there are no labels.
    """

    def __init__(
        self,
        backbone: nn.Module,
        width: int,
        pool: nn.Module | None = None,
        features: int = 1,
        *,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        self.features = features
        self.backbone = backbone
        self.pool: nn.Module | None
        self.register_module("pool", pool)
        self.neck = nn.BatchNorm1d(width)
        self.neck.bias.requires_grad_(False)
        self.classifier: nn.Linear | PartClassifier | None
        self.set_classifier(classes)

    @property
    def classes(self) -> int | None:
        """How many identities the classifier tells apart; None without one."""
        return None if self.classifier is None else self.classifier.out_features

    def set_classifier(self, classes: int | None) -> None:
        """Put a new classifier in, or take it out."""
        width = self.neck.num_features
        if classes is None:
            self.classifier = None
            return
        if self.features == 1:
            self.classifier = nn.Linear(width, classes, bias=False)
        else:
            self.classifier = PartClassifier(self.features, width // self.features, classes)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, images: Tensor) -> Embedding:
        """Map images (N, 3, H, W) to their embedding."""
        pooled = self.backbone(images)
        if self.pool is not None:
            pooled = self.pool(pooled)
        features = self.neck(pooled)
        return Embedding(pooled, features, None if self.classifier is None else self.classifier(features))
