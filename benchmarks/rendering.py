"""How many pedestrians one process draws and encodes in a second."""

import random
from functools import partial
from itertools import cycle, islice

from benchmarks.cases import Case, Problem, Shape, Skipped, Variant


def rendering_variant(problem: Problem, *, images: int) -> Variant:
    """Build the drawing of `images` images, as JPEG files in memory; every call draws the next ones of a data set.

    The images are those of `data render --size small`, shuffled; device and dtype play no part.
    """
    try:
        from reference_pipelines.rendering import SIZES, plan_images
        from reference_pipelines.rendering.market import encode_image
    except ModuleNotFoundError as error:
        raise Skipped(f"{error.name} is not installed; pip install 'attnreid[pipelines]'") from None
    specs = list(plan_images(SIZES["small"]))
    random.Random(0).shuffle(specs)
    following = cycle(specs)

    def draw() -> None:
        for spec in islice(following, images):
            encode_image(spec, image_size=problem.size, domain="plaza", seed=0)

    return Variant(draw, items=images, unit="images")


def _case(name: str, what: str, *shapes: Shape, least_per_second: float | None = None) -> Case:
    return Case(
        name,
        what,
        partial(rendering_variant, images=32),
        peers=(),
        shapes=shapes,
        batch=1,
        resizable=False,
        counted=False,
        memory=False,
        least_per_second=least_per_second,
    )


_WHAT = "rendered pedestrians with JPEG encoding, one process"
CASES = (
    _case("rendering", _WHAT, (3, 128, 64), least_per_second=150.0),
    _case("rendering_sizes", f"{_WHAT}, other sizes", (3, 64, 32), (3, 256, 128), (3, 384, 192)),
)
"""The rows of this file."""
