"""Images from files to batches; the same batches whatever the number of workers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from reference_pipelines.errors import UserError

Transform = Callable[[Tensor], Tensor]


class Draw(NamedTuple):
    """One image to load: its place in the list and the seed of its random augmentation."""

    image: int
    seed: int


class Batch(NamedTuple):
    """Images (B, 3, H, W) and their indices (B,) in the list they were drawn from."""

    images: Tensor
    indices: Tensor


def load_image(path: Path) -> Tensor:
    """Return a file's pixels as (3, H, W) uint8.

    Raises:
        UserError: the file is missing or does not decode.
    """
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # Pillow reports broken files by all three
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"data: cannot read the image {path} ({reason}); replace or remove the file") from None
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


class _Images(Dataset[tuple[Tensor, int] | UserError]):
    def __init__(self, paths: Sequence[Path], transform: Transform) -> None:
        self.paths = paths
        self.transform = transform

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int] | UserError:
        try:
            image = load_image(self.paths[draw.image])
        except UserError as error:
            return error  # an exception raised in a worker would reach the user as a traceback
        # torch.manual_seed would queue a CUDA seed for every image; transforms draw from the CPU's generator alone.
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(draw.seed)
        try:
            return self.transform(image), draw.image
        finally:
            torch.set_rng_state(state)


def _collate(samples: list[tuple[Tensor, int] | UserError]) -> Batch | UserError:
    images, indices = [], []
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
        images.append(sample[0])
        indices.append(sample[1])
    return Batch(torch.stack(images), torch.tensor(indices))


def load_batches(
    paths: Sequence[Path], transform: Transform, batches: Iterable[list[Draw]], *, workers: int
) -> Iterator[Batch]:
    """Load the batches in order.

    Args:
        paths: the images that the draws' indices point at.
        transform: from (3, h, w) uint8 to a float tensor; every image of a batch to the same shape.
        batches: which images go together, and the seed of each one's augmentation.
        workers: processes that decode ahead; 0 decodes in this one.

    Raises:
        UserError: an image does not decode; the sentence names it.
    """
    loader = DataLoader(
        _Images(paths, transform),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        # A generator of its own: the loader would draw its base seed from the global one.
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch
