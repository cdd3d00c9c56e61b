"""From an image file to pixels, and which files of a data set do not decode."""

import dataclasses
import os
import stat
from collections.abc import Sequence, Set
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from reference_pipelines.data.formats import FORMATS, UNSIGNED, ending
from reference_pipelines.data.layouts.find import retitled
from reference_pipelines.data.names import printable
from reference_pipelines.data.records import PARTS, ImageList, Part, ReidData
from reference_pipelines.data.workers import map_in_order
from reference_pipelines.errors import UserError
from reference_pipelines.progress import progress_bar

# A JPEG file of 256 x 128 decodes in 0.26 ms by torchcodec, in 0.40 by Pillow, which does it where there is no
# torchcodec; torchvision's decoder takes 0.28, is about to go, and costs each worker torchvision's import.
try:
    from torchcodec.decoders import decode_jpeg
except (ImportError, OSError, RuntimeError):  # it is not installed, or made for another torch
    decode_jpeg = None

_CHECKED_AT_ONCE = 64  # images a worker checks before it reports
_NAMES_SHOWN = 10
_ORIENTATION = 0x0112  # of EXIF
_JPEG = b"\xff\xd8"
# What Pillow refuses by default. A photograph of a person has a thousandth of it, the largest sensors 1.5 * 10**8.
MOST_PIXELS = 178_956_970
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG markers before a frame's size
_ALONE = frozenset({0x01, *range(0xD0, 0xDA)})  # those without a length


def load_image(path: Path) -> Tensor:
    """Return a file's pixels as (3, H, W) uint8 RGB, upright; `FORMATS` says what is read.

    Grey, palette and CMYK images are converted to RGB, 16-bit grey is scaled to 8 bits, transparency is dropped and
    an EXIF orientation is applied, so that the network sees what a viewer shows.

    Raises:
        UserError: the file is missing or does not decode, or its header names more than MOST_PIXELS pixels: such a
            file of a few kB would fill the memory, so nothing of it is decoded.
    """
    try:
        return _decode(path)
    except Exception as error:  # what Pillow raises on a broken file depends on its format and on where it is broken
        reason = _reason(error, path)
        raise UserError(f"data: cannot read the image {path} ({reason}); replace or remove the file") from None


def _decode(path: Path) -> Tensor:
    if stat.S_IFMT(os.stat(path).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
        raise ValueError("neither a file nor a folder")  # a pipe would be waited for
    with open(path, "rb", buffering=0) as file:
        content = bytearray(file.read())
    if not content:
        raise ValueError("the file is empty")
    decoded = _decode_jpeg(content) if content.startswith(_JPEG) else None
    if decoded is not None:
        return decoded
    with Image.open(BytesIO(content), formats=_formats()) as image:
        if (pixels := image.width * image.height) > MOST_PIXELS:  # Pillow's own limit can be changed by anyone
            raise ValueError(f"Image size ({pixels} pixels) exceeds limit of {MOST_PIXELS} pixels")
        return image_pixels(image)


@cache
def _formats() -> tuple[str, ...]:
    """Return those of the formats that this Pillow knows: an older one has no AVIF."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def holds_image(path: Path) -> bool:
    """Return whether a file begins as an image does, whatever its name; not whether it is of an unsigned format."""
    try:
        with Image.open(path, formats=[name for name in _formats() if name not in UNSIGNED]):
            return True
    except Exception:  # as in load_image
        return False


def _decode_jpeg(content: bytearray) -> Tensor | None:
    """Return a JPEG file's pixels by torchcodec, or None where Pillow is to decide.

    Both stand on libjpeg-turbo: the pixels are the same, and so are the files that are refused.
    """
    if decode_jpeg is None or not 0 < jpeg_pixels(content) <= MOST_PIXELS:
        return None
    try:
        pixels: Tensor = decode_jpeg(torch.frombuffer(content, dtype=torch.uint8), mode="UNCHANGED")
    except Exception:  # Pillow says why, or knows better
        return None
    # Four channels are CMYK, which is stored in more ways than one.
    return pixels.expand(3, -1, -1) if len(pixels) in (1, 3) else None


def jpeg_pixels(content: bytes | bytearray) -> int:
    """Return how many pixels a JPEG file's header names; 0 where it is not found where it should be."""
    at = len(_JPEG)
    while at + 9 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker in _FRAMES:
            height, width = content[at + 5 : at + 7], content[at + 7 : at + 9]
            return int.from_bytes(height, "big") * int.from_bytes(width, "big")
        if marker == 0xFF:  # a filler
            at += 1
        elif marker in _ALONE:
            at += 2
        else:
            at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return 0


def image_pixels(image: Image.Image) -> Tensor:
    """Return a Pillow image's pixels as (3, H, W) uint8 RGB, converted as those of a file are.

    Raises:
        ValueError: its pixels are of 32 bits.
    """
    return torch.from_numpy(_rgb(image)).permute(2, 0, 1)


def _rgb(image: Image.Image) -> np.ndarray:
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "I" and image.format == "PPM":  # of more than 8 bits, which Pillow has scaled to 16
        image = image.convert("I;16")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # convert would clip at 255
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of 32 bits, mode {image.mode}, have no common range")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _reason(error: Exception, path: Path) -> str:
    """Return in one line, without the path, why a file did not decode."""
    if isinstance(error, UnidentifiedImageError):
        unknown = [name for name, endings in FORMATS.items() if ending(path.name) in endings and name not in _formats()]
        return f"this Pillow does not read {unknown[0]}" if unknown else "not an image that Pillow knows"
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def try_to_load(path: Path) -> Tensor | str:
    """Return a file's pixels as `load_image` does, or why it does not decode."""
    try:
        return _decode(path)
    except Exception as error:  # as in load_image
        return _reason(error, path)


def _check(paths: Sequence[Path]) -> list[str]:
    return [found if isinstance(found := try_to_load(path), str) else "" for path in paths]


def find_corrupt(paths: Sequence[Path], *, workers: int) -> list[tuple[Path, str]]:
    """Decode every image and return those that do not decode, in the paths' order, each with the reason.

    Args:
        paths: image files.
        workers: processes that decode; 0 decodes in this one.

    Raises:
        UserError: a worker process died.
    """
    chunks = [paths[start : start + _CHECKED_AT_ONCE] for start in range(0, len(paths), _CHECKED_AT_ONCE)]
    reasons: list[str] = []
    with progress_bar(None, len(paths), "checking images", unit="image") as bar:
        for found in map_in_order(_check, chunks, workers=workers):
            reasons += found
            bar.update(len(found))
    return [(path, reason) for path, reason in zip(paths, reasons, strict=True) if reason]


def without_corrupt(data: ReidData, *, workers: int) -> ReidData:
    """Decode every image once and return the data set without those that do not decode, which are printed.

    Args:
        data: as read.
        workers: processes that decode; 0 decodes in this one.

    Raises:
        UserError: nothing is left of a part, or a worker process died.
    """
    paths = list(dict.fromkeys(path for name in PARTS for path in data.part(name).paths))
    corrupt = find_corrupt(paths, workers=workers)
    if not corrupt:
        return data
    bad = {path for path, _ in corrupt}
    train, query, gallery = (_without(data, name, bad) for name in PARTS)
    print(printable(_describe(data, corrupt, len(paths))))
    images = "image that does" if len(corrupt) == 1 else "images that do"
    notes = (*data.notes, f"{len(corrupt):,} {images} not decode left out")
    return retitled(dataclasses.replace(data, train=train, query=query, gallery=gallery, notes=notes))


def _without(data: ReidData, name: Part, bad: Set[Path]) -> ImageList:
    """Return a part without the bad files."""
    images = data.part(name)
    kept = images.where(np.array([path not in bad for path in images.paths], dtype=bool))
    if len(images) and not len(kept):
        raise UserError(
            f"data: some image of the part {name} must decode, none of the {len(images):,} does, the first is "
            f"{images.paths[0]}; is {data.root} unpacked completely?"
        )
    return kept


def _describe(data: ReidData, corrupt: Sequence[tuple[Path, str]], count: int) -> str:
    """Name and count what is left out."""
    named = [f"  {path} ({reason})" for path, reason in corrupt[:_NAMES_SHOWN]]
    lines = [f"data: {len(corrupt):,} of {count:,} images do not decode and are left out:", *named]
    if len(corrupt) > len(named):
        lines.append(
            f"  and {len(corrupt) - len(named):,} more; "
            f"python -m reference_pipelines data verify {data.root} --json lists them all"
        )
    return "\n".join(lines)
