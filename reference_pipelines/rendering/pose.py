"""How a person is seen in one image: the walk, the box, the moment's light and what stands in the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from reference_pipelines.rendering.seeding import Domain, generator

OccluderKind = Literal["none", "pole", "bench", "barrier", "bush", "person"]
Framing = Literal["person", "junk", "distractor"]

_OCCLUDERS: tuple[OccluderKind, ...] = ("pole", "bench", "barrier", "bush", "person")


@dataclass(frozen=True, slots=True)
class Pose:
    """One image of a person.

    Fields: `facing` in radians, 0 towards the camera, pi/2 towards the right; `phase` of the walking cycle
    in radians; `stride` the hip's swing in radians; `raised` the arm (-1, 1) held up, 0 for none; `scale`
    the person's height as a part of the image's; `dx`, `dy` the shift of the box as a part of its width and
    height; `spot` the place in the scene, 0..1; `light` and `warmth` factors around 1; `slope` a gradient of
    the light; `occluder` with `occluder_x` and `occluder_size`; `companion` the number of the other person
    that a "person" occluder or a bystander is, None without; `noise_seed` for everything finer.
    """

    facing: float = 0.0
    phase: float = 0.0
    stride: float = 0.35
    raised: int = 0
    scale: float = 0.92
    dx: float = 0.0
    dy: float = 0.0
    spot: float = 0.5
    light: float = 1.0
    warmth: float = 1.0
    slope: float = 0.0
    occluder: OccluderKind = "none"
    occluder_x: float = 0.5
    occluder_size: float = 0.3
    companion: int | None = None
    bystander: bool = False
    noise_seed: int = 0


def _box(rng: np.random.Generator, framing: Framing) -> tuple[float, float, float]:
    """Scale, dx and dy of the box: a good detector's, or a bad one's for junk and distractors."""
    if framing == "person":
        scale = rng.normal(0.90, 0.065) + (0.14 if rng.random() < 0.1 else 0.0)
        dx = np.clip(rng.normal(0, 0.08), -0.2, 0.2)
        return float(np.clip(scale, 0.74, 1.2)), float(dx), float(rng.normal(0, 0.03))
    scale = rng.uniform(1.3, 2.0) if rng.random() < 0.6 else rng.uniform(0.5, 0.75)
    return float(scale), float(rng.uniform(-0.4, 0.4)), float(rng.uniform(-0.45, 0.45))


def sample_pose(
    person: int,
    camera: int,
    index: int,
    *,
    domain: Domain = "plaza",
    seed: int = 0,
    framing: Framing = "person",
    occluded: bool = False,
) -> Pose:
    """The pose of image `index` of a person under a camera; the same arguments give the same pose.

    One sighting (person, camera) has one walking direction and one place in the scene, with little
    variation between its images: consecutive frames of one walk, as a tracker would cut them out.

    Args:
        person: The person's number, at least 0.
        camera: The camera's number, at least 0.
        index: Which image of this sighting, at least 0.
        domain: "plaza" or "mall".
        seed: The data set's seed, at least 0.
        framing: "person" for a good box, "junk" or "distractor" for a bad one.
        occluded: True puts something in front of the person always, False in one image of eight.
    """
    walk = generator(seed, domain, "sighting", person, camera)
    direction, place = float(walk.uniform(0, 2 * np.pi)), float(walk.uniform(0, 1))
    daylight = float(np.exp(walk.normal(0, 0.1)))
    standing = bool(walk.random() < 0.12)

    rng = generator(seed, domain, "image", person, camera, index)
    scale, dx, dy = _box(rng, framing)
    turned = rng.normal(0, 0.3) + (rng.uniform(-1.5, 1.5) if rng.random() < 0.15 else 0.0)
    hidden = occluded or bool(rng.random() < 0.12)
    occluder = _OCCLUDERS[int(rng.integers(len(_OCCLUDERS)))] if hidden else "none"
    bystander = not hidden and bool(rng.random() < 0.1)
    return Pose(
        facing=float((direction + turned) % (2 * np.pi)),
        phase=float(rng.uniform(0, 2 * np.pi)),
        stride=float(rng.uniform(0.02, 0.08) if standing else rng.uniform(0.26, 0.46)),
        raised=int(rng.choice((-1, 1))) if rng.random() < 0.1 else 0,
        scale=scale,
        dx=dx,
        dy=dy,
        spot=float((place + rng.normal(0, 0.05)) % 1.0),
        light=float(daylight * np.exp(rng.normal(0, 0.07))),
        warmth=float(np.exp(rng.normal(0, 0.035))),
        slope=float(rng.normal(0, 0.14)),
        occluder=occluder,
        occluder_x=float(rng.uniform(0.15, 0.85)),
        occluder_size=float(rng.uniform(0.5, 1.0) if occluded else rng.uniform(0.15, 0.75)),
        companion=1_000_000 + int(rng.integers(1_000_000)) if bystander or occluder == "person" else None,
        bystander=bystander,
        noise_seed=int(rng.integers(2**31)),
    )
