"""Thresholds, error rates and their intervals, against loops, scikit-learn and people whose rates are known."""

from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from reference_pipelines.matching import collect_pairs, error_curve, operating_points, rates, realised_rates
from reference_pipelines.matching.pairs import EDGES
from reference_pipelines.matching.rates import person_weights
from tests.conftest import says
from tests.matching.support import on_a_grid, population
from tests.oracles import matching as oracle


@pytest.fixture
def all_estimable(monkeypatch):
    monkeypatch.setattr(rates, "LEAST_FALSE_MATCHES", 0)


def people_of(ids):
    return sorted({person for person in np.asarray(ids).tolist() if person > 0})


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("make", [on_a_grid, lambda rng: population(rng, 8, 4)])
def test_points_and_intervals_equal_the_loops(seed, make, all_estimable):
    features, ids, cameras = make(np.random.default_rng(seed))
    found = collect_pairs(features, ids, cameras)
    asked = (0.3, 0.05, 0.01)
    points = operating_points(found, asked, replicates=12, seed=seed)
    # The products of the table, since the loop's own round otherwise: which pairs they are is another test's.
    genuine = list(zip(found.genuine.tolist(), found.genuine_people.tolist(), strict=True))
    impostor = list(zip(found.highest.tolist(), found.first.tolist(), found.second.tolist(), strict=True))
    drawn = [[dict(enumerate(w)) for w in person_weights(found.people, 12, s)] for s in (seed, seed + 1)]
    for point in points:
        least = oracle.threshold(impostor, point.rate)
        assert max([s for s, *_ in impostor if s < least]) < point.threshold <= least
        assert point.false_matches == sum(s >= least for s, *_ in impostor)
        assert point.fnmr == oracle.false_non_match_rate(genuine, point.threshold)
        realised, missed, fixed = [], [], []
        for weights, new in zip(*drawn, strict=True):
            if any(not sum(w[a] * w[b] for _, a, b in impostor) for w in (weights, new)):
                continue
            anew = oracle.threshold(impostor, point.rate, weights)
            below = max([s for s, *_ in impostor if s < anew])
            realised.append(oracle.false_match_rate(impostor, np.nextafter(below, 2), new))
            fixed.append(oracle.false_match_rate(impostor, point.threshold, weights))
            if any(weights[person] for _, person in genuine):
                missed.append(oracle.false_non_match_rate(genuine, np.nextafter(below, 2), weights))
        np.testing.assert_allclose(point.interval, np.percentile(realised, [2.5, 97.5]))
        np.testing.assert_allclose(point.fnmr_interval, np.percentile(missed, [2.5, 97.5]))
        effective = np.mean(fixed) ** 2 / np.var(fixed) if np.var(fixed) else 0
        assert point.effective == pytest.approx(effective)


def test_the_rate_is_never_above_what_was_asked_for_and_the_next_threshold_is(all_estimable):
    found = collect_pairs(*population(np.random.default_rng(7), 20))
    for point in operating_points(found, (0.05, 0.01, 0.002), replicates=2):
        assert point.false_matches <= point.rate * found.impostors
        lower = (found.highest >= found.highest[point.false_matches]).sum()
        assert lower > point.rate * found.impostors


def test_what_is_held_in_part_gives_the_same_points():
    whole, part = (collect_pairs(*population(np.random.default_rng(2), 40), depth=depth) for depth in (1.0, 0.04))
    assert len(part.highest) < len(whole.highest) / 20
    assert operating_points(whole, (0.01,), seed=3) == operating_points(part, (0.01,), seed=3)


def test_the_curve_is_scikit_learns_at_its_thresholds():
    found = collect_pairs(*population(np.random.default_rng(5), 15))
    scores = np.concatenate([found.genuine, found.highest])
    truth = np.repeat([1, 0], [len(found.genuine), found.impostors])
    fpr, tpr, thresholds = roc_curve(truth, scores, drop_intermediate=False)
    curve = error_curve(found)
    assert len(curve) > 200
    for edge, fmr, fnmr in curve:
        place = np.flatnonzero(thresholds >= edge)[-1]
        assert (fmr, 1 - fnmr) == pytest.approx((fpr[place], tpr[place]), abs=1e-12)
    assert {edge for edge, *_ in curve} <= set(EDGES.tolist())
    assert curve[0][1] == 1
    assert all(first[1] >= then[1] and first[2] <= then[2] for first, then in pairwise(curve))


def test_realised_rates_are_those_of_the_loops():
    features, ids, cameras = population(np.random.default_rng(3), 9)
    found = collect_pairs(features, ids, cameras, thresholds=(0.4, 0.6), depth=0.01)
    genuine, impostor = oracle.pairs(oracle.cosine(features), ids, cameras)
    drawn = [dict(enumerate(w, start=1)) for w in person_weights(9, 8, 4)]
    for realised in realised_rates(found, replicates=8, seed=4):
        least = realised.threshold
        assert realised.fmr == pytest.approx(oracle.false_match_rate(impostor, least))
        assert realised.fnmr == pytest.approx(oracle.false_non_match_rate(genuine, least))
        matched = [oracle.false_match_rate(impostor, least, weights) for weights in drawn]
        missed = [oracle.false_non_match_rate(genuine, least, weights) for weights in drawn]
        np.testing.assert_allclose(realised.fmr_interval, np.percentile(matched, [2.5, 97.5]))
        np.testing.assert_allclose(realised.fnmr_interval, np.percentile(missed, [2.5, 97.5]))


def test_a_promised_interval_holds_for_other_people_in_17_of_20_seeds():
    held, narrow = 0, 0
    for seed in range(20):
        rng = np.random.default_rng((seed, 1))
        (point,) = operating_points(collect_pairs(*population(rng, 60), depth=0.04), (0.01,), replicates=200, seed=seed)
        others = collect_pairs(*population(rng, 60), depth=0.001, thresholds=(point.threshold,))
        (realised,) = realised_rates(others, replicates=2)
        held += point.interval[0] <= realised.fmr <= point.interval[1]
        narrow += point.interval[1] - point.interval[0] < 0.015
        assert point.interval[0] < 0.01 < point.interval[1]
    assert held >= 17
    assert narrow == 20  # an interval of everything would hold too


def test_the_interval_of_a_realised_rate_holds_the_populations():
    """The rate of all people there are is that of a much larger sample."""
    whole = collect_pairs(*population(np.random.default_rng(1234), 500, 2), depth=0.001, thresholds=(0.5,))
    (truth,) = realised_rates(whole, replicates=2)
    held = 0
    for seed in range(20):
        some = collect_pairs(*population(np.random.default_rng((seed, 2)), 60), depth=0.001, thresholds=(0.5,))
        (found,) = realised_rates(some, replicates=300, seed=seed)
        held += found.fmr_interval[0] <= truth.fmr <= found.fmr_interval[1]
    assert held >= 17


def test_too_few_pairs_or_people_make_a_rate_not_estimable():
    found = collect_pairs(*population(np.random.default_rng(0), 30))
    ok, few = operating_points(found, (0.01, 1e-4), replicates=50)
    assert not ok.reason
    assert ok.threshold is not None
    assert says(few.reason, "not estimable", "takes 100,000 impostor pairs", f"there are {found.impostors:,}")
    nothing = (few.threshold, few.false_matches, few.interval, few.fnmr, few.fnmr_interval)
    assert nothing == (None,) * 5
    features, ids, cameras = population(np.random.default_rng(0), 8, 60)  # many pairs, few people
    (point,) = operating_points(collect_pairs(features, ids, cameras), (0.01,), replicates=50)
    assert says(point.reason, "not estimable", "few people", "where 10 are needed")
    assert point.effective < 10
    assert point.threshold is None


def test_without_genuine_pairs_there_is_a_threshold_and_no_fnmr():
    features, ids, cameras = population(np.random.default_rng(0), 80, 1)
    (point,) = operating_points(collect_pairs(features, ids, cameras), (0.02,), replicates=50)
    assert point.threshold is not None
    assert (point.fnmr, point.fnmr_interval) == (None, None)


@pytest.mark.parametrize(
    ("asked", "got"), [((0.0,), "got 0"), ((0.1, 1.0), "got 1"), ((), "got []"), ((-1,), "got -1")]
)
def test_refusals(asked, got):
    found = collect_pairs(*population(np.random.default_rng(0), 5))
    with pytest.raises(ValueError, match="rates must be above 0 and below 1") as refused:
        operating_points(found, asked)
    assert got in str(refused.value)
