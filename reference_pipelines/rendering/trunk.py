"""The trunk and what covers it: shirts, jackets, coats, skirts, and their patterns."""

from __future__ import annotations

import math
from dataclasses import dataclass

from reference_pipelines.rendering.brush import Brush, Point, between
from reference_pipelines.rendering.identity import Identity
from reference_pipelines.rendering.palette import RGB, shade
from reference_pipelines.rendering.skeleton import Skeleton, View

HEM_BELOW_HIP = {"waist": -0.022, "hip": 0.055, "coat": 0.205}
_SKIRT_LENGTH = {"skirt": 0.235, "long_skirt": 0.40}


def wrap(view: View, start: float, stop: float) -> tuple[float, float] | None:
    """Where an arc around the body appears, as parts -1..1 of the half-width; None if on the far side.

    Args:
        view: The facing.
        start: First body angle in radians, 0 in front.
        stop: Last body angle, above `start`.
    """
    facing = math.atan2(view.sin, view.cos)
    centre = math.remainder((start + stop) / 2 + facing, 2 * math.pi)
    reach = (stop - start) / 2
    low, high = max(centre - reach, -math.pi / 2), min(centre + reach, math.pi / 2)
    return (math.sin(low), math.sin(high)) if low < high else None


@dataclass(frozen=True, slots=True)
class Trunk:
    """The trunk's outline on the screen: rows of (y, centre, half-width) from the shoulders down."""

    rows: tuple[tuple[float, float, float], ...]

    def at(self, part: float) -> tuple[float, float, float]:
        """The row at `part` (0 shoulders, 1 the lowest row) of the height."""
        top, bottom = self.rows[0][0], self.rows[-1][0]
        y = top + (bottom - top) * min(max(part, 0.0), 1.0)
        for upper, lower in zip(self.rows, self.rows[1:], strict=False):
            if y >= lower[0]:
                mixed = (upper[0] - y) / max(upper[0] - lower[0], 1e-9)
                return y, upper[1] + (lower[1] - upper[1]) * mixed, upper[2] + (lower[2] - upper[2]) * mixed
        return self.rows[-1]

    def patch(self, left: float, right: float, top: float, bottom: float) -> list[tuple[float, float]]:
        """The corners of a patch: left and right in -1..1 of the half-width, top and bottom in 0..1."""
        steps = max(1, math.ceil((bottom - top) / 0.34))
        rows = [self.at(top + (bottom - top) * step / steps) for step in range(steps + 1)]
        down = [(centre + left * half, y) for y, centre, half in rows]
        return down + [(centre + right * half, y) for y, centre, half in reversed(rows)]


def trunk_of(identity: Identity, skeleton: Skeleton, *, margin: float = 1.0) -> Trunk:
    """The outline of the trunk from the shoulders to the hip, its widths times `margin`."""
    build, view = identity.build, skeleton.view
    top, hip = skeleton.shoulder_y, skeleton.hip_y
    waist = 0.5 * (build.shoulders + build.hips)
    bodies = (
        (top + 0.014, 0.052 * build.shoulders, 0.036, 0.008),
        (top - 0.004, 0.098 * build.shoulders, 0.050, 0.010),
        (top - 0.030, 0.113 * build.shoulders, 0.060, 0.010),
        (top - 0.100, 0.105 * build.shoulders, 0.070, 0.008),
        (top - 0.215, 0.086 * waist, 0.060, 0.004),
        (hip - 0.012, 0.097 * build.hips, 0.066, 0.0),
    )
    rows = []
    for y, side, depth, forward in bodies:
        centre = view.project(0.0, y, forward)
        half = math.hypot(side * view.cos, depth * waist * view.sin) * centre.size * margin
        rows.append((centre.y, centre.x, half))
    return Trunk(tuple(rows))


def _shaded(brush: Brush, trunk: Trunk, colour: RGB) -> None:
    brush.polygon(trunk.patch(-1, 1, 0, 1), shade(colour, 0.82))
    for width, brightness in ((0.76, 0.95), (0.42, 1.05)):
        step = brush.light * (1 - width) * 0.8
        brush.polygon(trunk.patch(step - width, step + width, 0, 1), shade(colour, brightness))


def draw_drape(brush: Brush, identity: Identity, skeleton: Skeleton, *, length: float, colour: RGB) -> None:
    """Draw what hangs from the hip over the thighs: a skirt or a coat's tail, `length` long."""
    _, centre, half = trunk_of(identity, skeleton, margin=1.04).rows[-1]
    hip = skeleton.view.project(0.0, skeleton.hip_y, 0.0)
    edges: list[float] = []
    for leg in skeleton.legs:
        part = length / max(hip.y - leg.knee.y, 0.05)
        thigh = between(leg.hip, leg.knee, part) if part <= 1 else between(leg.knee, leg.ankle, min(part - 1, 0.9))
        edges += [thigh.x - 0.052, thigh.x + 0.052]
    left, right = min(*edges, centre - half * 1.05), max(*edges, centre + half * 1.05)
    bottom = hip.y - length
    for width, brightness in ((1.0, 0.80), (0.74, 0.94), (0.36, 1.05)):
        step = brush.light * (1 - width) * 0.8
        middle, reach = (left + right) / 2, (right - left) / 2
        brush.polygon(
            [
                (centre + (step - width) * half, hip.y + 0.012),
                (centre + (step + width) * half, hip.y + 0.012),
                (middle + (step + width) * reach, bottom),
                (middle + (step - width) * reach, bottom),
            ],
            shade(colour, brightness),
        )


def draw_lower_trunk(brush: Brush, identity: Identity, skeleton: Skeleton) -> None:
    """Draw the hips and, where it is worn, the skirt."""
    lower = identity.lower
    _shaded(brush, Trunk(trunk_of(identity, skeleton, margin=0.98).rows[-2:]), lower.colour)
    if lower.kind in _SKIRT_LENGTH:
        draw_drape(brush, identity, skeleton, length=_SKIRT_LENGTH[lower.kind], colour=lower.colour)


def _pattern(brush: Brush, identity: Identity, view: View, trunk: Trunk) -> None:
    upper = identity.upper
    colour, count = upper.second, upper.repeats
    if upper.pattern in ("stripes", "check"):
        for index in range(count):
            top = (index + 0.45) / count
            brush.polygon(trunk.patch(-1, 1, top, top + 0.45 / count), colour)
    if upper.pattern in ("pinstripes", "check"):
        for index in range(2 * count):
            angle = math.pi * index / count
            if arc := wrap(view, angle, angle + 0.42 * math.pi / count):
                brush.polygon(trunk.patch(*arc, 0, 1), shade(colour, 0.9))
    if upper.pattern == "two_tone":
        brush.polygon(trunk.patch(-1, 1, 0.10 * count, 1), colour)
    if upper.pattern == "band":
        brush.polygon(trunk.patch(-1, 1, 0.07 * count - 0.02, 0.07 * count + 0.15), colour)
    if upper.pattern == "logo" and (arc := wrap(view, -0.12 * count, 0.12 * count)):
        brush.polygon(trunk.patch(*arc, 0.22, 0.24 + 0.05 * count), colour)


def draw_upper(brush: Brush, identity: Identity, skeleton: Skeleton) -> None:
    """Draw the upper garment without its sleeves: cloth, pattern and opening."""
    upper, view = identity.upper, skeleton.view
    hem = HEM_BELOW_HIP[upper.hem]
    trunk = trunk_of(identity, skeleton, margin=1.0 if upper.hem == "waist" else 1.06)
    if hem > 0:
        draw_drape(brush, identity, skeleton, length=hem, colour=upper.colour)
    else:
        y, centre, half = trunk.at(0.93)
        trunk = Trunk((*trunk.rows[:-1], (y, centre, half)))
    _shaded(brush, trunk, upper.colour)
    _pattern(brush, identity, view, trunk)
    if upper.inner is not None and (arc := wrap(view, -0.42, 0.42)):
        brush.polygon(trunk.patch(*arc, 0, 1), shade(upper.inner, 0.95))


def draw_neckline(brush: Brush, identity: Identity, skeleton: Skeleton, throat: Point) -> None:
    """Draw the neck, and the skin above the garment's collar where the front is seen."""
    skin, neck = identity.head.skin, skeleton.view.project(0.0, skeleton.shoulder_y + 0.020, 0.006)
    brush.limb(neck, throat, 0.030, 0.029, shade(skin, 0.82))
    slope, cloth = (
        0.056 * identity.build.shoulders * (0.55 + 0.45 * abs(skeleton.view.cos)),
        shade(identity.upper.colour, 0.9),
    )
    # The trapezius joins neck and shoulders; without it the head looks stuck on.
    for side in (-1, 1):
        brush.polygon(
            [
                (neck.x + side * slope, neck.y - 0.012),
                (neck.x + side * 0.024, neck.y + 0.020),
                (neck.x + side * 0.020, neck.y - 0.016),
            ],
            cloth,
        )
    if skeleton.view.cos < 0.2:
        brush.ellipse(neck.x, neck.y - 0.006, 0.036, 0.014, cloth)
    else:
        brush.ellipse(neck.x + 0.02 * skeleton.view.sin, neck.y - 0.008, 0.024, 0.020, shade(skin, 0.92))


def draw_collar(brush: Brush, identity: Identity, skeleton: Skeleton) -> None:
    """Draw the hood and the scarf, which lie over the neck."""
    upper, view = identity.upper, skeleton.view
    neck = view.project(0.0, skeleton.shoulder_y + 0.012, 0.0)
    if upper.hood:
        back = view.project(0.0, skeleton.shoulder_y, -0.045)
        deep = 0.052 if view.cos < 0 else 0.026
        brush.ellipse(back.x, back.y - deep / 3, 0.068, deep, shade(upper.colour, 0.72))
    if upper.scarf is not None:
        brush.ellipse(neck.x, neck.y + 0.004, 0.062, 0.026, upper.scarf)
        if arc := wrap(view, 0.1, 0.5):
            brush.polygon(trunk_of(identity, skeleton).patch(*arc, 0, 0.5), shade(upper.scarf, 0.85))
