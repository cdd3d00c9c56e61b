"""What stands between the camera and the person."""

from __future__ import annotations

import numpy as np

from reference_pipelines.rendering.brush import SUPERSAMPLING, Brush
from reference_pipelines.rendering.camera import Camera
from reference_pipelines.rendering.palette import RGB, shade
from reference_pipelines.rendering.pose import Pose

_PAINTS: tuple[RGB, ...] = (
    (88, 92, 96),
    (150, 148, 144),
    (62, 70, 66),
    (112, 84, 62),
    (176, 60, 48),
    (60, 84, 120),
)


def _pole(brush: Brush, x: float, size: float, colour: RGB) -> None:
    half = 0.025 + 0.06 * size
    for part, brightness in ((1.0, 0.72), (0.66, 0.95), (0.26, 1.2)):
        step = brush.light * (1 - part) * half * 0.6
        edges = (x + step - half * part, x + step + half * part)
        brush.polygon([(edges[0], -1), (edges[1], -1), (edges[1], 2), (edges[0], 2)], shade(colour, brightness))


def _bench(brush: Brush, size: float, colour: RGB) -> None:
    top = 0.20 + 0.26 * size
    for y in np.linspace(top, top - 0.13, 3):
        brush.polygon([(-1, y), (1, y), (1, y - 0.032), (-1, y - 0.032)], colour)
    brush.polygon([(-1, top - 0.20), (1, top - 0.20), (1, top - 0.26), (-1, top - 0.26)], shade(colour, 1.15))
    for x in (-0.22, 0.22):
        brush.polygon([(x - 0.02, top), (x + 0.02, top), (x + 0.02, -0.1), (x - 0.02, -0.1)], shade(colour, 0.6))


def _barrier(brush: Brush, size: float, colour: RGB) -> None:
    top = 0.16 + 0.38 * size
    brush.polygon([(-1, top), (1, top), (1, -1), (-1, -1)], shade(colour, 0.95))
    brush.polygon([(-1, top), (1, top), (1, top - 0.035), (-1, top - 0.035)], shade(colour, 1.3))
    for x in np.arange(-0.6, 0.7, 0.3):
        brush.polygon([(x, top - 0.06), (x + 0.05, top - 0.06), (x + 0.02, -1), (x - 0.03, -1)], shade(colour, 0.8))


def _bush(brush: Brush, rng: np.random.Generator, x: float, size: float) -> None:
    top = 0.15 + 0.30 * size
    for _ in range(60):
        dx, y, radius = rng.normal(0, 0.14), rng.uniform(-0.1, top), rng.uniform(0.025, 0.06)
        tint = float(rng.uniform(0.6, 1.25))
        brush.ellipse(x + dx, y, radius, radius * 0.8, shade((66, 100, 54), tint))


def draw_obstacle(
    canvas: np.ndarray, camera: Camera, pose: Pose, feet: tuple[float, float], unit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the pose's obstacle over an image.

    Args:
        canvas: (H, W, 3) float32, 0..255; not altered.
        camera: Gives the light and the obstacle's paint, which is the same in all images of a camera.
        pose: Gives the obstacle's kind, place and size.
        feet: The pixel (x, y) where the person stands.
        unit: Pixels per body unit.

    Returns:
        (H, W, 3) float32, a new image; and (H, W) float32, the part of each pixel that the obstacle covers, 0..1.
    """
    height, width = canvas.shape[:2]
    brush = Brush(width, height, unit=unit, origin=feet, light=camera.light)
    rng = np.random.Generator(np.random.PCG64(pose.noise_seed))
    colour = _PAINTS[(camera.scene_seed + len(pose.occluder)) % len(_PAINTS)]
    x = (pose.occluder_x - 0.5) * 0.5
    if pose.occluder == "pole":
        _pole(brush, x, pose.occluder_size, colour)
    elif pose.occluder == "bench":
        _bench(brush, pose.occluder_size, colour)
    elif pose.occluder == "barrier":
        _barrier(brush, pose.occluder_size, colour)
    elif pose.occluder == "bush":
        _bush(brush, rng, x, pose.occluder_size)
    drawn = np.asarray(brush.image.reduce(SUPERSAMPLING), dtype=np.float32)
    alpha = drawn[..., 3:] / 255.0
    covered: np.ndarray = canvas + alpha * (drawn[..., :3] - canvas)
    return covered, alpha[..., 0]
