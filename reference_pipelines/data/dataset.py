"""Images from files to batches; the same batches whatever the number of workers."""

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reference_pipelines.data.decoding import load_image
from reference_pipelines.data.transforms import Box, Transform
from reference_pipelines.data.workers import AHEAD, map_in_order


class Draw(NamedTuple):
    """One image to load: its place in the list and the seed of its random augmentation."""

    image: int
    seed: int


class Batch(NamedTuple):
    """Images (B, 3, H, W) and their indices (B,) in the list they were drawn from."""

    images: Tensor
    indices: Tensor


class _Slots:
    """Places for batches of pixels, in memory that all processes share.

    They are made once and filled again and again: a worker hands over no file descriptor, and there are never more
    batches waiting than places.
    """

    def __init__(self, count: int, shape: tuple[int, ...], *, shared: bool) -> None:
        self.shape = (count, *shape)
        size = int(np.prod(self.shape))
        # Unlike torch's own shared memory it takes another place where /dev/shm is small, as it is in containers.
        self.memory: Any = multiprocessing.RawArray("B", size) if shared else np.empty(size, np.uint8)

    def __getitem__(self, slot: int) -> Tensor:
        return torch.from_numpy(np.frombuffer(self.memory, np.uint8).reshape(self.shape)[slot])


class _Loader:
    """Decodes and arranges a batch into a slot; returns what of each image is to be erased."""

    def __init__(self, paths: Sequence[Path], transform: Transform, slots: _Slots) -> None:
        self.paths = paths
        self.transform = transform
        self.slots = slots

    def __call__(self, task: tuple[int, list[Draw]]) -> list[Box | None]:
        slot, draws = task
        images = [load_image(self.paths[draw.image]) for draw in draws]
        return self.transform.arrange(images, [draw.seed for draw in draws], self.slots[slot][: len(draws)])


def load_batches(
    paths: Sequence[Path], transform: Transform, batches: Iterable[list[Draw]], *, workers: int
) -> Iterator[Batch]:
    """Load the batches in order; the images have the channels last in memory.

    Workers decode and arrange pixels of 8 bits ahead, at most two batches each; this process normalises them.

    Args:
        paths: the images that the draws' indices point at.
        transform: what is done to each image.
        batches: which images go together, and the seed of each one's augmentation.
        workers: processes that decode ahead; 0 decodes in this one.

    Raises:
        UserError: an image does not decode, the sentence names it; or a worker died or could not be started.
    """
    batches = list(batches)
    largest = max(map(len, batches), default=0)
    slots = _Slots(max(1, AHEAD * workers), (largest, *transform.size, 3), shared=workers > 0)
    tasks = list(zip(cycle(range(slots.shape[0])), batches))
    pin_memory = torch.cuda.is_available()
    loaded = map_in_order(_Loader(paths, transform, slots), tasks, workers=workers)
    for (slot, draws), erased in zip(tasks, loaded, strict=True):
        images = transform.normalise(slots[slot][: len(draws)], erased, pin_memory=pin_memory)
        yield Batch(images, torch.tensor([draw.image for draw in draws]))
