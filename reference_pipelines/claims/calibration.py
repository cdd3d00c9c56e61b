"""How often the intervals hold the truth and the verdicts are right, on experiments drawn from known truths."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from reference_pipelines.claims.statistics import half_widths
from reference_pipelines.text_table import format_table

_QUERIES = 4  # a person
_RESAMPLES = 400


@dataclass(frozen=True)
class Scenario:
    """How differences spread, in points of the metric.

    Args:
        name: for the table.
        people: in query.
        seeds_spread: of the seeds' means.
        people_spread: of the people's.
        interaction: what a person's mean under one seed has besides.
        skewed: whether few people have most of the difference.
    """

    name: str
    people: int
    seeds_spread: float
    people_spread: float
    interaction: float
    skewed: bool = False

    def draw(self, rng: np.random.Generator, experiments: int, seeds: int) -> np.ndarray:
        """Return (experiments, seeds, people) differences of people whose mean is 0."""
        size = (experiments, 1, self.people)
        who = rng.exponential(size=size) - 1 if self.skewed else rng.normal(size=size)
        by_seed = self.seeds_spread * rng.normal(size=(experiments, seeds, 1))
        both = self.interaction * rng.normal(size=(experiments, seeds, self.people))
        return self.people_spread * who + by_seed + both


SCENARIOS = (
    Scenario("60 people, as the demo has", 60, 1.0, 6.0, 8.0),
    Scenario("60 people, few of them moved", 60, 1.0, 6.0, 8.0, skewed=True),
    Scenario("750 people, as Market-1501 has", 750, 0.3, 8.0, 8.0),
    Scenario("750 people, restless training", 750, 1.5, 8.0, 8.0),
    Scenario("750 people, the seeds alone", 750, 1.0, 0.0, 1.0),
    Scenario("750 people, the people alone", 750, 0.0, 15.0, 3.0),
)


@dataclass(frozen=True)
class Calibration:
    """What came of many experiments.

    Args:
        coverage: how often the interval held the truth.
        percentile: how often that of a two-level percentile bootstrap did.
        over_seeds: how often a paired t over the seeds alone did, which takes the people for all there are.
        half_width: the mean, in points.
        power: how often a difference so many points above the margin was "reproduced".
        null: how often a difference of 0 was "contradicted", by the number of points in the margin.
        wrong: how often the verdict was wrong where the truth is the margin itself, on the side that is more often.
    """

    coverage: float
    percentile: float
    over_seeds: float
    half_width: float
    power: dict[float, float]
    null: dict[float, float]
    wrong: float


def calibrate(scenario: Scenario, seeds: int, experiments: int, rng: np.random.Generator) -> Calibration:
    """Return what so many experiments with `seeds` seeds give, the truth being 0 or moved to where it is asked for."""
    drawn = scenario.draw(rng, experiments, seeds)
    mean, half = half_widths(drawn * _QUERIES, np.full(scenario.people, _QUERIES))
    over_seeds = stdtrit(seeds - 1, 0.975) * drawn.mean(axis=2).std(axis=1, ddof=1) / np.sqrt(seeds)
    low, high = _percentiles(drawn, rng)
    return Calibration(
        coverage=float(np.mean(np.abs(mean) <= half)),
        percentile=float(np.mean((low <= 0) & (high >= 0))),
        over_seeds=float(np.mean(np.abs(mean) <= over_seeds)),
        half_width=float(half.mean()),
        power={above: float(np.mean(mean + above - half > 0)) for above in (0.5, 1.0, 2.0, 4.0)},
        null={margin: float(np.mean(mean + half < margin)) for margin in (0.5, 2.0)},
        wrong=float(max(np.mean(mean - half > 0), np.mean(mean + half < 0))),
    )


def _percentiles(drawn: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the two-level percentile bootstrap's intervals: seeds and people are drawn again."""
    _, seeds, people = drawn.shape
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=_RESAMPLES) / seeds
    of_people = rng.multinomial(people, np.full(people, 1 / people), size=_RESAMPLES) / people
    means = np.einsum("enb,bn->eb", drawn @ of_people.T, of_seeds)
    low, high = np.percentile(means, [2.5, 97.5], axis=1)
    return low, high


def calibration_rows(experiments: int = 2000) -> Iterator[tuple[Scenario, int, Calibration]]:
    """Yield every scenario at 3 and at 5 seeds."""
    rng = np.random.default_rng(0)
    for scenario in SCENARIOS:
        for seeds in (3, 5):
            yield scenario, seeds, calibrate(scenario, seeds, experiments, rng)


def as_markdown(experiments: int = 2000) -> str:
    """Return the page of the table."""
    rows = list(calibration_rows(experiments))
    first = [
        (
            scenario.name,
            f"{scenario.seeds_spread:g} / {scenario.people_spread:g} / {scenario.interaction:g}",
            str(seeds),
            *(_percent(each) for each in (found.coverage, found.percentile, found.over_seeds)),
            f"{found.half_width:.2f}",
            _percent(found.wrong),
        )
        for scenario, seeds, found in rows
    ]
    second = [
        (
            scenario.name,
            str(seeds),
            *(_percent(each) for each in found.power.values()),
            *(_percent(each) for each in found.null.values()),
        )
        for scenario, seeds, found in rows
    ]
    return _PAGE.format(
        experiments=experiments,
        coverage=format_table(first, _FIRST, words=2),
        power=format_table(second, _SECOND, words=1),
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


_FIRST = ("differences", "spread", "seeds", "held", "percentile", "t over seeds", "half-width", "wrong")
_SECOND = ("differences", "seeds", "+0.5", "+1", "+2", "+4", "0 below 0.5", "0 below 2")
_PAGE = """\
# How the verdicts on claims are calibrated

Made by `python -m reference_pipelines.claims docs/results`: {experiments:,} experiments a row, drawn from a known
truth, in points of mAP. `spread` is that of the seeds' means, of the people's differences, and of what a person's has
besides under each seed. The numbers are of these draws, not of a run.

## Coverage

How often (%) the 95 % interval held the truth: that of the verdicts (`held`), the percentiles of a two-level bootstrap
over seeds and people, and a paired t over the seeds alone, which knows these people only and is right where they
hardly matter. `wrong` is how often (%) a verdict was wrong where it is easiest to be: at a truth on the margin.

```
{coverage}
```

## Power

How often (%) a difference that is so many points above its margin was called *reproduced*, and how often one that is 0
in truth was called *contradicted*, by the margin. What is neither is *undecided*.

```
{power}
```
"""
