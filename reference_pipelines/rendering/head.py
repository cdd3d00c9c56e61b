"""The head: skull, face, hair and hats, from any side."""

from __future__ import annotations

import math

from reference_pipelines.rendering.brush import Brush
from reference_pipelines.rendering.identity import Identity
from reference_pipelines.rendering.palette import RGB, mix, shade
from reference_pipelines.rendering.skeleton import Skeleton

_DARK: RGB = (30, 26, 26)


def _radii(identity: Identity, skeleton: Skeleton) -> tuple[float, float]:
    """Half the head's width (it is longer than wide, so wider from the side) and half its height."""
    view, size = skeleton.view, identity.build.head * skeleton.head.size
    return math.hypot(0.050 * view.cos, 0.062 * view.sin) * size, 0.070 * size


def draw_hair_behind(brush: Brush, identity: Identity, skeleton: Skeleton) -> None:
    """Draw the hair that hangs down the back: behind the trunk when the person faces the camera."""
    style, view, head = identity.head.style, skeleton.view, skeleton.head
    width, height = _radii(identity, skeleton)
    hair = shade(identity.head.hair, 0.85)
    back = head.x - 0.45 * width * view.sin
    if style in ("bob", "long"):
        length = 1.35 if style == "bob" else 2.5
        reach = width * (1.16 - 0.32 * abs(view.sin))
        end = head.y - length * height + 0.8 * reach
        brush.limb(
            head._replace(x=back, y=head.y + 0.25 * height, size=1.0),
            head._replace(x=back, y=end, size=1.0),
            reach,
            reach * 0.84,
            hair,
        )
    elif style == "ponytail":
        knot = head.x - 0.95 * width * view.sin
        tail = knot - 0.35 * width * view.sin
        brush.limb(
            head._replace(x=knot, y=head.y + 0.25 * height, size=1.0),
            head._replace(x=tail, y=head.y - 1.3 * height, size=1.0),
            0.019,
            0.011,
            hair,
        )


def _face(brush: Brush, identity: Identity, skeleton: Skeleton, width: float, height: float) -> None:
    view, head, look = skeleton.view, skeleton.head, identity.head
    facing = math.atan2(view.sin, view.cos)
    front = max(view.cos, 0.0)
    centre = head.x + (0.44 - 0.14 * front) * width * view.sin
    breadth = width * (0.58 + 0.28 * front)
    brush.ellipse(centre, head.y - 0.22 * height, breadth, 0.76 * height, shade(look.skin, 0.9))
    lit = brush.light * 0.12 * breadth
    brush.ellipse(centre + lit, head.y - 0.22 * height, breadth * 0.78, 0.68 * height, shade(look.skin, 1.0))
    if abs(view.sin) > 0.5 and view.cos > -0.3:
        nose = centre + math.copysign(breadth, view.sin)
        brush.ellipse(nose, head.y - 0.16 * height, 0.008, 0.010, look.skin)
    if look.beard:
        # A dome of negative height: the lower half of the face's own outline.
        brush.dome(centre, head.y - 0.44 * height, breadth * 0.96, -0.56 * height, shade(look.hair, 1.1))
    eyes = []
    for angle in (facing - 0.42, facing + 0.42):
        if math.cos(angle) > 0.1:
            eyes.append((head.x + 0.9 * width * math.sin(angle), head.y - 0.14 * height))
    for x, y in eyes:
        brush.ellipse(x, y, 0.0062, 0.0058, _DARK)
        if look.glasses:
            brush.ellipse(x, y, 0.0155, 0.0120, _DARK)
    if look.glasses and len(eyes) == 2:
        brush.line(eyes, 0.005, _DARK)
    if view.cos > 0.1:
        mouth = head.x + 0.8 * width * view.sin
        brush.line(
            [(mouth - 0.013, head.y - 0.56 * height), (mouth + 0.013, head.y - 0.56 * height)],
            0.008,
            mix(look.skin, (150, 40, 50), 0.6),
        )


def draw_hat(brush: Brush, identity: Identity, skeleton: Skeleton) -> None:
    """Draw the hat, if there is one: over all of the hair."""
    view, head, colour = skeleton.view, skeleton.head, identity.carried.hat_colour
    width, height = _radii(identity, skeleton)
    kind = identity.carried.hat
    if kind == "sunhat":
        brush.dome(head.x, head.y + 0.30 * height, width * 1.08, 0.85 * height, colour)
        brush.ellipse(head.x, head.y + 0.34 * height, width * 2.0, 0.24 * height, shade(colour, 0.86))
    elif kind == "beanie":
        brush.dome(head.x, head.y + 0.18 * height, width * 1.12, 1.02 * height, colour)
        brush.line(
            [
                (head.x - width * 1.08, head.y + 0.22 * height),
                (head.x + width * 1.08, head.y + 0.22 * height),
            ],
            0.018,
            shade(colour, 0.75),
        )
    elif kind == "cap":
        brush.dome(head.x, head.y + 0.26 * height, width * 1.10, 0.86 * height, colour)
        if view.cos > -0.35:
            reach = width * (0.85 + 0.15 * view.cos)
            brush.ellipse(
                head.x + 1.05 * width * view.sin,
                head.y + (0.27 - 0.10 * max(view.cos, 0.0)) * height,
                reach,
                0.12 * height,
                shade(colour, 0.72),
            )


def draw_head(brush: Brush, identity: Identity, skeleton: Skeleton) -> None:
    """Draw the head with its hair and face."""
    look, view, head = identity.head, skeleton.view, skeleton.head
    width, height = _radii(identity, skeleton)
    cap = look.skin if look.style == "bald" else look.hair
    brush.ellipse(head.x, head.y + 0.03 * height, width * 1.05, height * 1.02, shade(cap, 0.84))
    glow = brush.light * 0.2 * width
    brush.ellipse(head.x + glow, head.y + 0.10 * height, width * 0.72, height * 0.84, shade(cap, 1.06))
    if view.cos <= -0.25:
        # From behind, the nape shows below short hair.
        if look.style in ("short", "bald", "bun", "ponytail"):
            brush.ellipse(head.x, head.y - 0.88 * height, width * 0.50, 0.20 * height, shade(look.skin, 0.85))
    else:
        _face(brush, identity, skeleton, width, height)
    facing = math.atan2(view.sin, view.cos)
    if look.style in ("short", "bald", "bun", "ponytail"):
        for angle in (facing - 1.55, facing + 1.55):
            if math.cos(angle) > -0.3:
                ear = head.x + width * math.sin(angle)
                brush.ellipse(ear, head.y - 0.12 * height, 0.009, 0.016, shade(look.skin, 0.82))
    if look.style == "bun":
        bun = head.x - 0.75 * width * view.sin
        brush.ellipse(bun, head.y + 0.92 * height, 0.027, 0.025, shade(look.hair, 0.95))
