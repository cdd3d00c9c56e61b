"""Open-set identification against a loop over probes."""

import numpy as np
import pytest

from reference_pipelines.matching import identification, identify, rates
from reference_pipelines.matching.rates import person_weights
from tests.conftest import says
from tests.matching.support import population
from tests.oracles import matching as oracle


@pytest.fixture
def all_estimable(monkeypatch):
    monkeypatch.setattr(rates, "LEAST_FALSE_MATCHES", 0)


def split(rng, people):
    """Return queries and gallery of the same people, some of them distractors, junk and nobody's probes."""
    features, ids, cameras = population(rng, people, 5)
    ids = ids.copy()
    ids[rng.permutation(len(ids))[: len(ids) // 8]] = 0
    ids[rng.permutation(len(ids))[: len(ids) // 10]] = -1
    probe = rng.random(len(ids)) < 0.4
    return [(features[side], ids[side], cameras[side]) for side in (probe, ~probe)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("block", [60, 2**22])
def test_equals_the_loop(seed, block, monkeypatch, all_estimable):
    monkeypatch.setattr(identification, "_BLOCK_NUMBERS", block)
    query, gallery = split(np.random.default_rng(seed), 14)
    asked = (0.4, 0.1, 0.02)
    found = identify(*query, *gallery, rates=asked, seed=seed, replicates=5)
    known = sorted({person for person in query[1].tolist() if person > 0})
    away = set(np.random.default_rng(seed).permutation(known)[: round(0.5 * len(known))].tolist())
    cosines = np.array(oracle.cosine(np.concatenate([query[0], gallery[0]])))[: len(query[0]), len(query[0]) :]
    labels = [list(zip(side[1].tolist(), side[2].tolist(), strict=True)) for side in (query, gallery)]
    for point in found.points:
        tpir, mated, wrong = oracle.identification(*labels, cosines, away, point.rate)
        assert (point.tpir, found.mated, found.non_mated) == (pytest.approx(tpir), mated, wrong)
        drawn = [dict(zip(known, w.tolist(), strict=True)) for w in person_weights(len(known), 5, seed)]
        anew = [oracle.identification(*labels, cosines, away, point.rate, weights)[0] for weights in drawn]
        np.testing.assert_allclose(point.tpir_interval, np.percentile([v for v in anew if v is not None], [2.5, 97.5]))
    assert found.people == (len(known) - len(away), len(away))
    assert found.gallery == sum(person != -1 and person not in away for person, _ in labels[1])


def test_a_case_by_hand(all_estimable, monkeypatch):
    """One probe is found above what nobody's probe reaches, one shows another person, one is too far."""
    monkeypatch.setattr(identification, "HELD_OUT", 0.25)
    angle = np.radians

    def at(*degrees):
        return np.stack([np.cos(angle(degrees)), np.sin(angle(degrees))], axis=1)

    for seed in range(50):  # a split that holds person 4 out
        if np.random.default_rng(seed).permutation([1, 2, 3, 4])[0] == 4:
            break
    query = at(0, 90, 180, 270), [1, 2, 3, 4], [1, 1, 1, 1]
    gallery = at(5, 94, 100, 160, 270, 283, 90), [1, 1, 2, 3, 4, 0, 2], [2, 2, 2, 2, 2, 2, 1]
    (point,) = identify(*query, *gallery, rates=(0.5,), held_out=0.25, seed=seed).points
    assert point.threshold == pytest.approx(np.cos(angle(13)), abs=1e-6)  # the distractor, the person is held out
    assert point.tpir == pytest.approx(1 / 3)
    # Person 2 is at 0 degrees too, in the probe's own camera, which does not count.


def test_intervals_hold_both_ends_and_people_come_whole():
    query, gallery = split(np.random.default_rng(0), 200)
    found = identify(*query, *gallery, rates=(0.2, 0.001), replicates=200)
    ok, few = found.points
    assert ok.tpir_interval[0] < ok.tpir < ok.tpir_interval[1]
    assert says(few.reason, "not estimable", "takes 10,000 probes", f"there are {found.non_mated:,}")
    assert (few.threshold, few.tpir, few.tpir_interval) == (None, None, None)


def test_without_cameras_every_image_of_the_person_counts(all_estimable):
    query, gallery = split(np.random.default_rng(2), 20)
    known = identify(*query, *gallery, rates=(0.3,), replicates=2)
    free = identify(*query[:2], None, *gallery[:2], None, rates=(0.3,), replicates=2)
    assert free.mated > known.mated
    assert free.non_mated == known.non_mated


def test_refusals():
    features, ids, cameras = population(np.random.default_rng(0), 4)
    for change, parts in (
        ({"query_ids": np.ones_like(ids)}, ("people must be held out", "got 1 people")),
        ({"query_ids": ids[:3]}, ("ids must be (24,)", "(3,)")),
        ({"gallery_cameras": cameras * 1.0}, ("cameras must be (24,) whole numbers", "float64")),
        ({"held_out": 1.0}, ("held out and some not", "4 of them")),
        ({"rates": (2,)}, ("rates must be above 0 and below 1", "got 2")),
        ({"query_features": features[0]}, ("features must be (N, D)",)),
    ):
        given = {"query_features": features, "query_ids": ids, "query_cameras": cameras}
        given |= {name.replace("query", "gallery"): value for name, value in given.items()} | change
        with pytest.raises(ValueError, match="^identify: ") as refused:
            identify(**given)
        assert says(str(refused.value), *parts)
