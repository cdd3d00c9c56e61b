"""A colour histogram as a network: the baseline that a trained network has to beat."""

import torch
from torch import Tensor, nn

from reference_pipelines.config.sections import IMAGENET
from reference_pipelines.models import Embedding

STRIPES = 8
BINS = (8, 4, 4)
CENTRE = 0.06
_GREY, _WHITE = 0.45, 255.0
_LEAST = 1e-6


class ColourHistogram(nn.Module):
    """Square roots of joint HSV histograms, one a horizontal stripe of the image, each with the sum 1.

    The image is cut into 8 stripes of equal height, hue, saturation and value into 8, 4 and 4 bins of equal width, so
    the feature has 1,024 values; with the roots, cosine similarity is the mean Bhattacharyya coefficient.

    Args:
        centred: weigh the columns by a Gaussian around the middle one, standard deviation 0.06 of the width, and
            first scale red, green and blue to the mean 0.45 under these weights (grey world), cut at 1. It leaves
            most of the background out and undoes most of a camera's colour cast.
    """

    def __init__(self, *, centred: bool) -> None:
        super().__init__()
        self.centred = centred

    def forward(self, images: Tensor) -> Embedding:
        """Map normalised images (N, 3, H, W) to histograms (N, 1024)."""
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in IMAGENET)
        # Back to 8-bit levels: a black pixel that is not quite black would have a hue.
        colours = ((images * std + mean) * _WHITE).round().clamp(0, _WHITE)
        weights = self._column_weights(images)
        if self.centred:
            grey = (colours * weights).sum((2, 3), keepdim=True) / (weights.sum() * images.shape[2])
            colours = (colours * (_GREY * _WHITE / grey.clamp(min=_LEAST))).clamp(max=_WHITE)
        histograms = _stripe_histograms(_bins(colours), weights)
        features = histograms.sqrt().flatten(1)
        return Embedding(features, features, None)

    def _column_weights(self, images: Tensor) -> Tensor:
        """Return how much each column (W,) counts."""
        width = images.shape[3]
        if not self.centred:
            return images.new_ones(width)
        away = (torch.arange(width, device=images.device) - (width - 1) / 2) / (CENTRE * width)
        return torch.exp(-0.5 * away.square())


def hue_saturation_value(colours: Tensor) -> Tensor:
    """Turn red, green, blue (N, 3, H, W) in 0 ... 255 into hue, saturation, value, each in 0 ... 1; grey has hue 0."""
    value, largest = colours.max(1)
    spread = value - colours.min(1).values
    red, green, blue = colours.unbind(1)
    differences = torch.stack((green - blue, blue - red, red - green), 1) / spread.clamp(min=_LEAST)[:, None]
    sector = differences.gather(1, largest[:, None])[:, 0] + 2 * largest
    hue = torch.where(spread > 0, (sector / 6) % 1.0, 0.0)
    return torch.stack((hue, spread / value.clamp(min=_LEAST), value / _WHITE), 1)


def _bins(colours: Tensor) -> Tensor:
    """Return the number of each pixel's bin (N, H, W)."""
    parts = hue_saturation_value(colours)
    hue, saturation, value = (
        (part * count).long().clamp(max=count - 1) for part, count in zip(parts.unbind(1), BINS, strict=True)
    )
    return (hue * BINS[1] + saturation) * BINS[2] + value


def _stripe_histograms(bins: Tensor, weights: Tensor) -> Tensor:
    """Count the bins (N, H, W) in each stripe, a column by its weight (W,): (N, stripes, bins), each sum 1."""
    count, height, width = bins.shape
    size = BINS[0] * BINS[1] * BINS[2]
    stripe = torch.arange(height, device=bins.device) * STRIPES // height
    slots = (stripe[:, None] * size + bins).flatten(1)
    counted = weights.new_zeros(count, STRIPES * size)
    counted.scatter_add_(1, slots, weights.expand(count, height, width).flatten(1))
    histograms = counted.view(count, STRIPES, size)
    return histograms / histograms.sum(2, keepdim=True).clamp(min=_LEAST)
