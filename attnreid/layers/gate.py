"""What all gates have in common: a factor in (0, 1) for every number of the map, and the map times that factor.

`Gate` and `PooledGate` are public. A layer that inherits one gets all that this library's own gates have: checks
of the map, a place in `AttentionPyramid` (with the pooled vector's fast path for a `PooledGate`), a probe for hooks
and feature extractors, and `record_attention`.
"""

from typing import ClassVar, Literal, Self

from torch import Tensor, nn

from attnreid._tracing import Unscriptable, leaf, makes_graph
from attnreid.layers._checks import check_count, check_map, check_size, describe
from attnreid.layers._pooling import affine
from attnreid.layers._probe import HidesProbes, Probe, probed
from attnreid.layers._resizing import Size, check_sizeless, copy_with
from attnreid.layers.pooled import compose, is_plain

SplitDim = Literal["channels", "height"]


class Gate(HidesProbes, Unscriptable):
    """Multiplies the map by the gate that a subclass computes from it.

    A subclass defines `gate(x)`. The gate that is applied passes `probe`, a module without weights: a forward hook
    on it sees the gate, in eager code, and torch.fx and feature extractors know it by its dotted name, such as
    "layer1.attention.probe" or, in a pyramid, "layer1.attention.levels.0.probe".

    `AttentionPyramid` splits a gate along `dim`, or along the class's `split_dim` where it says one, and gives each
    part a gate of its own. A subclass that says `split_dim` and takes `parts` handles its parts itself. One that
    depends on the map's size defines `resize(size)` too, which returns a copy for maps of another size: the pyramid's
    `resize` and `Attachment.resize` call it.

    Args:
        channels: the channels C of the map.
        size: the map's (height, width), for a gate that depends on it; None for maps of any size.

    Shape:
        Input and output `(N, C, H, W)`; the gate is of a shape that broadcasts to it.

    Raises:
        TypeError: if an option is of the wrong type or the input is not floating point.
        ValueError: if an option is out of range, or the input is not a map with C channels, at least one position
            and this size, or the gate does not broadcast to the map.

    Example:
        >>> import torch
        >>> from attnreid import AttentionPyramid, Gate
        >>> class Brightness(Gate):
        ...     def gate(self, x):
        ...         return x.mean(dim=1, keepdim=True).sigmoid()
        >>> Brightness(64)(torch.randn(2, 64, 16, 8)).shape
        torch.Size([2, 64, 16, 8])
        >>> AttentionPyramid(64, Brightness, levels=2, size=(16, 8), dim="height")(torch.randn(2, 64, 16, 8)).shape
        torch.Size([2, 64, 16, 8])
    """

    split_dim: ClassVar[SplitDim | None] = None

    def __init__(self, channels: int, *, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        who = type(self).__name__
        check_count(who, "channels", channels)
        self.channels = channels
        self.size = None if size is None else check_size(who, size)
        self.probe = Probe()

    @property
    def multiplies(self) -> bool:
        """Whether the layer is the map times its gate; one with a forward of its own is run as any other attention."""
        return type(self).forward is Gate.forward

    @property
    def norm_behind(self) -> nn.BatchNorm2d | None:
        """The batch norm that the gated map goes through, for a gate that has one."""
        return None

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate of the map `x`, of a shape that broadcasts to it; it passes no probe."""
        raise NotImplementedError(f"{type(self).__name__} must define gate(x)")

    def probed_gate(self, x: Tensor) -> Tensor:
        """Return the gate to be applied, behind its probe."""
        return probed(self.probe, _check_gate(type(self).__name__, self.gate(x), x))

    def apply_gate(self, x: Tensor, gate: Tensor) -> Tensor:
        """Return the gated map, normed where there is a norm behind the gate."""
        y = x * gate
        if self.norm_behind is not None:
            y = self.norm_behind(y)
        return y

    def as_affine(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """Return the map, and factor and offset that make `x * factor + offset` the output; None where none do."""
        if self.norm_behind is not None:
            return None
        x = check_map(type(self).__name__, x, self.channels, self.size)
        return x, self.probed_gate(x), None

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated map."""
        found = self.as_affine(x)
        if found is not None:
            return affine(*found)
        x = check_map(type(self).__name__, x, self.channels, self.size)
        return self.apply_gate(x, self.probed_gate(x))

    def resize(self, size: Size) -> Self:
        """Return a copy for maps of another size; an equal one, since a gate that depends on the size overrides this.

        Raises:
            ValueError: the gate was built for a size, and its class has no `resize` of its own.
        """
        check_size(type(self).__name__, size)
        check_sizeless(self)
        return copy_with(self)

    def extra_repr(self) -> str:
        """Return the channels, and the size where there is one."""
        return describe(self.channels, size=(self.size, None))


class PooledGate(Gate):
    """Multiplies each channel by a gate that a subclass computes from the average-pooled map.

    A subclass defines `gate_of(pooled)`. Since `pool(gate * x) = gate * pool(x)`, a pyramid of such gates runs all
    its levels on the pooled vector: the map is pooled once and multiplied once, whatever the number of levels. For
    the probe, the parts and the arguments see `Gate`; the parts are split along the channels unless told otherwise.

    A subclass that defines `gate(x)` too sees the map, and its pyramids go level by level.

    Shape:
        Input and output `(N, C, H, W)`; pooled vector and its gate `(N, C)`; gate `(N, C, 1, 1)`.

    Raises:
        TypeError: if an option is of the wrong type or the input is not floating point.
        ValueError: if an option is out of range, the input is not a map with C channels and at least one position,
            or `gate_of` does not return one number a channel.

    Example:
        >>> import torch
        >>> from attnreid import AttentionPyramid, PooledGate
        >>> class Efficient(PooledGate):
        ...     def __init__(self, channels):
        ...         super().__init__(channels)
        ...         self.mix = torch.nn.Conv1d(1, 1, 3, padding=1)
        ...     def gate_of(self, pooled):
        ...         return self.mix(pooled[:, None])[:, 0].sigmoid()
        >>> AttentionPyramid(64, Efficient, levels=3)(torch.randn(2, 64, 16, 8)).shape
        torch.Size([2, 64, 16, 8])
    """

    split_dim: ClassVar[SplitDim | None] = "channels"

    def gate_of(self, pooled: Tensor) -> Tensor:
        """Return the weight of every channel, `(N, C)`, from the average-pooled map `(N, C)`."""
        raise NotImplementedError(f"{type(self).__name__} must define gate_of(pooled)")

    def gate(self, x: Tensor) -> Tensor:
        """Return the weight of every channel, `(N, C, 1, 1)`."""
        x = check_map(type(self).__name__, x, self.channels)
        return self._column_of(x.mean(dim=(2, 3)))

    def probed_gate_of(self, pooled: Tensor) -> Tensor:
        """Return the gate to be applied to a map with this pooled vector, `(N, C, 1, 1)`, behind its probe."""
        return probed(self.probe, self._column_of(pooled))

    def _column_of(self, pooled: Tensor) -> Tensor:
        return _check_gate_of(type(self).__name__, self.gate_of(pooled), pooled)[..., None, None]

    @property
    def reads_average(self) -> bool:
        """Whether the gate depends on the map's average alone, so that positions in any number and order will do."""
        return type(self).gate is PooledGate.gate and self.size is None

    @property
    def joins(self) -> bool:
        """Whether the layer is `x * factor + offset` of the map's moments: its norm, if any, is as it was built.

        Another in its place, such as one that is synchronised between processes, has to see the map.
        """
        return type(self).gate is PooledGate.gate and is_plain(self.norm_behind)

    def as_affine(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """Return the map, and factor and offset that make `x * factor + offset` the output; None where none do."""
        if not self.joins:
            return super().as_affine(x)
        return compose(check_map(type(self).__name__, x, self.channels, self.size), [self])


@leaf
def _check_gate(who: str, gate: Tensor, x: Tensor) -> Tensor:
    """Return the gate, refusing one that the map cannot be multiplied with and keep its shape."""
    if not makes_graph() and gate.shape != x.shape:
        sizes = zip(gate.shape, x.shape, strict=False)
        if gate.ndim != x.ndim or not all(own == whole or own == 1 for own, whole in sizes):
            raise ValueError(
                f"{who}: the gate must broadcast to the map {tuple(x.shape)}, got {tuple(gate.shape)}: "
                "return one number for each position, each channel or both from gate(x)"
            )
    return gate


@leaf
def _check_gate_of(who: str, gate: Tensor, pooled: Tensor) -> Tensor:
    if not makes_graph() and gate.shape != pooled.shape:
        raise ValueError(
            f"{who}: gate_of must return one number a channel, {tuple(pooled.shape)}, got {tuple(gate.shape)}: "
            "return a tensor of the pooled vector's shape"
        )
    return gate
