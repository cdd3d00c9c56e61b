"""The rows of loading: both sides read the same files, on one core, and extraction's values agree."""

import sys

import pytest
import torch

from benchmarks import loading
from benchmarks.cases import Job, Skipped, Target
from benchmarks.measuring import measure
from reference_pipelines.data import dataset
from tests.benchmarks.support import problem

pytest.importorskip("torchvision", reason="the extra 'pipelines' is not installed")


@pytest.fixture(autouse=True, scope="module")
def no_idle_workers():
    yield
    dataset._idle.workers.end()
    dataset._idle = None


def test_the_promised_rows():
    for case in loading.CASES:
        assert [(each.name, each.target) for each in case.peers] == [("pillow", Target(1.0))]
        assert case.shapes == ((3, 256, 128), (3, 384, 192))
        assert case.batch == 64


@pytest.mark.parametrize("case", loading.CASES, ids=lambda case: case.name)
def test_a_row_runs_agrees_and_counts_images(case):
    (row,) = measure([Job(case, problem((3, 64, 32), batch=4))], rounds=1, resident=False, progress=False)
    assert row.ok, row.notes
    assert row.ratio > 0
    assert row.per_second == pytest.approx(1000 / row.ours.ms)
    assert row.notes[0].startswith("images a second: ")


def test_the_values_of_extraction_are_compared_and_those_of_training_cannot_be():
    assert loading.ours(problem((3, 64, 32)), train=False).agrees
    assert not loading.ours(problem((3, 64, 32)), train=True).agrees
    ours = loading.ours(problem((3, 256, 128), batch=3), train=False).work()
    theirs = loading.pillow(problem((3, 256, 128), batch=3), train=False).work()
    assert (ours - theirs).abs().max() < 1e-6


def test_every_training_batch_is_drawn_anew():
    variant = loading.ours(problem((3, 64, 32), batch=4), train=True)
    assert not torch.equal(variant.work(), variant.work())


@pytest.mark.parametrize("build", [loading.ours, loading.pillow])
def test_both_sides_have_one_thread(build, monkeypatch):
    variant = build(problem((3, 64, 32)), train=False)
    seen = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    variant.work()
    assert seen == [1, 7]


def test_without_torchvision_the_row_is_skipped(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(Skipped, match=r"torchvision .*not installed; pip install 'attnreid\[pipelines\]'"):
        loading.pillow(problem((3, 64, 32)), train=False)
