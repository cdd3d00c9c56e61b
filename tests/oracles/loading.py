"""What the network reads of an image file, step by step: Pillow's operations, then float64, a pixel at a time."""

import numpy as np
from PIL import Image, ImageOps

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def resize(image, size, interpolation):
    """Horizontal pass, then vertical, each rounded to 8 bits; Pillow may itself take the vertical one first."""
    height, width = size
    kind = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    return image.resize((width, image.height), kind).resize((width, height), kind)


def augment(image, size, interpolation, *, pad=0, enlarged=None, mirrored=False, corner=None):
    """Resize or enlarge by 1.125 and crop, mirror, then crop at `corner` (row, column) of the padded image."""
    height, width = size
    if enlarged is None:
        image = resize(image, size, interpolation)
    else:
        top, left = enlarged
        larger = resize(image, (round(height * 1.125), round(width * 1.125)), interpolation)
        image = larger.crop((left, top, left + width, top + height))
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    top, left = (pad, pad) if corner is None else corner
    return ImageOps.expand(image, pad, fill=0).crop((left, top, left + width, top + height))


def normalise(image, erased=None, fill=(0.0, 0.0, 0.0)):
    """Return (3, H, W) float64 of a Pillow image; `erased` is (top, left, height, width)."""
    out = np.empty((3, image.height, image.width))
    for channel in range(3):
        for row in range(image.height):
            for column in range(image.width):
                value = image.getpixel((column, row))[channel]
                out[channel, row, column] = (value / 255 - MEAN[channel]) / STD[channel]
    if erased is not None:
        top, left, height, width = erased
        for channel in range(3):
            for row in range(top, top + height):
                for column in range(left, left + width):
                    out[channel, row, column] = fill[channel]
    return out
