"""The image formats that are decoded, and the endings by which the readers know them: one list for both."""

import os
from collections.abc import Mapping
from types import MappingProxyType

FORMATS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
        "PNG": (".png", ".apng"),
        "WEBP": (".webp",),
        "BMP": (".bmp",),
        "GIF": (".gif",),
        "TIFF": (".tif", ".tiff"),
        "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
        "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
        "AVIF": (".avif",),
        "QOI": (".qoi",),
        "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
        "PCX": (".pcx",),
        "TGA": (".tga",),
    }
)
"""By Pillow's name. Of a file with several pictures the first one is read."""

UNSIGNED = ("PCX", "TGA")  # begin with bytes that other files may begin with too

IMAGE_ENDINGS = tuple(ending for endings in FORMATS.values() for ending in endings)
_KNOWN = frozenset(IMAGE_ENDINGS)


def ending(name: str) -> str:
    """Return a file name's ending in lower case with its full stop, "" where there is none."""
    return os.path.splitext(name)[1].lower()


def has_image_ending(name: str) -> bool:
    """Return whether a file's name ends as that of an image that is decoded, in any case."""
    return ending(name) in _KNOWN
