"""The plan of a pyramid: what each level splits, as plain data."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from attnreid.layers._checks import check_count, check_multiple, check_size
from attnreid.layers.gate import SplitDim

RADIX = 2
_MOST_LEVELS = 64  # more than any map has parts for
_WHO = "AttentionPyramid"


@dataclass(frozen=True)
class LevelPlan:
    """One level: into how many parts it splits the map, along which dimension, and what each part is."""

    level: int
    parts: int
    dim: SplitDim | None
    channels: int
    size: tuple[int, int] | None


def plan_pyramid(
    channels: int,
    *,
    levels: int | Sequence[int] = 2,
    radix: int = RADIX,
    size: tuple[int, int] | None = None,
    dim: SplitDim | Sequence[SplitDim | None] | None = None,
) -> tuple[LevelPlan, ...]:
    """Say what every level of a pyramid splits a map into, level 1 first.

    A count of levels gives level i `radix**(i - 1)` parts. (APNet's text has radix**i; its ablations, where
    level 1 is the plain attention and radix 1 splits nothing, fix it to this.)

    Args:
        channels: the channels of the map.
        levels: how many levels, or the parts of each, e.g. (1, 2, 4).
        radix: by how much each level splits finer than the one before; only with a count of levels.
        size: the map's (height, width); needed to split the height.
        dim: what to split, "channels" or "height", the same for all levels or one for each; needed where
            parts > 1.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if an argument is out of range, or a level does not divide what it splits.

    Example:
        >>> for level in plan_pyramid(64, levels=2, dim="channels"):
        ...     print(level)
        LevelPlan(level=1, parts=1, dim='channels', channels=64, size=None)
        LevelPlan(level=2, parts=2, dim='channels', channels=32, size=None)
    """
    check_count(_WHO, "channels", channels)
    size = None if size is None else check_size(_WHO, size)
    parts = parts_per_level(levels, radix)
    dims = _dims_per_level(dim, len(parts))
    if len(dims) != len(parts):
        raise ValueError(
            f"{_WHO}: dim must be one, or one a level, got {len(dims)} for {len(parts)} levels: add or drop some"
        )
    for axis in dims:
        check_dim(axis)

    plan = []
    for level, (count, axis) in enumerate(zip(parts, dims, strict=True), start=1):
        if count > 1 and axis is None:
            raise ValueError(
                f"{_WHO}: level {level} has {count} parts of an attention that does not say what it splits, "
                "got dim=None: pass dim='channels' or dim='height'"
            )
        if count > 1 and axis == "height" and size is None:
            raise ValueError(
                f"{_WHO}: level {level} splits the height and must know it, got size=None: pass size=(H, W)"
            )
        # The nearest sizes that an error names must suit every level, not only the one that fails first.
        step = math.lcm(*(other for other, along in zip(parts, dims, strict=True) if along == axis))
        part_channels, part_size = channels, size
        if axis == "channels":
            check_multiple(_WHO, f"channels, split into {count} parts by level {level},", channels, count, step=step)
            part_channels = channels // count
        elif axis == "height" and size is not None:
            check_multiple(_WHO, f"the height, split into {count} parts by level {level},", size[0], count, step=step)
            part_size = (size[0] // count, size[1])
        plan.append(LevelPlan(level, count, axis, part_channels, part_size))
    return tuple(plan)


def _dims_per_level(dim: object, levels: int) -> list[Any]:
    if isinstance(dim, Iterable) and not isinstance(dim, str):
        return list(dim)
    return [dim] * levels


def check_dim(dim: object) -> None:
    """Refuse what no map can be split along."""
    if dim not in (None, "channels", "height"):
        raise ValueError(f"{_WHO}: dim must be 'channels', 'height' or None, got {dim!r}: choose one")


def parts_per_level(levels: int | Sequence[int], radix: int) -> tuple[int, ...]:
    """Return the parts of each level, level 1 first."""
    check_count(_WHO, "radix", radix)
    if isinstance(levels, int):
        check_count(_WHO, "levels", levels, least=0)
        if levels > _MOST_LEVELS:
            raise ValueError(f"{_WHO}: levels must be at most {_MOST_LEVELS}, got {levels}: pass fewer")
        return tuple(radix**level for level in range(levels))
    if isinstance(levels, str) or not isinstance(levels, Sequence):
        raise TypeError(
            f"{_WHO}: levels must be a count or the parts of each level, got {levels!r}: pass e.g. 2 or (1, 2)"
        )
    if not levels:
        raise ValueError(f"{_WHO}: levels must list at least one level, got {levels!r}: pass levels=0 for no attention")
    if radix != RADIX:
        raise ValueError(
            f"{_WHO}: radix makes the parts from a count of levels, got radix={radix} and "
            f"levels={levels!r}: pass one of both"
        )
    for level, count in enumerate(levels, start=1):
        check_count(_WHO, f"the parts of level {level}", count)
    return tuple(levels)
