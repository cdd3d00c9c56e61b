"""How sure a difference is that was measured with few seeds on some people.

Two things are drawn: the seeds, and the people in query. With `d[s, i]` the sum over a person's queries, the seeds'
part of the variance is that of the seeds' means, the people's that of the people's means, and both hold the interaction
of the two, which is counted once. (A two-level bootstrap over seeds and people has the same parts in the limit of many
of both; its percentiles of 3 seeds are far too near, as docs/results/claims_calibration.md shows.) The half-width is

    t(n - 1)^2 * seeds + t(P - 1)^2 * (people - interaction),    its root,

each part with Student's t for its own few draws: a paired t over seeds where they dominate, one over people elsewhere.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

LEAST_SEEDS = 3
_MOST_SEEDS = 100


@dataclass(frozen=True)
class Estimate:
    """Differences of two rows, left minus right, in points.

    Args:
        difference: the mean.
        half_width: of its 95 % interval; None of one seed, which shows no spread.
        seeds: how many both rows have.
        people: in query.
        seeds_variance: of the mean, by the seeds.
        people_variance: of the mean, by the people, without what the seeds' has of it.
        people_alone: the people's with it.
    """

    difference: float
    half_width: float | None
    seeds: int
    people: int
    seeds_variance: float
    people_variance: float
    people_alone: float

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval."""
        if self.half_width is None:
            return None
        return self.difference - self.half_width, self.difference + self.half_width

    def with_seeds(self, seeds: int) -> float:
        """Return the half-width that so many seeds would give if they spread as these do."""
        variance = self.seeds_variance * self.seeds / seeds
        return _half_width(variance, self.people_variance, self.people_alone, seeds, self.people)


def estimate(differences: np.ndarray, people: np.ndarray) -> Estimate:
    """Return the mean difference and its interval.

    Args:
        differences: (n, Q) left minus right, a seed a row and a query a column.
        people: (Q,) whose query each is.
    """
    parts = components(*by_person(differences, people))
    mean, seeds_variance, people_variance, alone = (float(part) for part in parts)
    seeds, count = len(differences), len(np.unique(people))
    half = None
    if seeds > 1 and count > 1:
        half = float(_half_width(seeds_variance, people_variance, alone, seeds, count))
    return Estimate(mean, half, seeds, count, seeds_variance, people_variance, alone)


def by_person(differences: np.ndarray, people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (n, P) sums over each person's queries, and (P,) how many those are."""
    _, person, queries = np.unique(people, return_inverse=True, return_counts=True)
    return np.stack([np.bincount(person, weights=row) for row in differences]), queries


def components(sums: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean over queries and its variances, for any number of experiments at once.

    Args:
        sums: (..., n, P) sums over each person's queries.
        queries: (P,) how many those are.

    Returns:
        (...) the mean; its variance by the seeds; by the people, without the interaction; and with it. Those that
        one seed or one person does not show are 0.
    """
    seeds, count = sums.shape[-2:]
    total = queries.sum()
    means = sums.sum(axis=-1) / total
    mean = means.mean(axis=-1)
    seeds_variance = means.var(axis=-1, ddof=1) / seeds if seeds > 1 else np.zeros_like(mean)
    # What each person moves the mean by, a ratio of two sums: its first-order term.
    residuals = (sums - means[..., None] * queries) / total
    person = residuals.mean(axis=-2)
    correction = count / max(count - 1, 1)
    alone = correction * (person**2).sum(axis=-1)
    interaction = np.zeros_like(mean)
    if seeds > 1:
        spread = ((residuals - person[..., None, :]) ** 2).sum(axis=(-2, -1))
        interaction = correction * spread / (seeds * (seeds - 1))
    return mean, seeds_variance, np.maximum(alone - interaction, 0.0), alone


def half_widths(sums: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the half-width of its interval, for any number of experiments (..., n, P) at once."""
    mean, *variances = components(sums, queries)
    return mean, _half_width(*variances, *sums.shape[-2:])


def _half_width(seeds_variance, people_variance, alone, seeds, people):  # type: ignore[no-untyped-def]
    by_seeds = stdtrit(seeds - 1, 0.975) ** 2 * seeds_variance
    by_people = stdtrit(people - 1, 0.975) ** 2
    return np.sqrt(np.maximum(by_seeds + by_people * people_variance, by_people * alone))


def seeds_needed(measured: Estimate, distance: float) -> int | None:
    """Return how many seeds would bring the half-width below a distance; None where more people would have to come.

    Args:
        measured: with two seeds at least.
        distance: of the difference from what it is compared with, above 0.
    """
    for seeds in range(max(LEAST_SEEDS, measured.seeds), _MOST_SEEDS + 1):
        if measured.with_seeds(seeds) < distance:
            return seeds
    return None
