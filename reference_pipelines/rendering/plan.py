"""Which images a data set has: sizes as data, and a pure function from a size to the list of files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from reference_pipelines.errors import closest
from reference_pipelines.rendering.pose import Framing
from reference_pipelines.rendering.seeding import Domain, generator

Folder = Literal["bounding_box_train", "query", "bounding_box_test"]
FOLDERS: tuple[Folder, ...] = ("bounding_box_train", "query", "bounding_box_test")

MAX_IDS, MAX_CAMERAS = 9999, 99  # what four-digit names can hold, and the readers' camera numbers
_STRANGERS = 2_000_000  # numbers of people who are seen once, above every named identity
_EMPTY = 3_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderSize:
    """How many of everything a rendered data set has.

    Every identity is seen by at least two cameras, usually by about three quarters of them. Under each it
    has `images_per_camera` boxes in `bounding_box_train` or `bounding_box_test`; a test identity has one
    further image in `query`. The three totals, where given, replace those counts by exact ones, spread at
    random.

    Fields: `distractors` are boxes of id 0000 (strangers and empty background); `junk` are bad boxes of id
    -1, which the protocol ignores; `train_images`, `query_images` and `gallery_images` (the test identities'
    boxes, without distractors and junk) are exact totals, or None.

    Raises:
        ValueError: A count is out of its range, or the totals cannot be met.
    """

    train_ids: int
    test_ids: int
    cameras: int
    images_per_camera: int
    distractors: int
    junk: int
    train_images: int | None = None
    query_images: int | None = None
    gallery_images: int | None = None

    def __post_init__(self) -> None:
        sighted = self.query_images or self.cameras * self.test_ids
        ranges: tuple[tuple[str, float, float], ...] = (
            ("train_ids", 1, MAX_IDS - 1),
            ("test_ids", 1, MAX_IDS - self.train_ids if isinstance(self.train_ids, int) else MAX_IDS),
            ("cameras", 2, MAX_CAMERAS),
            ("images_per_camera", 1, math.inf),
            ("distractors", 0, math.inf),
            ("junk", 0, math.inf),
            ("train_images", self.cameras * self.train_ids, math.inf),
            ("query_images", 2 * self.test_ids, self.cameras * self.test_ids),
            ("gallery_images", sighted, math.inf),
        )
        for name, low, high in ranges:
            value = getattr(self, name)
            if value is None and name.endswith("_images"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                limit = f"from {low} to {high}" if high < math.inf else f"of at least {low}"
                raise ValueError(
                    f"rendered pedestrians: {name} must be a whole number {limit}, got {value!r}; "
                    "every identity needs two cameras, and every id four digits."
                )


SIZES: Mapping[str, RenderSize] = MappingProxyType(
    {
        "tiny": RenderSize(train_ids=8, test_ids=8, cameras=3, images_per_camera=3, distractors=8, junk=8),
        "small": RenderSize(train_ids=64, test_ids=48, cameras=4, images_per_camera=5, distractors=120, junk=80),
        "market": RenderSize(
            train_ids=751,
            test_ids=750,
            cameras=6,
            images_per_camera=4,
            distractors=2798,
            junk=3819,
            train_images=12936,
            query_images=3368,
            gallery_images=13115,
        ),
    }
)
"""The named sizes; "market" has Market-1501's published counts."""


def named_size(name: str) -> RenderSize:
    """The size of this name.

    Raises:
        ValueError: No size has this name; the message lists the closest ones.
    """
    if name not in SIZES:
        raise ValueError(f"rendered pedestrians: size must be one of {list(SIZES)}, got {name!r}{closest(name, SIZES)}")
    return SIZES[name]


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """One image to be drawn; `empty` means background without a person."""

    folder: Folder
    name: str
    person: int
    camera: int
    index: int
    framing: Framing = "person"
    occluded: bool = False
    empty: bool = False


class _Names:
    """Hands out file names in Market-1501's form, each once: every camera counts its frames."""

    def __init__(self) -> None:
        self._frames: dict[int, int] = {}

    def next(self, label: str, camera: int, *, box: int) -> str:
        frame = self._frames[camera] = self._frames.get(camera, 126) + 25
        return f"{label}_c{camera}s{1 + frame // 40_000}_{frame % 1_000_000:06d}_{box:02d}.jpg"


def _sightings(rng: np.random.Generator, ids: list[int], cameras: int, total: int | None) -> list[tuple[int, int]]:
    """(person, camera) pairs, at least two cameras a person; exactly `total` pairs where given."""
    if total is None:
        counts = rng.integers(max(2, math.ceil(cameras / 2)), cameras + 1, len(ids))
    else:
        extra = rng.permutation(np.repeat(np.arange(len(ids)), cameras - 2))[: total - 2 * len(ids)]
        counts = 2 + np.bincount(extra, minlength=len(ids))
    pairs = []
    for person, count in zip(ids, counts.tolist(), strict=True):
        seen_by = np.sort(rng.choice(cameras, size=count, replace=False)) + 1
        pairs += [(person, camera) for camera in seen_by.tolist()]
    return pairs


def _boxes(rng: np.random.Generator, sightings: int, each: int, total: int | None) -> list[int]:
    """How many boxes each sighting has: `each`, or at least one of exactly `total`."""
    if total is None:
        return [each] * sightings
    weights = rng.uniform(0.3, 1.0, sightings)
    extra = rng.multinomial(total - sightings, weights / weights.sum())
    return [1 + int(count) for count in extra]


def split_ids(size: RenderSize, *, domain: Domain, seed: int) -> tuple[list[int], list[int]]:
    """The numbers of the training and of the test identities, disjoint and in order, counted from 1."""
    rng = generator(seed, domain, "plan", 0)
    numbers = rng.permutation(size.train_ids + size.test_ids) + 1
    return sorted(numbers[: size.train_ids].tolist()), sorted(numbers[size.train_ids :].tolist())


def plan_images(
    size: RenderSize, *, domain: Domain = "plaza", seed: int = 0, occluded: bool = False
) -> tuple[ImageSpec, ...]:
    """Every image of a data set, in a fixed order; the same arguments give the same plan.

    Args:
        size: How many of everything.
        domain: "plaza" or "mall".
        seed: At least 0.
        occluded: True hides a part of the person in every query.
    """
    train, test = split_ids(size, domain=domain, seed=seed)
    rng, names, specs = generator(seed, domain, "plan", 1), _Names(), []

    def add(folder: Folder, label: str, person: int, camera: int, index: int, **options: object) -> None:
        name = names.next(label, camera, box=0 if folder == "query" else 1)
        specs.append(ImageSpec(folder, name, person, camera, index, **options))  # type: ignore[arg-type]

    pairs = _sightings(rng, train, size.cameras, None)
    counts = _boxes(rng, len(pairs), size.images_per_camera, size.train_images)
    for (person, camera), count in zip(pairs, counts, strict=True):
        for index in range(count):
            add("bounding_box_train", f"{person:04d}", person, camera, index)

    pairs = _sightings(rng, test, size.cameras, size.query_images)
    counts = _boxes(rng, len(pairs), size.images_per_camera, size.gallery_images)
    for (person, camera), count in zip(pairs, counts, strict=True):
        add("query", f"{person:04d}", person, camera, 0, occluded=occluded)
        for index in range(1, count + 1):
            add("bounding_box_test", f"{person:04d}", person, camera, index)

    for index in range(size.distractors):
        empty = bool(rng.random() < 0.4)
        person, camera = (_EMPTY if empty else _STRANGERS) + index, int(rng.integers(size.cameras)) + 1
        add("bounding_box_test", "0000", person, camera, 0, framing="distractor", empty=empty)
    for index in range(size.junk):
        person, camera = int(rng.choice(test)), int(rng.integers(size.cameras)) + 1
        add("bounding_box_test", "-1", person, camera, 10_000 + index, framing="junk")
    return tuple(specs)
