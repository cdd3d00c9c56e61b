"""Multi-level attention: pixel, head and domain level in a row, in the place of a bottleneck's 3x3 conv.

From "Multi-Level Attention for Unsupervised Person Re-Identification" (MLA), section 3.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from attnreid._tracing import Unscriptable
from attnreid.layers._checks import check_count, check_map, check_size, describe
from attnreid.layers._resizing import Size, copy_with
from attnreid.layers.domain import DomainLevelAttention
from attnreid.layers.head import HeadLevelAttention
from attnreid.layers.pixel import PixelLevelAttention
from attnreid.registry import register_attention
from attnreid.text import closest

Level = Literal["pixel", "head", "domain"]
LEVELS: tuple[Level, ...] = ("pixel", "head", "domain")


@register_attention("multi_level")
class MultiLevelAttention(Unscriptable):
    """Gates the pixels, mixes them by self-attention and adds what a learnt memory recalls.

    The MLA block. Pixel-level attention's gated map is head-level attention's input, and its gate weighs
    head-level attention's position code. The paper runs the three in one block; any subset is a row of its
    Table 6. Its prose leaves the order open; this is Fig. 1's and the one in which the gate exists when it is
    needed. Nothing is added around the head level: the bottleneck has its own shortcut.

    Args:
        channels: the channels C of the map.
        size: the map's (height, width), needed by the head level; without that level any size is welcome.
        levels: which of "pixel", "head" and "domain" to use; they always run in this order.
        heads: the heads of the head level.
        memory: the slots of the domain level's memory.
        device: where the parameters are made.
        dtype: the parameters' type.

    Shape:
        Input and output `(N, C, H, W)`. This is no gate: see the levels for theirs.

    Raises:
        TypeError: if an option is of the wrong type or the input is not floating point.
        ValueError: if an option is out of range, `levels` is empty or has an unknown or doubled level, the
            head level is given no size, or the input is not a map of C channels and, with that
            level, this size.

    Example:
        >>> attention = MultiLevelAttention(64, size=(16, 8), levels=("pixel", "head"))
        >>> attention(torch.randn(2, 64, 16, 8)).shape
        torch.Size([2, 64, 16, 8])
    """

    def __init__(
        self,
        channels: int,
        *,
        size: tuple[int, int] | None = None,
        levels: Sequence[Level] = LEVELS,
        heads: int = 4,
        memory: int = 64,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_count("MultiLevelAttention", "channels", channels)
        check_count("MultiLevelAttention", "heads", heads)
        check_count("MultiLevelAttention", "memory", memory)
        self.channels = channels
        self.heads = heads
        self.memory = memory
        self.levels = _check_levels(levels)
        self.size = None if size is None else check_size("MultiLevelAttention", size)
        self.pixel: PixelLevelAttention | None = None
        self.head: HeadLevelAttention | None = None
        self.domain: DomainLevelAttention | None = None
        if "pixel" in self.levels:
            self.pixel = PixelLevelAttention(channels, device=device, dtype=dtype)
        if "head" in self.levels:
            if self.size is None:
                raise ValueError(
                    "MultiLevelAttention: the head level must know the map's size, got size=None: pass size=(H, W)"
                )
            self.head = HeadLevelAttention(channels, size=self.size, heads=heads, device=device, dtype=dtype)
        if "domain" in self.levels:
            self.domain = DomainLevelAttention(channels, memory=memory, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw all levels anew; the constructor need not, each level does so when it is built."""
        for level in (self.pixel, self.head, self.domain):
            if level is not None:
                level.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Return the map after all levels."""
        x = check_map("MultiLevelAttention", x, self.channels, self.size if self.head is not None else None)
        gate = None
        if self.pixel is not None:
            gate = self.pixel.probed_gate(x)  # here, since the head level needs it too
            x = self.pixel.apply_gate(x, gate)
        if self.head is not None:
            x = self.head(x, gate)
        if self.domain is not None:
            x = self.domain(x)
        return x

    def resize(self, size: Size) -> "MultiLevelAttention":
        """Return a copy for maps of another size: the head level's tables interpolated, all else equal."""
        size = check_size("MultiLevelAttention", size)
        resized = copy_with(self) if self.head is None else copy_with(self, (self.head, self.head.resize(size)))
        resized.size = None if self.size is None else size
        return resized

    def extra_repr(self) -> str:
        """Return the channels and the options that were changed; the levels' own follow below it."""
        return describe(
            self.channels,
            size=(self.size, None),
            levels=(self.levels, LEVELS),
            heads=(self.heads, 4),
            memory=(self.memory, 64),
        )


def _check_levels(levels: Sequence[Level]) -> tuple[Level, ...]:
    """Refuse no levels, unknown levels and doubles, and return the rest in the order they run in."""
    if isinstance(levels, str) or not isinstance(levels, Sequence):
        raise TypeError(f"MultiLevelAttention: levels must be a sequence of names, got {levels!r}: pass e.g. {LEVELS}")
    if not levels:
        raise ValueError(
            f"MultiLevelAttention: levels must name at least one level, got {levels!r}: pass e.g. {LEVELS}"
        )
    for level in levels:
        if level not in LEVELS:
            raise ValueError(
                f"MultiLevelAttention: levels must be among {LEVELS}, got {level!r}: {closest(str(level), LEVELS)}"
            )
    if len(set(levels)) < len(levels):
        raise ValueError(f"MultiLevelAttention: a level can run once only, got {levels!r}: drop the double")
    return tuple(level for level in LEVELS if level in levels)
