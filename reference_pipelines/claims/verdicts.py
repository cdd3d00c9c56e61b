"""A verdict on each claim from the lines of a ledger, at one scale."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from reference_pipelines.claims.listing import Claim, Direction
from reference_pipelines.claims.statistics import LEAST_SEEDS, Estimate, estimate, seeds_needed
from reference_pipelines.ledger.chain import read_ranks
from reference_pipelines.ledger.entry import Entry, Selection
from reference_pipelines.ranks.scoring import QueryRanks

Decision = Literal["reproduced", "contradicted", "undecided", "not run"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)

_NOT_JUDGED = {
    "cost": "operations are counted, not trained: attnreid cost",
    "published": "the right row is another group's published number, with no queries to pair",
}


@dataclass(frozen=True)
class Line:
    """A line and where it stands.

    Args:
        path: its slice's file.
        entry: the line.
    """

    path: Path
    entry: Entry

    def ranks(self) -> QueryRanks:
        """Return its ranks."""
        return read_ranks(self.path, self.entry)


@dataclass(frozen=True)
class Verdict:
    """What a ledger says of a claim.

    Args:
        claim: the claim.
        decision: the verdict.
        estimate: of the difference, in points; None where nothing could be paired.
        needed: seeds that would decide, if they spread as those that there are; None where that is not known.
        why: what hinders a decision.
    """

    claim: Claim
    decision: Decision
    estimate: Estimate | None = None
    needed: int | None = None
    why: str = ""


def judge(
    claims: Sequence[Claim], lines: Iterable[Line], scale: str, *, selection: Selection = "last"
) -> list[Verdict]:
    """Return a verdict on each claim.

    Args:
        claims: to judge.
        lines: of a ledger.
        scale: of the runs that count.
        selection: by which rule their weights were chosen; "oracle" is refused.

    Raises:
        ValueError: an oracle is asked for.
    """
    if selection == "oracle":
        raise ValueError(
            "claims: the weights must be chosen without the test set, got 'oracle'; take 'last' or 'held_out'"
        )
    cells: dict[tuple[str, ...], dict[int, Line]] = {}
    for line in _in_order(lines):
        entry = line.entry
        if entry.scores is None or entry.selection != selection or entry.cell.get("scale") != scale:
            continue
        if entry.held_out and selection == "last":  # trained on fewer people than the rows beside it
            continue
        key = tuple(entry.cell.get(name, "") for name in ("paper", "row", "dataset"))
        cells.setdefault(key, {}).setdefault(entry.seed, line)  # the first run of a seed counts, whatever follows
    return [_judge(claim, cells) for claim in claims]


def _in_order(lines: Iterable[Line]) -> list[Line]:
    return sorted(lines, key=lambda line: (line.entry.recorded, line.entry.slice, line.entry.number))


def _judge(claim: Claim, cells: Mapping[tuple[str, ...], Mapping[int, Line]]) -> Verdict:
    if claim.kind != "runs":
        return Verdict(claim, "not run", why=_NOT_JUDGED[claim.kind])
    left, right = (cells.get((claim.paper, row, claim.dataset), {}) for row in (claim.left, claim.right))
    seeds = sorted(set(left) & set(right))
    if not seeds:
        lacking = [row for row, found in ((claim.left, left), (claim.right, right)) if not found]
        why = f"no run of {' and '.join(lacking)}" if lacking else "no seed that both rows were run with"
        return Verdict(claim, "not run", why=why)
    pairs = [(left[seed], right[seed]) for seed in seeds]
    if (hindered := _why_not_paired(pairs)) is not None:
        return Verdict(claim, "undecided", why=hindered)
    ranks = [tuple(line.ranks() for line in pair) for pair in pairs]
    first = ranks[0][0]
    if any(not _same_queries(first, each) for pair in ranks for each in pair):
        return Verdict(claim, "undecided", why="the runs have other queries")
    values = [[100 * _by_query(each, claim.metric) for each in pair] for pair in ranks]
    measured = estimate(np.array([one - other for one, other in values]), first.people)
    return _decided(claim, measured)


def _why_not_paired(pairs: Sequence[tuple[Line, Line]]) -> str | None:
    for side in zip(*pairs, strict=True):
        if len({line.entry.recipe_sha256 for line in side}) > 1:
            return f"the runs of {side[0].entry.cell['row']} are not of one recipe"
    entries = [line.entry for pair in pairs for line in pair]
    if len({entry.tested_on.get("fingerprint") for entry in entries}) > 1:
        return "the runs were tested on different images"
    if len({str(sorted(entry.protocol.items())) for entry in entries}) > 1:
        return "the runs were tested in different ways"
    return None


def _same_queries(one: QueryRanks, other: QueryRanks) -> bool:
    return np.array_equal(one.queries, other.queries) and np.array_equal(one.people, other.people)


def _by_query(ranks: QueryRanks, metric: str) -> np.ndarray:
    """Return (Q,) the metric of each query, 0 to 1."""
    if metric == "mAP":
        return ranks.ranked.average_precision()
    return (ranks.ranked.first < int(metric.removeprefix("rank"))).astype(np.float64)


def _decided(claim: Claim, measured: Estimate) -> Verdict:
    if measured.seeds < LEAST_SEEDS or measured.interval is None:
        seeds = "1 seed" if measured.seeds == 1 else f"{measured.seeds} seeds"
        why = f"{seeds} of at least {LEAST_SEEDS}" if measured.people > 1 else "the queries are of one person"
        return Verdict(claim, "undecided", measured, LEAST_SEEDS if measured.people > 1 else None, why)
    decision = decide(claim.direction, claim.margin, *measured.interval)
    if decision != "undecided":
        return Verdict(claim, decision, measured)
    distance = abs(distance_to_the_margin(claim.direction, claim.margin, measured.difference))
    needed = seeds_needed(measured, distance) if distance else None
    why = "the interval holds the margin" + ("" if needed else ": more people are needed, not more seeds")
    return Verdict(claim, "undecided", measured, needed, why)


def decide(direction: Direction, margin: float, low: float, high: float) -> Decision:
    """Return the verdict that an interval of the difference allows.

    "higher" holds where the difference is above the margin, "lower" where it is below minus the margin, "alike" where
    it is within both; the verdict is "undecided" while the interval holds what is on either side.

    Args:
        direction: of the claim.
        margin: that a difference must have to count.
        low: end of the interval.
        high: the other end.
    """
    if direction == "lower":
        return decide("higher", margin, -high, -low)
    if direction == "higher":
        return "reproduced" if low > margin else "contradicted" if high < margin else "undecided"
    if -margin <= low and high <= margin:
        return "reproduced"
    return "contradicted" if low > margin or high < -margin else "undecided"


def distance_to_the_margin(direction: Direction, margin: float, difference: float) -> float:
    """Return how far a difference is from where the verdict changes, positive where the claim holds."""
    if direction == "alike":
        return margin - abs(difference)
    return (difference if direction == "higher" else -difference) - margin
