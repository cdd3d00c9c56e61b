"""What a person carries: bags and umbrellas, before or behind the body as the view has it."""

from __future__ import annotations

import math

from reference_pipelines.rendering.brush import Brush, Point
from reference_pipelines.rendering.identity import Identity
from reference_pipelines.rendering.palette import RGB, shade
from reference_pipelines.rendering.skeleton import Arm, Skeleton
from reference_pipelines.rendering.trunk import trunk_of, wrap


def _pouch(brush: Brush, top: Point, width: float, height: float, colour: RGB, *, taper: float = 1.0) -> None:
    """A bag hanging from its upper edge's middle."""
    for part, brightness in ((1.0, 0.78), (0.72, 1.0)):
        half = width * part
        step = brush.light * (1 - part) * 0.7 * width
        brush.polygon(
            [
                (top.x + step - half, top.y),
                (top.x + step + half, top.y),
                (top.x + step + half * taper, top.y - height),
                (top.x + step - half * taper, top.y - height),
            ],
            shade(colour, brightness),
        )


def draw_backpack(brush: Brush, identity: Identity, skeleton: Skeleton) -> None:
    """Draw the backpack's body."""
    view, colour = skeleton.view, identity.carried.bag_colour
    y = skeleton.shoulder_y
    half = math.hypot(0.088 * view.cos, 0.050 * view.sin)
    top, bottom = view.project(0.0, y - 0.005, -0.098), view.project(0.0, y - 0.255, -0.105)
    brush.limb(
        top._replace(y=top.y - 0.045),
        bottom._replace(y=bottom.y + 0.045),
        half * 0.92,
        half,
        shade(colour, 0.95),
    )
    _pouch(brush, top._replace(y=top.y - 0.03), half, top.y - bottom.y - 0.03, colour)
    if view.cos < 0.3:
        pocket = view.project(0.0, y - 0.15, -0.125)
        _pouch(brush, pocket, half * 0.62, 0.085, shade(colour, 0.7))


def draw_straps(brush: Brush, identity: Identity, skeleton: Skeleton) -> None:
    """Draw on the trunk what runs over it: a backpack's straps or a messenger bag's band."""
    view, carried = skeleton.view, identity.carried
    colour = shade(carried.bag_colour, 0.72)
    if carried.bag == "backpack":
        trunk = trunk_of(identity, skeleton, margin=1.04)
        for start in (-0.85, 0.5):
            if arc := wrap(view, start, start + 0.35):
                brush.polygon(trunk.patch(*arc, 0.0, 0.62), colour)
    elif carried.bag == "messenger":
        depth = 0.062 if view.cos > 0 else -0.062
        high = view.project(-carried.side * 0.062, skeleton.shoulder_y + 0.012, 0.0)
        chest = view.project(0.0, skeleton.shoulder_y - 0.15, depth)
        low = view.project(carried.side * 0.105, skeleton.hip_y + 0.03, 0.0)
        brush.line([high, chest, low], 0.022, colour)


def draw_at_hip(brush: Brush, identity: Identity, skeleton: Skeleton) -> None:
    """Draw a messenger or tote bag at the hip."""
    view, carried = skeleton.view, identity.carried
    colour = carried.bag_colour
    wide = math.hypot(0.050 * view.cos, 0.092 * view.sin)
    if carried.bag == "messenger":
        top = view.project(carried.side * 0.122, skeleton.hip_y + 0.065, -0.02)
        _pouch(brush, top, wide, 0.135, colour)
        _pouch(brush, top, wide * 1.02, 0.060, shade(colour, 0.8))
    else:
        top = view.project(carried.side * 0.130, skeleton.hip_y + 0.11, -0.01)
        shoulder = view.project(carried.side * 0.088, skeleton.shoulder_y + 0.006, 0.0)
        brush.line([(top.x - wide * 0.6, top.y), shoulder, (top.x + wide * 0.6, top.y)], 0.015, shade(colour, 0.7))
        _pouch(brush, top, wide * 0.86, 0.19, colour, taper=1.12)


def is_near(identity: Identity, skeleton: Skeleton) -> bool:
    """Whether the side that carries something is on the camera's side of the body."""
    return skeleton.arms[0 if identity.carried.side < 0 else 1].shoulder.depth >= -0.02


def draw_in_hand(brush: Brush, identity: Identity, skeleton: Skeleton, arm: Arm) -> None:
    """Draw what this arm's hand holds, if anything: a handbag or an umbrella."""
    carried, view = identity.carried, skeleton.view
    if carried.bag == "handbag" and arm.side == carried.side:
        wide = math.hypot(0.052 * view.cos, 0.078 * view.sin)
        top = arm.hand._replace(y=arm.hand.y - 0.045)
        brush.line(
            [(top.x - wide * 0.6, top.y), arm.hand, (top.x + wide * 0.6, top.y)],
            0.013,
            shade(carried.bag_colour, 0.7),
        )
        _pouch(brush, top, wide * 0.84, 0.115, carried.bag_colour, taper=1.18)
    holds_umbrella = arm.side == (-carried.side if carried.bag == "handbag" else carried.side)
    if carried.umbrella == "folded" and holds_umbrella:
        tip = arm.hand._replace(x=arm.hand.x - 0.06 * view.sin, y=max(arm.hand.y - 0.33, 0.02))
        brush.limb(arm.hand, tip, 0.020, 0.006, carried.umbrella_colour)
    elif carried.umbrella == "open" and holds_umbrella:
        colour, rim = carried.umbrella_colour, skeleton.head.y + 0.06
        brush.line([arm.hand, (arm.hand.x * 0.6, rim + 0.1)], 0.010, (70, 70, 74))
        middle = arm.hand.x * 0.6
        brush.dome(middle, rim, 0.255, 0.125, shade(colour, 0.8))
        brush.dome(middle + brush.light * 0.035, rim, 0.17, 0.122, colour)
        brush.dome(middle + brush.light * 0.07, rim, 0.065, 0.118, shade(colour, 1.12))
