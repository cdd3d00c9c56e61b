"""Gates of the pooled vector one after the other, with the norms behind them: one factor and one offset in all.

Scaling channels commutes with the moments over the positions, so that these stand for the map on its way through
the layers: the map is pooled once and multiplied once, whatever the number of layers.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from attnreid._tracing import is_recording, leaf
from attnreid.layers._checks import check_statistics
from attnreid.layers._pooling import Moments, affine, pool_beside, widened

if TYPE_CHECKING:
    from attnreid.layers.gate import PooledGate


def compose(x: Tensor, layers: "Sequence[PooledGate]") -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the map, and the factor and offset that the layers, all of which join, come to in this order."""
    dtype = x.dtype
    x, first = _pool(x, [layer.norm_behind for layer in layers if layer.norm_behind is not None])
    factor: Tensor | None = None
    offset: Tensor | None = None
    for layer in layers:
        moments = first if factor is None else first.affine(factor, offset)
        own_factor, own_offset = layer.probed_gate_of(moments.mean.to(dtype).flatten(1)), None
        if layer.norm_behind is not None:
            own_factor, own_offset = _normed(type(layer).__name__, layer.norm_behind, own_factor, moments)
        factor = own_factor if factor is None else factor * own_factor
        offset = own_offset if offset is None else affine(offset, own_factor, own_offset)
    assert factor is not None  # for the type checker: there is a layer
    if offset is None:
        return x, factor, None
    return x, factor.to(dtype), offset.to(dtype)  # computed wider, and applied to a map that stays as narrow


def is_plain(norm: nn.BatchNorm2d | None) -> bool:
    """Whether there is no norm, or a batch norm without shift that nothing stands in for and nobody listens to."""
    if norm is None:
        return True
    heard = bool(norm._forward_hooks or norm._forward_pre_hooks)
    own = type(norm) is nn.BatchNorm2d and norm.weight is not None and norm.bias is None
    return own and norm.track_running_stats and not heard


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
