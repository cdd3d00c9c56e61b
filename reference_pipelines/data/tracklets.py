"""Tracklets: consecutive images of one person from one camera, whose features are pooled."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from reference_pipelines.data.records import ImageList
from reference_pipelines.unit_vectors import unit_rows


class Tracklets:
    """The tracklets of some images; an image that is in none is one by itself.

    Args:
        images: N images.

    Attributes:
        first: (T,) the first image of each tracklet, in the images' order.
        of_image: (N,) the tracklet of each image, 0 ... T-1.
    """

    def __init__(self, images: ImageList) -> None:
        numbers = np.arange(len(images)) if images.tracklets is None else images.tracklets
        _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
        order = np.argsort(first)
        self.first = first[order]
        self.of_image = np.argsort(order)[inverse]
        self.alone = len(self.first) == len(images)

    def pool(self, features: Tensor) -> Tensor:
        """Return the unit features (T, D) of the tracklets, the direction of the mean of their images' (N, D)."""
        if self.alone or not len(features):
            return features
        pooled = features.new_zeros(len(self.first), features.shape[1])
        return unit_rows(pooled.index_add_(0, torch.as_tensor(self.of_image, device=features.device), features))

    def spread(self, labels: np.ndarray) -> np.ndarray:
        """Return (N,) the label of each image's tracklet, of labels (T,)."""
        return labels if self.alone else labels[self.of_image]


def one_a_tracklet(images: ImageList) -> ImageList:
    """Return the first image of each tracklet, which then stands for it."""
    tracklets = Tracklets(images)
    if tracklets.alone:
        return images
    return replace(images.where(np.isin(np.arange(len(images)), tracklets.first)), tracklets=None)
