"""Two processes are one: the same rows, gradients, losses, weights, running statistics, memory, labels and log."""

import math
import os
import socket
import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from reference_pipelines.distributed.processes import ALONE, Processes, join_processes, share_sizes
from reference_pipelines.distributed.watch import SILENCE, silent_seconds
from reference_pipelines.errors import UserError
from reference_pipelines.runs.checkpoints import read_newest
from tests.conftest import made_once
from tests.training import together
from tests.training.runs import ROOT, logged

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
# In double precision; what goes through single precision (the clustered features) may round otherwise.
TOLERANCE = 1e-7


@given(items=st.integers(0, 200), count=st.integers(1, 20))
def test_shares_are_cut_as_torch_cuts_chunks(items, count):
    sizes = share_sizes(items, count)
    chunks = [len(chunk) for chunk in torch.arange(items).chunk(count)] if items else []
    assert sizes[: len(chunks)] == chunks
    assert not any(sizes[len(chunks) :])
    shares = [Processes(rank, count).share(range(items)) for rank in range(count)]
    assert list(chain(*shares)) == list(range(items))
    assert [len(share) for share in shares] == sizes


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def two(images, tmp_path_factory):
    """What two processes did."""
    return made_once(tmp_path_factory, "two_processes", lambda out: _run_two(images, out))


def _run_two(images, out):
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.together", str(images), str(out)],
            cwd=ROOT,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        printed = [process.communicate(timeout=280)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], printed
    assert printed[1] == "", "the first process alone prints"


@pytest.fixture(scope="module")
def one(images, tmp_path_factory):
    """What one process did."""
    return made_once(tmp_path_factory, "one_process", lambda out: trained_alone(images, out, together.CASES))


def trained_alone(images, out, cases):
    with pytest.MonkeyPatch.context() as monkeypatch:
        for module in (together.apnet, together.mla):
            monkeypatch.setattr(module, "build_model", module.build_model)  # to be put back
        monkeypatch.setattr(together.mla, "make_pseudo_labels", together.mla.make_pseudo_labels)
        together.train_cases(images, out, cases)
    return out


@pytest.fixture(scope="module")
def ranks(two):
    return [torch.load(two / f"{rank}.pt", weights_only=False) for rank in range(2)]


def test_gathered_rows_are_in_order_and_each_process_has_the_gradient_of_its_own(ranks):
    table = torch.arange(together.ROWS * 3, dtype=torch.float64).reshape(-1, 3)
    gradient = 2 * table * torch.arange(1.0, together.ROWS + 1)[:, None]
    for rank, own in ((0, slice(0, 4)), (1, slice(4, 7))):
        assert torch.equal(ranks[rank]["gathered"], table)
        assert torch.equal(ranks[rank]["gradient"], gradient[own])


def test_the_first_process_alone_gets_what_is_collected(ranks):
    table = torch.arange(together.ROWS * 3, dtype=torch.float64).reshape(-1, 3)
    for name in ("collected", "collected where one has nothing"):
        assert torch.equal(ranks[0][name], table)
        assert ranks[1][name].shape == (0, 3)


def test_what_is_joined_spread_exchanged_and_told(ranks):
    table = np.arange(together.ROWS * 3, dtype=np.float64).reshape(-1, 3)
    for rank, (result, own) in enumerate(zip(ranks, (slice(0, 4), slice(4, 7)), strict=True)):
        assert np.array_equal(result["joined"], table[[0, 0, 1]])
        assert np.array_equal(result["joined, where one has nothing"], np.ones((1, 2), dtype=bool))
        assert result["joined, where one has nothing"].dtype == bool
        assert result["spread"].tolist() == [0, 1, 2, 3, 4]
        assert result["spread"].dtype == np.int32
        assert [part.tolist() for part in result["exchanged"]] == [table[own].tolist(), (table[own] + 1).tolist()]
        assert result["told"] == ([] if rank else [{"rank": 0}, {"rank": 1}])


def test_shared_extraction_gives_the_features_of_one_process_bit_for_bit(ranks, images):
    assert torch.equal(ranks[0]["features"], together.features_of(images, ALONE))
    assert len(ranks[1]["features"]) == 0


def test_what_one_process_does_or_refuses_all_know(ranks):
    for rank, result in enumerate(ranks):
        assert result["once"] == {"rank": 0, "words": ["a"]}
        assert result["once, refused"] == "rank 0 complains"
        assert result["together"] == 10 * rank
        assert result["together, one refuses"] == "rank 1 complains"
        assert result["together, both refuse"] == "rank 0 complains"
        assert result["agree"] == (True, False)


@pytest.mark.parametrize("case", together.CASES)
def test_two_processes_train_as_one(one, two, case):
    alone, shared = logged(one / case), logged(two / case)
    assert [entry["epoch"] for entry in shared] == [0, 1, 2]
    assert alone[0]["mAP"] == shared[0]["mAP"]  # of the same features, bit for bit
    for mine, theirs in zip(alone[1:], shared[1:], strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=TOLERANCE)
        assert mine["mAP"] == pytest.approx(theirs["mAP"], abs=1e-12)  # with the same running statistics everywhere
        for name in mine.keys() & {"clusters", "noise", "id_purity", "learning_rate"}:
            assert mine[name] == theirs[name]
    (mine, _), (theirs, _) = (read_newest(folder / case) for folder in (one, two))
    start = load_file(one / case / "best.safetensors") if alone[0]["mAP"] == max(e["mAP"] for e in alone) else None
    weights, others = (load_file(each.place / "model.safetensors") for each in (mine, theirs))
    for name, tensor in weights.items():  # weights and running statistics
        torch.testing.assert_close(others[name], tensor, rtol=TOLERANCE, atol=TOLERANCE, msg=name)
    if start is not None:
        assert not torch.allclose(start["backbone.conv1.weight"], weights["backbone.conv1.weight"], atol=1e-5)
    learnt, theirs_learnt = mine.state.tensors(), theirs.state.tensors()
    assert learnt.keys() == theirs_learnt.keys()
    for name, tensor in learnt.items():  # moments of the optimiser, memory, generators
        torch.testing.assert_close(theirs_learnt[name], tensor, rtol=1e-5, atol=TOLERANCE, msg=name)
    for epoch in (1, 2) if case.startswith("mla") else ():
        labels = [np.load(folder / case / "pseudo_labels" / f"epoch-{epoch:04d}.npy") for folder in (one, two)]
        assert np.array_equal(*labels)


def test_batch_statistics_are_of_the_chunks_that_were_asked_for(one, images, tmp_path):
    trained_alone(images, tmp_path, {name: (name, together.EVEN) for name in ("apnet", "mla")})
    for name in ("apnet", "mla"):
        whole, chunked = (
            load_file(folder / "model.safetensors") for folder in (tmp_path / name, one / f"{name} in chunks")
        )
        assert not torch.allclose(whole["neck.running_mean"], chunked["neck.running_mean"], atol=1e-4)


def test_without_torchrun_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_processes(lambda: "go on") as processes:
        assert (processes.rank, processes.count, processes.first) == (0, 1, True)


def test_half_an_environment_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    message = "WORLD_SIZE .*2 .*RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT .*not set; .*torchrun"
    with pytest.raises(UserError, match=message), join_processes(lambda: "go on"):
        pass


def test_for_how_long_a_process_may_be_silent_is_the_users_to_say(monkeypatch):
    monkeypatch.delenv(SILENCE, raising=False)
    assert silent_seconds() == 1800
    for text, seconds in (("0", math.inf), ("2.5", 2.5)):
        monkeypatch.setenv(SILENCE, text)
        assert silent_seconds() == seconds
    for text in ("", "soon", "-1", "nan", "inf"):
        monkeypatch.setenv(SILENCE, text)
        with pytest.raises(UserError, match=f"{SILENCE} must be a number of seconds.* got '{text}'; "):
            silent_seconds()
