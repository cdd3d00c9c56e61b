"""Augmentation and normalisation, from decoded uint8 pixels to what the network reads."""

from dataclasses import dataclass
from typing import Literal

import torch
from torchvision.transforms import v2

from reference_pipelines.data.dataset import Transform
from reference_pipelines.errors import require

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of a training image; the defaults are APNet-C's (released code).

    Args:
        pad: pixels of black border from which a crop of the image size is cut; 0 is off.
        enlarge: probability of enlarging by 1.125 and cropping back (APNet-S, after RGA).
        flip: probability of mirroring.
        erase: probability of erasing a rectangle, after normalisation.
        erase_area: smallest and largest part of the image that is erased.
        erase_fill: what is put in the erased place, a channel.
    """

    pad: int = 10
    enlarge: float = 0.0
    flip: float = 0.5
    erase: float = 0.5
    erase_area: tuple[float, float] = (0.02, 0.4)
    erase_fill: tuple[float, float, float] = IMAGENET_MEAN

    def __post_init__(self) -> None:
        require(self.pad >= 0, "augment.pad must be at least 0", self.pad)
        for name in ("enlarge", "flip", "erase"):
            chance = getattr(self, name)
            require(0 <= chance <= 1, f"augment.{name} must be a probability, between 0 and 1", chance)
        low, high = self.erase_area
        require(
            0 < low <= high <= 1,
            "augment.erase_area must keep 0 < smallest <= largest <= 1",
            self.erase_area,
        )


def evaluation_transform(size: tuple[int, int], interpolation: Interpolation = "bilinear") -> Transform:
    """Return resize and normalisation only; `size` is (height, width)."""
    return v2.Compose([_resize(size, interpolation), *_normalise()])


def train_transform(
    size: tuple[int, int], augment: AugmentConfig, interpolation: Interpolation = "bilinear"
) -> Transform:
    """Return the training transform: resize, crop, mirror, normalise, erase."""
    larger = (round(size[0] * 1.125), round(size[1] * 1.125))
    enlarge = v2.Compose([_resize(larger, interpolation), v2.RandomCrop(size)])
    steps: list[object] = [
        v2.RandomChoice([_resize(size, interpolation), enlarge], p=[1 - augment.enlarge, augment.enlarge])
    ]
    if augment.flip:
        steps.append(v2.RandomHorizontalFlip(augment.flip))
    if augment.pad:
        steps.append(v2.RandomCrop(size, padding=augment.pad))
    steps += _normalise()
    if augment.erase:
        fill = list(augment.erase_fill)
        steps.append(v2.RandomErasing(augment.erase, augment.erase_area, (0.3, 1 / 0.3), value=fill))
    return v2.Compose(steps)


def _resize(size: tuple[int, int], interpolation: Interpolation) -> v2.Transform:
    return v2.Resize(size, interpolation=v2.InterpolationMode(interpolation), antialias=True)


def _normalise() -> list[v2.Transform]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
