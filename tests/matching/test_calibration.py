"""Calibrations: which scale a verdict is of, the probability, and JSON there and back."""

import json

import numpy as np
import pytest

from reference_pipelines.matching import Calibration, calibrate, collect_pairs, operating_points
from reference_pipelines.matching.pairs import CENTRES
from reference_pipelines.matching.probability import Probability, fit_probability
from tests.conftest import says
from tests.matching.support import population


@pytest.fixture(scope="module")
def images():
    """People whom camera 4 sees of seldom."""
    features, ids, cameras = population(np.random.default_rng(0), 90, 8)
    some = (cameras != 4) | (ids <= 15)
    return features[some], ids[some], cameras[some]


@pytest.fixture(scope="module")
def calibration(images):
    return calibrate(*images, rates=(0.0005, 0.01, 1e-6), replicates=100)


def test_pooled_and_pairs_of_cameras_are_those_of_their_pairs(images, calibration):
    assert calibration.cameras == (1, 2, 3, 4)
    assert set(calibration.camera_pairs) == {(1, 2), (1, 3), (2, 3)}  # camera 4 sees too few
    wanted = operating_points(collect_pairs(*images, depth=0.04), (0.01, 0.0005, 1e-6), replicates=100)
    assert calibration.pooled.points == wanted
    between = collect_pairs(*images, between=(1, 3), depth=0.04)
    assert calibration.camera_pairs[1, 3].points == operating_points(between, (0.01, 0.0005, 1e-6), replicates=100)
    assert calibration.camera_pairs[1, 3].genuine == len(between.genuine) == 90 * 4
    assert calibration.pooled.at(0.01).rate == 0.01
    assert calibration.pooled.at(0.02) is None


def test_a_verdict_is_of_the_pairs_scale_or_says_why_not(calibration):
    own = calibration.camera_pairs[1, 2].at(0.01)
    for cameras in ((1, 2), (2, 1)):
        verdict = calibration.judge(own.threshold, cameras=cameras)
        assert (verdict.same, verdict.threshold, verdict.interval) == (True, own.threshold, own.interval)
        assert says(verdict.scale, "cameras", "1")
        assert "pooled" not in verdict.scale
        assert verdict.probability == calibration.camera_pairs[1, 2].probability.at(own.threshold)
    assert not calibration.judge(np.nextafter(own.threshold, -1), cameras=(1, 2)).same
    pooled = calibration.pooled.at(0.01)
    for cameras, why in (
        (None, "no cameras given"),
        ((1, 4), "cameras 1 and 4 have too few pairs"),
        ((2, 2), "both of camera 2"),
        ((1, 9), "camera 9 is not among"),
    ):
        verdict = calibration.judge(0.3, cameras=cameras)
        assert verdict.threshold == pooled.threshold
        assert verdict.probability == calibration.pooled.probability.at(0.3)
        assert says(verdict.scale, "pooled", why)


def test_a_rate_that_a_pair_of_cameras_cannot_have_is_the_pooled_one(calibration):
    assert calibration.camera_pairs[1, 2].at(0.0005).threshold is None
    verdict = calibration.judge(0.3, rate=0.0005, cameras=(1, 2))
    assert verdict.threshold == calibration.pooled.at(0.0005).threshold
    assert says(verdict.scale, "pooled", "1 and 2", "for this rate")


def test_refusals_of_a_verdict(calibration):
    for options, parts in (
        ({"rate": 0.02}, ("rate must be one that was calibrated (0.01, 0.0005, 1e-06)", "got 0.02")),
        ({"rate": 1e-6}, ("1e-06 is not estimable", "10,000,000 impostor pairs")),
        ({"prior": 1}, ("prior must be above 0 and below 1", "got 1")),
    ):
        with pytest.raises(ValueError, match="^same: ") as refused:
            calibration.judge(0.3, **options)
        assert says(str(refused.value), *parts)
    for options, parts in (
        ({"rates": (0.5, 1.5)}, ("rates must be", "got 1.5")),
        ({"ids": np.ones(4, int)}, ("at least 2 people", "got 1")),
    ):
        given = {"features": np.eye(4), "ids": np.arange(4), "cameras": None} | options
        with pytest.raises(ValueError, match="^calibrate: ") as refused:
            calibrate(**given)
        assert says(str(refused.value), *parts)


def test_json_there_and_back(calibration):
    back = Calibration.from_plain(json.loads(json.dumps(calibration.to_plain())))
    assert back == calibration
    assert back.judge(0.4, cameras=(1, 3)) == calibration.judge(0.4, cameras=(1, 3))


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("inf"), float("nan")])
def test_a_rate_that_is_none_is_not_read(calibration, rate):
    plain = json.loads(json.dumps(calibration.to_plain()))
    plain["pooled"]["points"][0]["rate"] = rate
    with pytest.raises(ValueError, match=f"between 0 and 1, got {rate}"):
        Calibration.from_plain(plain)


def test_without_cameras_and_with_few_people(images):
    features, ids, _ = images
    plain = calibrate(features[ids <= 8], ids[ids <= 8], replicates=20)
    assert (plain.cameras, dict(plain.camera_pairs), plain.drift) == ((), {}, None)
    assert all(point.reason for point in plain.pooled.points)
    back = Calibration.from_plain(json.loads(json.dumps(plain.to_plain())))
    assert back == plain
    whole = calibrate(features, ids, replicates=50)
    assert says(whole.judge(0.3, cameras=(1, 2)).scale, "pooled", "without cameras")


def test_of_many_images_some_are_drawn(images):
    drawn = calibrate(*images, rates=(0.05,), replicates=20, most_images=200, seed=1)
    assert drawn.images == 200
    assert drawn == calibrate(*images, rates=(0.05,), replicates=20, most_images=200, seed=1)
    assert drawn != calibrate(*images, rates=(0.05,), replicates=20, most_images=200, seed=2)


def test_the_curve_is_the_best_rising_one():
    """Pool adjacent violators by hand: no other rising steps have a smaller squared error."""
    pairs = collect_pairs(*population(np.random.default_rng(2), 30))
    curve = fit_probability(pairs)
    assert list(curve.values) == sorted(curve.values)
    margin = 1 / 32
    assert (curve.values[0], curve.values[-1]) == (pytest.approx(margin), pytest.approx(1 - margin))
    genuine, impostor = (h / h.sum() for h in (pairs.genuine_histogram, pairs.impostor_histogram))
    filled = np.flatnonzero(genuine + impostor)
    blocks = []
    for place in filled:
        blocks.append([genuine[place], genuine[place] + impostor[place], 1])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    values = np.concatenate([[own / whole] * count for own, whole, count in blocks]).clip(margin, 1 - margin)
    said = [curve.at(CENTRES[place]) for place in filled]
    np.testing.assert_allclose(said, values, atol=1e-6)


def test_the_probability_holds_for_other_people():
    curve = fit_probability(collect_pairs(*population(np.random.default_rng(3), 150)))
    others = collect_pairs(*population(np.random.default_rng(4), 150))
    said = [np.array([curve.at(s) for s in each]) for each in (others.genuine, others.highest[::20])]
    for low in np.arange(0.1, 0.9, 0.2):
        true, false = (((low <= each) & (each < low + 0.2)).mean() for each in said)
        assert true / (true + false) == pytest.approx(low + 0.1, abs=0.1)


def test_another_prior_moves_the_odds():
    curve = Probability((0.0, 1.0), (0.1, 0.9))
    assert curve.at(0.5) == pytest.approx(0.5)
    assert curve.at(-3) == pytest.approx(0.1)
    odds = 0.9 / 0.1 * 0.01 / 0.99
    assert curve.at(1, prior=0.01) == pytest.approx(odds / (1 + odds))
