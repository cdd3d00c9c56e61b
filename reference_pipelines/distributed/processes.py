"""The processes of a run: one alone, or several under torchrun that compute what one would.

Every process draws the same global batches and takes its contiguous share; what depends on a whole batch (losses,
the cluster memory) is computed by each of them from the gathered rows, and what exists once (clustering, scores,
files) by the first, which hands its result to the others.
"""

import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.parallel import DistributedDataParallel

from reference_pipelines.distributed.watch import Watch, meeting_within, silent_seconds, stop_by_signal
from reference_pipelines.errors import UserError

Item = TypeVar("Item")

# Who waits for a long clustering is not dead; who has died is noticed by the watch and not by a collective's patience.
_PATIENCE = datetime.timedelta(days=7)


class SharedError(UserError):
    """A user's mistake that every process has been told of, so that each stops with the same sentence."""


def share_sizes(items: int, count: int) -> list[int]:
    """Return how many of a batch's items each of `count` processes takes, in order: as torch.chunk cuts, and then 0."""
    most = -(-items // count)
    return [max(0, min(most, items - rank * most)) for rank in range(count)]


@dataclass(frozen=True)
class Processes:
    """This process's place among those of the run; the default is a process that is alone.

    Args:
        rank: 0 is the first, which writes and prints.
        count: how many there are.
        local_rank: this one's number on its machine, which is the number of its CUDA device.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this process's contiguous share of `items`."""
        return items[self.place(len(items))]

    def place(self, items: int) -> slice:
        """Return where this process's contiguous share of so many items lies."""
        return self._places(items)[self.rank]

    def _places(self, items: int) -> list[slice]:
        ends = np.cumsum([0, *share_sizes(items, self.count)]).tolist()
        return [slice(start, stop) for start, stop in pairwise(ends)]

    def once(self, function: Callable[[], Item]) -> Item:
        """Return on every process what `function` returns on the first, which alone calls it.

        Raises:
            UserError: on every process, where `function` raises one on the first.
        """
        if self.count == 1:
            return function()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = function()
            except UserError as error:
                outcome[1] = str(error)
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise SharedError(outcome[1])
        result: Item = outcome[0]
        return result

    def together(self, function: Callable[[], Item]) -> Item:
        """Return what `function` returns on this process, after every process has been through it.

        Raises:
            UserError: on every process, where `function` raises one on any; the lowest rank's is told.
        """
        if self.count == 1:
            return function()
        result, said = None, None
        try:
            result = function()
        except UserError as error:
            said = str(error)
        failed = torch.tensor(int(said is not None))
        dist.all_reduce(failed)
        if failed:
            everything: list[str | None] = [None] * self.count
            dist.all_gather_object(everything, said)
            raise SharedError(next(text for text in everything if text is not None))
        return result  # type: ignore[return-value]

    def agree(self, value: Item) -> bool:
        """Return whether `value` is the same on every process."""
        if self.count == 1:
            return True
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return all(other == values[0] for other in values)

    def gather(self, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return the rows of all processes in order; differentiable where each computes the same loss of them.

        Then the gradient of a process's rows is the same on every process, and no process needs another's.

        Args:
            rows: (sizes[rank], ...) of this process.
            sizes: rows of each process.
        """
        if self.count == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, tuple(sizes), self.rank)
        return gathered

    def collect(self, rows: Tensor) -> Tensor:
        """Return on the first process the rows (N, D) of all in order, on the others (0, D); on the CPU."""
        rows = rows.cpu()
        if self.count == 1:
            return rows
        shapes: list[Any] = [None] * self.count
        dist.all_gather_object(shapes, tuple(rows.shape))
        width = max(shape[1] for shape in shapes)
        padded = rows.new_zeros(max(shape[0] for shape in shapes), width)
        if len(rows):
            padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in shapes] if self.first else None
        dist.gather(padded, parts, dst=0)
        if parts is None:
            return rows.new_zeros(0, width)
        return torch.cat([part[: shape[0]] for part, shape in zip(parts, shapes, strict=True)])

    def join(self, rows: np.ndarray) -> np.ndarray:
        """Return on every process the rows (n, ...) of all, which may differ in n alone, in the processes' order."""
        if self.count == 1:
            return rows
        sizes = [0] * self.count
        dist.all_gather_object(sizes, len(rows))
        joined = np.empty((sum(sizes), *rows.shape[1:]), rows.dtype)
        start = 0
        for rank, size in enumerate(sizes):
            part = joined[start : start + size]
            if rank == self.rank:
                part[...] = rows
            _broadcast_bytes(part, rank)
            start += size
        return joined

    def spread(self, array: np.ndarray) -> np.ndarray:
        """Return on every process the array that the first has; what the others pass is not looked at."""
        if self.count == 1:
            return array
        about: list[Any] = [array.shape, array.dtype.str]
        dist.broadcast_object_list(about, src=0)
        spread = np.ascontiguousarray(array) if self.first else np.empty(about[0], np.dtype(about[1]))
        _broadcast_bytes(spread, 0)
        return spread

    def exchange(self, rows: Tensor) -> list[Tensor]:
        """Return, for this process's share of N rows, what each process has there.

        Args:
            rows: (N, ...), of the same shape and dtype on every process.
        """
        if self.count == 1:
            return [rows]
        parts: list[Tensor] = []
        for rank, place in enumerate(self._places(len(rows))):
            own = rows[place].cpu().contiguous()
            received = [torch.empty_like(own) for _ in range(self.count)] if rank == self.rank else None
            if len(own):
                dist.gather(own, received, dst=rank)
            parts = parts if received is None else received
        return [part.to(rows.device) for part in parts]

    def told(self, value: Item) -> list[Item]:
        """Return on the first process what every process passes, in their order, on the others an empty list."""
        if self.count == 1:
            return [value]
        values: list[Any] | None = [None] * self.count if self.first else None
        dist.gather_object(value, values, dst=0)
        return values or []

    def joined(self, model: nn.Module) -> nn.Module:
        """Return `model` with its gradients summed over the processes and its weights made the first one's."""
        if self.count == 1:
            return model
        together = DistributedDataParallel(model)
        together.register_comm_hook(None, _sum_gradients)
        return together


def _broadcast_bytes(array: np.ndarray, source: int) -> None:
    """Fill a contiguous array with that of the process `source`."""
    if array.size:
        dist.broadcast(torch.from_numpy(array.reshape(-1).view(np.uint8)), src=source)


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: tuple[int, ...], rank: int) -> Tensor:
        ctx.place = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][ctx.place], None, None


def _sum_gradients(
    _: object,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """Add the gradients up, where torch's default averages: each process has its rows' part of one loss."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda future: future.value()[0])


ALONE = Processes()
"""A process that is alone."""


@contextmanager
def join_processes(how_to_go_on: Callable[[], str], who: str = "train") -> Iterator[Processes]:
    """Join the processes that torchrun started, as a context; a process that was started alone is alone.

    Args:
        how_to_go_on: returns the end of the sentence that says why the run stopped, when it does.
        who: complains.

    Raises:
        UserError: the processes do not meet.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        with stop_by_signal(how_to_go_on):
            yield Processes()
        return
    lacking = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if lacking:
        raise UserError(f"{who}: WORLD_SIZE is {count} and {', '.join(lacking)} is not set; start it with torchrun")
    silent = silent_seconds(who)
    processes = Processes(int(os.environ["RANK"]), count, int(os.environ["LOCAL_RANK"]))
    with meeting_within(silent, processes.rank, count, who):
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)
        watch = Watch(processes.rank, count, how_to_go_on, who, silent)
    try:
        yield processes
        dist.barrier()
    except UserError as error:
        watch.leave_with(None if isinstance(error, SharedError) else str(error))
        raise
    except Exception:
        # A collective fails where another process died; then the watch says so and ends this one.
        watch.wait_for_the_end()
        raise
    watch.close()
    dist.destroy_process_group()
