"""Scores out of the ranks of the true matches alone: no features, no images, no torch.

`retrieval.evaluate` scores by these functions, and `check-result` scores again by them what a ledger keeps.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ranked:
    """The ranks of the matches, grouped: by query, or by query and camera.

    Args:
        ranks: (H,) 0-based ranks, ascending within a group.
        starts: (N,) where each group starts.
    """

    ranks: np.ndarray
    starts: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """(N,) matches of each group."""
        return np.diff(self.starts, append=len(self.ranks))

    @property
    def numbers(self) -> np.ndarray:
        """(H,) how many matches of its group stand before each."""
        return np.arange(len(self.ranks)) - np.repeat(self.starts, self.sizes)

    @property
    def first(self) -> np.ndarray:
        """(N,) ranks of the first matches."""
        return self.ranks[self.starts]

    @property
    def last(self) -> np.ndarray:
        """(N,) ranks of the last matches."""
        return self.ranks[self.starts + self.sizes - 1]

    def average_precision(self) -> np.ndarray:
        """Return (N,) the mean of the precision at each match: of the area under the curve, its right corners."""
        return self._mean((self.numbers + 1) / (self.ranks + 1))

    def average_precision_market(self) -> np.ndarray:
        """Return (N,) the average precision of Market-1501's evaluation code (Zheng et al., ICCV 2015).

        It is the area under the curve by trapezoids: the mean over the matches of half the sum of the precision at
        the match and of that just before it, which is 1 before the first image.
        """
        before = np.where(self.ranks > 0, self.numbers / np.maximum(self.ranks, 1), 1.0)
        return self._mean(((self.numbers + 1) / (self.ranks + 1) + before) / 2)

    def inverse_negative_penalty(self) -> np.ndarray:
        """Return (N,) matches divided by the 1-based rank of the last: how far one must look to see all.

        Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook" (TPAMI 2021), Eq. 2 and 3.
        """
        return self.sizes / (self.last + 1)

    def _mean(self, values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, self.starts) / self.sizes


@dataclass(frozen=True)
class QueryRanks:
    """Where the true matches of each query stand: all that the scores of an evaluation are made of.

    Args:
        ranks: (H,) 0-based ranks after junk and the query's own camera are dropped, query by query, ascending.
        matches: (N,) how many of them each query has, at least 1.
        images: (N,) how many gallery images each query ranked.
        queries: (N,) its index among the queries asked, ascending.
        people: (N,) its person id.
        skipped: queries without a match, which are left out.
    """

    ranks: np.ndarray
    matches: np.ndarray
    images: np.ndarray
    queries: np.ndarray
    people: np.ndarray
    skipped: int

    @property
    def ranked(self) -> Ranked:
        """The ranks grouped by query."""
        return Ranked(self.ranks.astype(np.int64), np.cumsum(self.matches) - self.matches)

    def fault(self) -> str | None:
        """Return why no ranking can have given these numbers; None where one can."""
        arrays = (self.ranks, self.matches, self.images, self.queries, self.people)
        if any(each.ndim != 1 or each.dtype.kind != "i" for each in arrays):
            return "an array is not a row of whole numbers"
        if len({len(each) for each in arrays[1:]}) != 1 or not len(self.matches):
            return "the queries' arrays are not of one length above 0"
        if self.matches.min() < 1 or self.matches.sum() != len(self.ranks):
            return f"{len(self.ranks)} ranks are not the matches of the queries"
        if self.skipped < 0 or self.queries[0] < 0 or (np.diff(self.queries) <= 0).any():
            return "the queries are not in order"
        ranked = self.ranked
        inside = np.ones(len(self.ranks), dtype=bool)
        inside[ranked.starts] = False
        if (np.diff(self.ranks, prepend=0)[inside] <= 0).any() or ranked.first.min() < 0:
            return "the ranks of a query do not rise from 0 on"
        return None if (ranked.last < self.images).all() else "a rank is beyond the images that were ranked"


@dataclass(frozen=True)
class Scores:
    """What is made of the ranks; all figures are 0 to 1 and means over the queries that have a match.

    Args:
        mAP: mean of the average precision, the mean of the precision at each match.
        interval: 95 % bootstrap interval of mAP over the queries; None of one query.
        cmc: for each k the part of the queries with a match among the first k.
        mINP: mean of the number of matches divided by the rank of the last.
        mAP_market: mean of the average precision as Market-1501's evaluation code has it.
        interval_market: of mAP_market.
        average_precision: (N,) that of each query.
    """

    mAP: float
    interval: tuple[float, float] | None
    cmc: dict[int, float]
    mINP: float
    mAP_market: float
    interval_market: tuple[float, float] | None
    average_precision: np.ndarray


def score(ranks: QueryRanks, first: tuple[int, ...]) -> Scores:
    """Return the scores of an evaluation; `first` are the k of CMC@k."""
    ranked = ranks.ranked
    precision, market = ranked.average_precision(), ranked.average_precision_market()
    return Scores(
        mAP=float(precision.mean()),
        interval=bootstrap_interval(precision),
        cmc={k: float(np.mean(ranked.first < k)) for k in first},
        mINP=float(ranked.inverse_negative_penalty().mean()),
        mAP_market=float(market.mean()),
        interval_market=bootstrap_interval(market),
        average_precision=precision,
    )


def bootstrap_interval(values: np.ndarray, *, resamples: int = 2000, seed: int = 0) -> tuple[float, float] | None:
    """Return the 95 % percentile bootstrap interval of the mean of (n,) `values`; None of one value alone."""
    if len(values) < 2:
        return None
    rng = np.random.default_rng(seed)
    # A block of resamples at a time, so that a large query set does not fill the memory.
    sizes = [min(64, resamples - start) for start in range(0, resamples, 64)]
    means = [values[rng.integers(len(values), size=(size, len(values)))].mean(axis=1) for size in sizes]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def starts_of(groups: np.ndarray) -> np.ndarray:
    """Return where each run of equal values of a non-empty array starts."""
    return np.flatnonzero(np.concatenate([[True], groups[1:] != groups[:-1]]))
