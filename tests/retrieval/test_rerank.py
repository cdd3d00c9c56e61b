"""Sparse re-ranking against the dense published formula, and by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_pipelines.neighbours import search as neighbours
from reference_pipelines.retrieval import evaluate
from reference_pipelines.retrieval.rerank import rerank
from tests.oracles import reranking as oracle


def clustered(queries, gallery, dim, groups, seed, spread=0.35):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(groups, dim))
    points = centers[rng.integers(groups, size=queries + gallery)] + spread * rng.normal(size=(queries + gallery, dim))
    return points[:queries], points[queries:]


def duplicated(seed, copies):
    points = np.random.default_rng(seed).permutation(
        np.repeat(np.random.default_rng(seed).normal(size=(12, 6)), copies, 0)
    )
    return points[:15], points[15:]


def whole(query, gallery, **options):
    return rerank(query, gallery, **options).rows(slice(0, len(query))).cpu().numpy()


CASES = {
    "random": (*clustered(15, 60, 8, 75, 0, spread=1.0), 20, 6),
    "clustered": (*clustered(20, 70, 16, 8, 1), 20, 6),
    "small k": (*clustered(10, 50, 8, 6, 2), 7, 3),
    "no query expansion": (*clustered(10, 50, 8, 6, 3), 10, 1),
    "duplicates": (*duplicated(4, 4), 8, 3),
    "more duplicates than columns": (*duplicated(5, 9), 6, 2),
    "fewer points than columns": (*clustered(3, 6, 4, 2, 6), 20, 6),
    "one query and one image": (*clustered(1, 1, 4, 2, 7), 20, 6),
    "two points alike": (np.ones((1, 3)), np.array([[2.0, 2.0, 2.0], [1.0, 0.0, 0.0]]), 20, 6),
}


@pytest.mark.parametrize("lambda_value", [0.3, 0.0, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_dense_formula(name, lambda_value):
    query, gallery, k1, k2 = CASES[name]
    expected = oracle.rerank(query, gallery, k1, k2, lambda_value)
    found = whole(query, gallery, k1=k1, k2=k2, lambda_value=lambda_value)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    same_ranking(found, expected)


@pytest.mark.parametrize("name", ["random", "clustered", "small k"])
def test_single_precision_is_within_1e_6(name):
    query, gallery, k1, k2 = CASES[name]
    found = whole(query.astype(np.float32), gallery.astype(np.float32), k1=k1, k2=k2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, oracle.rerank(query, gallery, k1, k2, 0.3), atol=1e-6)


def same_ranking(found, expected):
    """Where the expected distances differ by more than rounding, the found ones are in the same order."""
    order = np.argsort(expected, axis=1, kind="stable")
    ordered, truth = (np.take_along_axis(each, order, axis=1) for each in (found, expected))
    apart = np.diff(truth, axis=1) > 1e-9
    assert (np.diff(ordered, axis=1)[apart] > 0).all()
    assert (np.diff(ordered, axis=1)[~apart] > -1e-9).all()


@st.composite
def features(draw):
    """Points whose cosines are exact in binary, so that ties are ties in every order of summation."""
    count, groups = draw(st.integers(2, 24)), draw(st.integers(1, 8))
    signs = draw(
        st.lists(st.lists(st.sampled_from([-0.5, 0.5]), min_size=4, max_size=4), min_size=groups, max_size=groups)
    )
    members = draw(st.lists(st.integers(0, groups - 1), min_size=count, max_size=count))
    points = np.array(signs)[members]
    queries = draw(st.integers(1, count - 1))
    return points[:queries], points[queries:]


@settings(max_examples=60, deadline=None)
@given(features(), st.integers(1, 8), st.integers(1, 4), st.floats(0, 1))
def test_ties_and_duplicates_are_those_of_the_dense_formula(pair, k1, k2, lambda_value):
    query, gallery = pair
    if len(np.unique(np.concatenate(pair), axis=0)) == 1:
        return  # all alike: 0 / 0 in the published formula; see below
    k2 = min(k2, k1 + 1)
    expected = oracle.rerank(query, gallery, k1, k2, lambda_value)
    found = whole(query, gallery, k1=k1, k2=k2, lambda_value=lambda_value)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_by_hand():
    # On the unit circle at 0, 60, 90 and 180 degrees: the query, then the gallery. Squared distances are 2 - 2 cos.
    angles = np.radians([0.0, 60.0, 90.0, 180.0])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # k1 = 1: each point's two nearest, itself among them: {0, 60}, {60, 90}, {90, 60}, {180, 90}. Reciprocal besides
    # itself are 60 and 90 alone, and nothing is joined: {0}, {60, 90}, {90, 60}, {180}. So the query shares with none.
    original = np.array([1.0, 2.0, 4.0]) / 4
    found = whole(points[:1], points[1:], k1=1, k2=1, lambda_value=0.3)
    np.testing.assert_allclose(found[0], 0.7 + 0.3 * original)
    # The query at 60: its squared distances 1 (to 0), 2 - sqrt(3) (to 90) and 3 (to 180), the largest being 3.
    near = (2 - np.sqrt(3)) / 3
    own, other = np.array([1.0, np.exp(-near)]), np.array([np.exp(-(2 - np.sqrt(3)) / 2), 1.0])
    shared = np.minimum(own / own.sum(), other / other.sum()).sum()  # at 90 the largest squared distance is 2
    found = whole(points[1:2], points[[0, 2, 3]], k1=1, k2=1, lambda_value=0.3)
    jaccard = np.array([1.0, 1 - shared / (2 - shared), 1.0])
    np.testing.assert_allclose(found[0], 0.7 * jaccard + 0.3 * np.array([1 / 3, near, 1.0]))


def test_points_that_are_all_alike_have_no_distance():
    assert whole(np.ones((2, 3), dtype=np.float32), np.ones((4, 3), dtype=np.float32), k1=20).max() < 1e-6


def test_lambda_1_ranks_as_the_cosine_and_0_as_the_neighbours_alone():
    query, gallery, k1, k2 = CASES["clustered"]
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (query, gallery)]
    found = whole(query, gallery, k1=k1, k2=k2, lambda_value=1.0)
    assert np.array_equal(np.argsort(found, axis=1), np.argsort(-unit[0] @ unit[1].T, axis=1))
    assert (whole(query, gallery, k1=k1, k2=k2, lambda_value=0.0) == 1.0).any(axis=1).all()


def test_every_block_of_queries_gives_the_same_rows():
    query, gallery, k1, k2 = CASES["clustered"]
    distances = rerank(query, gallery, k1=k1, k2=k2)
    assert distances.shape == (20, 70)
    blocks = [distances.rows(slice(start, min(start + 7, 20))) for start in range(0, 20, 7)]
    np.testing.assert_allclose(torch.cat(blocks), distances.rows(slice(0, 20)), atol=1e-12)


def test_blocks_of_the_search_change_nothing(monkeypatch):
    query, gallery, k1, k2 = CASES["clustered"]
    expected = whole(query, gallery, k1=k1, k2=k2)
    monkeypatch.setattr(neighbours, "SEARCH_BLOCK", 17)
    np.testing.assert_allclose(whole(query, gallery, k1=k1, k2=k2), expected, atol=1e-12)


def test_evaluation_ranks_by_it():
    query, gallery, k1, k2 = CASES["clustered"]
    ids = np.random.default_rng(0).integers(1, 9, size=90)
    labels = (ids[:20], np.zeros(20), gallery, ids[20:], np.ones(70))
    reranked = evaluate(query, *labels, distances=rerank(query, gallery, k1=k1, k2=k2))
    expected = oracle.rerank(query, gallery, k1, k2, 0.3)
    order = np.argsort(expected, axis=1, kind="stable")
    hits = ids[20:][order] == ids[:20, None]
    first_hits = hits.argmax(axis=1)[hits.any(axis=1)]
    assert reranked.cmc[1] == pytest.approx((first_hits == 0).mean())
    assert reranked.mAP != evaluate(query, *labels).mAP


def test_the_features_are_left_as_they_were():
    query, gallery = (torch.as_tensor(each).clone() for each in CASES["clustered"][:2])
    before = query.clone(), gallery.clone()
    rerank(query, gallery).rows(slice(0, 3))
    assert torch.equal(query, before[0])
    assert torch.equal(gallery, before[1])


@pytest.mark.parametrize(
    ("query", "gallery", "options", "message"),
    [
        (torch.zeros(0, 3), torch.ones(2, 3), {}, r"rerank: query_features .*\(N, D\) .*N > 0, got \(0, 3\)"),
        (torch.ones(2, 3), torch.ones(3), {}, r"rerank: gallery_features .*\(N, D\) .*N > 0, got \(3,\)"),
        (torch.ones(2, 3), torch.full((2, 3), torch.nan), {}, "rerank: gallery_features .*finite"),
        (
            torch.ones(2, 3),
            torch.ones(2, 4),
            {},
            "rerank: query and gallery features .*same width, got 3 and 4",
        ),
        (torch.ones(2, 3), torch.ones(2, 3), {"k1": 3, "k2": 5}, r"1 <= k2 <= k1 \+ 1, got k1=3, k2=5"),
        (torch.ones(2, 3), torch.ones(2, 3), {"k1": 0}, r"1 <= k2 <= k1 \+ 1"),
        (torch.ones(2, 3), torch.ones(2, 3), {"lambda_value": 1.5}, "lambda_value .*between 0 and 1, got 1.5"),
        (torch.ones(2, 3), torch.ones(2, 3), {"lambda_value": -0.5}, "lambda_value .*between 0 and 1, got -0.5"),
    ],
)
def test_refusals(query, gallery, options, message):
    with pytest.raises(ValueError, match=message):
        rerank(query, gallery, **options)
