"""The loop that ranking is measured against is the protocol, the made-up images are people, and memory is judged."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.cases import Case, Job, Skipped, Target
from benchmarks.catalogue import CASES
from benchmarks.measuring import Figures, Row, measure
from benchmarks.ranking import RANKS, People, make_images, score_one
from benchmarks.table import format_rows, summarise
from tests.benchmarks.support import SHAPE, job, problem, variant
from tests.oracles import retrieval as oracle

BY_NAME = {case.name: case for case in CASES}
SMALL = problem((8, 30, 120), batch=1)


def test_the_rows_are_market_1501s_and_msmt17s_with_their_targets():
    market, msmt17 = BY_NAME["ranking"], BY_NAME["ranking_msmt17"]
    assert (market.shapes, msmt17.shapes) == (((256, 3_368, 15_913),), ((256, 11_659, 82_161),))
    assert market.peers[0].target == Target(5.0)
    assert (market.most_resident, msmt17.most_resident) == (None, 1_500_000_000)


@pytest.mark.parametrize("name", ["ranking", "ranking_msmt17"])
def test_the_rows_build_and_agree(name):
    small = problem((8, 60, 3000), batch=1)
    assert BY_NAME[name].build("ours", small).work().dtype == torch.float64  # agreement is to 1e-10
    for row in measure([Job(BY_NAME[name], small)], rounds=1, resident=False, progress=False):
        assert row.ok, row.notes
        assert row.ours.ms > 0


def test_all_sides_give_the_same_numbers():
    sides = [BY_NAME["ranking"].build(name, SMALL) for name in ("ours", "sorted")]
    ours, theirs = (side.work() for side in sides)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert all(side.agrees for side in sides)
    assert 0 < ours[0] < 1
    assert BY_NAME["ranking"].build("unstable", SMALL).note == "theirs leaves the order of ties open"


def test_the_loop_is_the_protocol():
    rng = np.random.default_rng(0)
    ids, cameras, row = rng.integers(-1, 3, 40), rng.integers(1, 3, 40), rng.integers(0, 5, 40) / 4
    _, hits = oracle.ranking(row, 1, 1, ids, cameras)
    expected = [oracle.average_precision(hits), oracle.inverse_negative_penalty(hits), *(any(hits[:k]) for k in RANKS)]
    found = score_one(np.argsort(row, kind="stable"), 1, 1, ids, cameras)
    assert found.tolist() == pytest.approx([float(each) for each in expected])
    assert score_one(np.arange(40), 7, 1, ids, cameras) is None


def test_made_up_images_are_people_seen_by_cameras_and_distractors():
    features, (ids, cameras) = make_images(2000, 64, People(50, 6), distractors=0.2, seed=1)
    assert features.shape == (2000, 64)
    assert features.dtype == torch.float32
    assert np.mean(ids == 0) == pytest.approx(0.2, abs=0.03)
    assert set(ids) == set(range(51))
    assert set(cameras) == set(range(6))
    unit = torch.nn.functional.normalize(features, dim=1)
    cosine = (unit @ unit.T).numpy()
    same, apart = ids[:, None] == ids, cameras[:, None] != cameras
    person, known = same & apart & (ids > 0), ids[:, None] > 0
    assert cosine[person].mean() > 0.2 > cosine[~same & apart & known].mean() + 0.1
    assert abs(cosine[same & apart & ~known].mean()) < 0.05  # distractors are no one person
    assert torch.equal(features, make_images(2000, 64, People(50, 6), distractors=0.2, seed=1)[0])


def test_without_the_pipelines_packages_the_row_is_skipped(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("reference_pipelines.retrieval")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(Skipped, match=r"numba .*not installed; pip install 'attnreid\[pipelines\]'"):
        BY_NAME["ranking"].build("ours", SMALL)


@pytest.mark.parametrize(("resident", "met", "said"), [(900, True, "met"), (1100, False, "MISSED"), (None, None, "")])
def test_a_target_of_resident_memory_is_judged_and_said(resident, met, said):
    row = Row("a", "what", "map", "", resident_target=1000 * 2**20)
    if resident is not None:
        row = replace(row, ours=Figures(1.0, resident=resident * 2**20))
    assert row.met is met
    assert f"resident <= 1000 MiB {said}".strip() + " |" in " ".join(format_rows([row]).split())
    assert summarise([row]).startswith(f"targets: {int(met is True)} of 1 rows met")


def test_the_target_of_memory_is_the_cases(clock):
    case = Case("a", "", variant("ours"), (), (SHAPE,), 2, counted=False, most_resident=5)
    (row,) = measure([job(case)], rounds=1, resident=False, progress=False)
    assert row.resident_target == 5
