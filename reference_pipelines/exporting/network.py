"""What is in an exported file: images to unit features, in one graph."""

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from attnreid import fold
from reference_pipelines.config.sections import Normalisation
from reference_pipelines.serving.embedder import Embedder

Preprocessing = Literal["outside", "inside"]


class ExportedNetwork(nn.Module):
    """Maps images to unit features, as `Embedder.embed_batch` does.

    Args:
        model: a `ReidModel` in eval mode.
        flip: add the features of each image's mirror.
        normalisation: mean and standard deviation of each channel; None where images come normalised.

    Shape:
        Input `(N, 3, H, W)` float32, normalised; with `normalisation` `(N, H, W, 3)` uint8 RGB. Output `(N, D)`.
    """

    def __init__(self, model: nn.Module, *, flip: bool, normalisation: Normalisation | None = None) -> None:
        super().__init__()
        self.model = model
        self.flip = flip
        self.scale: Tensor | None
        self.shift: Tensor | None
        scale, shift = (None, None) if normalisation is None else _scale_and_shift(normalisation)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, images: Tensor) -> Tensor:
        """Return the unit features."""
        if self.scale is not None and self.shift is not None:
            images = images.permute(0, 3, 1, 2).float() * self.scale + self.shift
        if not self.flip:
            return _unit(self._features(images))
        # In one batch, so that the file holds the network once.
        features = self._features(torch.cat([images, images.flip(3)]))
        return _unit(features.view(2, -1, features.shape[1]).sum(dim=0))

    def _features(self, images: Tensor) -> Tensor:
        features: Tensor = self.model(images).features
        return features


def _scale_and_shift(normalisation: Normalisation) -> tuple[Tensor, Tensor]:
    """Return what makes (x / 255 - mean) / std of a pixel, rounded to single precision once, as loading does."""
    mean, std = torch.tensor(normalisation, dtype=torch.float64).view(2, 3, 1, 1)
    return (1 / (255 * std)).float(), (-mean / std).float()


def _unit(features: Tensor) -> Tensor:
    """Return what `unit_rows` does, by one way for all lengths: a graph cannot look which rows need the longer one."""
    largest = features.abs().amax(dim=1, keepdim=True)
    return functional.normalize(features / torch.where(largest > 0, largest, 1), dim=1)


def network_of(model: Embedder, *, folded: bool, preprocessing: Preprocessing) -> ExportedNetwork:
    """Return a copy of an embedder's network as it is exported: on the CPU, in single precision, for eval mode."""
    own = copy.deepcopy(model.model).to("cpu", torch.float32).to(memory_format=torch.contiguous_format).eval()
    network = fold(own) if folded else own
    normalisation = model.identity.normalisation if preprocessing == "inside" else None
    exported = ExportedNetwork(network, flip=model.identity.flip, normalisation=normalisation)
    return exported.requires_grad_(False).eval()


def random_pixels(count: int, size: tuple[int, int], seed: int) -> Tensor:
    """Return images (N, H, W, 3) uint8: coarse patches of colour with noise on them, which networks tell apart."""
    generator = torch.Generator().manual_seed(seed)
    patches = functional.interpolate(torch.rand(count, 3, 6, 3, generator=generator), size, mode="bilinear")
    pixels = 255 * (0.8 * patches + 0.2 * torch.rand(count, 3, *size, generator=generator))
    return pixels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def as_input(model: Embedder, pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return what a network that is exported so reads of pixels (N, H, W, 3)."""
    if preprocessing == "inside":
        return pixels
    return model.transform.normalise(pixels, [None] * len(pixels)).contiguous()
