"""A canvas in body units: x to the right, y up from the ground, 1 the height of an average person.

The canvas is larger than the image (`SUPERSAMPLING`) and is averaged down at the end, so edges are smooth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from reference_pipelines.rendering.palette import RGB, shade

SUPERSAMPLING = 2


class Point(NamedTuple):
    """A point on the screen: place in body units, depth towards the viewer, and local magnification."""

    x: float
    y: float
    depth: float = 0.0
    size: float = 1.0


def between(first: Point, second: Point, part: float) -> Point:
    """The point that lies `part` (0..1) of the way from the first to the second."""
    return Point(*(a + (b - a) * part for a, b in zip(first, second, strict=True)))


class Brush:
    """Draws shaded limbs and patches on a transparent image.

    Args:
        width: Of the final image, in pixels.
        height: Of the final image, in pixels.
        unit: Pixels of the final image per body unit.
        origin: The pixel (x, y) where the body's (0, 0) lies.
        light: Where the light comes from, -1 (left) to 1 (right).
    """

    def __init__(self, width: int, height: int, *, unit: float, origin: tuple[float, float], light: float) -> None:
        self.image = Image.new("RGBA", (width * SUPERSAMPLING, height * SUPERSAMPLING))
        self.light = light
        self._draw = ImageDraw.Draw(self.image)
        self._unit = unit * SUPERSAMPLING
        self._x, self._y = origin[0] * SUPERSAMPLING, origin[1] * SUPERSAMPLING

    def _pixel(self, x: float, y: float) -> tuple[float, float]:
        return self._x + x * self._unit, self._y - y * self._unit

    def polygon(self, corners: Sequence[tuple[float, ...]], colour: RGB) -> None:
        """Fill a polygon; only the first two numbers of a corner count."""
        self._draw.polygon([self._pixel(corner[0], corner[1]) for corner in corners], fill=colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: RGB) -> None:
        """Fill an ellipse with its centre and its two radii."""
        left, top = self._pixel(x - abs(rx), y + abs(ry))
        right, bottom = self._pixel(x + abs(rx), y - abs(ry))
        self._draw.ellipse((left, top, right, bottom), fill=colour)

    def dome(self, x: float, y: float, rx: float, ry: float, colour: RGB) -> None:
        """Fill the upper half of an ellipse whose centre is (x, y)."""
        angles = [math.pi * step / 12 for step in range(13)]
        self.polygon([(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles], colour)

    def line(self, corners: Sequence[tuple[float, ...]], width: float, colour: RGB) -> None:
        """Draw a line through the corners, at least one canvas pixel wide."""
        pixels = [self._pixel(corner[0], corner[1]) for corner in corners]
        self._draw.line(pixels, fill=colour, width=max(1, round(width * self._unit)), joint="curve")

    def _tube(self, p: tuple[float, float], q: tuple[float, float], rp: float, rq: float, colour: RGB) -> None:
        dx, dy = q[0] - p[0], q[1] - p[1]
        length = math.hypot(dx, dy) or 1e-9
        nx, ny = -dy / length, dx / length
        self.polygon(
            [
                (p[0] + nx * rp, p[1] + ny * rp),
                (q[0] + nx * rq, q[1] + ny * rq),
                (q[0] - nx * rq, q[1] - ny * rq),
                (p[0] - nx * rp, p[1] - ny * rp),
            ],
            colour,
        )
        self.ellipse(p[0], p[1], rp, rp, colour)
        self.ellipse(q[0], q[1], rq, rq, colour)

    def limb(self, p: Point, q: Point, rp: float, rq: float, colour: RGB) -> None:
        """Draw a tapered, rounded limb from p to q, lighter on the side of the light."""
        rp, rq = rp * p.size, rq * q.size
        self._tube((p.x, p.y), (q.x, q.y), rp, rq, shade(colour, 0.80))
        for width, brightness in ((0.74, 0.96), (0.40, 1.08)):
            step = self.light * (1.0 - width) * 0.85
            self._tube(
                (p.x + step * rp, p.y),
                (q.x + step * rq, q.y),
                rp * width,
                rq * width,
                shade(colour, brightness),
            )
