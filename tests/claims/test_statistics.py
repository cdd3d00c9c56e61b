"""Intervals of few seeds hold the truth as often as they say, and the variances are those of a two-level bootstrap."""

import numpy as np
import pytest

from reference_pipelines.claims.calibration import SCENARIOS, calibrate
from reference_pipelines.claims.statistics import components, estimate, half_widths, seeds_needed


def differences(seeds, people, queries, *, by_seed=1.0, by_person=6.0, both=4.0, seed=0):
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(people), queries)
    found = by_seed * rng.normal(size=(seeds, 1)) + (by_person * rng.normal(size=people))[who]
    return found + (both * rng.normal(size=(seeds, people)))[:, who] + 5 * rng.normal(size=(seeds, len(who))), who


def test_the_variances_are_those_of_a_bootstrap_over_people_and_over_seeds():
    queries = np.random.default_rng(3).integers(1, 8, 80)
    values, people = differences(6, 80, queries)
    rng, by_people, by_seeds, by_both = np.random.default_rng(1), [], [], []
    rows = [np.flatnonzero(people == person) for person in range(80)]
    for _ in range(3000):
        drawn = np.concatenate([rows[person] for person in rng.integers(80, size=80)])
        again = rng.integers(6, size=6)
        by_people.append(values[:, drawn].mean())
        by_seeds.append(values[again].mean())
        by_both.append(values[again][:, drawn].mean())
    found = estimate(values, people)
    assert found.difference == pytest.approx(values.mean())
    assert found.people_alone == pytest.approx(np.var(by_people), rel=0.1)
    # A bootstrap of n seeds has the part (n - 1) / n of their variance.
    assert found.seeds_variance * 5 / 6 == pytest.approx(np.var(by_seeds), rel=0.1)
    assert found.seeds_variance * 5 / 6 + found.people_alone <= np.var(by_both) * 1.1


def test_without_people_that_differ_it_is_the_paired_t_over_seeds():
    values = np.repeat([[1.0], [2.0], [4.0]], 8, axis=1)
    found = estimate(values, np.arange(8))
    standard_error = np.std([1.0, 2.0, 4.0], ddof=1) / np.sqrt(3)
    assert found.half_width == pytest.approx(4.302652729911275 * standard_error)  # t(2) at 0.975
    assert found.difference == pytest.approx(7 / 3)


def test_without_seeds_that_differ_it_is_the_t_over_people():
    values = np.array([[1.0, 3.0, 8.0]] * 4)
    found = estimate(values, np.arange(3))
    standard_error = np.std([1.0, 3.0, 8.0], ddof=1) / np.sqrt(3)
    assert found.half_width == pytest.approx(4.302652729911275 * standard_error)


def test_many_experiments_at_once_are_each_as_one():
    made = [differences(3, 20, np.full(20, 2), seed=seed) for seed in range(4)]
    sums = np.stack([values.reshape(3, 20, 2).sum(axis=2) for values, _ in made])
    means, halves = half_widths(sums, np.full(20, 2))
    for (values, people), mean, half in zip(made, means, halves, strict=True):
        one = estimate(values, people)
        assert (one.difference, one.half_width) == (pytest.approx(mean), pytest.approx(half))
    assert all(part.shape == (4,) for part in components(sums, np.full(20, 2)))


def test_one_seed_or_one_person_has_no_interval():
    values, people = differences(1, 5, np.full(5, 2))
    assert estimate(values, people).interval is None
    assert estimate(np.ones((3, 4)), np.zeros(4)).interval is None


@pytest.mark.parametrize(
    "scenario",
    [SCENARIOS[0], *(pytest.param(scenario, marks=pytest.mark.slow) for scenario in SCENARIOS[1:])],
    ids=lambda scenario: scenario.name,
)
@pytest.mark.parametrize("seeds", [3, 5])
def test_the_intervals_hold_the_truth_and_wrong_verdicts_are_rare(scenario, seeds):
    found = calibrate(scenario, seeds, 600, np.random.default_rng(7))
    assert found.coverage > 0.93  # 95 % less two standard errors of 600 draws
    assert found.wrong < 0.05


@pytest.mark.slow
def test_the_percentiles_of_three_seeds_are_too_near_and_t_over_seeds_forgets_the_people():
    alone, people = SCENARIOS[4], SCENARIOS[5]
    assert calibrate(alone, 3, 600, np.random.default_rng(7)).percentile < 0.8
    assert calibrate(people, 3, 600, np.random.default_rng(7)).over_seeds < 0.5


def test_what_is_there_is_found():
    market = SCENARIOS[2]
    three, five = (calibrate(market, seeds, 600, np.random.default_rng(7)) for seeds in (3, 5))
    assert three.power[2.0] > 0.85
    assert five.power[1.0] > 0.6
    assert five.null[2.0] > 0.95


def test_the_seeds_that_would_decide_do():
    values, people = differences(3, 400, np.full(400, 2), by_person=1.0, both=1.0, by_seed=1.5, seed=5)
    found = estimate(values, people)
    needed = seeds_needed(found, 1.0)
    assert found.half_width > 1.0
    assert found.with_seeds(needed) < 1.0 <= found.with_seeds(needed - 1)
    assert found.with_seeds(3) == pytest.approx(found.half_width)
    assert seeds_needed(found, 1e-6) is None  # the people alone are too few for that
