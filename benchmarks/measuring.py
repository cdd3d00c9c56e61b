"""Measures all jobs in one run: agreement first, then all variants in turn round by round, then what they take."""

import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from torch import Tensor

from attnreid.counting import count_multiply_adds
from benchmarks.agreement import find_disagreement
from benchmarks.cases import Job, Peer, Skipped, Target, Variant, Work
from benchmarks.memory import measure_peak, measure_resident
from benchmarks.timing import clock, find_repeats
from reference_pipelines.progress import progress_bar

OURS = "ours"
_AT_ONCE = 2  # fresh processes, which are not timed


@dataclass(frozen=True)
class Figures:
    """What one variant took; None where it was not asked for or cannot be had.

    `ms` is the median of the rounds; `peak` and `resident` are bytes above what was live before; `left` are
    those that the output and the gradients need at the end.
    """

    ms: float
    multiply_adds: int | None = None
    peak: int | None = None
    resident: int | None = None
    left: int = 0


@dataclass(frozen=True)
class Row:
    """One measured row: ours against one peer, or alone.

    `ratio` is the median of the rounds' ratios, their time by ours: above 1 ours is faster. `ratios` are the
    rounds' own. `memory_ratio` is their extra peak by ours, extra being above what is left at the end;
    `resident_ratio` is the same of the fresh processes; `allowed_ratio` their counted operations by ours;
    `per_second` are our items a second; `resident_target` the most bytes that ours may be resident. `ok` is False
    where outputs differed or ours failed. A row without figures has the reason in its notes.
    """

    name: str
    what: str
    problem: str
    against: str
    ratio: float | None = None
    target: float | None = None
    memory_ratio: float | None = None
    resident_ratio: float | None = None
    memory_target: float | None = None
    allowed_ratio: float | None = None
    ours: Figures | None = None
    theirs: Figures | None = None
    rounds: int = 0
    per_second: float | None = None
    per_second_target: float | None = None
    resident_target: int | None = None
    notes: tuple[str, ...] = ()
    ratios: tuple[float, ...] = ()
    ok: bool = True

    @property
    def met(self) -> bool | None:
        """Whether all targets are reached; None where there is none or nothing was measured.

        A target of memory must be reached by the profiler's figures and by the fresh processes' where there
        are any.
        """
        memory = ((got, self.memory_target) for got in (self.memory_ratio, self.resident_ratio))
        wanted = [(self.ratio, self.target), (self.per_second, self.per_second_target), *memory]
        found = [got >= least for got, least in wanted if got is not None and least is not None]
        if self.resident_target is not None and self.ours is not None and self.ours.resident is not None:
            found.append(self.ours.resident <= self.resident_target)
        return all(found) if found else None


@dataclass
class _Side:
    """One variant of a job under way; without a variant, `problem` says why."""

    name: str
    variant: Variant | None = None
    problem: str = ""
    repeats: int = 1
    seconds: list[float] = field(default_factory=list)
    figures: Figures | None = None

    @property
    def work(self) -> Work:
        """What is timed, of a side that runs."""
        assert self.variant is not None
        return self.variant.work


@dataclass
class _Entry:
    """A job under way: ours first, then the peers."""

    job: Job
    sides: list[_Side]
    ok: bool = True

    @property
    def running(self) -> list[_Side]:
        return [side for side in self.sides if side.variant is not None]


def measure(jobs: Sequence[Job], *, rounds: int, resident: bool = True, progress: bool = True) -> list[Row]:
    """Check and measure all jobs: each round times every variant once, and every other round backwards."""
    entries = []
    with progress_bar(None, len(jobs) * (2 + rounds), "benchmarks", unit="job", shown=progress) as bar:
        for job in jobs:
            entries.append(_prepare(job))
            bar.update()
        for index in range(rounds):
            for entry in entries:
                _time_round(entry, backwards=index % 2 == 1)
                bar.update()
        for entry in entries:
            _take_figures(entry)
            bar.update()
    residents = _measure_residents(entries, progress) if resident else {}
    return [row for entry in entries for row in _rows(entry, residents)]


def _prepare(job: Job) -> _Entry:
    """Build and run every variant, compare the outputs and find out how often each timing repeats its call."""
    entry = _Entry(job, [_Side(name) for name in (OURS, *(peer.name for peer in job.case.peers))])
    ours, *others = entry.sides
    reference = _start(ours, job)
    entry.ok = ours.variant is not None or ours.problem.startswith("skipped")
    for side in others:
        output = _start(side, job)
        if side.variant is None or reference is None or output is None:
            continue
        if side.variant.as_ours is not None:
            output = side.variant.as_ours(output)
        disagreement = find_disagreement(reference, output, values=side.variant.agrees)
        if disagreement:
            side.variant, side.problem, entry.ok = None, f"refused: {disagreement}", False
    if not _worth_timing(entry):
        for side in entry.sides:
            side.variant = None
    for side in entry.running:
        side.work()  # the first calls pay for what is set up once
        side.repeats = find_repeats(side.work, job.problem.device)
    return entry


def _start(side: _Side, job: Job) -> Tensor | None:
    """Build a side and return what its first call returns; what goes wrong stops this side only."""
    try:
        variant = job.case.build(side.name, job.problem)
        output = variant.work()
    except Skipped as reason:
        side.problem = f"skipped: {reason}"
        return None
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        first, *_ = str(error).splitlines() or [""]
        side.problem = f"failed: {type(error).__name__}: {first}"
        return None
    side.variant = variant
    return output


def _worth_timing(entry: _Entry) -> bool:
    """Tell whether ours runs and has a peer left to be measured against, or none by design."""
    ours, *others = entry.sides
    return ours.variant is not None and (not others or any(side.variant is not None for side in others))


def _time_round(entry: _Entry, *, backwards: bool) -> None:
    device = entry.job.problem.device
    for side in reversed(entry.running) if backwards else entry.running:
        side.seconds.append(clock(side.work, side.repeats, device))


def _take_figures(entry: _Entry) -> None:
    case, device = entry.job.case, entry.job.problem.device
    for side in entry.running:
        assert side.variant is not None
        side.figures = Figures(
            ms=1000 * statistics.median(side.seconds) / side.variant.items,
            left=side.variant.left,
            multiply_adds=count_multiply_adds(side.work) if case.counted else None,
            peak=measure_peak(side.work, device) if case.memory and case.profiled else None,
        )


def _measure_residents(entries: Sequence[_Entry], progress: bool) -> dict[tuple[int, str], int | None]:
    asked = [(entry, side.name) for entry in entries if entry.job.case.memory for side in entry.running]
    jobs = [entry.job for entry, _ in asked]
    names = [name for _, name in asked]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found: Iterator[int | None] = pool.map(measure_resident, jobs, names)
        shown = progress_bar(found, len(asked), "fresh processes", unit="process", shown=progress)
        return {(id(entry), name): bytes_ for (entry, name), bytes_ in zip(asked, shown, strict=True)}


def _rows(entry: _Entry, residents: dict[tuple[int, str], int | None]) -> Iterator[Row]:
    for side in entry.running:
        assert side.figures is not None
        side.figures = replace(side.figures, resident=residents.get((id(entry), side.name)))
    case, ours = entry.job.case, entry.sides[0]
    row = partial(
        Row,
        case.name,
        case.what,
        entry.job.problem.describe(),
        per_second=_per_second(ours),
        resident_target=case.most_resident,
    )
    if not case.peers:
        target_rate = case.least_per_second
        rounds = len(ours.seconds)
        yield row("", ours=ours.figures, per_second_target=target_rate, rounds=rounds, notes=_notes(ours), ok=entry.ok)
    for peer, side in zip(case.peers, entry.sides[1:], strict=True):
        target = peer.target_at(entry.job.problem.shape)
        if ours.figures is None or side.figures is None:
            wrong = side.problem.startswith("refused") or ours.problem.startswith("failed")
            yield row(
                peer.against,
                target=target.ratio,
                memory_target=target.memory_ratio,
                notes=_problems(ours, side),
                ok=not wrong,
            )
        else:
            yield _measured(partial(row, peer.against), entry.job, peer, target, ours, side)


def _measured(row: Any, job: Job, peer: Peer, target: Target, ours: _Side, theirs: _Side) -> Row:
    assert ours.figures is not None
    assert theirs.figures is not None
    ratios = tuple(b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True))
    measured: Row = row(
        ratio=statistics.median(ratios),
        target=target.ratio,
        memory_ratio=_divide(_extra(theirs.figures, "peak"), _extra(ours.figures, "peak")),
        resident_ratio=_divide(_extra(theirs.figures, "resident"), _extra(ours.figures, "resident")),
        memory_target=target.memory_ratio,
        allowed_ratio=_divide(theirs.figures.multiply_adds, ours.figures.multiply_adds) if job.case.allows else None,
        ours=ours.figures,
        theirs=theirs.figures,
        rounds=len(ratios),
        notes=_notes(ours, theirs),
        ratios=ratios,
    )
    return measured


def _extra(figures: Figures, which: Literal["peak", "resident"]) -> int | None:
    """Return the peak above what is left at the end."""
    peak: int | None = getattr(figures, which)
    return None if peak is None else max(0, peak - figures.left)


def _divide(theirs: int | None, ours: int | None) -> float | None:
    return theirs / ours if theirs is not None and ours else None


def _per_second(side: _Side) -> float | None:
    """Return how many items a second, where the side works off items."""
    if side.variant is None or side.figures is None or not side.variant.unit:
        return None
    return 1000 / side.figures.ms


def _notes(*sides: _Side) -> tuple[str, ...]:
    """Return what the sides have to say; where they work off items, how many a second comes first."""
    rates = [f"{rate:.3g}" for rate in map(_per_second, sides) if rate is not None]
    unit = sides[0].variant.unit if sides[0].variant is not None else ""
    rate = [f"{unit} a second: {' / '.join(rates)}; ms: of one of them"] if rates else []
    said = [side.problem or (side.variant.note if side.variant is not None else "") for side in sides]
    return tuple(text for text in (*rate, *said) if text)


def _problems(ours: _Side, theirs: _Side) -> tuple[str, ...]:
    """Return why a row has no figures, each reason once."""
    own = f"ours {ours.problem}" if ours.problem.startswith("failed") else ours.problem
    return tuple(dict.fromkeys(text for text in (own, theirs.problem) if text))
