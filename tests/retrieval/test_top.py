"""The scores out of the nearest k against the whole ranking, sorted in exact fractions, and by hand."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_pipelines.neighbours import engines
from reference_pipelines.retrieval import evaluate, evaluate_top, score_top
from tests.oracles import retrieval as oracle
from tests.protocol_kit import generate, run
from tests.retrieval.cases import clustered, labels, listed

RANKS = (1, 2, 3, 5)
CASES = [case for case in run.read_cases() if "refused" not in case["expected"]]
KINDS = (
    ("average_precision", generate.average_precision),
    ("average_precision_market", generate.average_precision_market),
)
pytestmark = pytest.mark.filterwarnings("ignore:evaluate. ")


def people(case):
    return [case[name] for name in ("query_ids", "query_cameras", "gallery_ids", "gallery_cameras")]


def whole_order(case, query):
    """Return all gallery images, nearest first in exact fractions, what the rules drop among them."""
    keys = generate.distance_keys(case, query)
    return sorted(range(len(keys)), key=lambda image: (keys[image], image))


def nearest(case, k):
    """Return for each query as many of the nearest as it takes to have k that count, -1 behind them."""
    rows = []
    for query in range(len(case["query_ids"])):
        counted = [image for image, _ in generate.ranking(case, query)][:k]
        order = whole_order(case, query)
        rows.append(order[: order.index(counted[-1]) + 1] if counted else [])
    width = max(map(len, rows))
    return np.array([row + [-1] * (width - len(row)) for row in rows]).reshape(len(rows), width)


def bounds(hits, k, score):
    """Return the score with the matches behind the first k put last, and put directly behind them."""
    seen, rest = hits[:k], hits[k:]
    return float(score(seen + sorted(rest))), float(score(seen + sorted(rest, reverse=True)))


def assert_of_case(result, case, k):
    lists = [[same for _, same in generate.ranking(case, query)] for query in range(len(case["query_ids"]))]
    lists = [hits for hits in lists if any(hits)]
    expected = case["expected"]
    assert (result.queries.tolist(), result.skipped) == (expected["queries"], expected["skipped"])
    assert sorted(result.cmc) == sorted({k, *(rank for rank in case["ranks"] if rank <= k)})
    for rank, value in result.cmc.items():
        assert value == pytest.approx(float(generate.mean([Fraction(any(hits[:rank])) for hits in lists])), abs=1e-15)
        if str(rank) in expected["cmc"]:
            assert value == pytest.approx(float(Fraction(expected["cmc"][str(rank)])), abs=1e-15)
    for name, score in KINDS:
        found = getattr(result, name)
        assert found == pytest.approx(np.array([bounds(hits, k, score) for hits in lists]), abs=1e-12)
        whole = np.array([float(Fraction(value)) for value in expected[name]])
        assert (found[:, 0] - 1e-12 <= whole).all()
        assert (whole <= found[:, 1] + 1e-12).all()
    for name in ("mAP", "mAP_market"):
        least, greatest = getattr(result, name)
        assert least - 1e-12 <= float(Fraction(expected[name])) <= greatest + 1e-12
        if k >= len(case["gallery_ids"]):
            assert least == greatest == pytest.approx(float(Fraction(expected[name])), abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 5, 1000])
def test_every_case_of_the_protocol_kit(k):
    assert len(CASES) >= 60
    for case in CASES:
        assert_of_case(score_top(nearest(case, k), *people(case), k=k, ranks=tuple(case["ranks"])), case, k)


@pytest.mark.parametrize("k", [1, 2, 5, 1000])
def test_every_case_of_cosines_from_its_features(k):
    of_cosines = [case for case in CASES if case.get("metric") == "cosine"]
    assert len(of_cosines) >= 4
    for case in of_cosines:
        query, gallery = (
            torch.tensor(case[f"{side}_features"], dtype=getattr(torch, case["dtype"])) for side in ("query", "gallery")
        )
        query_ids, query_cameras, gallery_ids, gallery_cameras = people(case)
        sides = (query, query_ids, query_cameras, gallery, gallery_ids, gallery_cameras)
        assert_of_case(evaluate_top(*sides, k=k, ranks=tuple(case["ranks"])), case, k)


def test_by_hand():
    # Nearest first: a match, another person, junk, the query's own camera, a match, another person, a match.
    ids, cameras = [7, 1, -1, 7, 7, 2, 7], [2, 2, 2, 1, 2, 2, 3]
    found = score_top([[0, 1, 2, 3, 4, 5, 6]], [7], [1], ids, cameras, k=2)
    # Of 5 images two are seen and one of three matches: the others are third and fourth, or fourth and fifth.
    best, worst = (1 + 2 / 3 + 3 / 4) / 3, (1 + 2 / 4 + 3 / 5) / 3
    assert found.mAP == pytest.approx((worst, best))
    assert found.cmc == {1: 1.0, 2: 1.0}
    assert (found.k, found.skipped, found.approximation) == (2, 0, None)
    whole = score_top([[0, 1, 2, 3, 4, 5, 6]], [7], [1], ids, cameras, k=5)
    assert whole.mAP == pytest.approx(((1 + 2 / 3 + 3 / 5) / 3,) * 2)


@st.composite
def with_signs(draw):
    """Draw labels and vectors of +-1/2 in four dimensions: all cosines are exact, and most are tied."""
    who = draw(labels())
    rows = [draw(listed(st.integers(0, 15), len(ids))) for ids in (who.query_ids, who.gallery_ids)]
    return who, *(torch.tensor([[(row >> bit & 1) - 0.5 for bit in range(4)] for row in side]) for side in rows)


@settings(max_examples=80, deadline=None)
@given(with_signs(), st.integers(1, 30))
def test_ties_and_what_is_dropped_are_those_of_the_whole_ranking(drawn, k):
    who, query, gallery = drawn
    expected = oracle.evaluate((1 - query @ gallery.T).tolist(), *who, RANKS)
    if expected is None:
        with pytest.raises(ValueError, match="at least one of the"):
            evaluate_top(*who.beside(query, gallery), k=k)
        return
    found = evaluate_top(*who.beside(query, gallery), k=k, ranks=RANKS)
    assert (found.queries.tolist(), found.skipped) == (expected["queries"], expected["skipped"])
    for rank in RANKS:
        assert rank > k or found.cmc[rank] == pytest.approx(expected["cmc"][rank], abs=1e-15)
    for name in ("mAP", "mAP_market"):
        least, greatest = getattr(found, name)
        assert least - 1e-12 <= expected[name] <= greatest + 1e-12
        if k >= len(who.gallery_ids):
            assert least == greatest


@pytest.mark.parametrize("k", [1, 10, 400])
def test_on_features_as_of_a_network_it_says_what_evaluate_says(k):
    who, query, gallery = clustered(60, 400, 64)
    whole = evaluate(*who.beside(query, gallery), ranks=(1, 5, 10))
    found = evaluate_top(*who.beside(query, gallery), k=k, ranks=(1, 5, 10))
    assert found.cmc == {rank: whole.cmc[rank] for rank in (1, 5, 10) if rank <= k} | ({} if k < 400 else {400: 1.0})
    assert found.queries.tolist() == whole.queries.tolist()
    assert (found.average_precision[:, 0] <= whole.average_precision + 1e-12).all()
    assert (whole.average_precision <= found.average_precision[:, 1] + 1e-12).all()
    assert (found.mAP[0] == found.mAP[1]) == (k == 400)
    without = evaluate_top(query, who.query_ids, None, gallery, who.gallery_ids, None, k=400)
    assert without.mAP[0] == pytest.approx(
        evaluate(query, who.query_ids, None, gallery, who.gallery_ids, None).mAP, abs=1e-12
    )


def test_scores_of_an_engine_bear_its_recall(monkeypatch):
    class Two:
        """Finds the second and third nearest alone."""

        efforts = (1,)

        def __init__(self, vectors):
            self.vectors = vectors

        def search(self, query, width, effort):
            order = np.argsort(-(query @ self.vectors.T), axis=1, kind="stable")[:, :width]
            order[:, [0, *range(3, width)]] = -1
            return order

    monkeypatch.setattr(engines, "SAMPLED_ROWS", 30)
    monkeypatch.setattr(engines, "require_engine", lambda engine: None)
    monkeypatch.setattr(engines, "build_index", lambda engine, vectors, processes: Two(vectors))
    who, query, gallery = clustered(60, 400, 64, cameras=1)
    who.query_cameras[:] = [2] * 60
    found = evaluate_top(*who.beside(query, gallery), k=4, engine="faiss-hnsw", recall=0.9)
    assert str(found.approximation) == "recall 0.5000 on 30 sampled rows, below the 0.9 asked for"
    exact = evaluate_top(*who.beside(query, gallery), k=4)
    assert exact.approximation is None
    assert found.mAP[0] < exact.mAP[0]  # two images are seen instead of four
    assert (found.average_precision[:, 0] <= found.average_precision[:, 1]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "evaluate: k and ranks must be at least 1, got 0"),
        ({"ranks": (0,)}, "evaluate: k and ranks must be at least 1, got 2"),
        ({"engine": "annoy"}, "evaluate: engine must be one of exact, .*, got 'annoy'"),
        ({"recall": 0.0}, "evaluate: recall must be above 0 and at most 1, got 0"),
        ({"gallery_features": torch.ones(3, 5)}, "evaluate: .* the same width, got 4 and 5"),
        ({"query_features": torch.full((1, 4), torch.nan)}, "evaluate: query_features must be finite"),
        ({"gallery_ids": [2, 3, -1]}, "evaluate: at least one of the 1 queries must have"),
        ({"gallery_ids": [7, 1]}, r"evaluate: gallery_ids must be \(3,\)"),
    ],
)
def test_refusals(change, message):
    sides = {"query_features": torch.ones(1, 4), "query_ids": [7], "query_cameras": [1]}
    sides |= {"gallery_features": torch.ones(3, 4), "gallery_ids": [7, 1, 2], "gallery_cameras": [2, 2, 2], "k": 2}
    with pytest.raises(ValueError, match=message):
        evaluate_top(**sides | change)


@pytest.mark.parametrize(
    ("neighbours", "message"),
    [
        ([[0], [1]], r"evaluate: neighbours must be \(1, w\) gallery indices, got \(2, 1\)"),
        ([[0.0, 1.0]], "evaluate: neighbours must be .* float64"),
        ([[0, 3]], "evaluate: neighbours must be -1 or below 3, the gallery's size, got 0 to 3"),
        ([[0, -2]], "evaluate: neighbours must be -1 or below 3, the gallery's size, got -2 to 0"),
        ([[2, 0]], "evaluate: of each query 2 neighbours must be left .* query 0 has 1; give more"),
    ],
)
def test_neighbours_that_cannot_be_scored_are_refused(neighbours, message):
    with pytest.raises(ValueError, match=message):
        score_top(neighbours, [7], [1], [7, 1, 7], [2, 2, 1], k=2)


def test_the_ranks_that_are_scored_unless_others_are_named():
    neighbours = [list(range(30))]
    found = score_top(neighbours, [7], [1], [7] * 30, [2] * 30, k=25)
    assert found.cmc == {1: 1.0, 5: 1.0, 10: 1.0, 20: 1.0, 25: 1.0}
    assert sorted(evaluate_top([[1.0, 0.0]], [7], [1], [[1.0, 0.5]] * 30, [7] * 30, [2] * 30, k=25).cmc) == [*found.cmc]
