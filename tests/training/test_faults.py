"""A process that dies takes the others down at once, named in one sentence, and the run goes on from there."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from reference_pipelines.runs.checkpoints import saved_epochs
from tests.training.runs import ROOT, Together, arguments, assert_same_run, epochs_logged

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
HOST = re.escape(socket.gethostname())
THREE = {"optimizer.epochs": "3"}
# The agent and the data's workers are given up to five seconds to end by themselves.
LIMIT = 20.0
EPOCH = "the epoch under way"


def train(pipeline, images, out, **changes):
    return ["train", pipeline, "--out", str(out), *arguments(pipeline, images, **changes)]


def killed(together, victim):
    """Kill a rank, wait for the end, and check what it looks like."""
    process = together.ranks()[victim]
    os.kill(process, signal.SIGKILL)
    status, printed, seconds = together.finish()
    assert status != 0
    sentences = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1, printed
    named = rf"error: train: rank {victim} \(process {process} on {HOST}\) died; the run stops; "
    assert re.match(named + r".*torchrun --nproc_per_node=2 -m reference_pipelines resume", sentences[0])
    assert "reference_pipelines/training" not in printed, "no traceback of ours"
    assert seconds < LIMIT
    return seconds


@pytest.mark.faults
@pytest.mark.parametrize("victim", [0, 1])
def test_a_death_in_the_middle_of_an_epoch(images, tmp_path, victim, tell):
    out = tmp_path / "run"
    many = train("apnet", images, out, **{"optimizer.epochs": "500", "evaluation.every": "500", "data.workers": "1"})
    with Together(many) as together:
        together.wait_until(lambda: epochs_logged(out) >= 1)
        killed(together, victim)
    done = saved_epochs(out)[-1]
    assert done >= 1
    with Together(["resume", str(out), f"--optimizer.epochs={done + 1}"]) as together:
        status, printed, _ = together.finish()
    assert status == 0, printed
    assert f"going on after epoch {done} of {done + 1}" in printed
    assert epochs_logged(out) == done + 1
    tell("train apnet on two", f"SIGKILL of rank {victim}", 1, "the rank named, how to go on", lost=EPOCH)


@pytest.mark.faults
@pytest.mark.parametrize("pipeline", ["apnet", "mla"])
@pytest.mark.parametrize("victim", [0, 1])
def test_two_that_went_on_after_a_death_end_as_if_there_had_been_none(images, tmp_path, pipeline, victim, tell):
    with Together(train(pipeline, images, tmp_path / "whole", **THREE)) as together:
        status, printed, _ = together.finish()
    assert status == 0, printed
    out = tmp_path / "run"
    with Together(train(pipeline, images, out, **THREE)) as together:
        together.wait_until(lambda: epochs_logged(out) >= 1)
        time.sleep(0.2)
        if not (out / "result.json").exists():
            killed(together, victim)
    with Together(["resume", str(out)]) as together:
        status, printed, _ = together.finish()
    assert status == 0, printed
    assert_same_run(out, tmp_path / "whole")
    tell(f"train {pipeline} on two", f"SIGKILL of rank {victim}", 1, "the rank named, how to go on", lost=EPOCH)


@pytest.mark.faults
@pytest.mark.parametrize("victim", [0, 1])
def test_a_death_while_one_clusters_and_the_others_wait(images, tmp_path, monkeypatch, victim, tell):
    monkeypatch.setenv("SLOWLY", "300")
    monkeypatch.setenv("MARK", str(tmp_path / "clustering"))
    command = train("mla", images, tmp_path / "run")
    with Together(command, module="tests.training.clustering_slowly") as together:
        together.wait_until((tmp_path / "clustering").exists)
        time.sleep(3)
        killed(together, victim)
    tell("train mla on two, clustering", f"SIGKILL of rank {victim}", 1, "the rank named, how to go on", lost=EPOCH)


@pytest.mark.faults
def test_waiting_for_a_long_clustering_is_no_death(images, tmp_path, monkeypatch):
    monkeypatch.setenv("SLOWLY", "45")  # each of two epochs
    monkeypatch.setenv("MARK", str(tmp_path / "clustering"))
    with Together(train("mla", images, tmp_path / "run"), module="tests.training.clustering_slowly") as together:
        status, printed, seconds = together.finish(300)
    assert status == 0, printed
    assert seconds > 90


@pytest.mark.slow
def test_a_mistake_is_one_sentence_of_the_first_process(images, tmp_path):
    command = train("apnet", images, tmp_path / "run", **{"sampler.ids": "9"})
    with Together(command) as together:
        status, printed, _ = together.finish()
    assert status != 0
    assert len(re.findall("error: sampler: .* 9 different people, .* 8", printed)) == 1
    assert "reference_pipelines/" not in printed
    assert not (tmp_path / "run").exists()


@pytest.mark.faults
def test_torchruns_own_end_by_a_signal_says_how_to_go_on(images, tmp_path, tell):
    out = tmp_path / "run"
    with Together(train("apnet", images, out, **{"optimizer.epochs": "500"})) as together:
        together.wait_until(lambda: epochs_logged(out) >= 1)
        together.process.send_signal(signal.SIGTERM)
        status, printed, seconds = together.finish()
    assert status != 0
    assert (
        printed.count(
            f"stopped by SIGTERM; go on with: torchrun --nproc_per_node=2 -m reference_pipelines resume {out}"
        )
        == 1
    )
    assert "died" not in printed
    assert seconds < LIMIT
    tell("train apnet on two", "SIGTERM of torchrun", 1, "how to go on", lost=EPOCH)


@pytest.mark.faults
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_single_process_with_a_hint(images, tmp_path, number, expected, tell):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "reference_pipelines", *train("apnet", images, out, **{"optimizer.epochs": "500"})]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while epochs_logged(out) < 1:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == expected
    name = signal.Signals(number).name
    assert error.strip() == f"stopped by {name}; go on with: python -m reference_pipelines resume {out}"
    assert saved_epochs(out)
    tell("train apnet", name, 1, "how to go on", lost=EPOCH)
