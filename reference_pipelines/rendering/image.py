"""One image: a person, a camera and a pose become pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from reference_pipelines.rendering.brush import SUPERSAMPLING, Brush
from reference_pipelines.rendering.camera import Camera
from reference_pipelines.rendering.figure import draw_person
from reference_pipelines.rendering.identity import Identity, sample_identity
from reference_pipelines.rendering.obstacles import draw_obstacle
from reference_pipelines.rendering.optics import cast_shadow, expose, shade_figure
from reference_pipelines.rendering.pose import Pose
from reference_pipelines.rendering.scene import (
    FEET_LINE,
    SCENE_HEIGHT,
    SCENE_UNIT,
    SCENE_WIDTH,
    draw_scene,
)

MIN_IMAGE_SIZE = (16, 8)


def check_image_size(image_size: tuple[int, int], *, who: str) -> None:
    """Refuse an image size in which no person can be seen.

    Raises:
        ValueError: Not two integers of at least `MIN_IMAGE_SIZE`.
    """
    whole = len(image_size) == 2 and all(isinstance(side, int) for side in image_size)
    if not whole or image_size[0] < MIN_IMAGE_SIZE[0] or image_size[1] < MIN_IMAGE_SIZE[1]:
        raise ValueError(
            f"{who}: image_size must be (height, width) of at least {MIN_IMAGE_SIZE}, got {image_size}; "
            "use e.g. (128, 64)."
        )


def _background(
    camera: Camera, pose: Pose, feet: tuple[float, float], unit: float, size: tuple[int, int]
) -> np.ndarray:
    """The piece of the scene behind the person, (H, W, 3) float32, 0..255."""
    height, width = size
    tall, wide = min(height / unit, SCENE_HEIGHT), min(width / unit, SCENE_WIDTH)
    top = min(max(FEET_LINE - feet[1] / unit, 0.0), SCENE_HEIGHT - tall)
    left = pose.spot * (SCENE_WIDTH - wide)
    box = (left * SCENE_UNIT, top * SCENE_UNIT, (left + wide) * SCENE_UNIT, (top + tall) * SCENE_UNIT)
    piece = draw_scene(camera).resize((width, height), Image.Resampling.BILINEAR, box=box)
    return np.asarray(piece, dtype=np.float32)


def _place(
    canvas: np.ndarray, identity: Identity, camera: Camera, pose: Pose, feet: tuple[float, float], unit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a person with their shadow on an (H, W, 3) float32 canvas, 0..255; returns a new one.

    The second array, (H, W), is the part of each pixel that the person covers, without the shadow.
    """
    height, width = canvas.shape[:2]
    brush = Brush(width, height, unit=unit, origin=feet, light=camera.light)
    draw_person(brush, identity, camera, pose)
    drawn = np.asarray(brush.image.reduce(SUPERSAMPLING), dtype=np.float32)
    alpha = drawn[..., 3] / 255.0
    figure = shade_figure(drawn[..., :3], alpha, camera)
    ground = canvas * cast_shadow(alpha, camera, feet)[..., None]
    blended: np.ndarray = ground + alpha[..., None] * (figure - ground)
    return blended, alpha


def _companion(camera: Camera, pose: Pose) -> tuple[Identity, Pose]:
    """The other person in the image, who walks in another direction."""
    assert pose.companion is not None
    # Bystanders are nobody's query: one seed serves every data set.
    other = sample_identity(pose.companion, domain=camera.domain)
    return other, replace(pose, facing=pose.facing + 0.7 + pose.companion % 5, phase=pose.phase + 2.0, raised=0)


def render_image(
    identity: Identity | None, camera: Camera, pose: Pose, *, image_size: tuple[int, int] = (128, 64)
) -> np.ndarray:
    """Draw one image; the same arguments give the same pixels.

    Args:
        identity: Who is seen, by `sample_identity`; None draws the background only.
        camera: Who is watching, by `sample_camera`.
        pose: How, by `sample_pose`.
        image_size: (height, width) in pixels.

    Returns:
        (H, W, 3) uint8, red, green, blue.

    Raises:
        ValueError: The image size is too small.

    >>> from reference_pipelines.rendering import Pose, sample_camera, sample_identity
    >>> render_image(sample_identity(0), sample_camera(0), Pose()).shape
    (128, 64, 3)
    """
    check_image_size(image_size, who="render_image")
    return expose(_composed(identity, camera, pose, image_size)[0], camera, pose)


def person_mask(
    identity: Identity | None, camera: Camera, pose: Pose, *, image_size: tuple[int, int] = (128, 64)
) -> np.ndarray:
    """The part of each pixel on which `render_image` shows the person, for the same arguments.

    The person is the identity with what they wear and carry. Their shadow is not, nor are other people; what stands
    in front of them hides them. The sensor's blur and resolution are left out.

    Args:
        identity: Who is seen; None is nobody.
        camera: Who is watching.
        pose: How.
        image_size: (height, width) in pixels.

    Returns:
        (H, W) float32, 0..1.

    Raises:
        ValueError: The image size is too small.

    >>> from reference_pipelines.rendering import Pose, sample_camera, sample_identity
    >>> mask = person_mask(sample_identity(0), sample_camera(0), Pose())
    >>> mask.shape, float(mask[64, 32]), float(mask[64, 0])
    ((128, 64), 1.0, 0.0)
    """
    check_image_size(image_size, who="person_mask")
    return _composed(identity, camera, pose, image_size)[1]


def _composed(
    identity: Identity | None, camera: Camera, pose: Pose, image_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """What is in front of the camera, (H, W, 3) float32 in true colours, and the person's part of it, (H, W)."""
    height, width = image_size
    tall = identity.build.height if identity is not None else 1.0
    if identity is not None and identity.carried.umbrella == "open":
        tall *= 0.88
    unit = height * pose.scale * camera.zoom * tall
    feet = (width * (0.5 + pose.dx), height * (0.5 + 0.5 * pose.scale * camera.zoom + pose.dy))
    canvas = _background(camera, pose, feet, unit, image_size)
    shown = np.zeros(image_size, dtype=np.float32)

    if pose.companion is not None and pose.bystander:
        other, other_pose = _companion(camera, pose)
        side = -1 if pose.occluder_x < 0.5 else 1
        behind = (feet[0] + side * (0.42 + 0.3 * pose.occluder_size) * width, feet[1] - 0.10 * height)
        canvas, _ = _place(canvas, other, camera, other_pose, behind, unit * 0.86)
    if identity is not None:
        canvas, shown = _place(canvas, identity, camera, pose, feet, unit)
    if pose.occluder == "person" and pose.companion is not None:
        other, other_pose = _companion(camera, pose)
        side = -1 if pose.occluder_x < 0.5 else 1
        before = (feet[0] + side * (0.62 - 0.34 * pose.occluder_size) * width, feet[1] + 0.05 * height)
        canvas, hidden = _place(canvas, other, camera, other_pose, before, unit * 1.06)
        shown = shown * (1 - hidden)
    elif pose.occluder != "none":
        canvas, hidden = draw_obstacle(canvas, camera, pose, feet, unit)
        shown = shown * (1 - hidden)
    return canvas, shown
