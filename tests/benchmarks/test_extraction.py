"""The rows of extraction: both sides read the same files and give the same features, on the disk."""

import pytest
import torch

from benchmarks import extraction
from benchmarks.cases import Job, Target
from benchmarks.measuring import measure
from reference_pipelines.data import dataset
from tests.benchmarks.support import problem

pytest.importorskip("torchvision", reason="the extra 'pipelines' is not installed")


@pytest.fixture(autouse=True, scope="module")
def no_idle_workers():
    yield
    if dataset._idle is not None:  # the row with workers may have run in another process
        dataset._idle.workers.end()
        dataset._idle = None


def test_the_promised_rows():
    *small, papers = extraction.CASES
    for case in small:
        [peer] = case.peers
        assert case.shapes == ((3, 64, 32), (3, 128, 64))
        assert [peer.target_at(shape) for shape in case.shapes] == [Target(1.3), Target(1.0)]
    assert (papers.name, papers.shapes) == ("extraction_resnet50", ((3, 256, 128),))
    assert extraction._network("resnet50").neck.num_features == 2048


@pytest.mark.parametrize("case", extraction.CASES, ids=lambda case: case.name)
def test_a_row_runs_agrees_and_counts_images(case):
    (row,) = measure([Job(case, problem((3, 64, 32), batch=5))], rounds=1, resident=False, progress=False)
    assert row.ok, row.notes
    assert row.ratio > 0
    assert row.per_second == pytest.approx(1000 / row.ours.ms)


def test_the_features_are_of_the_images_and_of_length_1():
    found = extraction.ours(problem((3, 64, 32), batch=5)).work()
    torch.testing.assert_close(found, extraction.pillow(problem((3, 64, 32), batch=5)).work(), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(5))
    assert (torch.cdist(found, found) + torch.eye(5)).min() > 1e-3
