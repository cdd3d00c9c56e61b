"""What all gates have in common: a map in (0, 1) that the layer multiplies its input with."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn

from attnreid._recording import record
from attnreid._tracing import Unscriptable, is_recording, leaf
from attnreid.layers._checks import check_map, check_statistics
from attnreid.layers._pooling import Moments, affine, pool_beside, widened

SplitDim = Literal["channels", "height"]


class GateLayer(Unscriptable):
    """Multiplies the map by the gate that a subclass computes, and names that gate to whoever records.

    A subclass with a `split_dim` takes `parts=n` and handles its parts itself. A subclass with `pooled =
    True` promises that its gate depends on the average-pooled map alone: `gate(x) == gate(pool(x))`. One that
    sets `norm` has a batch norm after the multiplication.
    """

    name: ClassVar[str]
    split_dim: ClassVar[SplitDim | None] = None
    pooled: ClassVar[bool] = False
    channels: int

    def __init__(self) -> None:
        super().__init__()
        self.norm: nn.BatchNorm2d | None = None

    def __init_subclass__(cls) -> None:
        """Let a subclass with a gate of its own make its own promise."""
        if "gate" in cls.__dict__ and "pooled" not in cls.__dict__:
            cls.pooled = False

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate of the map `x`, of a shape that broadcasts to it; records nothing."""
        raise NotImplementedError

    def recorded_gate(self, x: Tensor) -> Tensor:
        """Return the gate and name it to whoever records."""
        gate = self.gate(x)
        record(self, self.name, gate)
        return gate

    @property
    def joins(self) -> bool:
        """Whether the layer is `x * factor + offset` of the map's moments: its norm, if any, is as it was built.

        Another in its place, such as one that is synchronised between processes, has to see the map.
        """
        norm = self.norm
        if norm is None or not self.pooled:
            return self.pooled
        plain = type(norm) is nn.BatchNorm2d and norm.weight is not None and norm.bias is None
        return plain and norm.track_running_stats and not (norm._forward_hooks or norm._forward_pre_hooks)

    def apply_gate(self, x: Tensor, gate: Tensor) -> Tensor:
        """Return the gated map, normed where the layer has a norm."""
        y = x * gate
        return y if self.norm is None else self.norm(y)

    def affine(self, gate: Tensor, moments: Moments) -> tuple[Tensor, Tensor | None]:
        """Return factor and offset of the layer, gate and norm together, for a map with these moments."""
        return (gate, None) if self.norm is None else _normed(type(self).__name__, self.norm, gate, moments)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated map."""
        if self.joins:
            x = check_map(type(self).__name__, x, self.channels)
            return affine(*join_gates(x, [(self, self.recorded_gate)]))
        return self.apply_gate(x, self.recorded_gate(x))


def join_gates(
    x: Tensor, steps: Sequence[tuple[GateLayer, Callable[[Tensor], Tensor]]]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the map, and the factor and offset that gates and norms one after the other come to.

    Every step is a layer that `joins` and what computes its gate. Scaling channels commutes with the moments
    over the positions, so that these stand for the map on its way through the layers: the map is pooled once
    and multiplied once, whatever their number.
    """
    dtype = x.dtype
    x, first = _pool(x, [layer.norm for layer, _ in steps if layer.norm is not None])
    factor: Tensor | None = None
    offset: Tensor | None = None
    for layer, gate in steps:
        moments = first if factor is None else first.affine(factor, offset)
        own_factor, own_offset = layer.affine(gate(moments.mean.to(dtype)), moments)
        factor = own_factor if factor is None else factor * own_factor
        offset = own_offset if offset is None else affine(offset, own_factor, own_offset)
    assert factor is not None  # for the type checker: there is a step
    if offset is None:
        return x, factor, None
    return x, factor.to(dtype), offset.to(dtype)  # computed wider, and applied to a map that stays as narrow


@leaf
def _pool(x: Tensor, norms: Sequence[nn.Module]) -> tuple[Tensor, Moments]:
    """Return the map and its moments, with a variance where one of the norms is in train mode."""
    return pool_beside(x, variance=any(norm.training for norm in norms))


@leaf
def _normed(who: str, norm: nn.BatchNorm2d, gate: Tensor, moments: Moments) -> tuple[Tensor, Tensor]:
    """Return factor and offset of a gate and the norm behind it; in train mode the norm's statistics move."""
    wide = widened(moments.mean.dtype)
    gate = gate.to(wide)
    if norm.training and not _is_empty(gate):
        count = gate.shape[0] * moments.positions
        check_statistics(who, count, [norm])
        mean, variance = _batch_statistics(gate, moments)
        _update_running(norm, mean.detach(), variance.detach(), count)
    else:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean, variance = norm.running_mean[:, None, None].to(wide), norm.running_var[:, None, None].to(wide)
        if norm.training and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)  # as a batch norm does that is given no image
    scale = norm.weight[:, None, None].to(wide) * (variance + norm.eps).rsqrt()
    return gate * scale, -mean * scale


def _is_empty(gate: Tensor) -> bool:
    return not is_recording() and gate.shape[0] == 0


def _batch_statistics(gate: Tensor, moments: Moments) -> tuple[Tensor, Tensor]:
    """Return mean and variance of the gated map over images and positions, `(C, 1, 1)` each.

    The variance is the mean of the images' own and the variance of their means.
    """
    assert moments.variance is not None
    means = gate * moments.mean
    mean = means.mean(dim=0)
    return mean, (gate.square() * moments.variance + (means - mean).square()).mean(dim=0)


def _update_running(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics as the norm itself would, which keeps the unbiased variance."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    share = 1 / norm.num_batches_tracked.to(mean.dtype) if norm.momentum is None else norm.momentum
    for running, batch in ((norm.running_mean, mean), (norm.running_var, variance * (count / (count - 1)))):
        running.add_(share * (batch.flatten().to(running.dtype) - running))
