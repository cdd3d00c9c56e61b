"""One of two processes that train together is killed, or stopped, in each phase: it is named, and the run goes on."""

import os
import re
import signal
import socket
from pathlib import Path

import pytest
import torch

from reference_pipelines.distributed.watch import SILENCE
from reference_pipelines.runs.checkpoints import saved_epochs
from tests.fault_table import NOTHING
from tests.training.pausing import PHASES
from tests.training.runs import Together, arguments, assert_same_run

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed"),
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are found in /proc"),
]
HOST = re.escape(socket.gethostname())
THREE = {"optimizer.epochs": "3"}
LIMIT = 3.0


def train(images, out):
    return ["train", "mla", "--out", str(out), *arguments("mla", images, **THREE)]


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    with Together(train(images, out)) as together:
        status, printed, _ = together.finish()
    assert status == 0, printed
    return out


def resumed(out, whole):
    with Together(["resume", str(out)]) as together:
        status, printed, _ = together.finish()
    assert status == 0, printed
    assert_same_run(out, whole)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda number: number.name)
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("phase", PHASES)
def test_one_of_two_processes_in_each_phase(images, whole, phase, victim, number, tmp_path, monkeypatch, tell):
    out = tmp_path / "run"
    for name, value in (("PHASE", phase), ("MARK", str(tmp_path / "mark")), (SILENCE, str(LIMIT))):
        monkeypatch.setenv(name, value)
    alone = phase in ("clustering", "checkpoint")  # the first process's work
    with Together(train(images, out), module="tests.training.pausing") as together:
        together.wait_until((tmp_path / f"mark{0 if alone else victim}").exists)
        process = together.ranks()[victim]
        os.kill(process, number)
        if number == signal.SIGSTOP:
            together.wait_until(lambda: 1 - victim not in together.ranks(), limit=20)
            os.kill(process, signal.SIGCONT)  # it finds that all is over; torchrun would kill it in half a minute
        status, printed, _ = together.finish(20)
    assert status != 0
    (sentence,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    how = "died" if number == signal.SIGKILL else f"did not answer for {LIMIT:g} s, as if stopped"
    assert re.match(rf"error: train: rank {victim} \(process {process} on {HOST}\) {how}; the run stops; ", sentence)
    assert sentence.endswith(f"torchrun --nproc_per_node=2 -m reference_pipelines resume {out}")
    assert "reference_pipelines/training" not in printed, "a traceback of ours"
    assert not (out / "result.json").exists()
    saved = saved_epochs(out)[-1]
    assert saved == 1 or (phase == "checkpoint" and victim == 1 and saved == 2)  # the first process may have written it
    monkeypatch.delenv(SILENCE)
    resumed(out, whole)
    lost = "the epoch under way" if saved == 1 else NOTHING
    tell(f"train mla on two, {phase}", f"{number.name} of rank {victim}", 1, f"rank {victim} named", lost=lost)


def test_a_stopped_process_is_ended_by_torchrun_itself(images, whole, tmp_path, monkeypatch, tell):
    out = tmp_path / "run"
    for name, value in (("PHASE", "training"), ("MARK", str(tmp_path / "mark")), (SILENCE, "2")):
        monkeypatch.setenv(name, value)
    with Together(train(images, out), module="tests.training.pausing") as together:
        together.wait_until((tmp_path / "mark1").exists)
        os.kill(together.ranks()[1], signal.SIGSTOP)
        status, printed, seconds = together.finish(60)
    assert status != 0
    assert printed.count("did not answer for 2 s") == 1
    tell("train mla on two", "SIGSTOP for ever", 1, f"rank 1 named, all over after {seconds:.0f} s", lost="the epoch")


def test_both_stopped_and_continued_are_not_taken_for_silent(images, whole, tmp_path, monkeypatch, tell):
    """As Ctrl-Z and fg do, or a laptop that sleeps."""
    out = tmp_path / "run"
    for name, value in (("PHASE", "training"), ("MARK", str(tmp_path / "mark")), (SILENCE, str(LIMIT))):
        monkeypatch.setenv(name, value)
    with Together(train(images, out), module="tests.training.pausing") as together:
        together.wait_until((tmp_path / "mark1").exists)
        ranks = together.ranks()
        for process in ranks.values():
            os.kill(process, signal.SIGSTOP)
        with pytest.raises(AssertionError):
            together.wait_until(lambda: False, limit=2 * LIMIT)
        for process in ranks.values():
            os.kill(process, signal.SIGCONT)
        status, printed, _ = together.finish()
    assert status == 0, printed
    assert_same_run(out, whole)
    tell("train mla on two", "SIGSTOP of both, then SIGCONT", 1, "nothing")


def test_a_process_that_never_comes_is_not_waited_for_for_ever(images, tmp_path, monkeypatch, tell):
    monkeypatch.setenv(SILENCE, "8")
    with Together(train(images, tmp_path / "run"), module="tests.training.stopping_at_once") as together:
        together.wait_until(lambda: 0 in together.ranks(), limit=30)
        together.wait_until(lambda: 0 not in together.ranks(), limit=60)
        os.kill(together.ranks()[1], signal.SIGKILL)
        status, printed, _ = together.finish(30)
    assert status != 0
    assert len(re.findall("error: train: 2 processes must meet within 8 s, and rank 0 .* waits in vain", printed)) == 1
    assert not (tmp_path / "run").exists()
    tell("train mla on two, start", "SIGSTOP of rank 1", 1, "one sentence after the limit")
