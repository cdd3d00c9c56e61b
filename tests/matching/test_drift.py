"""Drift: its statistic, and how often it cries wolf on people like the calibration's."""

from functools import cache

import numpy as np
import pytest

from reference_pipelines.matching.drift import Drift, _distance, _percentiles, learn_drift
from reference_pipelines.matching.pairs import draw_images, unit_vectors
from tests.matching.support import population


@cache
def learnt(seed, people=80, **how):
    features, ids, _ = population(np.random.default_rng((seed, 10)), people, **how)
    return learn_drift(unit_vectors(features, "test"), ids, seed)


def test_the_statistic_is_that_of_two_distribution_functions():
    rng = np.random.default_rng(0)
    first, second = np.round(rng.normal(size=300), 1), np.round(rng.normal(0.3, size=200), 1)  # with ties
    points, levels = _percentiles(first)
    assert len(points) == 99
    expected = max(abs((second <= x).mean() - (first <= x).mean()) for x in points)
    assert _distance(np.sort(second), points, levels) == pytest.approx(expected)
    assert _distance(np.sort(first), points, levels) == 0


def test_people_like_the_calibrations_raise_an_alarm_seldom_and_others_do():
    alarms, found = 0, 0
    for seed in range(40):
        reference = learnt(seed % 3)
        same, other = (
            population(np.random.default_rng((seed, side)), 80, noise=noise)[0]
            for side, noise in ((11, 1.2), (12, 2.0))
        )
        alarms += reference.compare(same, seed).unlike
        drift = reference.compare(other + 1.5, seed)
        found += drift.unlike
        assert drift.shift > 0
    assert alarms <= 3  # 1 % is meant; of 40 more than 3 come once in a thousand times
    assert found == 40


def test_a_gallery_that_lies_elsewhere_and_is_as_alike_in_itself_is_found():
    reference = learnt(0)
    features = population(np.random.default_rng((0, 10)), 80)[0]
    turned = features @ np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0]  # keeps all similarities
    same, elsewhere = reference.compare(features), reference.compare(turned)
    assert elsewhere.distance == pytest.approx(same.distance, abs=1e-3)
    assert (same.unlike, elsewhere.unlike) == (False, True)
    drawn = draw_images(len(features), 200, 0)
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (features, turned)]
    assert elsewhere.away == pytest.approx(np.linalg.norm(unit[1][drawn].mean(axis=0) - unit[0].mean(axis=0)), abs=1e-6)


@pytest.mark.parametrize(("distance", "away", "unlike"), [(0.1, 0.2, False), (0.11, 0, True), (0, 0.21, True)])
def test_either_distance_above_its_limit_is_unlike(distance, away, unlike):
    assert Drift(50, distance, 0.1, 0.0, away, 0.2).unlike == unlike


def test_the_limit_is_of_as_many_images_and_a_smaller_gallery_has_a_wider_one():
    reference = learnt(0)
    assert list(reference.limits) == [50, 100, 200]
    assert all(small > large for small, large in zip(reference.limits[50], reference.limits[200], strict=True))
    features = population(np.random.default_rng(5), 80)[0]
    assert reference.compare(features).images == 200
    assert reference.compare(features[:199]).images == 100
    small = reference.compare(features[::3][:50])
    assert (small.limit, small.away_limit) == reference.limits[50]
    assert reference.compare(features, 1) == reference.compare(features, 1)


def test_refusals():
    with pytest.raises(ValueError, match="^drift: the gallery must have at least 50 images, got 49"):
        learnt(0).compare(np.ones((49, 16)))
    with pytest.raises(ValueError, match="^drift: features must have the calibration's width, 16, got 3"):
        learnt(0).compare(np.ones((60, 3)))
    assert learnt(0, people=10) is None
