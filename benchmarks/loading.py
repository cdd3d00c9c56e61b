"""How many images a second are decoded, arranged and normalised, against the usual way: DataLoader and Pillow."""

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from benchmarks.cases import Case, Peer, Problem, Shape, Skipped, Target, Variant, Work

SIZES: tuple[Shape, ...] = ((3, 256, 128), (3, 384, 192))
"""MLA's and APNet-S's image size, and APNet-C's."""

_STORED = (128, 64)  # of the files, as in Market-1501


def ours(problem: Problem, *, train: bool, workers: int = 0) -> Variant:
    """Build the pipelines' loading, in this process or by workers that stay; every training batch is drawn anew."""
    with missing_is_named():
        from reference_pipelines.config.sections import AugmentConfig
        from reference_pipelines.data.dataset import Draw, load_batches
        from reference_pipelines.data.transforms import evaluation_transform, train_transform

        paths = image_files(problem.batch)
    transform = train_transform(problem.size, AugmentConfig()) if train else evaluation_transform(problem.size)
    seeds = iter(range(0, 2**62, problem.batch))

    def load() -> Tensor:
        first = next(seeds)
        batches = [[Draw(index, first + index) for index in batch] for batch in _batches(problem, workers)]
        return torch.cat([batch.images for batch in load_batches(paths, transform, batches, workers=workers)])

    return _variant(load, problem, train)


def pillow(problem: Problem, *, train: bool, workers: int = 0) -> Variant:
    """Build the same with torchvision's transforms on Pillow images, image by image, and torch's DataLoader."""
    with missing_is_named():
        from torch.utils.data import DataLoader
        from torchvision import transforms

        from reference_pipelines.config.sections import IMAGENET, AugmentConfig
        from reference_pipelines.data.transforms import ERASE_ASPECT

        paths = image_files(problem.batch)
    augment, size = AugmentConfig(), problem.size
    steps: list[Any] = [transforms.Resize(size)]
    if train:
        steps += [transforms.RandomHorizontalFlip(augment.flip), transforms.Pad(augment.pad)]
        steps += [transforms.RandomCrop(size)]
    steps += [transforms.ToTensor(), transforms.Normalize(*IMAGENET)]
    if train:
        fill = list(augment.erase_fill)
        steps += [transforms.RandomErasing(augment.erase, augment.erase_area, ERASE_ASPECT, value=fill)]
    loader = DataLoader(
        PillowImages(paths, transforms.Compose(steps)),
        batch_sampler=_batches(problem, workers),
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    return _variant(lambda: torch.cat([images for images, _ in loader]), problem, train)


class PillowImages(Dataset[tuple[Tensor, int]]):
    """Images by Pillow, each with its number."""

    def __init__(self, paths: Sequence[Path], transform: Callable[[Any], Tensor]) -> None:
        self.paths = paths
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), index


def _batches(problem: Problem, workers: int) -> list[list[int]]:
    """Return the images of each batch: one batch, and by workers a pass of two for each of them."""
    size = -(-problem.batch // max(1, 2 * workers))
    return [list(range(start, min(start + size, problem.batch))) for start in range(0, problem.batch, size)]


def _variant(load: Callable[[], Tensor], problem: Problem, train: bool) -> Variant:
    return Variant(on_one_core(load), agrees=not train, items=problem.batch, unit="images")


def on_one_core(work: Callable[[], Tensor]) -> Work:
    """Let torch have one thread, as a loader's worker has."""

    def alone() -> Tensor:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return work()
        finally:
            torch.set_num_threads(threads)

    return alone


@contextmanager
def missing_is_named() -> Iterator[None]:
    """Skip the row for a package that is not installed, and name it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise Skipped(f"{error.name} is not installed; pip install 'attnreid[pipelines]'") from None


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="attnreid-benchmarks-")


@cache
def image_files(count: int) -> tuple[Path, ...]:
    """Write the first `count` images of `data render --size small`, shuffled, as JPEG files."""
    from reference_pipelines.rendering import SIZES, plan_images
    from reference_pipelines.rendering.market import encode_image

    specs = list(plan_images(SIZES["small"]))
    random.Random(0).shuffle(specs)
    paths = tuple(Path(_folder().name) / f"{index:04d}.jpg" for index in range(count))
    for path, spec in zip(paths, specs, strict=False):
        path.write_bytes(encode_image(spec, image_size=_STORED, domain="plaza", seed=0))
    return paths


def _case(name: str, what: str, *, train: bool, workers: int = 0) -> Case:
    build, theirs = (partial(side, train=train, workers=workers) for side in (ours, pillow))
    peer = Peer("pillow", "torch's DataLoader on Pillow images", theirs, Target(1.0))
    return Case(name, what, build, (peer,), SIZES, 64, resizable=False, counted=False, memory=False)


CASES = (
    _case("loading_training", "loading for training, one core", train=True),
    _case("loading_extraction", "loading for extraction, one core", train=False),
    _case("loading_pass", "a pass of training by two workers that are there", train=True, workers=2),
)
"""The rows of this file: JPEG files of 128x64 to normalised batches."""
