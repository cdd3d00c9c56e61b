"""Augmentation and normalisation, from decoded uint8 pixels to what the network reads.

All that moves pixels works on uint8, with the channels last; numbers of single precision come in at the end, in one
pass over the batch. What an image's augmentation does is drawn from its own seed, so it depends neither on the batch
around it nor on the process that loads it.
"""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reference_pipelines.config.sections import IMAGENET, AugmentConfig, Interpolation, Normalisation

ENLARGEMENT = 1.125
ERASE_ASPECT = (0.3, 1 / 0.3)  # of height by width
_ERASE_TRIES = 100  # a rectangle that does not fit is drawn again
_TOGETHER = 16  # images of one size that are resized in one call: enough to share its set-up, few enough for the cache

Chance = Callable[[], float]
"""Draws a number from 0 to 1, without 1."""


class Box(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Change(NamedTuple):
    """What augmentation does to one image, in this order.

    Fields: `enlarged` is the top left corner of what is kept of the enlarged image, None where it is not enlarged;
    `mirrored`; `moved` are the rows and columns by which the crop lies below and right of the image, what lies
    outside being black; `erased` is the rectangle that is filled after normalisation, None for none.
    """

    enlarged: tuple[int, int] | None = None
    mirrored: bool = False
    moved: tuple[int, int] = (0, 0)
    erased: Box | None = None


def draw_change(augment: AugmentConfig, size: tuple[int, int], seed: int) -> Change:
    """Draw one image's augmentation; the same arguments draw the same.

    Args:
        augment: probabilities and ranges.
        size: height and width of what the network reads.
        seed: of this image in this batch.
    """
    chance = random.Random(seed).random
    enlarged = None
    if chance() < augment.enlarge:
        larger = _enlarge(size)
        enlarged = (_below(larger[0] - size[0] + 1, chance), _below(larger[1] - size[1] + 1, chance))
    mirrored = chance() < augment.flip
    places = 2 * augment.pad + 1
    moved = (_below(places, chance) - augment.pad, _below(places, chance) - augment.pad)
    erased = _draw_box(augment.erase_area, size, chance) if chance() < augment.erase else None
    return Change(enlarged, mirrored, moved, erased)


def _below(count: int, chance: Chance) -> int:
    """Draw one of 0 ... count-1."""
    return int(count * chance())


def _enlarge(size: tuple[int, int]) -> tuple[int, int]:
    return round(size[0] * ENLARGEMENT), round(size[1] * ENLARGEMENT)


def _draw_box(share: tuple[float, float], size: tuple[int, int], chance: Chance) -> Box | None:
    """Draw a rectangle, uniform in its share of the area, in height by width and in place.

    One that does not fit is drawn again; None if none of the tries fits. So do APNet's, RGA's and cluster contrast's
    code; torchvision draws the logarithm of height by width, in ten tries, which gives flatter boxes.
    """
    smallest, largest = share
    flattest, tallest = ERASE_ASPECT
    for _ in range(_ERASE_TRIES):
        area = size[0] * size[1] * (smallest + (largest - smallest) * chance())
        aspect = flattest + (tallest - flattest) * chance()
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < height < size[0] and 0 < width < size[1]:
            return Box(_below(size[0] - height + 1, chance), _below(size[1] - width + 1, chance), height, width)
    return None


@dataclass(frozen=True)
class Transform:
    """From decoded images to what the network reads; called with one image, it returns that one's.

    Args:
        size: height and width.
        interpolation: how images are resized: antialiased, along the width and then along the height, each rounded
            to 8 bits. That is Pillow's way, up to 1 grey level for "bilinear" (0 from 128 x 64 to the papers' sizes)
            and 2 for "bicubic", where Pillow takes the width first too.
        augment: the random changes; None for none.
        normalisation: mean and standard deviation of each channel, of pixels between 0 and 1.
    """

    size: tuple[int, int]
    interpolation: Interpolation = "bilinear"
    augment: AugmentConfig | None = None
    normalisation: Normalisation = IMAGENET

    def __call__(self, image: Tensor, seed: int = 0) -> Tensor:
        """Return (3, H, W) float32 of one image, (3, h, w) uint8; `seed` is that of its augmentation."""
        pixels = torch.empty((1, *self.size, 3), dtype=torch.uint8)
        erased = self.arrange([image], [seed], pixels)
        return self.normalise(pixels, erased)[0]

    def arrange(self, images: Sequence[Tensor], seeds: Sequence[int], out: Tensor) -> list[Box | None]:
        """Resize, mirror and crop images into `out`.

        Args:
            images: B images, (3, h, w) uint8, of any sizes.
            seeds: B seeds of their augmentation.
            out: (B, H, W, 3) uint8, overwritten.

        Returns: what is still to be erased of each, by `normalise`.
        """
        changes = [self._draw(seed) for seed in seeds]
        alike: defaultdict[tuple[torch.Size, bool], list[int]] = defaultdict(list)
        for index, (image, change) in enumerate(zip(images, changes, strict=True)):
            alike[image.shape, change.enlarged is not None].append(index)
        for (_, enlarged), indices in alike.items():
            for start in range(0, len(indices), _TOGETHER):
                some = indices[start : start + _TOGETHER]
                resized = self._resize(
                    [images[index] for index in some], _enlarge(self.size) if enlarged else self.size
                )
                for index, image in zip(some, resized, strict=True):
                    _place(image, changes[index], out[index])
        return [change.erased for change in changes]

    def normalise(self, pixels: Tensor, erased: Sequence[Box | None], *, pin_memory: bool = False) -> Tensor:
        """Return (B, 3, H, W) float32, channels last: the mean subtracted, divided by the deviation, erased.

        Args:
            pixels: (B, H, W, 3) uint8.
            erased: B rectangles to fill, or None.
            pin_memory: put it into memory that CUDA copies from without waiting.
        """
        batch, height, width, _ = pixels.shape
        scale, shift = _rows(width, self.normalisation)
        lines = torch.empty((batch, height, width * 3), pin_memory=pin_memory)
        torch.addcmul(shift, pixels.view(batch, height, width * 3), scale, out=lines)
        if self.augment is not None:
            fill = np.tile(np.array(self.augment.erase_fill, dtype=np.float32), width)
            array = lines.numpy()
            for line, box in zip(array, erased, strict=True):
                if box is not None:
                    columns = slice(3 * box.left, 3 * (box.left + box.width))
                    line[box.top : box.top + box.height, columns] = fill[columns]
        return lines.view(batch, height, width, 3).permute(0, 3, 1, 2)

    def _draw(self, seed: int) -> Change:
        return Change() if self.augment is None else draw_change(self.augment, self.size, seed)

    def _resize(self, images: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Return (B, *size, 3) uint8 of B images of one size, rounded once a direction, as Pillow rounds."""
        stack = torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
        return functional.interpolate(stack, size, mode=self.interpolation, antialias=True).permute(0, 2, 3, 1)


def _place(image: Tensor, change: Change, out: Tensor) -> None:
    """Cut what is kept of a resized image (h, w, 3), mirror and move it, into `out` (H, W, 3)."""
    height, width, _ = out.shape
    if change.enlarged is not None:
        top, left = change.enlarged
        image = image[top : top + height, left : left + width]
    if change.mirrored:
        image = image.flip(1)
    down, right = change.moved
    if (down, right) == (0, 0):
        out.copy_(image)
        return
    target, source = out.numpy(), image.numpy()
    target.fill(0)
    target[_inside(-down, height), _inside(-right, width)] = source[_inside(down, height), _inside(right, width)]


def _inside(start: int, length: int) -> slice:
    """Return the part of 0 ... length-1 that a window of this length sees from `start` on."""
    return slice(max(0, start), max(0, min(length, length + start)))


def _rows(width: int, normalisation: Normalisation) -> tuple[Tensor, Tensor]:
    """Return factor and summand of each number of a row: (x / 255 - mean) / std = x * scale + shift."""
    mean, std = torch.tensor(normalisation, dtype=torch.float64)
    return (1 / (255 * std)).float().repeat(width), (-mean / std).float().repeat(width)


def evaluation_transform(
    size: tuple[int, int], interpolation: Interpolation = "bilinear", normalisation: Normalisation = IMAGENET
) -> Transform:
    """Return resize and normalisation only; `size` is (height, width)."""
    return Transform(size, interpolation, normalisation=normalisation)


def train_transform(
    size: tuple[int, int],
    augment: AugmentConfig,
    interpolation: Interpolation = "bilinear",
    normalisation: Normalisation = IMAGENET,
) -> Transform:
    """Return the training transform: resize, mirror, crop, normalise, erase."""
    return Transform(size, interpolation, augment, normalisation)
