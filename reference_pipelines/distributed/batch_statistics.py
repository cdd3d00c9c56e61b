"""Over which images a batch norm takes its statistics: a device's share of the batch, or all of it.

Data-parallel training normalises each device's share of the batch by its own statistics, so a run on one device is
another experiment than the same run on two. Here the number of shares is chosen, whatever the number of devices:
chunks on one device stand for devices, and processes can act as one.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.autograd import Function
from torch.nn.modules.batchnorm import _BatchNorm

from reference_pipelines.errors import UserError

Model = TypeVar("Model", bound=nn.Module)


def set_batch_statistics(model: Model, chunks: int) -> Model:
    """Have every batch norm of `model` take its training statistics over `chunks` contiguous chunks of the batch.

    The batch is the global one, of all processes together, so call this after `torch.distributed` is initialised.
    One process cuts it as `torch.chunk` and a data-parallel scatter do: the statistics of a run on `chunks` devices,
    of which the first one's running statistics are kept. On n processes, 1 chunk synchronises the statistics,
    weighted by each process's count; n chunks, or a multiple, leave them to each process, which cuts its own share
    further: where one process would have cut, if `chunks` divides the batch. The processes then keep running
    statistics of their own, until `share_running_statistics` (or DistributedDataParallel's `broadcast_buffers`) makes
    them the first process's.

    Parameters, state-dict keys and eval mode stay as they are. The norms stay the same objects; their class changes,
    and attention that was attached to a norm stays.

    Args:
        model: changed in place. Its batch norms must be BatchNorm1d, BatchNorm2d or classes made of them; to
            synchronise processes, torch's own or those that timm fuses with an activation.
        chunks: parts of the global batch with statistics of their own, at least 1.

    Returns:
        The model.

    Raises:
        UserError: `chunks` is neither 1 nor a multiple of the number of processes.
        ValueError: `chunks` is below 1, or a batch norm is of a class for which this cannot be done.
    """
    if chunks < 1:
        raise ValueError(f"set_batch_statistics: chunks must be at least 1, got {chunks}")
    processes = _processes()
    if chunks > 1 and chunks % processes:
        raise UserError(
            f"model: bn_chunks must be 1 or a multiple of the number of processes, got {chunks} with {processes} "
            "processes; change --model.bn_chunks or start as many processes"
        )
    norms = [(name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    own_chunks = max(1, chunks // processes)
    wanted = _synchronised if chunks < processes else _plain if own_chunks == 1 else _chunked
    classes = [(norm, wanted(name, _plain(name, _class_of(norm)))) for name, norm in norms]
    for norm, made in classes:
        norm.__class__ = made
        if isinstance(norm, _Chunked):
            norm.chunks = own_chunks
    return model


def share_running_statistics(model: nn.Module) -> None:
    """Give every process the running statistics of the first one; call it before the processes evaluate together."""
    if _processes() > 1:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                for statistic in module.buffers(recurse=False):
                    distributed.broadcast(statistic, src=0)


class _Chunked(_BatchNorm):
    """Normalises each contiguous chunk of the batch by its own statistics, and keeps those of the first."""

    chunks: int

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised batch (N, C, ...)."""
        if not self.training:
            return super().forward(input)
        first, *others = input.chunk(self.chunks)
        smallest = others[-1] if others else first
        if smallest.numel() <= input.shape[1]:
            raise UserError(
                f"model: each chunk of the batch must hold at least 2 values a channel, got a chunk of "
                f"{tuple(smallest.shape)} of the batch {tuple(input.shape)}; "
                f"lower --model.bn_chunks (here {self.chunks} a process) or enlarge the batch"
            )
        normed = [super().forward(first)]
        # As on a data-parallel run's other devices, whose running statistics are thrown away.
        normed += self._by_their_own(others)
        return torch.cat(normed) if others else normed[0]

    def _by_their_own(self, chunks: Sequence[Tensor]) -> list[Tensor]:
        return [F.batch_norm(chunk, None, None, self.weight, self.bias, True, eps=self.eps) for chunk in chunks]

    def extra_repr(self) -> str:
        """Return torch's description, and the chunks."""
        return f"{super().extra_repr()}, chunks={self.chunks}"


class ChunkedBatchNorm1d(_Chunked, nn.BatchNorm1d):
    """BatchNorm1d over chunks of the batch."""


class ChunkedBatchNorm2d(_Chunked, nn.BatchNorm2d):
    """BatchNorm2d over chunks of the batch."""


class _ChunkedOther(_Chunked):
    """The same for a class that does more in its forward, such as an activation."""

    def _by_their_own(self, chunks: Sequence[Tensor]) -> list[Tensor]:
        kept = dict(self._buffers)
        self._buffers.update({name: None if tensor is None else tensor.clone() for name, tensor in kept.items()})
        try:  # the class's own forward, behind the two chunked ones
            return [super(_Chunked, self).forward(chunk) for chunk in chunks]
        finally:
            self._buffers.update(kept)


class _Synchronised(_BatchNorm):
    """Normalises by the statistics of all processes' shares together.

    torch's SyncBatchNorm refuses the CPU's tensors; whether it is faster on CUDA than this has not been measured.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return this process's share of the normalised batch, (N, C, ...)."""
        if not self.training or _processes() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        mean, variance, count = _moments_of_all(input.detach())
        if self.track_running_stats:
            self._move_running_statistics(mean, variance, count)
        normed: Tensor = _Normalise.apply(input, self.weight, self.bias, mean, variance, count, self.eps)
        return normed

    @torch.no_grad()
    def _move_running_statistics(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move them as torch does, which keeps the unbiased variance."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased = variance * (count / (count - 1))
        for running, batch in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.lerp_(batch.to(running.dtype), share)


class SynchronisedBatchNorm1d(_Synchronised, nn.BatchNorm1d):
    """BatchNorm1d over the batch of all processes."""


class SynchronisedBatchNorm2d(_Synchronised, nn.BatchNorm2d):
    """BatchNorm2d over the batch of all processes."""


class _SynchronisedActing(_Synchronised):
    """The same for timm's batch norms, whose dropout and activation follow in the same module."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """Return this process's share of the normalised and activated batch, (N, C, ...)."""
        if not self.training or _processes() == 1:
            return super(_Synchronised, self).forward(input)
        activated: Tensor = self.act(self.drop(super().forward(input)))
        return activated


_CHUNKED: dict[type, type] = {nn.BatchNorm1d: ChunkedBatchNorm1d, nn.BatchNorm2d: ChunkedBatchNorm2d}
_SYNCHRONISED: dict[type, type] = {
    nn.BatchNorm1d: SynchronisedBatchNorm1d,
    nn.BatchNorm2d: SynchronisedBatchNorm2d,
}
_PLAIN: dict[type, type] = {
    form: plain for plain in _CHUNKED for form in (plain, _CHUNKED[plain], _SYNCHRONISED[plain])
}


def _plain(name: str, of: type) -> type:
    """Return the class that a norm had before this module changed it."""
    return _PLAIN.get(of, of)


def _chunked(name: str, plain: type) -> type:
    if plain not in _CHUNKED:
        if not issubclass(plain, (nn.BatchNorm1d, nn.BatchNorm2d)):
            raise _unfit(name, plain, "must be BatchNorm1d, BatchNorm2d or made of them")
        _CHUNKED[plain] = _made("Chunked", _ChunkedOther, plain)
    return _CHUNKED[plain]


def _synchronised(name: str, plain: type) -> type:
    if plain not in _SYNCHRONISED:
        # timm's, by its name, since timm need not be there.
        if not any(base.__name__ == "BatchNormAct2d" for base in plain.__mro__):
            raise _unfit(name, plain, "must be torch's BatchNorm1d or BatchNorm2d, or timm's BatchNormAct2d")
        _SYNCHRONISED[plain] = _made("Synchronised", _SynchronisedActing, plain)
    return _SYNCHRONISED[plain]


def _made(word: str, mixin: type, plain: type) -> type:
    made = type(f"{word}{plain.__name__}", (mixin, plain), {"__module__": __name__})
    _PLAIN[made] = plain
    return made


def _unfit(name: str, of: type, rule: str) -> ValueError:
    return ValueError(
        f"set_batch_statistics: batch norms {rule}, got {name!r} ({of.__name__}); choose the statistics before another "
        "module changes the norm, or set --model.bn_chunks to the number of processes"
    )


def _moments_of_all(share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (C,), biased variance (C,) and count () of all processes' shares (N, C, ...) together."""
    channels = share.shape[1]
    wide = share.to(torch.promote_types(share.dtype, torch.float32))
    own = wide.new_zeros(2 * channels + 1)
    own[-1] = share.numel() // channels
    if share.numel():  # a share may be empty at the end of an epoch
        variance, mean = torch.var_mean(wide, _all_but_channels(share), correction=0)
        own[:channels], own[channels:-1] = mean, variance
    gathered = [torch.empty_like(own) for _ in range(_processes())]
    distributed.all_gather(gathered, own)
    means, variances, counts = torch.stack(gathered).split([channels, channels, 1], dim=1)
    count = counts.sum()
    mean = (counts * means).sum(dim=0) / count
    return mean, (counts * (variances + (means - mean).square())).sum(dim=0) / count, count


class _Normalise(Function):
    """A batch norm's normalisation, and its gradient where mean and variance depend on all processes' shares."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), count)
        if weight is not None:
            mean, variance = mean.to(weight.dtype), variance.to(weight.dtype)
        return F.batch_norm(x, mean, variance, weight, bias, False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, count = ctx.saved_tensors
        shape = (1, -1, *[1] * (x.ndim - 2))
        gradient = gradients[0].to(scale.dtype)
        normed = (x - mean.view(shape)) * scale.view(shape)
        sums = torch.stack([gradient.sum(_all_but_channels(x)), (gradient * normed).sum(_all_but_channels(x))])
        # The parameters' gradients stay this process's own: averaging them is up to who averages all others.
        of_bias, of_weight = sums.clone()
        distributed.all_reduce(sums)
        of_mean, of_normed = (sums / count).view(2, *shape)
        of_x = (gradient - of_mean - normed * of_normed) * scale.view(shape)
        if weight is not None:
            of_x = of_x * weight.view(shape)
        wanted = ctx.needs_input_grad
        return of_x.to(x.dtype), of_weight if wanted[1] else None, of_bias if wanted[2] else None, *[None] * 4


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def _class_of(norm: nn.Module) -> type:
    """Return the class of a norm, seen through attention behind it; attention stays when the class is set."""
    own: type = getattr(type(norm), "attended_class", type(norm))
    return own


def _processes() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
