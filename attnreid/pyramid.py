"""The attention pyramid: the same attention on the whole map, then on its halves, then on its quarters.

From "Person Re-identification via Attention Pyramid" (APNet), section III-A, its split-attend-merge-stack
principle. A plan says what each level splits (plain data, made and checked by `plan_pyramid`);
`AttentionPyramid` walks it.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import attnreid.layers  # noqa: F401  (importing the layers registers their names)
from attnreid._recording import record
from attnreid._tracing import Unscriptable, is_recording, leaf
from attnreid.layers._checks import check_count, check_flag, check_map, check_multiple, check_size, describe
from attnreid.layers._folding import reset_norm
from attnreid.layers._gate import GateLayer, SplitDim, join_gates
from attnreid.layers._pooling import affine
from attnreid.registry import find_attention, option_names

Attention = str | Callable[..., nn.Module]
Order = Literal["coarse_to_fine", "fine_to_coarse"]

RADIX = 2
_WHO = "AttentionPyramid"


# The plan: what each level splits, as plain data


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
    parts = _parts_per_level(levels, radix)
    dims = [dim] * len(parts) if dim is None or isinstance(dim, str) else list(dim)
    if len(dims) != len(parts):
        raise ValueError(
            f"{_WHO}: dim must be one, or one a level, got {len(dims)} for {len(parts)} levels: add or drop some"
        )
    for axis in dims:
        _check_dim(axis)

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


def _check_dim(dim: object) -> None:
    if dim not in (None, "channels", "height"):
        raise ValueError(f"{_WHO}: dim must be 'channels', 'height' or None, got {dim!r}: choose one")


def _parts_per_level(levels: int | Sequence[int], radix: int) -> tuple[int, ...]:
    check_count(_WHO, "radix", radix)
    if isinstance(levels, int):
        check_count(_WHO, "levels", levels, least=0)
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


# The module: it walks the plan


class AttentionPyramid(Unscriptable):
    """Multiplies the map by a pyramid of gates, each level's made from finer parts of the map.

    APNet's Eq. 1-3: level i splits the map into parts, attends each with weights of its own, merges the
    parts' gates and multiplies, `x_i = gate_i * x_{i-1}`. The sigmoid of Eq. 3 is the one of Eq. 4 and 5,
    applied once. Channel gates that see averages only (SE, split attention) use `pool(gate * x) = gate *
    pool(x)`: the levels run on the pooled vector and the map is pooled once and multiplied once, whatever the
    number of levels. The norms of split attention join in, in train mode by the variance over the positions,
    which a gate scales too. Any other pyramid goes level by level.

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
        dim: what a foreign attention is split along, "channels" or "height".
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
        count = len(_parts_per_level(levels, radix))
        attentions = _one_per_level(attention, count)
        dims = _split_dims(attentions, dim)
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
            _build_level(each, level, channels, self.size, device, dtype)
            for each, level in zip(attentions, self.plan, strict=True)
        )
        self._steps = range(count) if order == "coarse_to_fine" else range(count - 1, -1, -1)
        self._all_gates = all(isinstance(layer, GateLayer) for layer in self.levels)
        sized = any("size" in option_names(_builder(each)) for each in attentions)
        strips = any(level.parts > 1 and level.dim == "height" for level in self.plan)
        self._needed_size = self.size if sized or strips else None
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
        gates = [cast(GateLayer, self.levels[index]) for index in self._steps] if self._all_gates else []
        if gates and all(layer.joins for layer in gates):
            functions = [partial(self._level_gate, index) for index in self._steps]
            return self._multiply(*join_gates(x, [*zip(gates, functions, strict=True)]))
        if gates and all(layer.norm is None for layer in gates):
            return self._multiply(x, self._merged_gate(x), None)
        y = x
        for index in self._steps:
            layer = self.levels[index]
            y = layer.apply_gate(y, self._level_gate(index, y)) if isinstance(layer, GateLayer) else _attend(layer, y)
        return y if self.blend is None else x + self.blend * (y - x)

    def _multiply(self, x: Tensor, factor: Tensor, offset: Tensor | None) -> Tensor:
        """Return what all levels together come to, `x * factor + offset`, blended in where there is a blend."""
        if self.blend is None:
            return affine(x, factor, offset)
        return affine(x, 1 + self.blend * (factor - 1), None if offset is None else self.blend * offset)

    def _merged_gate(self, x: Tensor) -> Tensor:
        """Return the product of all levels' gates, since `(x * g1) * g2 = x * (g1 * g2)`."""
        merged = self._level_gate(self._steps[0], x)
        for index in self._steps[1:]:
            merged = merged * self._level_gate(index, x * merged)
        return merged

    def _level_gate(self, index: int, x: Tensor) -> Tensor:
        """Return and record one level's merged gate."""
        gate = cast(GateLayer, self.levels[index]).gate(x)
        record(self, f"level{index + 1}", gate)
        return gate

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


class _Parts(Unscriptable):
    """Splits the map, gives each part to an attention of its own and joins what they return."""

    def __init__(self, parts: Sequence[nn.Module], dim: SplitDim) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.axis = _AXIS[dim]

    def forward(self, x: Tensor) -> Tensor:
        pieces = x.chunk(len(self.parts), self.axis)
        return torch.cat([_attend(part, pieces[index]) for index, part in enumerate(self.parts)], self.axis)


class _GateParts(GateLayer):
    """Splits the map, gives each part to a gate of its own and joins the gates."""

    name: ClassVar[str] = "parts"

    def __init__(self, parts: Sequence[nn.Module], dim: SplitDim) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.axis = _AXIS[dim]

    def gate(self, x: Tensor) -> Tensor:
        gates = []
        pieces = x.chunk(len(self.parts), self.axis)
        for index, part in enumerate(self.parts):
            piece = pieces[index]
            gate = cast(GateLayer, part).gate(piece)
            # A gate that is one number for the whole part is spread over it, to stand beside the other
            # parts'.
            extent = [-1] * 4
            extent[self.axis] = piece.shape[self.axis]
            gates.append(gate.expand(extent))
        return torch.cat(gates, self.axis)


_AXIS = {"channels": 1, "height": 2}


def _attend(layer: nn.Module, x: Tensor) -> Tensor:
    """Run a foreign attention, refusing one that returns something else than a map of the same shape."""
    return _check_same_shape(type(layer).__name__, x, layer(x))


@leaf
def _check_same_shape(who: str, x: Tensor, y: Tensor) -> Tensor:
    if not is_recording() and y.shape != x.shape:
        raise ValueError(
            f"{_WHO}: {who} must return a map of its input's shape {tuple(x.shape)}, "
            f"got {tuple(y.shape)}: wrap it so that it does"
        )
    return y


def _reset(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    if isinstance(module, _BatchNorm):
        reset_norm(module)
    elif callable(reset):
        reset()


def _one_per_level(attention: Attention | Sequence[Attention], count: int) -> list[Attention]:
    """Return one attention for each level, refusing what cannot build one."""
    if isinstance(attention, Sequence) and not isinstance(attention, str):
        attentions = list(attention)
        if len(attentions) != count:
            raise ValueError(
                f"{_WHO}: attention must be one, or one a level, got {len(attentions)} for {count} "
                f"levels: add or drop some"
            )
    else:
        attentions = [attention] * count if count else [attention]
    for each in attentions:
        if isinstance(each, nn.Module) or not (isinstance(each, str) or callable(each)):
            raise TypeError(
                f"{_WHO}: attention must be a registered name, a layer class or a callable that builds "
                f"a module, "
                f"got {type(each).__name__}: every part needs a new module, so pass what makes one"
            )
        _builder(each)  # an unknown name is refused even where no level is built
    return attentions[:count]


def _builder(attention: Attention) -> Callable[..., nn.Module]:
    return find_attention(attention) if isinstance(attention, str) else attention


def _own_split_dim(attention: Attention) -> SplitDim | None:
    """Return what the attention splits by itself, given `parts=n`; None for one to be run part by part."""
    target: object = _builder(attention)
    while isinstance(target, partial):
        target = target.func
    return target.split_dim if isinstance(target, type) and issubclass(target, GateLayer) else None


def _split_dims(attentions: Sequence[Attention], dim: SplitDim | None) -> list[SplitDim | None]:
    """Return what each level splits: what its attention splits by itself, otherwise `dim`."""
    _check_dim(dim)
    own = [_own_split_dim(each) for each in attentions]
    if dim is not None and own and None not in own and dim not in own:
        raise ValueError(f"{_WHO}: dim must be what the attention splits, {own[0]!r}, got {dim!r}: leave dim out")
    return [each or dim for each in own]


def _build_level(
    attention: Attention,
    level: LevelPlan,
    channels: int,
    size: tuple[int, int] | None,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> nn.Module:
    """Build one level: a layer that splits the map itself, or one attention for each part."""
    builder = _builder(attention)
    if _own_split_dim(attention) is not None:
        if "parts" in getattr(builder, "keywords", {}):
            raise ValueError(
                f"{_WHO}: the parts of each level are the pyramid's to set: leave parts out of the partial"
            )
        return _build(builder, channels, size, device, dtype, parts=level.parts)
    modules = [_build(builder, level.channels, level.size, device, dtype) for _ in range(level.parts)]
    if level.dim is None or level.parts == 1:
        return modules[0]
    if len({id(module) for module in modules}) < level.parts:
        raise ValueError(
            f"{_WHO}: attention must build a new module at each call, got the same one twice: "
            "pass a class or a function that makes one"
        )
    gates = all(isinstance(module, GateLayer) and module.norm is None for module in modules)
    return _GateParts(modules, level.dim) if gates else _Parts(modules, level.dim)


def _build(
    builder: Callable[..., nn.Module],
    channels: int,
    size: tuple[int, int] | None,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    **options: Any,
) -> nn.Module:
    """Call the builder with those of size, device and dtype that its signature takes."""
    takes = option_names(builder)
    if "size" in takes:
        if size is not None:
            options["size"] = size
        elif takes["size"].default is inspect.Parameter.empty:
            name = getattr(builder, "__name__", "the attention")
            raise ValueError(f"{_WHO}: {name} must know the map's size, got size=None: pass size=(H, W)")
    placed = "device" in takes and "dtype" in takes
    if placed:
        options.update(device=device, dtype=dtype)
    module = builder(channels, **options)
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"{_WHO}: attention must build an nn.Module, got {type(module).__name__}: return the module "
            f"from the callable"
        )
    return module if placed else module.to(device=device, dtype=dtype)
