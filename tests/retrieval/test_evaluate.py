"""The scores against the oracle that sorts every list, and by hand."""

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_pipelines.ranks.scoring import bootstrap_interval
from reference_pipelines.retrieval import (
    CameraPair,
    chance_level,
    evaluate,
    evaluate_top,
    ranked_matches,
    ranking,
    score_top,
)
from reference_pipelines.retrieval.scores import expected_average_precision
from tests.conftest import says
from tests.oracles import retrieval as oracle
from tests.retrieval.cases import Given, Labelled, clustered, labels, on_a_grid, with_distances

RANKS = (1, 2, 3, 5)
# The drawn galleries are small and full of ties, which is warned of.
pytestmark = pytest.mark.filterwarnings("ignore:evaluate. ")


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


@pytest.fixture
def block_of(monkeypatch):
    """Return what sets how many queries a block has."""

    def setter(queries):
        monkeypatch.setattr(ranking, "_LEAST_QUERIES", queries)
        monkeypatch.setattr(ranking, "_MOST_QUERIES", queries)

    return setter


def assert_equals_oracle(result, expected, distances, who):
    """Whole numbers and what is made of one of them are equal; means are to the last digits of a double."""
    assert result.queries.tolist() == expected["queries"]
    assert result.skipped == expected["skipped"]
    assert result.cmc == pytest.approx(expected["cmc"], abs=1e-15)
    for name in ("mAP", "mAP_market", "mINP"):
        assert getattr(result, name) == pytest.approx(expected[name], abs=1e-12)
    assert result.average_precision == pytest.approx(expected["average_precision"], abs=1e-12)
    pairs = {
        (pair.query_camera, pair.gallery_camera): (pair.queries, pair.mAP, pair.rank1) for pair in result.camera_pairs
    }
    expected_pairs = oracle.camera_pairs(distances, *who)
    assert list(pairs) == list(expected_pairs)
    for pair, values in expected_pairs.items():
        assert pairs[pair] == pytest.approx(values, abs=1e-12)


def check(arguments, whole, who, **options):
    """Compare with the oracle on the (Q, G) distances `whole`, where there is a match."""
    expected = oracle.evaluate(whole, *who, RANKS)
    if expected is None:
        with pytest.raises(ValueError, match=f"one of the {len(who.query_ids)} queries .*gallery"):
            evaluate(*arguments, ranks=RANKS, **options)
        return
    assert_equals_oracle(evaluate(*arguments, ranks=RANKS, **options), expected, whole, who)


# By hand


def test_by_hand():
    # Ranked: miss, hit, miss, hit.
    result = line([1, 2, 3, 4], [3, 7, 4, 7], [2, 2, 2, 3], ranks=(1, 2, 5))
    assert result.mAP == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert result.cmc == {1: 0.0, 2: 1.0, 5: 1.0}
    assert result.mINP == pytest.approx(2 / 4)
    # Just before the hits the precision is 0/1 and 1/3.
    assert result.mAP_market == pytest.approx(((0 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2)
    # From camera 2 the one match is second, from camera 3 it is third once the other match is dropped.
    assert result.camera_pairs == (CameraPair(1, 2, 1, 1 / 2, 0.0), CameraPair(1, 3, 1, 1 / 3, 0.0))
    assert result.single_shot_cmc is None


def test_the_market_precision_before_the_first_image_is_one():
    result = line([1, 2, 3], [7, 7, 3], [2, 2, 2])
    assert (result.mAP, result.mAP_market, result.mINP) == (1.0, 1.0, 1.0)
    assert line([1, 2], [3, 7], [2, 2]).mAP_market == pytest.approx((0 + 1 / 2) / 2)


def test_by_default_the_ranks_are_the_usual_ones():
    assert list(line([1], [7], [2]).cmc) == [1, 5, 10, 20]


def test_images_of_the_same_person_and_camera_are_dropped():
    # The two nearest are the query's own camera: without them the hit is first.
    assert line([1, 2, 3, 4], [7, 7, 7, 4], [1, 1, 2, 2]).mAP == 1.0


def test_other_people_of_the_same_camera_stay():
    assert line([1, 2], [3, 7], [1, 2]).mAP == pytest.approx(0.5)


def test_junk_is_dropped_and_distractors_stay():
    assert line([1, 2, 3], [-1, -1, 7], [2, 3, 2]).mAP == 1.0
    assert line([1, 2, 3], [0, 0, 7], [2, 3, 2]).mAP == pytest.approx(1 / 3)


def test_a_query_without_a_match_is_counted_and_left_out():
    features = on_a_line(0.0, 0.0)
    result = evaluate(features, [8, 7], [1, 1], on_a_line(1.0, 2.0), [7, 9], [2, 2], metric="euclidean")
    assert (result.mAP, result.skipped, result.queries.tolist()) == (1.0, 1, [1])


def test_ties_go_by_gallery_index():
    assert line([1, 1], [3, 7], [2, 2]).mAP == pytest.approx(0.5)
    assert line([1, 1], [7, 3], [2, 2]).mAP == 1.0
    # A dropped image that ties and stands before does not push the match down; one that stands behind neither.
    assert line([1, 1, 1], [7, 7, 7], [1, 2, 1]).mAP == 1.0
    assert line([1, 1, 1, 1], [3, 7, 7, 7], [2, 1, 2, 1]).mAP == pytest.approx(0.5)


def test_cosine_ignores_length_and_euclidean_does_not():
    query, gallery = torch.tensor([[1.0, 0.0]]), torch.tensor([[10.0, 0.1], [0.5, 0.5]])
    assert evaluate(query, [1], [1], gallery, [1, 2], [2, 2], metric="cosine").mAP == 1.0
    assert evaluate(query, [1], [1], gallery, [1, 2], [2, 2], metric="euclidean").mAP == 0.5


# Against the oracle


@settings(max_examples=150, deadline=None)
@given(on_a_grid())
def test_euclidean_equals_the_oracle(case):
    who, query, gallery = case
    # Whole squares up to 27: their roots tie where they do.
    distances = [[math.dist(q, g) for g in gallery.tolist()] for q in query.tolist()]
    check(who.beside(query, gallery), distances, who, metric="euclidean")


@settings(max_examples=100, deadline=None)
@given(on_a_grid(), st.sampled_from([1, 2]))
def test_cosine_equals_the_oracle_on_axes(case, scale):
    who, query, gallery = case
    # Only the first coordinate is kept, and its axis: cosines of 0 and 1, as exact as they come.
    wide = [torch.nn.functional.one_hot(part[:, 0].long(), 4).to(part.dtype) for part in (query, gallery)]
    distances = 1 - (wide[0].float() @ wide[1].float().T).numpy()
    check(who.beside(scale * wide[0], wide[1]), distances, who, metric="cosine")


@settings(max_examples=150, deadline=None)
@given(with_distances())
def test_given_distances_equal_the_oracle(case):
    who, distances = case
    check(who.beside(None, None), distances, who, distances=Given(distances))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("queries", [1, 7, 64, 1000])
def test_features_of_every_precision_equal_the_oracle_in_blocks_of_any_size(metric, dtype, queries, block_of):
    who, query, gallery = clustered(150, 60, 8)
    query, gallery = query.astype(dtype), gallery.astype(dtype)
    gallery[30:50] = gallery[:20]  # duplicates
    distances = of_features(query.astype(np.float64), gallery.astype(np.float64), metric)
    block_of(queries)
    expected = oracle.evaluate(distances, *who, RANKS)
    result = evaluate(*who.beside(query, gallery), metric=metric, ranks=RANKS)
    assert_equals_oracle(result, expected, distances, who)
    assert result.skipped + len(result.queries) == 150


def of_features(query, gallery, metric):
    if metric == "euclidean":
        return np.linalg.norm(query[:, None] - gallery, axis=2)
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (query, gallery)]
    return 1 - np.einsum("qd,gd->qg", *unit)


def test_lists_arrays_and_tensors_are_the_same():
    who, query, gallery = clustered(5, 30, 4)
    expected = evaluate(*who.beside(query, gallery))
    as_arrays = Labelled(*map(np.array, who))
    as_tensors = Labelled(*map(torch.tensor, who))
    for labelled, kind in ((as_arrays, np.asarray), (as_tensors, torch.as_tensor), (who, np.ndarray.tolist)):
        result = evaluate(*labelled.beside(kind(query), kind(gallery)))
        assert result.average_precision.tolist() == expected.average_precision.tolist()
        assert result.camera_pairs == expected.camera_pairs


def test_given_distances_are_not_written_to():
    who, _, _ = clustered(10, 40, 4)
    rows = torch.rand(10, 40)
    before = rows.clone()
    evaluate(*who.beside(None, None), distances=Given(rows), single_shot=2)
    torch.testing.assert_close(rows, before, rtol=0, atol=0)


def test_distances_take_the_place_of_the_features():
    who, query, gallery = clustered(10, 40, 4)
    reverse = 2 - of_features(query, gallery, "cosine")
    result = evaluate(*who.beside(query, gallery), distances=Given(reverse))
    assert result.mAP == evaluate(*who.beside(-query, gallery)).mAP
    assert result.mAP < evaluate(*who.beside(query, gallery)).mAP


def test_the_threads_share_the_queries(monkeypatch):
    who, query, gallery = clustered(50, 40, 4)
    results = []
    for threads in (1, 3, 7):
        monkeypatch.setattr(ranking.torch, "get_num_threads", lambda threads=threads: threads)
        results.append(evaluate(*who.beside(query, gallery)).average_precision.tolist())
    assert results[0] == results[1] == results[2]


KINDS = {
    "list": lambda rows: rows.tolist(),
    "array": np.asarray,
    "read-only array in another order": lambda rows: np.asfortranarray(rows)[:, ::-1][:, ::-1],
    "float32 array": lambda rows: rows.astype(np.float32),
    "half array": lambda rows: rows.astype(np.float16),
    "whole array": lambda rows: (4 * rows).astype(np.int16),
    "tensor": torch.as_tensor,
    "float32 tensor with gradient": lambda rows: torch.as_tensor(rows, dtype=torch.float32).requires_grad_(),
    "bfloat16 tensor": lambda rows: torch.as_tensor(rows).bfloat16(),
    "whole tensor": lambda rows: torch.as_tensor(4 * rows).long(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_plain_distances_equal_the_oracle(kind, block_of):
    block_of(7)
    who, _, _ = clustered(20, 40, 4)
    rows = np.random.default_rng(0).integers(0, 256, (20, 40)) / 4  # exact in bfloat16, and in whole fourths
    expected = oracle.evaluate(rows.tolist(), *who, RANKS)
    result = evaluate(*who.beside(None, None), distances=KINDS[kind](rows), ranks=RANKS)
    assert_equals_oracle(result, expected, rows.tolist(), who)


@pytest.mark.parametrize("rows", [[0.0, 1.0], [[[0.0, 1.0]]], [[True, False]], [["0", "1"]], [[1j, 1.0]]])
def test_what_is_no_matrix_of_numbers_is_refused(rows):
    with pytest.raises(ValueError, match=r"distances .*\(Q, G\) real numbers, .*got \("):
        evaluate(None, [1], [1], None, [1, 2], [2, 2], distances=rows)
    with pytest.raises(ValueError, match=r"distances .*\(1, 2\), .*got \(1, 3\)"):
        evaluate(None, [1], [1], None, [1, 2], [2, 2], distances=[[0.0, 1.0, 2.0]])


@settings(max_examples=60, deadline=None)
@given(with_distances())
def test_without_cameras_every_image_of_the_person_is_a_match(case):
    who, distances = case
    apart = Labelled(who.query_ids, [1] * len(who.query_ids), who.gallery_ids, [2] * len(who.gallery_ids))
    expected = oracle.evaluate(distances, *apart, RANKS)
    labelled = (None, who.query_ids, None, None, who.gallery_ids, None)
    if expected is None:
        with pytest.raises(ValueError, match="queries .*gallery image"):
            evaluate(*labelled, distances=distances)
        return
    result = evaluate(*labelled, distances=distances, ranks=RANKS)
    assert (result.mAP, result.mINP) == pytest.approx((expected["mAP"], expected["mINP"]), abs=1e-12)
    assert result.camera_pairs == ()
    assert chance_level(who.query_ids, None, who.gallery_ids, None) == chance_level(*apart)


def test_one_list_without_cameras():
    gallery = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    ranked = ranked_matches(torch.tensor([1.0, 0.0]), 1, None, gallery, [1, 2, 1], None, first=5)
    assert ranked == [(0, True), (1, False), (2, True)]


@pytest.mark.parametrize(("query", "gallery", "missing"), [(None, [1], "query"), ([1], None, "gallery")])
def test_cameras_of_one_side_alone_are_refused(query, gallery, missing):
    with pytest.raises(ValueError, match=f"None for both, {missing}_cameras .*None"):
        evaluate(torch.ones(1, 2), [1], query, torch.ones(1, 2), [1], gallery)


# What the figures do not say


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize("part", [0, 1])
def test_the_cosine_does_not_depend_on_the_length_of_features(scale, part):
    who, *features = clustered(30, 60, 8)
    expected = evaluate(*who.beside(*features))
    features[part] = features[part] * np.float32(scale)
    result = evaluate(*who.beside(*features))
    assert result.average_precision == pytest.approx(expected.average_precision, abs=1e-6)
    assert result.remarks == expected.remarks == ()


def test_features_without_direction_are_named():
    query, gallery = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 2.0]])
    with pytest.warns(UserWarning, match="evaluate: 1 query and 1 gallery features .*all zeros"):
        result = evaluate(query, [1, 2], [1, 1], gallery, [1, 3, 2], [2, 2, 2])
    no_direction, ties = result.remarks
    assert says(no_direction, "1 query and 1 gallery features", "all zeros")
    assert says(ties, "1 of the 2 queries", "equally far from every gallery image")
    assert evaluate(query, [1, 2], [1, 1], gallery, [1, 3, 2], [2, 2, 2], metric="euclidean").remarks == ()


def test_equal_features_are_named_also_where_their_products_are_rounded_differently(monkeypatch):
    rounded = torch.tensor([[1e-7, 0.0, 2e-7], [0.0, 1e-5, 0.0], [0.0, 0.0, 1e-5]])
    monkeypatch.setattr("reference_pipelines.retrieval.distances._Cosine.rows", lambda self, block: rounded[block])
    result = evaluate(torch.ones(3, 2), [1, 1, 1], [1, 1, 1], torch.ones(3, 2), [1, 2, 2], [2, 2, 2])
    assert [remark.partition(" queries")[0] for remark in result.remarks] == ["1 of the 3"]


def test_equal_features_are_named_and_nearly_equal_ones_are_not():
    feature = torch.rand(1, 999, generator=torch.Generator().manual_seed(0))
    labelled = ([1, 2], [1, 1], feature.repeat(9, 1), [1, 2, 3] * 3, [2] * 9)
    result = evaluate(feature.repeat(2, 1), *labelled)
    assert [remark.partition(" queries")[0] for remark in result.remarks] == ["2 of the 2"]
    apart = labelled[2].clone()
    apart[4] += 0.01 * torch.rand(999, generator=torch.Generator().manual_seed(1))
    assert evaluate(feature.repeat(2, 1), *labelled[:2], apart, *labelled[3:]).remarks == ()


def test_ties_with_a_part_of_the_gallery_are_no_remark_and_those_with_one_image_neither():
    assert line([1, 1, 2], [3, 7, 3], [2, 2, 2]).remarks == ()
    assert line([1, 2, 1], [3, 7, 3], [2, 2, 2]).remarks == ()
    assert line([1], [7], [2]).remarks == ()
    assert line([1, 1, 1], [3, 7, 3], [2, 2, 2]).remarks != ()


def test_one_camera_is_said_with_the_way_out():
    arguments = (torch.ones(1, 2), [7], [3], torch.rand(2, 2), [7, 8], [3, 3])
    with pytest.raises(ValueError, match=r"all .*camera 3, .*None for both cameras"):
        evaluate(*arguments)
    features, ids, _, gallery, gallery_ids, _ = arguments
    assert evaluate(features, ids, None, gallery, gallery_ids, None).skipped == 0


# One random image a person


@settings(max_examples=20, deadline=None)
@given(with_distances(queries=3, gallery=7))
def test_single_shot_equals_the_mean_over_all_galleries(case):
    who, distances = case
    if oracle.evaluate(distances, *who, RANKS) is None:
        return
    expected = oracle.single_shot(distances, *who, RANKS)
    found = evaluate(*who.beside(None, None), distances=Given(distances), ranks=RANKS, single_shot=2000)
    # Five standard deviations of a mean of 2,000 draws of 0 or 1.
    assert found.single_shot_cmc == pytest.approx(expected, abs=5 * 0.5 / math.sqrt(2000))


def test_single_shot_by_hand():
    # The nearest is one of two images of person 3, and so in half of the galleries.
    result = line([1, 2, 3], [3, 7, 3], [2, 2, 2], ranks=(1, 2), single_shot=4000)
    assert result.single_shot_cmc[1] == pytest.approx(0.5, abs=0.04)
    assert result.single_shot_cmc[2] == 1.0
    # Another image of the query's own person is not in the gallery, be it nearer.
    assert line([1, 2], [7, 7], [1, 2], ranks=(1,), single_shot=50).single_shot_cmc == {1: 1.0}
    # Nor is what the query's own camera took ever drawn.
    assert line([1, 2, 3], [7, 3, 7], [1, 2, 2], ranks=(1, 2), single_shot=50).single_shot_cmc == {1: 0, 2: 1}
    # Distractors are no one person: all of them stay.
    assert line([1, 2, 3, 4], [0, 0, 7, 7], [2, 2, 2, 1], ranks=(2, 3), single_shot=50).single_shot_cmc == {2: 0, 3: 1}


def test_single_shot_with_one_image_a_person_is_the_cmc():
    rng = np.random.default_rng(0)
    ids = list(range(1, 31))
    who = Labelled(ids[:10], [1] * 10, ids, [2] * 30)
    result = evaluate(*who.beside(None, None), distances=Given(rng.random((10, 30))), ranks=RANKS, single_shot=3)
    assert result.single_shot_cmc == result.cmc


def test_single_shot_draws_are_the_seeds_and_the_same_in_any_block(block_of):
    who, query, gallery = clustered(40, 60, 4)

    def drawn(**options):
        return evaluate(*who.beside(query, gallery), single_shot=3, **options).single_shot_cmc

    first = drawn()
    assert drawn(seed=1) != first
    block_of(7)
    assert drawn() == first


def test_every_query_has_its_own_draws():
    who = Labelled([7] * 200, [1] * 200, [3, 7, 3], [2] * 3)
    result = evaluate(*who.beside(None, None), distances=Given([[1.0, 2.0, 3.0]] * 200), ranks=(1,), single_shot=1)
    assert result.single_shot_cmc[1] == pytest.approx(0.5, abs=0.2)


def test_a_person_with_id_0_who_is_asked_for_is_one_person():
    # MSMT17 numbers its people from 0.
    who = Labelled([5, 0], [1, 1], [0, 0, 5], [2, 2, 2])
    result = evaluate(*who.beside(None, None), distances=Given(np.eye(2, 3)), ranks=(1, 2), single_shot=2)
    assert result.single_shot_cmc[2] == 1.0
    assert result.queries.tolist() == [0, 1]


# How sure, and chance


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(200):
        low, high = bootstrap_interval(rng.uniform(size=60), resamples=400, seed=seed)
        covered += low <= 0.5 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_one_query_has_no_interval():
    assert bootstrap_interval(np.array([0.169])) is None
    assert line([1, 2], [3, 7], [2, 2]).interval is None
    low, high = bootstrap_interval(np.array([0.2, 0.4]))
    assert (low, high) == pytest.approx((0.2, 0.4))


def test_the_interval_is_that_of_the_average_precisions():
    who, query, gallery = clustered(40, 60, 4)
    result = evaluate(*who.beside(query, gallery))
    assert result.interval == bootstrap_interval(result.average_precision)
    assert result.interval[0] < result.mAP < result.interval[1]


@settings(max_examples=40, deadline=None)
@given(labels(queries=3, gallery=5, people=2))
def test_chance_is_the_mean_over_all_orders(who):
    expected = oracle.chance(*who)
    if expected is None:
        with pytest.raises(ValueError, match="queries .*gallery image"):
            chance_level(*who)
        return
    assert chance_level(*who) == pytest.approx(expected, abs=1e-12)


def test_chance_by_hand():
    # One match among G images is at a uniform rank; where all are matches every order is perfect.
    assert chance_level([1], [1], [1, 2, 2, 2], [2] * 4) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert chance_level([1], [1], [1, 1, 1], [2, 2, 3]) == 1.0
    assert chance_level([1], [1], [1, 1], [2, 3]) == 1.0
    assert chance_level([1], [1], [1], [2]) == 1.0
    assert expected_average_precision(np.array([1]), np.array([1])).tolist() == [1.0]


# One list


def test_ranked_matches_lists_what_counts_nearest_first():
    gallery = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.2]])
    ranked = ranked_matches(torch.tensor([1.0, 0.0]), 1, 1, gallery, [1, 1, 2, -1], [1, 2, 2, 2], first=5)
    assert ranked == [(1, True), (2, False)]


@settings(max_examples=60, deadline=None)
@given(on_a_grid(queries=1), st.integers(1, 10))
def test_ranked_matches_equal_the_oracle(case, first):
    who, query, gallery = case
    wide = [torch.nn.functional.one_hot(part[:, 0].long(), 4).float() for part in (query, gallery)]
    row = (1 - wide[0][0] @ wide[1].T).tolist()
    order, hits = oracle.ranking(row, who.query_ids[0], who.query_cameras[0], who.gallery_ids, who.gallery_cameras)
    found = ranked_matches(
        wide[0][0], who.query_ids[0], who.query_cameras[0], wide[1], who.gallery_ids, who.gallery_cameras, first=first
    )
    assert found == list(zip(order, hits, strict=True))[:first]


# Refusals


class Wrong(Given):
    """Promises more queries than it has."""

    @property
    def shape(self):
        return 1, 2


def rows(*values, dtype=torch.float32):
    return torch.tensor([values], dtype=dtype)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_features": torch.zeros(0, 2)}, r"query_features .*\(n, D\) .*n > 0 and D > 0, got \(0, 2\)"),
        ({"gallery_features": torch.zeros(2, 0)}, r"gallery_features .*\(n, D\) .*n > 0 and D > 0, got \(2, 0\)"),
        ({"query_features": torch.zeros(2)}, r"query_features .*\(n, D\) .*, got \(2,\)"),
        ({"gallery_features": torch.full((2, 2), torch.nan)}, "gallery_features .*finite"),
        ({"query_features": torch.tensor([[1.0, -torch.inf]])}, "query_features .*finite, got NaN or Inf in row 0; "),
        ({"gallery_features": torch.zeros(2, 3)}, "same width, got 2 and 3"),
        ({"gallery_ids": ["-1", "2"]}, "gallery_ids .*numbers, got <U2"),
        ({"ranks": (0, 1)}, r"ranks .*1, got \(0, 1\)"),
        ({"gallery_ids": [1]}, r"gallery_ids .*\(2,\), .*got \(1,\)"),
        ({"query_cameras": [1, 2]}, r"query_cameras .*\(1,\), .*got \(2,\)"),
        ({"metric": "manhattan"}, 'metric .*"cosine" or "euclidean", got \'manhattan\''),
        ({"gallery_cameras": [1, 1]}, "one of the 1 queries .*gallery image"),
        ({"gallery_ids": [-1, -1]}, "one of the 1 queries .*gallery image"),
        ({"gallery_ids": [-1, -1], "single_shot": 2}, "one of the 1 queries .*gallery image"),
        ({"gallery_features": None}, "features .*no distances .*, got None"),
        ({"distances": Given(rows(0, 1, 2))}, r"distances .*\(1, 2\), .*got \(1, 3\)"),
        ({"distances": Wrong(rows(1, 2, 3))}, r"rows .*\(1, 2\) float32 or float64 .*got \(1, 3\)"),
        ({"distances": Given(rows(0, 1, dtype=torch.float16))}, r"float32 or float64 .*got \(1, 2\) float16"),
        ({"distances": Given(rows(0, torch.nan))}, "distances .*finite, got NaN or Inf"),
        ({"distances": Given(rows(torch.inf, 0))}, "distances .*finite, got NaN or Inf"),
        ({"single_shot": -1}, "single_shot and seed .*negative, got -1 and 0"),
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


def test_given_distances_are_ties_only_where_they_are_equal():
    ids, cameras = [1, 2], [1, 1]
    apart = np.array([[0.0, 1e-6, 2e-6], [3e-6, 0.0, 1e-6]])
    assert evaluate(None, ids, cameras, None, [1, 2, 3], [2, 2, 2], distances=apart).remarks == ()
    with pytest.warns(UserWarning, match="2 of the 2 queries .*equally far") as told:
        evaluate(None, ids, cameras, None, [1, 2, 3], [2, 2, 2], distances=apart * 0)
    assert told[0].filename == __file__


def test_every_way_to_score_has_the_same_ranks():
    for each in (evaluate, evaluate_top, score_top):
        assert inspect.signature(each).parameters["ranks"].default == (1, 5, 10, 20)
