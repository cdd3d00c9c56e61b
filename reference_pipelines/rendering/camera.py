"""Who is watching: everything about a camera that stays the same from image to image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reference_pipelines.rendering.palette import tint
from reference_pipelines.rendering.seeding import Domain, check_domain, check_seed, generator

SCENES: dict[str, tuple[str, ...]] = {
    "plaza": ("facade", "park", "street", "steps"),
    "mall": ("shops", "corridor", "atrium", "court"),
}


@dataclass(frozen=True, slots=True)
class Camera:
    """One camera.

    Fields: `style` names the background scene; `elevation` and `roll` are in radians; `perspective` is
    how much larger the head appears than the feet; `light` is where the light comes from, -1 (left) to 1;
    `shadow` its strength, 0..1; `gains` and `matrix` the colour cast; `gamma` the tone curve; `saturation`
    1 for true colours; `fade` lifts black (haze), 0..1; `blur` in pixels of a 128-pixel-high image;
    `resolution` the part of the pixels that the sensor resolves, 0..1; `noise` a standard deviation in
    0..255; `quality` of the JPEG file, 1..95; `zoom` a factor on the person's size in the box.
    """

    number: int
    domain: Domain
    scene_seed: int
    style: str
    elevation: float
    roll: float
    perspective: float
    light: float
    shadow: float
    gains: tuple[float, float, float]
    gamma: float
    saturation: float
    fade: float
    blur: float
    resolution: float
    noise: float
    quality: int
    zoom: float


def _colour_cast(rng: np.random.Generator, number: int) -> tuple[float, float, float]:
    # Neighbouring numbers lie 140 degrees apart on the colour circle, so even two cameras always differ.
    hue = np.deg2rad(140.0 * number + rng.uniform(-35.0, 35.0))
    return tint(float(hue), float(rng.uniform(0.04, 0.09)))


def sample_camera(number: int, *, domain: Domain = "plaza", seed: int = 0) -> Camera:
    """The camera with this number; the same arguments give the same camera.

    Args:
        number: Which camera, at least 0.
        domain: "plaza" (outdoors) or "mall" (indoors).
        seed: The data set's seed, at least 0.

    Raises:
        ValueError: The domain is unknown, or the number or the seed is below 0.
    """
    check_domain(domain)
    check_seed(seed)
    if number < 0:
        raise ValueError(f"sample_camera: the number must be >= 0, got {number}; count cameras from 0.")
    rng = generator(seed, domain, "camera", number)
    outdoors = domain == "plaza"
    styles = SCENES[domain]
    elevation = float(rng.uniform(0.04, 0.34))
    return Camera(
        number=number,
        domain=domain,
        scene_seed=int(rng.integers(2**31)),
        style=styles[(number + seed) % len(styles)],
        elevation=elevation,
        roll=float(rng.normal(0.0, 0.025)),
        perspective=0.1 + 0.55 * elevation,
        light=float(rng.choice((-1.0, 1.0)) * rng.uniform(0.35, 1.0)),
        shadow=float(rng.uniform(0.3, 0.6) if outdoors else rng.uniform(0.12, 0.35)),
        gains=_colour_cast(rng, number),
        gamma=float(np.exp(rng.uniform(-0.16, 0.16))),
        saturation=float(rng.uniform(0.75, 1.0)),
        fade=float(rng.uniform(0.0, 0.08)),
        blur=float(rng.uniform(0.0, 0.6)),
        resolution=float(rng.uniform(0.7, 1.0)),
        noise=float(rng.uniform(1.5, 6.5)),
        quality=int(rng.integers(68, 93)),
        zoom=float(rng.uniform(0.93, 1.04)),
    )
