"""False matches and false non-matches at a threshold, and the threshold for a rate of false matches.

A pair is taken for one person where its similarity is at least the threshold. FMR is the part of the impostor pairs
that are, FNMR the part of the genuine pairs that are not (ISO/IEC 19795-1). Both are counted.

The intervals are of a bootstrap over people. Drawing P of P people anew gives person i the weight w_i, how often he
was drawn; a genuine pair counts w_i times and an impostor pair of i and j counts w_i w_j times, so that everything of
a person comes or goes together. (Resampling pairs would take a person's hundreds of pairs for independent.) In each
resample the threshold is found anew.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from reference_pipelines.matching.pairs import EDGES, Pairs

RATES = (1e-2, 1e-3, 1e-4)
REPLICATES = 500
LEAST_FALSE_MATCHES = 10
"""False matches that a rate must be made of, counted, and as many independent ones as they are worth."""

HELD = 4
"""How many times the pairs of the highest rate are held one by one: more than any resample looks at."""

_ROUNDING = 1 + 1e-12


@dataclass(frozen=True)
class OperatingPoint:
    """A false-match rate that was asked for, and what it costs.

    Args:
        rate: that was asked for.
        threshold: the least similarity with no higher rate than that; None where the rate is not estimable, and then
            all that follows but `effective`.
        false_matches: impostor pairs at or above it.
        interval: where the realised rate of as many other people is expected, 95 %.
        fnmr: part of the genuine pairs below the threshold; None without genuine pairs.
        fnmr_interval: 95 %.
        effective: how many independent false matches these are worth: (mean / standard deviation)^2 of the rate
            over the resamples at one threshold.
        reason: why the rate is not estimable; empty where it is.
    """

    rate: float
    threshold: float | None
    false_matches: int | None
    interval: tuple[float, float] | None
    fnmr: float | None
    fnmr_interval: tuple[float, float] | None
    effective: float
    reason: str = ""


@dataclass(frozen=True)
class RealisedRates:
    """What a threshold from elsewhere gives.

    Args:
        threshold: the least similarity that is accepted.
        fmr: part of the impostor pairs at or above it.
        fmr_interval: 95 % over people.
        fnmr: part of the genuine pairs below it; None without genuine pairs.
        fnmr_interval: 95 % over people.
    """

    threshold: float
    fmr: float
    fmr_interval: tuple[float, float] | None
    fnmr: float | None
    fnmr_interval: tuple[float, float] | None


def person_weights(people: int, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """Yield (people,) how often each person was drawn, `replicates` times."""
    rng = np.random.default_rng(seed)
    for _ in range(replicates):
        yield np.bincount(rng.integers(people, size=people), minlength=people).astype(np.float64)


class Tail:
    """The highest scores of what must not be accepted, descending, each with its weight.

    Args:
        scores: (K,) descending.
        whole: whether these are all there are.
    """

    def __init__(self, scores: np.ndarray, *, whole: bool) -> None:
        self.scores = scores
        self.whole = whole
        self._group = np.searchsorted(-scores, -scores, side="left")

    def cut(self, sums: np.ndarray, total: float, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return, for each rate, how many scores are accepted, and the highest score that is not.

        Equal scores are accepted together or not at all, so that the rate is never above what was asked for.

        Args:
            sums: (K,) cumulated weights of the scores.
            total: weight of all scores, those not held included.
            rates: (r,) parts of the total that may be accepted.
        """
        places = np.searchsorted(sums, rates * total * _ROUNDING, side="right")
        inside = places < len(self.scores)
        last = self.scores[-1] if len(self.scores) else np.inf
        beyond = -np.inf if self.whole else np.nextafter(last, -np.inf)  # a resample that looks deeper than is held
        clipped = np.minimum(places, len(self.scores) - 1)
        return (
            np.where(inside, self._group[clipped], len(self.scores)),
            np.where(inside, self.scores[clipped], beyond).astype(np.float64),
        )


def operating_points(
    pairs: Pairs, rates: Sequence[float] = RATES, *, replicates: int = REPLICATES, seed: int = 0
) -> tuple[OperatingPoint, ...]:
    """Return the threshold for each false-match rate, its FNMR and both intervals.

    A rate is estimable where it is made of at least 10 false matches, and these are worth at least 10 independent
    ones: many false matches of a few people who look alike say little of other people.

    Args:
        pairs: with at least `HELD` times the pairs of the highest rate one by one.
        rates: above 0 and below 1.
        replicates: resamples.
        seed: of them.

    Raises:
        ValueError: a rate out of range.
    """
    asked = check_rates(rates)
    tail = Tail(pairs.highest, whole=len(pairs.highest) == pairs.impostors)
    counts, bounds = tail.cut(np.arange(1.0, len(pairs.highest) + 1), pairs.impostors, asked)
    realised, fixed, missed = _resample(pairs, tail, asked, counts, replicates, seed)
    genuine = len(pairs.genuine)
    points = []
    for k, rate in enumerate(asked.tolist()):
        effective = worth(fixed[:, k])
        reason = why_not_estimable(rate, pairs.impostors, effective, "impostor pairs")
        if reason:
            points.append(OperatingPoint(rate, None, None, None, None, None, effective, reason))
            continue
        below = np.searchsorted(pairs.genuine, bounds[k], side="right")
        points.append(
            OperatingPoint(
                rate,
                threshold_above(bounds[k]),
                int(counts[k]),
                percentiles(realised[:, k]),
                float(below / genuine) if genuine else None,
                percentiles(missed[:, k]) if genuine else None,
                effective,
            )
        )
    return tuple(points)


def _resample(
    pairs: Pairs, tail: Tail, rates: np.ndarray, counts: np.ndarray, replicates: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, by resample and rate: the rate realised on other people, that at the one threshold, and FNMR.

    Other people are a second resample, independent of the one that the threshold is found on.
    """
    realised, fixed, missed = np.full((3, replicates, len(rates)), np.nan)
    others = person_weights(pairs.people, replicates, seed + 1)
    for r, (weights, new) in enumerate(zip(person_weights(pairs.people, replicates, seed), others, strict=True)):
        sums, total = _impostor_sums(pairs, weights)
        new_sums, new_total = _impostor_sums(pairs, new)
        if not (total and new_total):
            continue
        places, bounds = tail.cut(sums[1:], total, rates)
        realised[r] = new_sums[places] / new_total
        fixed[r] = sums[counts] / total
        misses = np.concatenate([[0.0], np.cumsum(weights[pairs.genuine_people])])
        if misses[-1]:
            missed[r] = misses[np.searchsorted(pairs.genuine, bounds, side="right")] / misses[-1]
    return realised, fixed, missed


def _impostor_sums(pairs: Pairs, weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Return (K + 1,) the cumulated weights of the impostor pairs held, from 0 on, and the weight of all."""
    own = weights[pairs.first] * weights[pairs.second]
    return np.concatenate([[0.0], np.cumsum(own)]), pairs.impostor_weight(weights)


def realised_rates(pairs: Pairs, *, replicates: int = REPLICATES, seed: int = 0) -> tuple[RealisedRates, ...]:
    """Return what the thresholds that `pairs` were collected with give, found elsewhere and held.

    Args:
        pairs: collected with `thresholds`.
        replicates: resamples of the people.
        seed: of them.
    """
    below = np.searchsorted(pairs.genuine, pairs.thresholds, side="left")
    matched, missed = np.full((2, replicates, len(pairs.thresholds)), np.nan)
    met = [(*above.nonzero(), above[above > 0]) for above in pairs.above]  # most people never match wrongly
    for r, weights in enumerate(person_weights(pairs.people, replicates, seed)):
        if total := pairs.impostor_weight(weights):
            matched[r] = [(weights[first] * weights[second]) @ counts / total for first, second, counts in met]
        misses = np.concatenate([[0.0], np.cumsum(weights[pairs.genuine_people])])
        if misses[-1]:
            missed[r] = misses[below] / misses[-1]
    genuine = len(pairs.genuine)
    return tuple(
        RealisedRates(
            threshold,
            float(pairs.above[k].sum() / pairs.impostors),
            percentiles(matched[:, k]),
            float(below[k] / genuine) if genuine else None,
            percentiles(missed[:, k]) if genuine else None,
        )
        for k, threshold in enumerate(pairs.thresholds.tolist())
    )


def error_curve(pairs: Pairs) -> list[tuple[float, float, float]]:
    """Return the ROC: (threshold, FMR, FNMR), counted at the bin edges between which anything happens, rising."""
    above = np.cumsum(pairs.impostor_histogram[::-1])[::-1]
    below = np.concatenate([[0], np.cumsum(pairs.genuine_histogram)[:-1]])
    inside = (above > 0) & (below < max(1, len(pairs.genuine)))
    inside[1:] &= (np.diff(above) != 0) | (np.diff(below) != 0)
    fmr, fnmr = above / pairs.impostors, below / max(1, len(pairs.genuine))
    return list(zip(EDGES[:-1][inside].tolist(), fmr[inside].tolist(), fnmr[inside].tolist(), strict=True))


def check_rates(rates: Sequence[float], who: str = "operating_points") -> np.ndarray:
    """Return the rates as an array.

    Raises:
        ValueError: there is none, or one is not above 0 and below 1.
    """
    asked = np.asarray(rates, dtype=np.float64)
    wrong = asked[~((asked > 0) & (asked < 1))]
    if asked.ndim != 1 or not len(asked) or len(wrong):
        got = f"{wrong[0]:g}" if len(wrong) else f"{list(rates)}"
        raise ValueError(f"{who}: rates must be above 0 and below 1, got {got}; 0.01 is one in a hundred")
    return asked


def threshold_above(score: float) -> float:
    """Return the least threshold that a score does not reach."""
    return float(np.nextafter(score, np.inf))


def percentiles(values: np.ndarray) -> tuple[float, float] | None:
    """Return the 95 % interval of resampled values without the undefined ones; None where fewer than 2 are left."""
    known = values[~np.isnan(values)]
    if len(known) < 2:
        return None
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def worth(rates: np.ndarray) -> float:
    """Return how many independent events a rate is worth whose resamples (R,) are given."""
    known = rates[~np.isnan(rates)]
    spread = known.var() if len(known) else 0.0
    return float(known.mean() ** 2 / spread) if spread else 0.0


def why_not_estimable(rate: float, count: int, effective: float, what: str) -> str:
    """Say why a rate cannot be estimated of `count` events; nothing where it can."""
    if rate * count < LEAST_FALSE_MATCHES:
        needed = int(np.ceil(LEAST_FALSE_MATCHES / rate))
        return f"not estimable: it takes {needed:,} {what}, there are {count:,}"
    if effective < LEAST_FALSE_MATCHES:
        return (
            f"not estimable: its false matches are of few people, worth {effective:.1f} independent ones where "
            f"{LEAST_FALSE_MATCHES} are needed"
        )
    return ""
