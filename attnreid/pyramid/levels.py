"""The levels of a pyramid: a layer that splits the map itself, or one attention for each part of it."""

from collections.abc import Sequence
from functools import partial
from typing import TypeGuard, cast

import torch
from torch import Tensor, nn

from attnreid._tracing import Unscriptable, is_recording, leaf
from attnreid.layers._resizing import Size, copy_with, resize_attention
from attnreid.layers.gate import Gate, PooledGate, SplitDim
from attnreid.pyramid.plan import LevelPlan, check_dim
from attnreid.registry import Attention, build_attention, find_builder, option_names

_WHO = "AttentionPyramid"
_AXIS = {"channels": 1, "height": 2}


def one_per_level(attention: Attention | Sequence[Attention], count: int) -> list[Attention]:
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
        find_builder(_WHO, each)  # an unknown name is refused even where no level is built
    return attentions[:count]


def split_dims(attentions: Sequence[Attention], dim: SplitDim | None) -> list[SplitDim | None]:
    """Return what each level splits: what its attention splits by itself, otherwise `dim`, otherwise what suits it."""
    check_dim(dim)
    own = [_gate_class(each).split_dim if _splits_itself(each) else None for each in attentions]
    if dim is not None and own and None not in own and dim not in own:
        raise ValueError(f"{_WHO}: dim must be what the attention splits, {own[0]!r}, got {dim!r}: leave dim out")
    return [fixed or dim or _gate_class(each).split_dim for fixed, each in zip(own, attentions, strict=True)]


def build_level(
    attention: Attention,
    level: LevelPlan,
    channels: int,
    size: tuple[int, int] | None,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> nn.Module:
    """Build one level: a layer that splits the map itself, or one attention for each part."""
    builder = find_builder(_WHO, attention)
    if _splits_itself(attention):
        if "parts" in getattr(builder, "keywords", {}):
            raise ValueError(
                f"{_WHO}: the parts of each level are the pyramid's to set: leave parts out of the partial"
            )
        return build_attention(_WHO, builder, channels, size=size, device=device, dtype=dtype, parts=level.parts)
    modules = [
        build_attention(_WHO, builder, level.channels, size=level.size, device=device, dtype=dtype)
        for _ in range(level.parts)
    ]
    if level.dim is None or level.parts == 1:
        return modules[0]
    if len({id(module) for module in modules}) < level.parts:
        raise ValueError(
            f"{_WHO}: attention must build a new module at each call, got the same one twice: "
            "pass a class or a function that makes one"
        )
    gates = [module for module in modules if is_bare(module)]
    pooled = [gate for gate in gates if joins(gate)]
    if len(gates) < level.parts:
        return Parts(modules, level.dim)
    if len(pooled) == level.parts and level.dim == "channels":
        return PooledParts(channels, pooled)
    return GateParts(channels, gates, level.dim)


def is_bare(layer: nn.Module) -> TypeGuard[Gate]:
    """Whether the layer is the map times its gate and no more."""
    return isinstance(layer, Gate) and layer.multiplies and layer.norm_behind is None


def joins(layer: nn.Module) -> TypeGuard[PooledGate]:
    """Whether the layer, its norm included, can be told from the map's moments."""
    return isinstance(layer, PooledGate) and layer.multiplies and layer.joins


def _gate_class(attention: Attention) -> type[Gate]:
    """Return the class of gates that is built; `Gate` itself, which splits nothing, for any other attention."""
    target: object = find_builder(_WHO, attention)
    while isinstance(target, partial):
        target = target.func
    return target if isinstance(target, type) and issubclass(target, Gate) else Gate


def _splits_itself(attention: Attention) -> bool:
    takes_parts = "parts" in option_names(find_builder(_WHO, attention))
    return takes_parts and _gate_class(attention).split_dim is not None


class Parts(Unscriptable):
    """Splits the map, gives each part to an attention of its own and joins what they return."""

    def __init__(self, parts: Sequence[nn.Module], dim: SplitDim) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.axis = _AXIS[dim]

    def forward(self, x: Tensor) -> Tensor:
        """Return the joined maps."""
        pieces = x.chunk(len(self.parts), self.axis)
        return torch.cat([attend(part, pieces[index]) for index, part in enumerate(self.parts)], self.axis)

    def resize(self, size: Size) -> "Parts":
        """Return a copy for maps of another size, each part resized."""
        return copy_with(self, *resized_parts(self.parts, self.axis, size))


class GateParts(Gate):
    """Splits the map, gives each part to a gate of its own and joins the gates."""

    def __init__(self, channels: int, parts: Sequence[Gate], dim: SplitDim) -> None:
        super().__init__(channels)
        self.parts = nn.ModuleList(parts)
        self.axis = _AXIS[dim]

    def gate(self, x: Tensor) -> Tensor:
        """Return the joined gates."""
        gates = []
        pieces = x.chunk(len(self.parts), self.axis)
        for index, part in enumerate(self.parts):
            piece = pieces[index]
            gate = cast(Gate, part).probed_gate(piece)
            # A gate that is one number for the whole part is spread over it, to stand beside the other
            # parts'.
            extent = [-1] * 4
            extent[self.axis] = piece.shape[self.axis]
            gates.append(gate.expand(extent))
        return torch.cat(gates, self.axis)

    def resize(self, size: Size) -> "GateParts":
        """Return a copy for maps of another size, each part resized."""
        return copy_with(self, *resized_parts(self.parts, self.axis, size))


class PooledParts(PooledGate):
    """Splits the channels and gives the pooled vector of each part to a gate of its own."""

    def __init__(self, channels: int, parts: Sequence[PooledGate]) -> None:
        super().__init__(channels)
        self.parts = nn.ModuleList(parts)

    def gate_of(self, pooled: Tensor) -> Tensor:
        """Return the joined gates, `(N, C)`, of the average-pooled map `(N, C)`."""
        pieces = pooled.chunk(len(self.parts), 1)
        gates = [cast(PooledGate, part).probed_gate_of(pieces[index]) for index, part in enumerate(self.parts)]
        return torch.cat(gates, 1).flatten(1)

    def resize(self, size: Size) -> "PooledParts":
        """Return a copy for maps of another size, each part resized."""
        return copy_with(self, *resized_parts(self.parts, _AXIS["channels"], size))


def resized_parts(parts: nn.ModuleList, axis: int, size: Size) -> list[tuple[nn.Module, nn.Module]]:
    """Return every part with what it becomes where the map, split along `axis`, is of another size."""
    height, width = size
    own = (height // len(parts), width) if axis == _AXIS["height"] else size
    return [(part, resize_attention(part, own)) for part in parts]


def attend(layer: nn.Module, x: Tensor) -> Tensor:
    """Run an attention, refusing one that returns something else than a map of the same shape."""
    return _check_same_shape(type(layer).__name__, x, layer(x))


@leaf
def _check_same_shape(who: str, x: Tensor, y: Tensor) -> Tensor:
    if not is_recording() and y.shape != x.shape:
        raise ValueError(
            f"{_WHO}: {who} must return a map of its input's shape {tuple(x.shape)}, "
            f"got {tuple(y.shape)}: wrap it so that it does"
        )
    return y
