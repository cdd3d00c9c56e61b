"""Draws a whole person, the far parts first: a painter's order that follows the facing."""

from __future__ import annotations

from dataclasses import replace

from reference_pipelines.rendering.brush import Brush, between
from reference_pipelines.rendering.camera import Camera
from reference_pipelines.rendering.carried import (
    draw_at_hip,
    draw_backpack,
    draw_in_hand,
    draw_straps,
    is_near,
)
from reference_pipelines.rendering.head import draw_hair_behind, draw_hat, draw_head
from reference_pipelines.rendering.identity import Identity
from reference_pipelines.rendering.palette import shade
from reference_pipelines.rendering.pose import Pose
from reference_pipelines.rendering.skeleton import Arm, Leg, Skeleton, pose_skeleton
from reference_pipelines.rendering.trunk import (
    draw_collar,
    draw_lower_trunk,
    draw_neckline,
    draw_upper,
)

_BARE_LEGS = ("shorts", "skirt", "long_skirt")
_FAR = 0.84  # the parts away from the camera lie in the body's own shadow


def _draw_shoe(brush: Brush, identity: Identity, leg: Leg, dim: float) -> None:
    lower, limbs = identity.lower, identity.build.limbs
    colour, sole = shade(lower.shoes, dim), shade(lower.soles, dim)
    ankle, heel, toe = leg.ankle, leg.heel, leg.toe
    brush.limb(heel._replace(y=heel.y - 0.004), toe._replace(y=toe.y - 0.004), 0.021, 0.017, sole)
    brush.limb(heel._replace(y=heel.y + 0.009), toe._replace(y=toe.y + 0.007), 0.022, 0.017, colour)
    brush.limb(ankle, heel._replace(y=heel.y + 0.012), 0.026 * limbs, 0.022, colour)
    if lower.boots:
        brush.limb(between(leg.knee, ankle, 0.45), ankle, 0.037 * limbs, 0.029 * limbs, colour)


def _draw_leg(brush: Brush, identity: Identity, leg: Leg, dim: float) -> None:
    lower, limbs = identity.lower, identity.build.limbs
    cloth, bare = shade(lower.colour, dim), shade(lower.tights or identity.head.skin, dim)
    thigh, knee, ankle = 0.058 * limbs * identity.build.hips, 0.040 * limbs, 0.028 * limbs
    if lower.kind in _BARE_LEGS:
        brush.limb(leg.hip, leg.knee, thigh * 0.9, knee, bare)
        brush.limb(leg.knee, leg.ankle, knee, ankle, bare)
        _draw_shoe(brush, identity, leg, dim)
        if lower.kind == "shorts":
            brush.limb(leg.hip, between(leg.hip, leg.knee, 0.80), thigh, 0.046 * lower.width, cloth)
    else:
        _draw_shoe(brush, identity, leg, dim)
        wide = lower.width**1.6
        hem = between(leg.knee, leg.ankle, 0.5 if lower.boots else 0.97)
        brush.limb(leg.hip, leg.knee, thigh, knee * wide**0.7 * 1.06, cloth)
        brush.limb(leg.knee, hem, knee * wide**0.7 * 1.06, ankle * wide * 1.12, cloth)
    if lower.side_stripe is not None:
        end = leg.ankle if lower.kind == "trousers" and not lower.boots else between(leg.hip, leg.knee, 0.8)
        middle = leg.knee if lower.kind == "trousers" and not lower.boots else end
        brush.line([leg.hip, middle, end], 0.014, shade(lower.side_stripe, dim))


def _draw_arm(brush: Brush, identity: Identity, skeleton: Skeleton, arm: Arm, dim: float) -> None:
    upper, limbs = identity.upper, identity.build.limbs
    second_sleeves = upper.pattern == "two_tone" and upper.repeats % 2 == 0
    cloth = shade(upper.second if second_sleeves else upper.colour, dim * 0.97)
    skin = shade(identity.head.skin, dim)
    thick, elbow, wrist = 0.035 * limbs, 0.027 * limbs, 0.020 * limbs
    draw_in_hand(brush, identity, skeleton, arm)
    if upper.sleeve == "long":
        brush.limb(arm.wrist, arm.hand, 0.018, 0.018, skin)
        brush.limb(arm.shoulder, arm.elbow, thick * 1.06, elbow * 1.22, cloth)
        brush.limb(arm.elbow, arm.wrist, elbow * 1.22, wrist * 1.30, cloth)
        return
    brush.limb(arm.shoulder, arm.elbow, thick * 0.92, elbow, skin)
    brush.limb(arm.elbow, arm.wrist, elbow, wrist, skin)
    brush.limb(arm.wrist, arm.hand, 0.018, 0.018, skin)
    if upper.sleeve == "short":
        brush.limb(arm.shoulder, between(arm.shoulder, arm.elbow, 0.60), thick * 1.06, 0.036 * limbs, cloth)


def draw_person(brush: Brush, identity: Identity, camera: Camera, pose: Pose) -> Skeleton:
    """Draw a person on the brush's canvas and return the skeleton that was drawn.

    Args:
        brush: The canvas.
        identity: Who.
        camera: Gives elevation, roll and perspective.
        pose: Gives facing, phase of the walk, stride and the raised arm.
    """
    carried = identity.carried
    if carried.umbrella == "open":
        pose = replace(pose, raised=-carried.side if carried.bag == "handbag" else carried.side)
    skeleton = pose_skeleton(identity, camera, pose)
    view = skeleton.view
    sideways = abs(view.sin) > 0.4
    far_leg, near_leg = sorted(skeleton.legs, key=lambda leg: leg.ankle.depth + leg.hip.depth)
    far_arm, near_arm = sorted(skeleton.arms, key=lambda arm: arm.shoulder.depth)
    hip_bag = carried.bag in ("messenger", "tote")

    if view.cos > -0.2:
        draw_hair_behind(brush, identity, skeleton)
    if carried.bag == "backpack" and view.cos > 0.1:
        draw_backpack(brush, identity, skeleton)
    if hip_bag and not is_near(identity, skeleton):
        draw_at_hip(brush, identity, skeleton)
    if sideways or far_arm.hand.depth < -0.05:
        _draw_arm(brush, identity, skeleton, far_arm, _FAR if sideways else 1.0)
    _draw_leg(brush, identity, far_leg, _FAR)
    _draw_leg(brush, identity, near_leg, 1.0)
    draw_lower_trunk(brush, identity, skeleton)
    throat = skeleton.head._replace(y=skeleton.head.y - 0.05)
    draw_upper(brush, identity, skeleton)
    draw_neckline(brush, identity, skeleton, throat)
    draw_collar(brush, identity, skeleton)
    draw_straps(brush, identity, skeleton)
    draw_head(brush, identity, skeleton)
    if carried.bag == "backpack" and view.cos <= 0.1:
        draw_backpack(brush, identity, skeleton)
    if view.cos <= -0.2:
        draw_hair_behind(brush, identity, skeleton)
    draw_hat(brush, identity, skeleton)
    if not (sideways or far_arm.hand.depth < -0.05):
        _draw_arm(brush, identity, skeleton, far_arm, 1.0)
    _draw_arm(brush, identity, skeleton, near_arm, 1.0)
    if hip_bag and is_near(identity, skeleton):
        draw_at_hip(brush, identity, skeleton)
    return skeleton
