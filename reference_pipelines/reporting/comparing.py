"""Runs beside one another: their CMC, and their differences paired by query."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from reference_pipelines.ranks.scoring import QueryRanks, bootstrap_interval

MOST_PAIRS = 15
CMC_RANKS = 20


@dataclass(frozen=True)
class Outcome:
    """How the queries of a data set fared with one network.

    Args:
        name: what the network and its test are called.
        data: fingerprint of the data set.
        scores: as they stand in a result.
        ranks: of the true matches; None where the result has none.
    """

    name: str
    data: str
    scores: dict[str, Any]
    ranks: QueryRanks | None

    @property
    def precision(self) -> np.ndarray:
        """(N,) average precision of each query."""
        if self.ranks is not None:
            return self.ranks.ranked.average_precision()
        return np.asarray(self.scores.get("average_precision", ()), dtype=np.float64)

    @property
    def queries(self) -> np.ndarray | None:
        """(N,) which queries these are; None where that is not known."""
        return None if self.ranks is None else self.ranks.queries

    @property
    def first_is_right(self) -> np.ndarray | None:
        """(N,) 1.0 where the first image is a match and 0.0 elsewhere; None where that is not known."""
        return None if self.ranks is None else (self.ranks.ranked.first == 0).astype(np.float64)

    def cmc(self) -> list[tuple[float, float]]:
        """Return (k, CMC@k in percent) of the first ranks, of all where the ranks were kept."""
        if self.ranks is not None:
            first = self.ranks.ranked.first
            most = min(CMC_RANKS, int(self.ranks.images.max()))
            return [(k, 100 * float(np.mean(first < k))) for k in range(1, most + 1)]
        kept = [(k, self.scores.get(f"rank{k}")) for k in (1, 5, 10, 20)]
        return [(k, 100 * value) for k, value in kept if value is not None]


@dataclass(frozen=True)
class Difference:
    """Two outcomes on the queries that both have, left minus right, 0 to 1.

    Args:
        left: name of the one.
        right: name of the other.
        queries: that both have.
        mAP: difference of the means.
        interval: its 95 % interval by resampling queries, both outcomes of a query together; None of one query.
        rank1: difference of rank-1; None where it is not known.
        rank1_interval: likewise.
    """

    left: str
    right: str
    queries: int
    mAP: float
    interval: tuple[float, float] | None
    rank1: float | None
    rank1_interval: tuple[float, float] | None


def differences(outcomes: Sequence[Outcome]) -> list[Difference]:
    """Return the differences of all pairs that were tested on the same data; of very many those from the first alone.

    Args:
        outcomes: in the order of the page.
    """
    found = []
    for data in dict.fromkeys(outcome.data for outcome in outcomes):
        alike = [outcome for outcome in outcomes if outcome.data == data and len(outcome.precision)]
        pairs = list(combinations(alike, 2))
        if len(pairs) > MOST_PAIRS:
            pairs = [(alike[0], other) for other in alike[1:]]
        # The later one minus the earlier: a list of runs begins with what the others are compared with.
        found += [each for each in (difference(later, earlier) for earlier, later in pairs) if each is not None]
    return found


def difference(left: Outcome, right: Outcome) -> Difference | None:
    """Return left minus right over the queries that both have; None where there are none, or they cannot be matched."""
    ours, theirs = left.queries, right.queries
    if ours is None or theirs is None:  # by their order, which the data set gives, if they are as many
        if len(left.precision) != len(right.precision):
            return None
        mine = yours = np.arange(len(left.precision))
    else:
        _, mine, yours = np.intersect1d(ours, theirs, assume_unique=True, return_indices=True)
    if not len(mine):
        return None
    by_query = left.precision[mine] - right.precision[yours]
    rank1, rank1_interval = None, None
    first, other = left.first_is_right, right.first_is_right
    if first is not None and other is not None:
        hits = first[mine] - other[yours]
        rank1, rank1_interval = float(hits.mean()), bootstrap_interval(hits)
    return Difference(
        left=left.name,
        right=right.name,
        queries=len(mine),
        mAP=float(by_query.mean()),
        interval=bootstrap_interval(by_query),
        rank1=rank1,
        rank1_interval=rank1_interval,
    )
