"""Images from files to batches; the same batches whatever the number of workers."""

import math
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reference_pipelines.data.decoding import load_image, try_to_load
from reference_pipelines.data.transforms import Box, Transform
from reference_pipelines.data.workers import AHEAD, Workers


class Draw(NamedTuple):
    """One image to load: its place in the list and the seed of its random augmentation."""

    image: int
    seed: int


class Batch(NamedTuple):
    """Images (B, 3, H, W) and their indices (B,) in the list they were drawn from.

    Fields: `unread` has the reason of each that did not decode, by its index, and such an image is black; it is empty
    unless such images were asked for.
    """

    images: Tensor
    indices: Tensor
    unread: Mapping[int, str] = MappingProxyType({})


class _Places:
    """Places for batches of pixels, in memory that all processes share.

    They are made once and filled again and again: a worker hands over no file descriptor, and there are never more
    batches waiting than places.
    """

    def __init__(self, count: int, room: int, *, shared: bool) -> None:
        self.count = count
        self.room = room  # bytes of each
        # Unlike torch's own shared memory it takes another place where /dev/shm is small, as it is in containers.
        self.memory: Any = multiprocessing.RawArray("B", count * room) if shared else np.empty(count * room, np.uint8)

    def pixels(self, place: int, shape: tuple[int, ...]) -> Tensor:
        """Return the first bytes of a place as pixels of this shape."""
        place_bytes = np.frombuffer(self.memory, np.uint8, math.prod(shape), offset=place * self.room)
        return torch.from_numpy(place_bytes.reshape(shape))


class _Task(NamedTuple):
    """A batch: the place it goes to, the files, the seeds of their augmentation, and what is done to them."""

    place: int
    paths: list[Path]
    seeds: list[int]
    transform: Transform
    lenient: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.paths), *self.transform.size, 3


class _Loaded(NamedTuple):
    """What of each image is to be erased, and why some did not decode, by their place in the batch."""

    erased: list[Box | None]
    unread: dict[int, str]


class _Loader:
    """Decodes and arranges a batch into its place."""

    def __init__(self, places: _Places) -> None:
        self.places = places

    def __call__(self, task: _Task) -> _Loaded:
        images, unread = [], {}
        for number, path in enumerate(task.paths):
            found = try_to_load(path) if task.lenient else load_image(path)
            if isinstance(found, str):
                unread[number] = found
                found = torch.zeros((3, *task.transform.size), dtype=torch.uint8)
            images.append(found)
        erased = task.transform.arrange(images, task.seeds, self.places.pixels(task.place, task.shape))
        return _Loaded(erased, unread)


class _Crew(NamedTuple):
    """Workers, and the places they load into."""

    workers: Workers[_Task, _Loaded]
    places: _Places


_idle: _Crew | None = None


def _engage(count: int, room: int) -> _Crew:
    """Return the crew that the last pass has left, or a new one where that does not fit.

    A pass that had to start its workers would begin 0.1 s later by fork and as many seconds as torch takes to import
    by forkserver (the default of Python 3.14) and spawn.
    """
    global _idle
    crew, _idle = _idle, None
    if crew is not None:
        if crew.workers.count == count and crew.places.room >= room:
            return crew
        crew.workers.end()
    places = _Places(AHEAD * count, room, shared=True)
    return _Crew(Workers(_Loader(places), count), places)


def _leave_idle(crew: _Crew) -> None:
    """Keep a crew that has done all of its pass for the next one."""
    global _idle
    if _idle is not None:  # two passes at the same time
        _idle.workers.end()
    _idle = crew


def _forget_crew() -> None:
    global _idle
    _idle = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_crew)  # it is the parent's


def load_batches(
    paths: Sequence[Path],
    transform: Transform,
    batches: Iterable[list[Draw]],
    *,
    workers: int,
    lenient: bool = False,
) -> Iterator[Batch]:
    """Load the batches in order; the images have the channels last in memory.

    Workers decode and arrange pixels of 8 bits ahead, at most two batches each; this process normalises them. The
    workers of a pass that came to its end wait for the next pass; they end with this process, or with an error.

    Args:
        paths: the images that the draws' indices point at.
        transform: what is done to each image.
        batches: which images go together, and the seed of each one's augmentation.
        workers: processes that decode ahead; 0 decodes in this one.
        lenient: whether an image that does not decode is told with its batch, instead of ending the pass.

    Raises:
        UserError: an image does not decode, the sentence names it; or a worker died or could not be started.
    """
    batches = list(batches)
    if not batches:
        return
    room = max(map(len, batches)) * math.prod(transform.size) * 3
    crew = _engage(workers, room) if workers else None
    places = crew.places if crew else _Places(1, room, shared=False)
    tasks = [
        _Task(place, [paths[draw.image] for draw in draws], [draw.seed for draw in draws], transform, lenient)
        for place, draws in zip(cycle(range(places.count)), batches)
    ]
    loaded = crew.workers.map(tasks) if crew else map(_Loader(places), tasks)
    pin_memory = torch.cuda.is_available()
    for task, draws, (erased, unread) in zip(tasks, batches, loaded, strict=True):
        images = transform.normalise(places.pixels(task.place, task.shape), erased, pin_memory=pin_memory)
        reasons = {draws[number].image: reason for number, reason in unread.items()}
        yield Batch(images, torch.tensor([draw.image for draw in draws]), reasons)
    if crew:
        _leave_idle(crew)
