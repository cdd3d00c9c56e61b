"""Where the person is in a rendered file: drawn again from what the folder says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np

from reference_pipelines.data.layouts.three_folders import MANIFEST
from reference_pipelines.rendering.image import person_mask
from reference_pipelines.rendering.market import DRAWING_VERSION, cast_of
from reference_pipelines.rendering.plan import ImageSpec, RenderSize, plan_images
from reference_pipelines.rendering.seeding import Domain


@dataclass(frozen=True, slots=True)
class _Rendered:
    """A rendered folder as it was asked for."""

    image_size: tuple[int, int]
    domain: Domain
    seed: int
    specs: Mapping[tuple[str, str], ImageSpec]


def mask_of_file(path: Path) -> np.ndarray | None:
    """The part of each pixel of a file on which the person is seen, as `person_mask` has it.

    Args:
        path: A file in a folder that `render_market` wrote, under the name that it has there.

    Returns:
        (H, W) float32, 0..1; None for any other file, and for drawings of another version.
    """
    place = path.absolute()
    found = _read(place.parents[1]) if len(place.parents) > 1 else None
    spec = None if found is None else found.specs.get((place.parent.name, place.name))
    if found is None or spec is None:
        return None
    return person_mask(*cast_of(spec, domain=found.domain, seed=found.seed), image_size=found.image_size)


@lru_cache(maxsize=4)
def _read(root: Path) -> _Rendered | None:
    try:
        told = json.loads((root / MANIFEST).read_text(encoding="utf-8"))["parameters"]
        if told["drawing_version"] != DRAWING_VERSION:
            return None
        size = RenderSize(**{field.name: told[field.name] for field in fields(RenderSize)})
        planned = plan_images(size, domain=told["domain"], seed=told["seed"], occluded=told["occluded"])
        height, width = told["image_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    specs: dict[tuple[str, str], ImageSpec] = {(spec.folder, spec.name): spec for spec in planned}
    return _Rendered((height, width), told["domain"], told["seed"], specs)
