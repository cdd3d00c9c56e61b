"""How many images one core decodes, arranges and normalises in a second, against the usual way with Pillow images."""

import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import Case, Peer, Problem, Shape, Skipped, Target, Variant, Work

SIZES: tuple[Shape, ...] = ((3, 256, 128), (3, 384, 192))
"""MLA's and APNet-S's image size, and APNet-C's."""

_STORED = (128, 64)  # of the files, as in Market-1501


def ours(problem: Problem, *, train: bool) -> Variant:
    """Build the pipelines' loading of one batch, in this process; every training batch is drawn anew."""
    with _missing_is_named():
        from reference_pipelines.config.sections import AugmentConfig
        from reference_pipelines.data.dataset import Draw, load_batches
        from reference_pipelines.data.transforms import evaluation_transform, train_transform

        paths = _files(problem.batch)
    transform = train_transform(problem.size, AugmentConfig()) if train else evaluation_transform(problem.size)
    seeds = iter(range(0, 2**62, problem.batch))

    def load() -> Tensor:
        first = next(seeds)
        draws = [Draw(index, first + index) for index in range(problem.batch)]
        (batch,) = load_batches(paths, transform, [draws], workers=0)
        return batch.images

    return _variant(load, problem, train)


def pillow(problem: Problem, *, train: bool) -> Variant:
    """Build the same with torchvision's transforms on Pillow images, image by image, and torch's collation."""
    with _missing_is_named():
        from PIL import Image
        from torch.utils.data import default_collate
        from torchvision import transforms

        from reference_pipelines.config.sections import IMAGENET_MEAN, AugmentConfig
        from reference_pipelines.data.transforms import ERASE_ASPECT, IMAGENET_STD

        paths = _files(problem.batch)
    augment, size = AugmentConfig(), problem.size
    steps: list[Any] = [transforms.Resize(size)]
    if train:
        steps += [transforms.RandomHorizontalFlip(augment.flip), transforms.Pad(augment.pad)]
        steps += [transforms.RandomCrop(size)]
    steps += [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    if train:
        fill = list(augment.erase_fill)
        steps += [transforms.RandomErasing(augment.erase, augment.erase_area, ERASE_ASPECT, value=fill)]
    transform = transforms.Compose(steps)

    def load() -> Tensor:
        samples = []
        for index, path in enumerate(paths):
            with Image.open(path) as image:
                samples.append((transform(image.convert("RGB")), index))
        images: Tensor = default_collate(samples)[0]
        return images

    return _variant(load, problem, train)


def _variant(load: Callable[[], Tensor], problem: Problem, train: bool) -> Variant:
    return Variant(_on_one_core(load), agrees=not train, items=problem.batch, unit="images")


def _on_one_core(work: Callable[[], Tensor]) -> Work:
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
def _missing_is_named() -> Iterator[None]:
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
def _files(count: int) -> tuple[Path, ...]:
    """Write the first `count` images of `data render --size small`, shuffled, as JPEG files."""
    from reference_pipelines.rendering import SIZES, plan_images
    from reference_pipelines.rendering.market import encode_image

    specs = list(plan_images(SIZES["small"]))
    random.Random(0).shuffle(specs)
    paths = tuple(Path(_folder().name) / f"{index:04d}.jpg" for index in range(count))
    for path, spec in zip(paths, specs, strict=False):
        path.write_bytes(encode_image(spec, image_size=_STORED, domain="plaza", seed=0))
    return paths


def _case(name: str, what: str, *, train: bool) -> Case:
    peer = Peer("pillow", "torchvision on Pillow images", partial(pillow, train=train), Target(1.0))
    return Case(
        name, what, partial(ours, train=train), (peer,), SIZES, 64, resizable=False, counted=False, memory=False
    )


CASES = (
    _case("loading_training", "loading for training, one core", train=True),
    _case("loading_extraction", "loading for extraction, one core", train=False),
)
"""The rows of this file: JPEG files of 128x64 to normalised batches."""
