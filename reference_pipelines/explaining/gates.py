"""Gates of a forward pass as pictures can show them: one number a position, or one a channel."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from attnreid import record_attention

STRONGEST_SLOTS = 3
_SIMILAR = 1.3  # a grid whose sides are so far from the image's is taken for another's


@dataclass(frozen=True)
class GateMap:
    """One gate, or what stands for it.

    Args:
        site: where the attention is, in the backbone.
        level: which one of the site's.
        note: what the numbers are.
        kind: "map", a number a position, or "channels", a number a channel.
        values: (N, h, w), or (N, C) of channels, float32.
    """

    site: str
    level: str
    note: str
    kind: Literal["map", "channels"]
    values: np.ndarray


@torch.no_grad()
def gates_of(backbone: nn.Module, images: Tensor) -> dict[tuple[str, str], np.ndarray]:
    """Return the gate of each level at each site, float32 with a row an image; nothing stays in the backbone.

    Args:
        backbone: in eval mode.
        images: (N, 3, H, W), prepared, where it is.

    Raises:
        ValueError: it is compiled or traced.
    """
    with record_attention(backbone, weights=True) as recorded:
        backbone(images)
    return {
        (site, level): np.nan_to_num(gate.float().numpy(force=True))
        for site, levels in recorded.items()
        for level, gate in levels.items()
    }


def as_maps(gates: Mapping[tuple[str, str], np.ndarray], aspect: float) -> list[GateMap]:
    """Return gates as pictures can show them.

    Args:
        gates: as `gates_of` returns them.
        aspect: the images' height by their width.
    """
    return [each for (site, level), gate in gates.items() for each in _shown(site, level, gate, aspect)]


def _shown(site: str, level: str, gate: np.ndarray, aspect: float) -> list[GateMap]:
    if level.rpartition(".")[2] == "head":
        return _looked_at(site, level, gate, aspect)
    channels, height, width = gate.shape[1:]
    if height == width == 1:
        return [GateMap(site, level, f"of {channels} channels", "channels", gate[:, :, 0, 0])]
    if channels == 1:
        return [GateMap(site, level, "spatial gate", "map", gate[:, 0])]
    if level.rpartition(".")[2] == "domain":
        # A position's slots sum to one, so that their mean is the same everywhere.
        spread = gate.std(axis=(0, 2, 3))
        slots = np.argsort(-spread, kind="stable")[:STRONGEST_SLOTS]
        return [GateMap(site, level, f"memory slot {slot + 1} of {channels}", "map", gate[:, slot]) for slot in slots]
    return [GateMap(site, level, f"mean of {channels} channels", "map", gate.mean(axis=1))]


def _looked_at(site: str, level: str, weights: np.ndarray, aspect: float) -> list[GateMap]:
    """Return how much all positions look at each, of (N, heads, P, P); nothing where their grid is not told."""
    positions = weights.shape[-1]
    heights = [height for height in range(1, positions + 1) if positions % height == 0]
    height = min(heights, key=lambda height: abs(math.log(height**2 / positions / aspect)))
    if not 1 / _SIMILAR < height**2 / positions / aspect < _SIMILAR:
        return []
    # 1 is what each would get if all looked everywhere alike.
    received = weights.mean(axis=(1, 2)) * positions
    return [
        GateMap(site, level, "how much each position is looked at", "map", received.reshape(len(received), height, -1))
    ]
