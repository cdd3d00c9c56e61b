"""Scores out of ranks equal the literal formulas, and the file of ranks gives back what was written or says why not."""

from dataclasses import replace

import numpy as np
import pytest

from reference_pipelines.ranks.files import from_bytes, to_bytes
from reference_pipelines.ranks.scoring import QueryRanks, score
from reference_pipelines.retrieval import evaluate
from tests.oracles import retrieval as oracle


def drawn(queries=30, images=50, seed=0):
    """Return ranks of random rankings, every query with 1 to 6 matches."""
    rng = np.random.default_rng(seed)
    matches = rng.integers(1, 7, queries).astype(np.int32)
    ranked = rng.integers(images // 2, images, queries).astype(np.int32)
    ranks = [np.sort(rng.choice(n, k, replace=False)) for n, k in zip(ranked, matches, strict=True)]
    asked = np.sort(rng.choice(2 * queries, queries, replace=False)).astype(np.int32)
    people = np.sort(rng.integers(1, 9, queries))
    return QueryRanks(np.concatenate(ranks).astype(np.int32), matches, ranked, asked, people, queries)


def hit_lists(ranks):
    """Return each query's ranking as a list of hits and misses."""
    lists, start = [], 0
    for count, images in zip(ranks.matches.tolist(), ranks.images.tolist(), strict=True):
        standing = set(ranks.ranks[start : start + count].tolist())
        lists.append([place in standing for place in range(images)])
        start += count
    return lists


def test_scores_equal_the_literal_formulas():
    ranks = drawn()
    lists = hit_lists(ranks)
    found = score(ranks, (1, 5, 20))
    assert found.mAP == pytest.approx(oracle.mean([oracle.average_precision(hits) for hits in lists]), abs=1e-12)
    market = oracle.mean([oracle.average_precision_market(hits) for hits in lists])
    assert found.mAP_market == pytest.approx(market, abs=1e-12)
    penalty = oracle.mean([oracle.inverse_negative_penalty(hits) for hits in lists])
    assert found.mINP == pytest.approx(penalty, abs=1e-12)
    assert found.cmc == {k: pytest.approx(np.mean([any(hits[:k]) for hits in lists])) for k in (1, 5, 20)}
    assert found.interval[0] < found.mAP < found.interval[1]
    assert found.interval_market[0] < found.mAP_market < found.interval_market[1]


def test_an_evaluation_keeps_where_the_matches_stand_and_how_many_images_were_ranked():
    # Of six images one is junk and one is of the query's person and camera; the second query has no match.
    distances = [[0.5, 0.1, 0.2, 0.3, 0.4, 0.6], [1.0] * 6]
    result = evaluate(None, [7, 9], [1, 1], None, [7, 7, -1, 3, 7, 3], [2, 1, 2, 2, 3, 3], distances=distances)
    ranks = result.ranks
    assert ranks.ranks.tolist() == [1, 2]
    assert (ranks.matches.tolist(), ranks.images.tolist(), ranks.people.tolist()) == ([2], [4], [7])
    assert (ranks.queries.tolist(), ranks.skipped) == ([0], 1)
    again = score(ranks, (1, 5, 10, 20))
    assert (again.mAP, again.cmc, again.mINP, again.mAP_market) == (
        result.mAP,
        result.cmc,
        result.mINP,
        result.mAP_market,
    )


def test_a_file_gives_back_what_was_written_and_the_same_ranks_the_same_bytes():
    ranks = drawn()
    read, precision = from_bytes(to_bytes(ranks))
    for name in ("ranks", "matches", "images", "queries", "people"):
        assert np.array_equal(getattr(read, name), getattr(ranks, name))
    assert read.skipped == ranks.skipped
    assert precision.tolist() == [
        pytest.approx(float(oracle.average_precision(hits)), abs=1e-12) for hits in hit_lists(ranks)
    ]
    assert to_bytes(read) == to_bytes(ranks)


def with_value(array, place, value):
    changed = array.copy()
    changed[place] = value
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: replace(r, ranks=r.ranks[:-1]), "are not the matches"),
        (lambda r: replace(r, people=r.people[:-1]), "not of one length"),
        (lambda r: replace(r, ranks=r.ranks.astype(np.float32)), "whole numbers"),
        (lambda r: replace(r, ranks=with_value(r.ranks, 0, -1)), "rise from 0"),
        (lambda r: replace(r, ranks=with_value(r.ranks, -1, 1000)), "beyond the images"),
        (lambda r: replace(r, queries=r.queries[::-1]), "not in order"),
        (lambda r: replace(r, skipped=-1), "not in order"),
    ],
)
def test_numbers_that_no_ranking_gives_are_refused(change, message):
    with pytest.raises(ValueError, match=message), np.errstate(divide="ignore"):
        from_bytes(to_bytes(change(drawn())))


def test_equal_ranks_within_a_query_are_refused():
    ranks = QueryRanks(*(np.array(each, dtype=np.int32) for each in ([3, 3], [2], [9], [0], [1])), skipped=0)
    assert "rise" in ranks.fault()


def test_another_file_is_refused():
    for content in (b"", b"PK half of it", to_bytes(drawn())[:-40]):
        with pytest.raises(ValueError, match="no file of ranks"):
            from_bytes(content)
