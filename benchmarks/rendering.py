"""How many pedestrians one process draws and encodes in a second."""

import random
from functools import partial
from itertools import cycle, islice

import torch

from benchmarks.timing import Case, Contest, Skipped

TARGET = 150


def rendering_contest(device: torch.device, *, images: int, image_size: tuple[int, int]) -> Contest:
    """Build the drawing of `images` images, as JPEG files in memory; every call draws the next ones of a data set.

    The images are those of `data render --size small`, shuffled; the device plays no part.
    """
    try:
        from reference_pipelines.data.rendering import SIZES, plan_images
        from reference_pipelines.data.rendering.market import encode_image
    except ModuleNotFoundError as error:
        raise Skipped(f"{error.name} is not installed; install the extra 'pipelines'") from None
    specs = list(plan_images(SIZES["small"]))
    random.Random(0).shuffle(specs)
    following = cycle(specs)

    def draw() -> None:
        for spec in islice(following, images):
            encode_image(spec, image_size=image_size, domain="plaza", seed=0)

    return Contest(
        ours=draw, theirs=None, items=images, unit="images", note=f"ms an image; target at least {TARGET} a second"
    )


CASES = (
    Case(
        "rendering",
        "rendered pedestrians, 128x64, with JPEG encoding, one process",
        "",
        partial(rendering_contest, images=32, image_size=(128, 64)),
    ),
)
"""The row of this file."""
