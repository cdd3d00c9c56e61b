"""What each layer must do, counted, and what it takes: the second table.

The bound is the longer of two times: the counted multiply-adds at the machine's rate in a matrix product, and
the least bytes at its rate in a copy, both measured in the same run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import nn

from attnreid import AttentionPyramid, create_attention
from benchmarks.cases import Case, Job, Problem, Shape, Variant
from benchmarks.hardware import COPY, MATMUL
from benchmarks.measuring import Row
from benchmarks.operators import costliest_operators
from benchmarks.ours import in_inference, in_training, seeded

Mode = Literal["forward", "forward+backward"]
RULE = (
    "least bytes: a gate that depends on the whole map reads it twice, for the gate and for the product (se, "
    "pyramid, split, rga_s, rga_c), as does a residual behind a softmax over all positions (domain); others once; "
    "the output is written and the parameters are read once. Backward adds: the output's gradient and the map read, "
    "the input's gradient written; a gate of the whole map reads the output's gradient twice, and rga_s and rga_c "
    "the map too; the parameters are read again and their gradients written. A time below the bound is no mistake: "
    "a cache that holds the map saves its reading, and a kernel for 3x3 convolutions may multiply less than counted"
)
MOST: dict[Mode, float] = {"forward": 1.3, "forward+backward": 1.6}
"""How many times its bound a layer may take; a row above says what its time goes to."""
BATCH = 8
INPUTS = ((256, 128), (384, 192))


@dataclass(frozen=True)
class Kind:
    """A layer: its name, how often its map must be moved in forward and in backward, and where it stands.

    `forward_maps` and `backward_maps` count maps read and written; `widths` are the channels at the four
    stages.
    """

    name: str
    forward_maps: int
    backward_maps: int
    widths: tuple[int, int, int, int]

    def make(self, problem: Problem) -> nn.Module:
        """Build the layer for the problem's map."""
        if self.name == "pyramid":
            return seeded(AttentionPyramid, problem.channels, "se", levels=2, **problem.factory)
        sized = {"size": problem.size} if self.name in ("rga_s", "rga_c", "head", "multi_level") else {}
        return seeded(create_attention, self.name, problem.channels, **sized, **problem.factory)

    def count_bytes(self, problem: Problem, mode: Mode) -> int:
        """Return the least bytes that must move, by `RULE`."""
        item = problem.dtype.itemsize
        one_map = problem.batch * problem.shape[0] * problem.shape[1] * problem.shape[2] * item
        parameters = item * sum(each.numel() for each in self.make(replace(problem, device=_META)).parameters())
        if mode == "forward":
            return self.forward_maps * one_map + parameters
        return (self.forward_maps + self.backward_maps) * one_map + 3 * parameters


_META = torch.device("meta")
_OUTPUTS = (256, 512, 1024, 2048)
_CONV2 = (64, 128, 256, 512)

KINDS = (
    Kind("se", 3, 4, _OUTPUTS),
    Kind("pyramid", 3, 4, _OUTPUTS),
    Kind("split", 3, 4, _OUTPUTS),
    Kind("rga_s", 3, 5, _OUTPUTS),
    Kind("rga_c", 3, 5, _OUTPUTS),
    Kind("pixel", 2, 3, _CONV2),
    Kind("head", 2, 3, _CONV2),
    Kind("domain", 3, 4, _CONV2),
    Kind("multi_level", 2, 3, _CONV2),
)
"""All layers; pyramid is the SE pyramid of two levels. MLA's stand on the maps of the stages' 3x3 convs."""


@dataclass(frozen=True)
class Limit:
    """One line of the table before it is measured."""

    kind: Kind
    mode: Mode
    job: Job


@dataclass(frozen=True)
class LimitRow:
    """One measured line; `bound_by` is "operations" or "bytes", `times_bound` the measured time by the bound."""

    layer: str
    problem: str
    mode: Mode
    multiply_adds: int
    least_bytes: int
    bound_ms: float | None = None
    bound_by: str = ""
    ms: float | None = None
    times_bound: float | None = None
    note: str = ""

    @property
    def is_above(self) -> bool:
        """Whether it takes longer than it may."""
        return self.times_bound is not None and self.times_bound > MOST[self.mode]


@dataclass(frozen=True)
class Rates:
    """What the machine does: multiply-adds a second in a matrix product, bytes a second in a copy."""

    multiply_adds: float
    bytes: float

    def bound(self, multiply_adds: int, least_bytes: int) -> tuple[float, str]:
        """Return the bound in ms, and whether operations or bytes set it."""
        times = {"operations": multiply_adds / self.multiply_adds, "bytes": least_bytes / self.bytes}
        longest = max(times, key=lambda name: times[name])
        return 1000 * times[longest], longest


def stage_sizes(height: int, width: int) -> tuple[tuple[int, int], ...]:
    """Return the sizes of ResNet-50's four stage maps, last stride 1, for an image of this size."""
    return tuple((height // stride, width // stride) for stride in (4, 8, 16, 16))


def list_limits(
    device: torch.device,
    dtype: torch.dtype,
    *,
    kinds: Sequence[Kind] = KINDS,
    shapes: Sequence[Shape] | None = None,
    batch: int | None = None,
) -> list[Limit]:
    """Return all lines: forward in eval mode at both image sizes, forward+backward in train mode at the smaller."""
    limits = []
    for mode, inputs in (("forward", INPUTS), ("forward+backward", INPUTS[:1])):
        for kind in kinds:
            stages = [
                (channels, *size)
                for image in inputs
                for channels, size in zip(kind.widths, stage_sizes(*image), strict=True)
            ]
            for shape in stages if shapes is None else shapes:
                problem = Problem(device, dtype, batch or BATCH, shape)
                limits.append(Limit(kind, mode, Job(_case(kind, mode), problem)))  # type: ignore[arg-type]
    return limits


def _case(kind: Kind, mode: str) -> Case:
    build: Callable[..., Variant] = in_inference if mode == "forward" else in_training
    return Case(kind.name, kind.name, partial(build, make=kind.make), (), (), BATCH, memory=False)


def find_rates(rows: Sequence[Row], device_problems: Sequence[Job]) -> Rates:
    """Return the rates from the rows of the matrix product and of the copy."""
    figures = {row.name: row.ours for row in rows}
    problems = {job.case.name: job.problem for job in device_problems}
    matmul, copy = figures[MATMUL], figures[COPY]
    assert matmul is not None
    assert matmul.multiply_adds is not None
    assert copy is not None
    _, height, width = problems[COPY].shape
    moved = 2 * problems[COPY].shape[0] * height * width * problems[COPY].dtype.itemsize
    return Rates(matmul.multiply_adds / (matmul.ms / 1000), moved / (copy.ms / 1000))


def compare(limits: Sequence[Limit], rows: Sequence[Row], rates: Rates) -> list[LimitRow]:
    """Set each measured row beside its bound."""
    compared = []
    for limit, row in zip(limits, rows, strict=True):
        if row.ours is None or row.ours.multiply_adds is None:
            compared.append(LimitRow(limit.kind.name, row.problem, limit.mode, 0, 0, note="; ".join(row.notes)))
            continue
        least = limit.kind.count_bytes(limit.job.problem, limit.mode)
        bound, by = rates.bound(row.ours.multiply_adds, least)
        compared.append(
            LimitRow(
                layer=limit.kind.name,
                problem=row.problem,
                mode=limit.mode,
                multiply_adds=row.ours.multiply_adds,
                least_bytes=least,
                bound_ms=bound,
                bound_by=by,
                ms=row.ours.ms,
                times_bound=row.ours.ms / bound,
            )
        )
    return compared


def explain(limits: Sequence[Limit], rows: Sequence[LimitRow]) -> list[LimitRow]:
    """Say in each row that is above what it may take which operators take the most of its time."""
    explained = []
    for limit, row in zip(limits, rows, strict=True):
        if row.is_above:
            problem = limit.job.problem
            row = replace(row, note=costliest_operators(limit.job.case.ours(problem).work, problem.device))
        explained.append(row)
    return explained
