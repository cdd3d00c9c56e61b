"""Maps over photographs: perceptually uniform colours where the map is high, the photograph where it is low."""

from dataclasses import dataclass

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch.nn import functional

HEAT, GATE = "inferno", "viridis"  # what speaks for a score; what a gate lets pass
_DIMMED = 0.75  # a photograph's brightness below a map, so that its colours stand out
_LEAST, _MOST = 0.12, 0.88  # opacity of a map's colours at its lowest and highest value
_RELIEF = 0.35  # how much of the photograph's light and shade stays in them


@dataclass(frozen=True)
class Scale:
    """What the ends of a colour map stand for.

    Args:
        colours: name of a matplotlib colour map.
        low: the value of its lowest colour.
        high: of its highest.
    """

    colours: str
    low: float
    high: float

    def to_unit(self, values: np.ndarray) -> np.ndarray:
        """Return values between the ends as 0 to 1; where the ends are one, 0 everywhere."""
        wide = self.high - self.low
        return np.clip((values - self.low) / wide, 0, 1) if wide > 0 else np.zeros_like(values)

    def gradient(self) -> str:
        """Return the colours, low to high, as a CSS gradient."""
        shown = matplotlib.colormaps[self.colours]
        stops = ",".join(matplotlib.colors.to_hex(shown(step / 10)) for step in range(11))
        return f"linear-gradient(90deg,{stops})"


def grown(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return maps (N, h, w) at another size (N, H, W), between their centres linearly, as they are drawn."""
    maps = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[:, None]
    found: np.ndarray = functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)[:, 0].numpy()
    return found


def overlaid(photograph: Image.Image, values: np.ndarray, scale: Scale) -> Image.Image:
    """Return a map over a photograph, as large as that.

    The photograph is seen in grey and dimmed. The map's colours lie on it, the more opaque the higher the value, with a
    part of the photograph's light and shade in them.

    Args:
        photograph: of any size.
        values: (h, w).
        scale: of the values.
    """
    grey = np.asarray(photograph.convert("L"), dtype=np.float32)[..., None] / 255
    share = scale.to_unit(grown(values[None], (photograph.height, photograph.width))[0])[..., None]
    colours = matplotlib.colormaps[scale.colours](share[..., 0])[..., :3].astype(np.float32)
    opacity = _LEAST + (_MOST - _LEAST) * share
    relief = 1 - _RELIEF + _RELIEF * grey / max(float(grey.mean()), 0.05)
    blended = opacity * np.clip(colours * relief, 0, 1) + (1 - opacity) * grey * _DIMMED
    return Image.fromarray(np.rint(255 * np.clip(blended, 0, 1)).astype(np.uint8))


def channel_profile(values: np.ndarray, size: tuple[int, int], colours: str = GATE) -> Image.Image:
    """Return a channel gate as bars from 0 at the left to 1 at the right, the widest open channel at the top.

    Args:
        values: (C,), 0 to 1.
        size: width and height of the picture.
        colours: name of a matplotlib colour map.
    """
    width, height = size
    ordered = np.sort(np.clip(values, 0, 1))[::-1]
    rows = np.interp(np.linspace(0, len(ordered) - 1, height), np.arange(len(ordered)), ordered)
    inside = (np.arange(width)[None] + 0.5) / width < rows[:, None]
    bars = np.rint(255 * matplotlib.colormaps[colours](rows)[:, None, :3])
    shown = np.where(inside[..., None], bars, 38).astype(np.uint8)
    shown[:, [width // 4, width // 2, 3 * width // 4]] //= 2  # a quarter, a half, three quarters
    return Image.fromarray(shown)
