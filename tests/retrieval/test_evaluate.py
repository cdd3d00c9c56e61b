"""mAP and CMC against the one-image-at-a-time oracle and by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_pipelines.retrieval import chance_level, evaluate, ranked_matches
from tests.oracles import retrieval as oracle


def on_a_line(*positions):
    """Features whose Euclidean distance from the query at 0 is their position."""
    return torch.tensor(positions, dtype=torch.float64)[:, None]


def line(gallery, ids, cameras, query_id=7, query_camera=1, **options):
    return evaluate(
        on_a_line(0.0),
        [query_id],
        [query_camera],
        on_a_line(*gallery),
        ids,
        cameras,
        metric="euclidean",
        **options,
    )


def test_by_hand():
    # Ranked: miss, hit, miss, hit -> AP = (1/2 + 2/4) / 2 = 1/2, first hit at rank 2.
    result = line([1, 2, 3, 4], [3, 7, 4, 7], [2, 2, 2, 3], ranks=(1, 2, 5))
    assert result.mAP == pytest.approx(0.5)
    assert result.cmc == {1: 0.0, 2: 1.0, 5: 1.0}


def test_images_of_the_same_person_and_camera_are_dropped():
    # The two nearest are the query's own camera: without them the hit is first.
    assert line([1, 2, 3, 4], [7, 7, 7, 4], [1, 1, 2, 2]).mAP == pytest.approx(1.0)


def test_other_people_of_the_same_camera_stay():
    assert line([1, 2], [3, 7], [1, 2]).mAP == pytest.approx(0.5)


def test_junk_is_dropped_and_distractors_stay():
    assert line([1, 2, 3], [-1, -1, 7], [2, 3, 2]).mAP == pytest.approx(1.0)
    assert line([1, 2, 3], [0, 0, 7], [2, 3, 2]).mAP == pytest.approx(1 / 3)


def test_a_query_without_a_match_is_counted_and_left_out():
    features = on_a_line(0.0, 0.0)
    result = evaluate(features, [7, 8], [1, 1], on_a_line(1.0, 2.0), [7, 9], [2, 2], metric="euclidean")
    assert (result.mAP, result.skipped, result.queries.tolist()) == (1.0, 1, [0])


def test_ties_go_by_gallery_index():
    assert line([1, 1], [3, 7], [2, 2]).mAP == pytest.approx(0.5)
    assert line([1, 1], [7, 3], [2, 2]).mAP == pytest.approx(1.0)


def test_cosine_ignores_length_and_euclidean_does_not():
    query, gallery = torch.tensor([[1.0, 0.0]]), torch.tensor([[10.0, 0.1], [0.5, 0.5]])
    assert evaluate(query, [1], [1], gallery, [1, 2], [2, 2], metric="cosine").mAP == 1.0
    assert evaluate(query, [1], [1], gallery, [1, 2], [2, 2], metric="euclidean").mAP == 0.5


@st.composite
def cases(draw):
    queries, gallery = draw(st.integers(1, 6)), draw(st.integers(1, 25))
    ids = st.integers(-1, 3)
    # Few distinct positions on a line make ties common.
    positions = st.integers(0, 4)

    def listed(elements, count):
        return draw(st.lists(elements, min_size=count, max_size=count))

    return (
        listed(positions, queries),
        listed(st.integers(1, 3), queries),
        listed(st.integers(1, 2), queries),
        listed(positions, gallery),
        listed(ids, gallery),
        listed(st.integers(1, 2), gallery),
    )


@settings(max_examples=300, deadline=None)
@given(cases())
def test_equals_the_oracle(case):
    query, query_ids, query_cameras, gallery, gallery_ids, gallery_cameras = case
    distances = [[abs(q - g) for g in gallery] for q in query]
    arguments = (
        on_a_line(*query),
        query_ids,
        query_cameras,
        on_a_line(*gallery),
        gallery_ids,
        gallery_cameras,
    )
    try:
        expected = oracle.evaluate(distances, query_ids, query_cameras, gallery_ids, gallery_cameras, (1, 3))
    except ZeroDivisionError:
        with pytest.raises(ValueError, match="at least one of the"):
            evaluate(*arguments, metric="euclidean")
        return
    result = evaluate(*arguments, metric="euclidean", ranks=(1, 3))
    assert result.mAP == pytest.approx(expected[0], abs=1e-12)
    assert result.cmc == pytest.approx(expected[1])
    assert result.skipped == expected[2]


def test_more_queries_than_a_block():
    rng = np.random.default_rng(0)
    query, gallery = rng.normal(size=(300, 4)), rng.normal(size=(40, 4))
    query_ids, gallery_ids = rng.integers(1, 5, 300), rng.integers(1, 5, 40)
    query_cameras, gallery_cameras = rng.integers(1, 3, 300), rng.integers(1, 3, 40)
    result = evaluate(query, query_ids, query_cameras, gallery, gallery_ids, gallery_cameras)
    unit_query = query / np.linalg.norm(query, axis=1, keepdims=True)
    unit_gallery = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    distances = (1 - unit_query @ unit_gallery.T).tolist()
    expected = oracle.evaluate(distances, query_ids, query_cameras, gallery_ids, gallery_cameras, (1,))
    assert result.mAP == pytest.approx(expected[0])
    low, high = result.interval
    assert low < result.mAP < high


def test_the_interval_covers_the_mean_as_often_as_it_says():
    from reference_pipelines.retrieval.evaluate import bootstrap_interval

    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(200):
        low, high = bootstrap_interval(rng.uniform(size=60), resamples=400, seed=seed)
        covered += low <= 0.5 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_chance_is_far_below_one_and_equals_the_expectation_of_a_single_match():
    # One match among G images is at a uniform rank: the expectation of 1/rank is the harmonic number over G.
    gallery = 50
    ids = [1] + [2] * (gallery - 1)
    found = chance_level([1], [1], ids, [2] * gallery, rankings=2000)
    assert found == pytest.approx(sum(1 / r for r in range(1, gallery + 1)) / gallery, abs=0.015)


def test_ranked_matches_lists_what_counts_nearest_first():
    gallery = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.2]])
    ranked = ranked_matches(torch.tensor([1.0, 0.0]), 1, 1, gallery, [1, 1, 2, -1], [1, 2, 2, 2], first=5)
    assert ranked == [(1, True), (2, False)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_features": torch.zeros(0, 2)}, r"query_features must be \(n, D\) with n > 0"),
        ({"gallery_features": torch.full((2, 2), torch.nan)}, "gallery_features must be finite"),
        ({"gallery_features": torch.zeros(2, 3)}, "same width, got 2 and 3"),
        ({"gallery_ids": [1]}, r"gallery_ids must be \(2,\)"),
        ({"query_cameras": [1, 2]}, r"query_cameras must be \(1,\)"),
        ({"metric": "manhattan"}, 'metric must be "cosine" or "euclidean"'),
        ({"gallery_cameras": [1, 1]}, "at least one of the 1 queries must have a gallery image"),
    ],
)
def test_refusals(change, message):
    arguments = {
        "query_features": torch.ones(1, 2),
        "query_ids": [1],
        "query_cameras": [1],
        "gallery_features": torch.ones(2, 2),
        "gallery_ids": [1, 1],
        "gallery_cameras": [2, 2],
    }
    with pytest.raises(ValueError, match=message):
        evaluate(**{**arguments, **change})
