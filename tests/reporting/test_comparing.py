"""CMC and paired differences against rankings written out."""

import numpy as np
import pytest

from reference_pipelines.ranks.scoring import QueryRanks
from reference_pipelines.reporting.comparing import MOST_PAIRS, Outcome, difference, differences
from tests.ledger.support import drawn


def ranks_of(rankings, queries=None, skipped=0):
    """Return the ranks of rankings that are written as strings: x a match, . another."""
    found = [[place for place, sign in enumerate(ranking) if sign == "x"] for ranking in rankings]
    queries = range(len(rankings)) if queries is None else queries
    arrays = (
        [place for each in found for place in each],
        [len(each) for each in found],
        [len(each) for each in rankings],
        queries,
        queries,
    )
    return QueryRanks(*(np.array(each, dtype=np.int32) for each in arrays), skipped=skipped)


def outcome(name, rankings, queries=None, data="d"):
    return Outcome(name, data, {}, ranks_of(rankings, queries))


def test_a_difference_by_hand():
    left, right = outcome("l", ["x...", ".x.."]), outcome("r", [".x..", ".x.."])
    found = difference(left, right)
    assert (found.left, found.right, found.queries) == ("l", "r", 2)
    assert found.mAP == pytest.approx(((1 - 0.5) + 0) / 2)
    assert found.rank1 == pytest.approx(0.5)
    back = difference(right, left)
    assert (back.mAP, back.rank1) == (-found.mAP, -found.rank1)
    assert back.interval == pytest.approx((-found.interval[1], -found.interval[0]))


def test_only_shared_queries_count_and_each_with_itself():
    left = outcome("l", ["x..", "..x", ".x."], queries=[2, 5, 9])
    right = outcome("r", ["..x", ".x.", "x.."], queries=[1, 2, 9])
    found = difference(left, right)
    assert found.queries == 2
    assert found.mAP == pytest.approx(((1 - 1 / 2) + (1 / 2 - 1)) / 2)  # queries 2 and 9
    assert difference(left, outcome("r", ["x.."], queries=[7])) is None


def test_the_interval_is_the_bootstrap_of_whole_pairs_and_narrower_than_of_two_separate_samples():
    ranks = drawn(0, queries=200)
    better = Outcome("b", "d", {}, ranks_of(["x" + "." * 39] * 100 + ["." * 9 + "x" + "." * 30] * 100))
    worse = Outcome("w", "d", {}, ranks_of([".x" + "." * 38] * 100 + ["." * 19 + "x" + "." * 20] * 100))
    found = difference(better, worse)
    values = np.array([0.5] * 100 + [1 / 10 - 1 / 20] * 100)
    rng = np.random.default_rng(7)
    means = [rng.choice(values, len(values)).mean() for _ in range(4000)]
    assert found.interval == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.004)
    apart = [rng.choice(better.precision, 200).mean() - rng.choice(worse.precision, 200).mean() for _ in range(2000)]
    assert np.ptp(found.interval) < 0.6 * np.ptp(np.percentile(apart, [2.5, 97.5]))
    assert difference(Outcome("s", "d", {}, ranks), Outcome("t", "d", {}, ranks)).interval == (0, 0)


def test_results_without_ranks_are_paired_by_their_order_if_they_are_as_many():
    left = Outcome("l", "d", {"average_precision": [0.5, 1.0]}, None)
    found = difference(left, Outcome("r", "d", {"average_precision": [0.25, 0.5]}, None))
    assert (found.mAP, found.rank1) == (0.375, None)
    assert difference(left, Outcome("r", "d", {"average_precision": [0.25]}, None)) is None
    assert difference(left, outcome("r", ["x..", ".x."])).mAP == pytest.approx(0.0)
    assert differences([left, Outcome("r", "d", {}, None)]) == []


def test_all_pairs_of_one_data_set_later_minus_earlier_or_of_very_many_those_with_the_first():
    some = [outcome(str(i), ["x..", ".x."], data="ab"[i % 2]) for i in range(5)]
    assert [(each.left, each.right) for each in differences(some)] == [("2", "0"), ("4", "0"), ("4", "2"), ("3", "1")]
    many = [outcome(str(i), ["x..", ".x."]) for i in range(7)]
    assert len(many) * (len(many) - 1) // 2 > MOST_PAIRS
    assert [(each.left, each.right) for each in differences(many)] == [(str(i), "0") for i in range(1, 7)]
    assert len(differences(many[:6])) == MOST_PAIRS


def test_cmc_counts_queries_with_a_match_among_the_first():
    curve = outcome("a", ["x...", "..x.", ".x.x", "...x"]).cmc()
    assert curve == [(1, 25), (2, 50), (3, 75), (4, 100)]
    kept = Outcome("b", "d", {"rank1": 0.5, "rank5": 0.75, "rank20": 1.0}, None).cmc()
    assert kept == [(1, 50), (5, 75), (20, 100)]
    assert [k for k, _ in Outcome("c", "d", {}, drawn(0)).cmc()] == list(range(1, 21))
