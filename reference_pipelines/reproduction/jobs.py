"""Training commands side by side, each in a process of its own with its share of the cores."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from reference_pipelines.errors import UserError
from reference_pipelines.machine import available_cores
from reference_pipelines.progress import progress_bar

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Job:
    """A command that writes a run folder.

    Args:
        title: what it is called on the terminal.
        command: arguments after `python -m reference_pipelines`.
        folder: its run folder, whose log tells how far it is.
        epochs: how many it will log.
        console: file that takes what it prints.
        after: the job that it needs what comes of; it fails where that one does.
    """

    title: str
    command: Sequence[str]
    folder: Path
    epochs: int
    console: Path
    after: "Job | None" = None


@dataclass(frozen=True)
class Failure:
    """A job that failed.

    Args:
        job: which.
        reason: what it said.
        seconds: that it took.
    """

    job: Job
    reason: str
    seconds: float


def run_jobs(jobs: Sequence[Job], *, keep_going: bool = False) -> list[Failure]:
    """Run every job, as many at once as there are cores (one at a time on a CUDA device).

    Small networks gain little from a second thread, so a core each is the fastest way through several runs.

    Args:
        jobs: what to run, in the order in which they are begun; one that has to wait for another is passed over.
        keep_going: run the others where one fails, and return the failures.

    Raises:
        UserError: a job failed and was not to be passed over; the sentence is the job's own. The others are stopped.
    """
    cores = available_cores()
    together = 1 if torch.cuda.is_available() else max(1, min(cores, len(jobs)))
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores // together))}
    began = time.perf_counter()
    waiting = list(jobs)
    running: list[tuple[Job, subprocess.Popen[bytes]]] = []
    started: dict[Path, float] = {}
    failures: list[Failure] = []
    with progress_bar(None, sum(job.epochs for job in jobs), "train", unit="epoch") as bar:
        try:
            while waiting or running:
                ready = [job for job in waiting if job.after not in (*waiting, *(other for other, _ in running))]
                for job in ready[: together - len(running)]:
                    waiting.remove(job)
                    started[job.console] = time.perf_counter()
                    running.append((job, _start(job, environment)))
                time.sleep(_POLL_SECONDS)
                for job, process in [(job, process) for job, process in running if process.poll() is not None]:
                    running.remove((job, process))
                    said = _failure(job, process.returncode)
                    if said is not None and not keep_going:
                        raise UserError(f"{job.title}: {said}")
                    if said is not None:
                        failures.append(Failure(job, said, time.perf_counter() - started[job.console]))
                        hopeless = [each for each in waiting if each.after == job]
                        failures += [Failure(each, f"{job.title} failed: {said}", 0.0) for each in hopeless]
                        waiting = [each for each in waiting if each not in hopeless]
                    how = "is done" if said is None else f"failed: {said}"
                    tqdm.write(f"  {job.title} {how}, {time.perf_counter() - began:.0f} s after the first began")
                bar.set_postfix_str(", ".join(job.title for job, _ in running), refresh=False)
                bar.update(sum(_epochs_done(job) for job in jobs) - bar.n)
        finally:
            for _, process in running:
                process.terminate()
            for _, process in running:
                process.wait()
    return failures


def _start(job: Job, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    job.console.parent.mkdir(parents=True, exist_ok=True)
    with open(job.console, "wb") as console:
        return subprocess.Popen(
            [sys.executable, "-m", "reference_pipelines", *job.command],
            env=environment,
            stdout=console,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )


def _failure(job: Job, status: int) -> str | None:
    """Return what a job that is over failed with, if it did."""
    if status == 0:
        return None
    lines = job.console.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    said = lines[-1].removeprefix("error: ") if lines and lines[-1].startswith("error: ") else f"exit status {status}"
    return f"{said} (all it printed is in {job.console})"


def _epochs_done(job: Job) -> int:
    try:
        entries = (job.folder / "log.jsonl").read_text(encoding="utf-8").count("\n")
    except OSError:
        return 0
    return max(0, entries - 1)  # the first entry is the network before training
