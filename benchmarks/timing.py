"""Times ours against theirs: first the outputs are compared, then all variants run in turn, round by round."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil

import torch
from torch import Tensor

from reference_pipelines.progress import progress_bar

TOLERANCE = 1e-4  # of the largest absolute value
LEAST_SECONDS = 0.1  # a timing repeats its call until it takes about so long

Work = Callable[[], Tensor | None]


class Skipped(Exception):
    """A row that cannot be measured here, and why."""


@dataclass(frozen=True)
class Contest:
    """Both sides of a row, built and ready to run; each call returns the output that both must agree on.

    Fields: `theirs` is None where nothing is compared; `compared` is False where both sides are different
    layers on purpose, so that only the shapes must agree; `items` are what one call works off, the times
    being those of one item; `unit` names the items where the row shall say how many a second; `note` stands
    beside the row.
    """

    ours: Work
    theirs: Work | None
    compared: bool = True
    items: int = 1
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Case:
    """One row to be measured: its name, what the table says of it, and how it is built on a device."""

    name: str
    what: str
    against: str
    build: Callable[[torch.device], Contest]


@dataclass(frozen=True)
class Row:
    """One measured row; the figures are None where there are none, and the note says why.

    `ratio` is the median of the rounds' ratios, their time by ours: above 1 ours is faster. `ratios` are the
    rounds' own. A `refused` row had outputs that differ.
    """

    name: str
    what: str
    against: str
    ratio: float | None
    ours_ms: float | None
    theirs_ms: float | None
    rounds: int
    note: str
    ratios: tuple[float, ...] = ()
    refused: bool = False


def training_step(
    forward: Callable[[Tensor], Tensor], x: Tensor, parameters: Sequence[Tensor], cotangent: Tensor
) -> Work:
    """Return the work of one forward and backward pass, to the input and all parameters; it returns the output."""

    def step() -> Tensor:
        y = forward(x)
        torch.autograd.grad(y, (x, *parameters), cotangent)
        return y.detach()

    return step


def find_disagreement(ours: Tensor, theirs: Tensor, *, values: bool = True) -> str:
    """Say in what two outputs differ, in shape or by more than `TOLERANCE` of max|theirs|; "" where they agree."""
    if ours.shape != theirs.shape:
        return f"the shapes differ, {tuple(ours.shape)} and {tuple(theirs.shape)}"
    apart = float((ours - theirs).abs().max() / theirs.abs().max())
    if values and not apart <= TOLERANCE:  # NaN is no agreement
        return f"the outputs differ by {apart:.1e} of the largest value, allowed {TOLERANCE:.0e}"
    return ""


@dataclass
class _Entry:
    """A case under way."""

    case: Case
    contest: Contest | None = None
    problem: str = ""
    refused: bool = False
    repeats: list[int] = field(default_factory=list)
    seconds: list[list[float]] = field(default_factory=list)

    @property
    def works(self) -> list[Work]:
        if self.contest is None:
            return []
        return [work for work in (self.contest.ours, self.contest.theirs) if work is not None]


def measure(cases: Sequence[Case], *, device: torch.device, rounds: int, progress: bool = True) -> list[Row]:
    """Check and time all cases: each round times every variant once, and every other round theirs goes first."""
    with progress_bar(None, len(cases) * (1 + rounds), "benchmarks", unit="timing", shown=progress) as bar:
        entries = []
        for case in cases:
            entries.append(_prepare(case, device))
            bar.update()
        for index in range(rounds):
            for entry in entries:
                _time_round(entry, device, backwards=index % 2 == 1)
                bar.update()
    return [_row(entry) for entry in entries]


def _prepare(case: Case, device: torch.device) -> _Entry:
    """Build a case, compare the results and find out how often each timing repeats its call."""
    entry = _Entry(case)
    try:
        contest = case.build(device)
    except Skipped as reason:
        entry.problem = f"skipped: {reason}"
        return entry
    ours, theirs = contest.ours(), contest.theirs() if contest.theirs is not None else None
    if ours is not None and theirs is not None:
        disagreement = find_disagreement(ours, theirs, values=contest.compared)
        if disagreement:
            entry.problem, entry.refused = f"refused: {disagreement}", True
            return entry
    entry.contest = contest
    for work in entry.works:
        work()  # the first call pays for what is set up once
        entry.repeats.append(max(1, ceil(LEAST_SECONDS / _clock(work, 1, device))))
        entry.seconds.append([])
    return entry


def _time_round(entry: _Entry, device: torch.device, *, backwards: bool) -> None:
    turns = list(zip(entry.works, entry.repeats, entry.seconds, strict=True))
    for work, repeats, seconds in reversed(turns) if backwards else turns:
        seconds.append(_clock(work, repeats, device))


def _clock(work: Work, repeats: int, device: torch.device) -> float:
    """Return the seconds of one call, averaged over `repeats`."""
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    _synchronize(device)
    return (time.perf_counter() - start) / repeats


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _row(entry: _Entry) -> Row:
    case, contest = entry.case, entry.contest
    if contest is None:
        return Row(case.name, case.what, case.against, None, None, None, 0, entry.problem, refused=entry.refused)
    medians = [1000 * statistics.median(seconds) / contest.items for seconds in entry.seconds]
    notes = [f"{1000 / medians[0]:.0f} {contest.unit} a second"] if contest.unit else []
    notes += [contest.note] if contest.note else []
    ratios: tuple[float, ...] = ()
    if contest.theirs is not None:
        ratios = tuple(theirs / ours for ours, theirs in zip(*entry.seconds, strict=True))
    return Row(
        name=case.name,
        what=case.what,
        against=case.against,
        ratio=statistics.median(ratios) if ratios else None,
        ours_ms=medians[0],
        theirs_ms=medians[1] if ratios else None,
        rounds=len(entry.seconds[0]),
        note="; ".join(notes),
        ratios=ratios,
    )
