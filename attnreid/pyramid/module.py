"""The pyramid as a module: it builds the levels of its plan and walks them."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import attnreid.layers  # noqa: F401  (importing the layers registers their names)
from attnreid._tracing import Unscriptable
from attnreid.blend import blend_affine, blend_map
from attnreid.layers._checks import check_flag, check_map, check_size, describe
from attnreid.layers._folding import reset_norm
from attnreid.layers._probe import HidesProbes, Probe, probed
from attnreid.layers._resizing import Size, copy_with, resize_attention
from attnreid.layers.gate import Gate, SplitDim
from attnreid.layers.pooled import compose
from attnreid.pyramid.levels import attend, build_level, is_bare, joins, one_per_level, split_dims
from attnreid.pyramid.plan import RADIX, parts_per_level, plan_pyramid
from attnreid.registry import Attention, find_builder, option_names

Order = Literal["coarse_to_fine", "fine_to_coarse"]

_WHO = "AttentionPyramid"


class AttentionPyramid(HidesProbes, Unscriptable):
    """Multiplies the map by a pyramid of gates, each level's made from finer parts of the map.

    APNet's Eq. 1-3: level i splits the map into parts, attends each with weights of its own, merges the
    parts' gates and multiplies, `x_i = gate_i * x_{i-1}`. The sigmoid of Eq. 3 is the one of Eq. 4 and 5,
    applied once. Channel gates that see averages only (SE, split attention, any `PooledGate`) use `pool(gate *
    x) = gate * pool(x)`: the levels run on the pooled vector and the map is pooled once and multiplied once,
    whatever the number of levels. The norms of split attention join in, in train mode by the variance over the
    positions, which a gate scales too. Any other pyramid goes level by level.

    Level i is `levels[i - 1]`. Where it is a `Gate`, its merged gate passes the probe "levels.<i - 1>.probe",
    for hooks and feature extractors; `explain_levels` has the map after level i pass "maps.level<i>".

    The paper goes coarse to fine; its released code, and by its authors' word its numbers, fine to coarse,
    with split attention at level 2: `AttentionPyramid(channels, (partial(SqueezeExcitation, hidden=8),
    "split"), order="fine_to_coarse")`.

    An attention that does not split the map itself is split along `dim` and run part by part. With
    `identity_init` the output at first equals a finite input exactly: gates blend as `x * (1 + a * (gate
    - 1))`, any other attention as `x + a * (y - x)`, with one learnt scalar a for the pyramid, `blend`,
    that starts at 0 (unless the attention itself overflows, as it may from about 1e20 in float32).

    Args:
        channels: the channels C of the map.
        attention: a registered name, a layer class, or any callable `(channels)` or `(channels, *, size)`
            that returns a new module from maps to maps of the same shape; options by `functools.partial`. A
            sequence has one a level.
        levels: how many levels (0: the identity), or the parts of each, e.g. (1, 2, 4).
        radix: level i has `radix**(i - 1)` parts; 1 is the paper's stacked attention.
        size: the map's (height, width), for attention that depends on it and for splitting the height.
        dim: what an attention that does not split the map itself is split along, "channels" or "height".
        order: "coarse_to_fine" applies level 1 first, "fine_to_coarse" last.
        identity_init: start as the identity.
        device: where the parameters are made.
        dtype: the parameters' type.

    Shape:
        Input and output `(N, C, H, W)`; a level's merged gate `(N, C, 1, 1)` for channel attention or
        `(N, 1, H, W)` for spatial attention, in (0, 1).

    Raises:
        TypeError: if an option is of the wrong type or the input is not floating point.
        ValueError: if an option is out of range, a level does not divide what it splits, or the input is not
            a map of C channels and at least one position (and of this size, where a level depends on it).

    Example:
        >>> pyramid = AttentionPyramid(64, "se", levels=3)
        >>> pyramid(torch.randn(2, 64, 16, 8)).shape
        torch.Size([2, 64, 16, 8])
    """

    def __init__(
        self,
        channels: int,
        attention: Attention | Sequence[Attention] = "se",
        *,
        levels: int | Sequence[int] = 2,
        radix: int = RADIX,
        size: tuple[int, int] | None = None,
        dim: SplitDim | None = None,
        order: Order = "coarse_to_fine",
        identity_init: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_flag(_WHO, "identity_init", identity_init)
        if order not in ("coarse_to_fine", "fine_to_coarse"):
            raise ValueError(f"{_WHO}: order must be 'coarse_to_fine' or 'fine_to_coarse', got {order!r}: choose one")
        count = len(parts_per_level(levels, radix))
        attentions = one_per_level(attention, count)
        dims = split_dims(attentions, dim)
        self.plan = plan_pyramid(channels, levels=levels, radix=radix, size=size, dim=dims)
        self.channels = channels
        self.attention = attention if isinstance(attention, str) or callable(attention) else tuple(attention)
        self.radix = radix
        self.size = None if size is None else check_size(_WHO, size)
        self.dim = dim
        self.order = order
        self.identity_init = identity_init
        self._given_levels = levels if isinstance(levels, int) else tuple(levels)
        self.levels = nn.ModuleList(
            build_level(each, level, channels, self.size, device, dtype)
            for each, level in zip(attentions, self.plan, strict=True)
        )
        self._steps = range(count) if order == "coarse_to_fine" else range(count - 1, -1, -1)
        sized = any("size" in option_names(find_builder(_WHO, each)) for each in attentions)
        strips = any(level.parts > 1 and level.dim == "height" for level in self.plan)
        self._needed_size = self.size if sized or strips else None
        self.register_module("maps", None)
        self.maps: nn.ModuleDict | None
        self.blend: nn.Parameter | None = None
        if identity_init and count:
            self.blend = nn.Parameter(torch.zeros((), device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """Draw all levels anew, each in its own way, and start the blend at the identity.

        The constructor does not call this: a foreign attention may come with weights of its own.
        """
        self.levels.apply(_reset)
        if self.blend is not None:
            nn.init.zeros_(self.blend)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map after all levels."""
        x = check_map(_WHO, x, self.channels, self._needed_size)
        if not self.plan:
            return x
        layers = [self.levels[index] for index in self._steps]
        gates = [layer for layer in layers if is_bare(layer)]
        pooled = [layer for layer in layers if joins(layer)]
        if self.maps is None and len(pooled) == len(layers):
            return blend_affine(self.blend, *compose(x, pooled))
        if self.maps is None and len(gates) == len(layers):
            return blend_affine(self.blend, x, _merged(gates, x), None)
        y = x
        for index, layer in zip(self._steps, layers, strict=True):
            y = attend(layer, y)
            if self.maps is not None:
                y = probed(self.maps[f"level{index + 1}"], y)
        return blend_map(self.blend, x, y)

    @property
    def reads_average(self) -> bool:
        """Whether every level's gate depends on its map's average alone; see `PooledGate.reads_average`."""
        return self._needed_size is None and all(getattr(level, "reads_average", False) for level in self.levels)

    def resize(self, size: Size) -> "AttentionPyramid":
        """Return a copy for maps of another size: each level resized in its own way, the blend as it is.

        Raises:
            ValueError: a level does not divide the size, or runs an attention that depends on it and has no `resize`.
        """
        size = check_size(_WHO, size)
        parts, dims = [level.parts for level in self.plan], [level.dim for level in self.plan]
        plan = plan_pyramid(self.channels, levels=parts or 0, size=size, dim=dims)
        resized = copy_with(self, *((level, resize_attention(level, size)) for level in self.levels))
        if self.size is not None:
            resized.size, resized.plan = size, plan
            resized._needed_size = None if self._needed_size is None else size
        return resized

    def materialise_maps(self, on: bool) -> None:
        """Have each level's map pass a probe of its own, `maps.level1` and so on, from now on; or no longer."""
        self.maps = None
        if on:
            self.maps = nn.ModuleDict({f"level{level.level}": Probe() for level in self.plan}).train(self.training)

    def extra_repr(self) -> str:
        """Return the channels and the options that were changed; the levels' own follow below it."""
        return describe(
            self.channels,
            attention=(_Verbatim(_show(self.attention)), _show("se")),
            levels=(self._given_levels, 2),
            radix=(self.radix, RADIX),
            size=(self.size, None),
            dim=(self.dim, None),
            order=(self.order, "coarse_to_fine"),
            identity_init=(self.identity_init, False),
        )


def _merged(gates: Sequence[Gate], x: Tensor) -> Tensor:
    """Return the product of all levels' gates, since `(x * g1) * g2 = x * (g1 * g2)`."""
    merged = gates[0].probed_gate(x)
    for gate in gates[1:]:
        merged = merged * gate.probed_gate(x * merged)
    return merged


class _Verbatim(str):
    """Text that shows in a repr as it stands."""

    __slots__ = ()
    __repr__ = str.__str__


def _show(attention: Attention | Sequence[Attention]) -> str:
    """Return the attention as one would write it."""
    if isinstance(attention, str):
        return repr(attention)
    if isinstance(attention, Sequence):
        return f"({', '.join(map(_show, attention))}{',' if len(attention) == 1 else ''})"
    if isinstance(attention, partial):
        options = [*map(repr, attention.args), *(f"{name}={value!r}" for name, value in attention.keywords.items())]
        return f"partial({', '.join([_show(attention.func), *options])})"
    return getattr(attention, "__name__", repr(attention))


def _reset(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    if isinstance(module, _BatchNorm):
        reset_norm(module)
    elif callable(reset):
        reset()
