"""The dense formulation that clustering is measured against is the published one, and the scaling table is right."""

import sys

import numpy as np
import pytest
import torch

from tests.conftest import says

pytest.importorskip("sklearn", reason="the extra 'pipelines' is not installed")

from benchmarks import scaling
from benchmarks.cases import Job, Skipped, Target
from benchmarks.catalogue import CASES
from benchmarks.clustering import EPS, K1, K2, MIN_SAMPLES, dense_jaccard, make_features
from benchmarks.measuring import measure
from reference_pipelines.clustering import dbscan, jaccard_graph
from reference_pipelines.neighbours import search
from tests.benchmarks.support import problem
from tests.oracles import clustering as oracle

BY_NAME = {case.name: case for case in CASES}


def test_the_dense_formulation_is_the_published_one():
    features = make_features(150, 12)
    np.testing.assert_allclose(dense_jaccard(features, 15, 4), oracle.jaccard(features.numpy(), 15, 4), atol=2e-6)


def test_made_up_features_are_people_seen_by_cameras():
    features = make_features(500, 64)
    assert features.shape == (500, 64)
    assert torch.allclose(features.norm(dim=1), torch.ones(500))
    assert torch.equal(features, make_features(500, 64))
    labels = dbscan(jaccard_graph(features, k1=K1, k2=K2, max_distance=EPS), eps=EPS, min_samples=MIN_SAMPLES)
    assert 15 < labels.max() + 1 < 45  # of 29 people
    assert 0 < (labels < 0).mean() < 0.4


@pytest.mark.parametrize("name", ["clustering", "clustering_market"])
def test_the_rows_build_and_agree_in_their_labels(name):
    small = problem((16, 1, 1), batch=200)
    (row,) = measure([Job(BY_NAME[name], small)], rounds=1, resident=False, progress=False)
    assert row.ok, row.notes
    assert row.ratio > 0
    assert row.ours.peak is None  # the profiler would see torch's share alone


def test_market_1501s_size_is_measured_where_it_is_asked_for():
    case = BY_NAME["clustering_market"]
    assert case.on_request
    assert (case.batch, case.shapes) == (12_936, ((2048, 1, 1),))
    assert case.peers[0].target == Target(5.0)
    assert not BY_NAME["clustering"].on_request


@pytest.mark.parametrize("side", ["ours", "dense"])
def test_without_scikit_learn_the_row_is_skipped(side, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("reference_pipelines.clustering")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(Skipped, match=r"sklearn.cluster .*not installed; pip install 'attnreid\[pipelines\]'"):
        BY_NAME["clustering"].build(side, problem((16, 1, 1)))


def test_the_phases_are_those_of_the_pipeline():
    features = make_features(300, 16)
    expected = dbscan(jaccard_graph(features, k1=K1, k2=K2, max_distance=EPS), eps=EPS, min_samples=MIN_SAMPLES)
    phases = []

    def timed(work):
        phases.append(work)
        return work()

    assert np.array_equal(scaling.cluster(features, "exact", timed), expected)
    assert len(phases) == len(scaling.PHASES)


def test_a_size_is_measured():
    row = scaling.measure_size(300, 16, "exact")
    assert (row.count, row.dim, row.features) == (300, 16, 4 * 300 * 16)
    assert len(row.seconds) == len(row.peaks) == len(scaling.PHASES)
    assert all(seconds > 0 for seconds in row.seconds)
    assert row.core_seconds > 0
    assert row.resident > row.features
    assert row.clusters > 5


def test_a_search_that_was_kept_is_not_done_again(tmp_path, monkeypatch):
    first = scaling.measure_size(300, 16, "exact", tmp_path)
    monkeypatch.setattr(search, "find_neighbours", lambda points, *given, **options: pytest.fail("searched again"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaling, "cluster", warmed(scaling.cluster))
        again = scaling.measure_size(300, 16, "exact", tmp_path)
    assert (again.clusters, again.noise) == (first.clusters, first.noise)
    assert (again.seconds[1], again.peaks[1]) == (first.seconds[1], first.peaks[1])


def warmed(cluster):
    """Leave out the first call, which only warms up."""
    calls = []

    def later(*given):
        calls.append(given)
        return None if len(calls) == 1 else cluster(*given)

    return later


def scaled(count, seconds):
    phases = len(scaling.PHASES)
    return scaling.Scaled(count, 8, (seconds,) * phases, 9.5, (2**20,) * phases, 2**21, 2**22, 7, 0.25)


def test_the_table_and_the_growth(monkeypatch, capsys):
    monkeypatch.setattr(
        scaling,
        "in_fresh_process",
        lambda function, *given: (
            (1.0, 2.0) if function is scaling.measure_start else scaled(given[0], (given[0] / 3000) ** 2)
        ),
    )
    assert scaling.main(["--points", "6000", "1000", "3000", "--dim", "8"]) == 0
    out = capsys.readouterr().out
    _header, _rule, *rows = [line for line in out.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[:3]] == ["1,000 x 8", "3,000 x 8", "6,000 x 8"]
    assert [cell.strip() for cell in rows[2].split("|")[-5:-1]] == [f"{6 * 4:.2f}", "9.50", "7", "25.0%"]
    assert "search N^2.00" in out
    assert "fitted from 3,000 to 6,000 points" in out
    assert "imports 1.0 s, compiling 2.0 s" in out


def test_one_size_has_no_growth():
    assert scaling.format_growth([scaled(3000, 1.0)]).startswith("growth: not fitted")


def test_a_wrong_size_is_refused(capsys):
    assert scaling.main(["--points", "0"]) == 2
    error = capsys.readouterr().err
    assert says(error, "error: benchmarks: sizes ", "1, got 0 x 256")
    assert error.count("\n") == 1
