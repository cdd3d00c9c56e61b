"""What a row is made of: a problem, our way to solve it and the others' ways, as plain data and builders."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TypedDict

import torch
from torch import Tensor

Shape = tuple[int, int, int]
Work = Callable[[], Tensor | None]


class Factory(TypedDict):
    """What places a new layer or tensor."""

    device: torch.device
    dtype: torch.dtype


class Skipped(Exception):
    """A variant that cannot be measured here, and why."""


@dataclass(frozen=True)
class Problem:
    """What every variant of a row is built for."""

    device: torch.device
    dtype: torch.dtype
    batch: int
    shape: Shape

    @property
    def channels(self) -> int:
        """The channels of the map."""
        return self.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the map."""
        return self.shape[1:]

    @property
    def factory(self) -> Factory:
        """The arguments that place a new layer or tensor."""
        return {"device": self.device, "dtype": self.dtype}

    def make_maps(self, count: int) -> tuple[Tensor, ...]:
        """Return `count` random maps, the same ones at each call."""
        return tuple(_make_map(self, index) for index in range(count))

    def describe(self) -> str:
        """Return batch and shape as the tables show them, such as 4x256x64x32."""
        return "x".join(map(str, (self.batch, *self.shape)))


@cache
def _make_map(problem: Problem, index: int) -> Tensor:
    """Return one random map; all variants and rows of a problem share it, which saves gigabytes."""
    generator = torch.Generator().manual_seed(index)
    return torch.randn(problem.batch, *problem.shape, generator=generator).to(**problem.factory)


@dataclass(frozen=True)
class Variant:
    """One side of a row, built and ready to run.

    Fields: `work` returns the output that all sides must agree on, or None where nothing is compared;
    `agrees` is False for another layer on purpose, of which only the output's shape must agree; `as_ours`
    turns its output into what ours would be, outside of what is timed; `items` are what one call works off,
    the times being those of one item, and `unit` names them; `left` are the bytes of what a call must leave
    behind, its output and gradients, which are no extra memory; `note` says what differs.
    """

    work: Work
    agrees: bool = True
    as_ours: Callable[[Tensor], Tensor] | None = None
    items: int = 1
    unit: str = ""
    left: int = 0
    note: str = ""


Build = Callable[[Problem], Variant]


@dataclass(frozen=True)
class Target:
    """What a row is to reach: their time by ours, and their extra peak memory by ours.

    Extra is the peak above what was live before and what is left behind.
    """

    ratio: float | None = None
    memory_ratio: float | None = None


@dataclass(frozen=True)
class Peer:
    """Another way to do what a case does: its short name, what the table says, how to build it, the targets.

    `targets` are by shape; `target` is that of all other shapes.
    """

    name: str
    against: str
    build: Build
    target: Target = Target()
    targets: Mapping[Shape, Target] = field(default_factory=dict)

    def target_at(self, shape: Shape) -> Target:
        """Return what is to be reached at this shape."""
        return self.targets.get(shape, self.target)


@dataclass(frozen=True)
class Case:
    """One line of work, measured at each of its shapes, and the peers it is measured against.

    Fields: `resizable` rows follow --shapes; `counted` and `memory` say whether operations and memory are
    asked for; `allows` whether the row says which ratio the counted operations allow; `least_per_second` is
    the target of a row that has items and no peers; `profiled` is False where the memory is not torch's, so that
    the profiler does not see it and fresh processes alone tell; `on_request` rows take minutes: they are measured
    where --only names them; `most_resident` are the bytes by which ours may raise a fresh process's resident maximum.
    """

    name: str
    what: str
    ours: Build
    peers: tuple[Peer, ...]
    shapes: tuple[Shape, ...]
    batch: int
    resizable: bool = True
    counted: bool = True
    memory: bool = True
    allows: bool = False
    least_per_second: float | None = None
    profiled: bool = True
    on_request: bool = False
    most_resident: int | None = None

    def build(self, variant: str, problem: Problem) -> Variant:
        """Build "ours" or the peer of that name."""
        builders = {"ours": self.ours} | {peer.name: peer.build for peer in self.peers}
        return builders[variant](problem)


@dataclass(frozen=True)
class Job:
    """A case at one of its shapes."""

    case: Case
    problem: Problem
