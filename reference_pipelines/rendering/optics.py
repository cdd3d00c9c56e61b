"""From a drawn scene to what a sensor stores: light, colour cast, blur, tone curve and noise."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter

from reference_pipelines.rendering.camera import Camera
from reference_pipelines.rendering.pose import Pose

_LUMA = np.array((0.299, 0.587, 0.114), dtype=np.float32)


@lru_cache(maxsize=64)
def _tone_curve(camera: Camera) -> np.ndarray:
    """The sensor's curve as a (256,) uint8 table: gamma, then lifted blacks."""
    level = (np.arange(256) / 255.0) ** camera.gamma
    level = camera.fade + (1.0 - 1.15 * camera.fade) * level
    return np.clip(np.rint(255.0 * level), 0, 255).astype(np.uint8)


@lru_cache(maxsize=64)
def _colour_matrix(camera: Camera) -> np.ndarray:
    """The (3, 3) matrix of saturation and colour cast; a row is an input channel."""
    keep = np.float32(camera.saturation)
    mixing = keep * np.eye(3, dtype=np.float32) + (1 - keep) * np.tile(_LUMA[:, None], (1, 3))
    return mixing * np.asarray(camera.gains, dtype=np.float32)


def shade_figure(figure: np.ndarray, alpha: np.ndarray, camera: Camera) -> np.ndarray:
    """Darken a figure towards the edge that the light does not reach.

    Args:
        figure: (H, W, 3) float32, 0..255.
        alpha: (H, W) float32, the figure's coverage, 0..1.
        camera: Gives the light and the shadow's strength.
    """
    height, width = alpha.shape
    reach = max(2, height // 32)
    soft = Image.fromarray((alpha * 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(reach))
    padded = np.pad(np.asarray(soft, dtype=np.float32) / 255.0, ((0, 0), (reach, reach)), mode="edge")
    side = padded[:, 2 * reach :][:, :width] - padded[:, :width]
    shaded: np.ndarray = figure * (1.0 - 0.55 * camera.light * (0.4 + camera.shadow) * side)[..., None]
    return shaded


def cast_shadow(alpha: np.ndarray, camera: Camera, feet: tuple[float, float]) -> np.ndarray:
    """How much light the ground keeps, (H, W) float32 in 0..1: the figure's shadow, lying on the ground.

    Args:
        alpha: (H, W) float32, the figure's coverage, 0..1.
        camera: Gives the light's direction and the shadow's strength.
        feet: The pixel (x, y) where the person stands.
    """
    height, width = alpha.shape
    flat = 0.10 + 0.5 * camera.elevation
    lean = camera.light * (0.9 if camera.domain == "plaza" else 0.35)
    foot_x, foot_y = feet
    # The standing figure is laid down: rows near the feet stay, higher rows move away from the light.
    matrix = (1.0, -lean / flat, foot_y * lean / flat, 0.0, 1.0 / flat, foot_y - foot_y / flat)
    mask = Image.fromarray((alpha * 255).astype(np.uint8))
    lying = mask.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    lying = lying.filter(ImageFilter.GaussianBlur(height / 100))
    shadow = np.asarray(lying, dtype=np.float32) * np.float32(camera.shadow / 255.0)
    ys, xs = np.ogrid[:height, :width]
    contact = ((xs - foot_x) / (0.17 * height)) ** 2 + ((ys - foot_y) / (0.026 * height)) ** 2
    kept: np.ndarray = (1.0 - shadow) * (1.0 - 0.45 * np.exp(-contact)).astype(np.float32)
    return kept


def expose(image: np.ndarray, camera: Camera, pose: Pose) -> np.ndarray:
    """What the camera stores for a scene.

    Args:
        image: (H, W, 3) float32, 0..255, in true colours.
        camera: Gives cast, tone curve, blur, resolution and noise.
        pose: Gives the light of the moment, its slope, and the noise's seed.

    Returns:
        (H, W, 3) uint8.
    """
    height, width = image.shape[:2]
    warm = np.array((pose.warmth, 1.0, 1.0 / pose.warmth), dtype=np.float32) * np.float32(pose.light)
    image = image.reshape(-1, 3) @ (_colour_matrix(camera) * warm)
    slope = 1.0 + np.float32(pose.slope) * np.linspace(-1.0, 1.0, width, dtype=np.float32)
    image = image.reshape(height, width, 3) * slope[None, :, None]

    picture = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    if camera.resolution < 0.97:
        small = (max(8, round(width * camera.resolution)), max(8, round(height * camera.resolution)))
        picture = picture.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BILINEAR)
    if camera.blur > 0.1:
        picture = picture.filter(ImageFilter.GaussianBlur(camera.blur * height / 128))

    rng = np.random.Generator(np.random.SFC64(pose.noise_seed))
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(camera.noise)
    stored: np.ndarray = np.clip(np.take(_tone_curve(camera), np.asarray(picture)) + noise, 0, 255)
    return stored.astype(np.uint8)
