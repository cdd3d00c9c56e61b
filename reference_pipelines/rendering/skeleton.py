"""Where the joints are: a walking skeleton in three dimensions, turned and projected on the screen.

Body axes: x to the person's left when seen from the front (screen right at facing 0), y up, z forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from reference_pipelines.rendering.brush import Point
from reference_pipelines.rendering.camera import Camera
from reference_pipelines.rendering.identity import Identity
from reference_pipelines.rendering.pose import Pose

_Joint = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class View:
    """Turns body coordinates into screen points for one facing and one camera."""

    cos: float
    sin: float
    tilt_cos: float
    tilt_sin: float
    roll: float
    perspective: float

    def project(self, x: float, y: float, z: float) -> Point:
        """Project a point of the body; its depth grows towards the viewer."""
        side, depth = x * self.cos + z * self.sin, z * self.cos - x * self.sin
        size = 1.0 + self.perspective * (y - 0.5)
        height = y * self.tilt_cos - depth * self.tilt_sin
        return Point(side * size + self.roll * height, height, depth, size)

    def around(self, angle: float, radius: float, depth_radius: float, y: float) -> Point:
        """Project the point at an angle around the body's axis, 0 in front, on an elliptic cross-section."""
        return self.project(radius * math.sin(angle), y, depth_radius * math.cos(angle))


@dataclass(frozen=True, slots=True)
class Leg:
    """The screen points of one leg."""

    hip: Point
    knee: Point
    ankle: Point
    heel: Point
    toe: Point


@dataclass(frozen=True, slots=True)
class Arm:
    """The screen points of one arm; `side` is -1 or 1."""

    side: int
    shoulder: Point
    elbow: Point
    wrist: Point
    hand: Point


@dataclass(frozen=True, slots=True)
class Skeleton:
    """All joints on the screen, the heights of the trunk, and the view that made them."""

    view: View
    legs: tuple[Leg, Leg]
    arms: tuple[Arm, Arm]
    hip_y: float
    shoulder_y: float
    head: Point


def _leg(side: int, phase: float, stride: float, hip_x: float, hip_y: float) -> tuple[_Joint, ...]:
    """Hip, knee, ankle, heel and toe; the thigh swings as a sine, the knee folds while it swings forward."""
    swing = math.sin(phase)
    pace = stride / 0.36
    thigh = stride * swing + 0.02
    fold = 0.06 + pace * (0.80 * max(0.0, math.cos(phase)) ** 1.5 + 0.22 * max(0.0, -swing))
    pitch = pace * (-0.75 * max(0.0, -swing) + 0.22 * max(0.0, swing))
    upper, lower = hip_y * 0.475, hip_y * 0.435
    x = side * hip_x
    knee = (x * 0.95, hip_y - upper * math.cos(thigh), upper * math.sin(thigh))
    shin = thigh - fold
    ankle = (x * 0.85, knee[1] - lower * math.cos(shin), knee[2] + lower * math.sin(shin))
    forward = (math.cos(pitch), math.sin(pitch))
    heel = (ankle[0], ankle[1] - 0.030 * forward[0], ankle[2] - 0.026 + 0.03 * forward[1])
    toe = (x * 1.05, heel[1] + 0.118 * forward[1], heel[2] + 0.118 * forward[0])
    return (x, hip_y, 0.0), knee, ankle, heel, toe


def _arm(side: int, phase: float, stride: float, shoulder: _Joint, *, raised: bool) -> tuple[_Joint, ...]:
    """Shoulder, elbow, wrist and hand; each arm swings against the leg of its side."""
    swing = -1.15 * stride * math.sin(phase)
    fold = 0.18 + 0.5 * max(0.0, swing)
    if raised:
        swing, fold = 0.45, 1.85
    x, y, z = shoulder
    elbow = (x + side * 0.034, y - 0.160 * math.cos(swing), z + 0.160 * math.sin(swing))
    angle = swing + fold
    wrist = (
        elbow[0] - side * (0.03 if raised else 0.004),
        elbow[1] - 0.135 * math.cos(angle),
        elbow[2] + 0.135 * math.sin(angle),
    )
    hand = (wrist[0], wrist[1] - 0.034 * math.cos(angle + 0.2), wrist[2] + 0.034 * math.sin(angle + 0.2))
    return shoulder, elbow, wrist, hand


def pose_skeleton(identity: Identity, camera: Camera, pose: Pose) -> Skeleton:
    """The person's joints in this pose, as this camera sees them."""
    build = identity.build
    tilt = camera.elevation
    view = View(
        math.cos(pose.facing),
        math.sin(pose.facing),
        math.cos(tilt),
        math.sin(tilt),
        camera.roll,
        camera.perspective,
    )
    hip_y, hip_x = 0.505 * build.legs, 0.050 * build.hips
    legs = [_leg(side, pose.phase + (side > 0) * math.pi, pose.stride, hip_x, hip_y) for side in (-1, 1)]
    ground = min(min(joint[1] for joint in leg[3:]) for leg in legs) - 0.008
    shoulder_y = 0.822 - ground
    lean = 0.10 * pose.stride
    arms = [
        _arm(
            side,
            pose.phase + (side > 0) * math.pi,
            pose.stride,
            (side * 0.097 * build.shoulders, shoulder_y - 0.036, 0.25 * lean),
            raised=pose.raised == side,
        )
        for side in (-1, 1)
    ]
    first, second = (Leg(*(view.project(x, y - ground, z) for x, y, z in leg)) for leg in legs)
    left, right = (Arm(side, *(view.project(*joint) for joint in arm)) for side, arm in zip((-1, 1), arms, strict=True))
    head = view.project(0.0, shoulder_y + 0.116, 0.014 + 0.35 * lean)
    return Skeleton(view, (first, second), (left, right), hip_y - ground, shoulder_y, head)
