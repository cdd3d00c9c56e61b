"""A run folder: config.yaml, log.jsonl, checkpoints, the weights (last and best), examples, and result.json, last."""

import contextlib
import io
import json
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch import nn

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

from attnreid.files import link_file, remove_drafts, write_bytes, write_text
from reference_pipelines.config.loading import to_plain
from reference_pipelines.errors import UserError, writing
from reference_pipelines.ranks.files import write_ranks
from reference_pipelines.ranks.scoring import QueryRanks
from reference_pipelines.runs.checkpoints import (
    MODEL,
    Checkpoint,
    clear,
    clear_after,
    place_of,
    saved_epochs,
    write_checkpoint,
)
from reference_pipelines.runs.description import RunDescription
from reference_pipelines.runs.provenance import provenance
from reference_pipelines.runs.state import TrainingState

CONFIG = "config.yaml"
LOG = "log.jsonl"
RESULT = "result.json"
RANKS = "ranks.npz"
EVALUATIONS = "evaluations"
WEIGHTS = "model.safetensors"
BEST = "best.safetensors"
HELD_OUT = "held_out.safetensors"
LABELS = "pseudo_labels"
CLUSTERS = "clusters.csv"


class Run:
    """Where one training writes.

    Args:
        folder: the run folder.
        config: a config dataclass.
    """

    def __init__(self, folder: Path, config: Any) -> None:
        self.folder = folder
        self.config = to_plain(config)
        self._started = time.perf_counter()
        self._seconds_before = 0.0
        self._opened_new = False
        self._lock: int | None = None

    def open_new(self) -> None:
        """Create the folder, and lock it.

        Raises:
            UserError: it holds something already, cannot be written, or another process trains in it.
        """
        folder = self.folder
        occupied = f"run: {folder} exists and is not empty; "
        if folder.exists() and not folder.is_dir():
            raise UserError(occupied + _what_to_do_with(folder))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            if any(folder.iterdir()):
                raise UserError(occupied + _what_to_do_with(folder))
            self._opened_new = True
            self._write_config()
        except OSError as error:
            raise UserError(f"run: cannot write in {folder} ({error.strerror}); choose another --out") from None

    def open_again(self, checkpoint: Checkpoint) -> None:
        """Lock the folder and go on after a checkpoint in it, with the log that it holds.

        Raises:
            UserError: the folder cannot be written, or another process trains in it.
        """
        epoch, run = checkpoint.epoch, checkpoint.state.description
        self._seconds_before = run.seconds
        with writing(self.folder):
            self._take_lock()
            clear_after(self.folder, epoch)
            for folder in (self.folder, self.folder / LABELS):
                remove_drafts(folder)
            for name in (RESULT, RANKS):
                (self.folder / name).unlink(missing_ok=True)
            for path in (self.folder / LABELS).glob("epoch-*"):
                if path.name > _labels_name(epoch):
                    path.unlink()
            self._write_config()
            self._write_log_and_weights(epoch, checkpoint.state.log, named_after(run))

    def _take_lock(self) -> None:
        """Keep every other process from training in the folder, where the platform and the file system can."""
        if fcntl is None:
            return
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UserError(f"run: another process is training in {self.folder}; wait for its end or stop it") from None
        except OSError:  # a file system without locks
            os.close(descriptor)
            return
        self._lock = descriptor
        os.register_at_fork(after_in_child=self.unlock)  # a worker that outlives this process would keep it locked

    def unlock(self) -> None:
        """Let other processes train in the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _write_config(self) -> None:
        write_text(self.folder / CONFIG, yaml.safe_dump(self.config, sort_keys=False))

    def seconds(self) -> float:
        """Return the seconds that the run has taken, those before an interruption included."""
        return self._seconds_before + time.perf_counter() - self._started

    def save(self, model: nn.Module, state: TrainingState) -> None:
        """Save an epoch: its checkpoint, the weights under their name, and the log.

        Args:
            model: the network.
            state: what the next epoch depends on besides; an epoch that is saved already is replaced. By its
                description these may be the best weights so far.
        """
        write_checkpoint(self.folder, model, state)
        with writing(self.folder):
            self._write_log_and_weights(state.description.epoch, state.log, named_after(state.description))

    def _write_log_and_weights(self, epoch: int, log: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
        weights = place_of(self.folder, epoch) / MODEL
        for name in names:
            link_file(self.folder / name, weights)
        write_text(self.folder / LOG, "".join(json.dumps(entry) + "\n" for entry in log))

    def save_labels(self, epoch: int, labels: np.ndarray) -> None:
        """Write the pseudo-labels (N,) of the training images that an epoch is trained on, for others to read."""
        folder = self.folder / LABELS
        content = io.BytesIO()
        np.save(content, labels.astype(np.int32), allow_pickle=False)
        with writing(folder):
            folder.mkdir(exist_ok=True)
            write_bytes(folder / _labels_name(epoch), content.getvalue())

    def discard(self, *, untrained: bool) -> bool:
        """Remove what a new run that stopped early has written, and return whether the folder is gone.

        Args:
            untrained: also if it has saved how it began, before its first epoch; a run with more is never removed.
        """
        saved = saved_epochs(self.folder)
        if not self._opened_new or any(saved) or (saved and not untrained):
            return False
        with contextlib.suppress(OSError):
            clear(self.folder)
            remove_drafts(self.folder)
            for path in (self.folder / LABELS).glob("*"):
                path.unlink()
            for name in (CONFIG, LOG, WEIGHTS, BEST, HELD_OUT):
                (self.folder / name).unlink(missing_ok=True)
            for folder in (self.folder / LABELS, self.folder):
                if folder.exists():
                    folder.rmdir()
        return not self.folder.exists()

    def finish(self, result: Mapping[str, Any], ranks: QueryRanks | None) -> dict[str, Any]:
        """Write the ranks that the final scores are made of, if there are any, then the result, and return it."""
        complete = dict(result)
        if ranks is not None:
            with writing(self.folder / RANKS):
                complete["ranks"] = write_ranks(self.folder / RANKS, ranks)
        complete |= {"seconds": round(self.seconds(), 1), **provenance()}
        complete["config"] = self.config
        with writing(self.folder / RESULT):
            write_text(self.folder / RESULT, json.dumps(complete, indent=2))
        return complete


def named_after(run: RunDescription) -> list[str]:
    """Return the files that the weights of a run's last epoch go to: its own, and those that it is the best for."""
    best = run.best
    chosen = {BEST: best.get("epoch"), HELD_OUT: best.get("held_out", {}).get("epoch")}
    return [WEIGHTS, *(name for name, epoch in chosen.items() if epoch == run.epoch)]


def resume_command(folder: Path) -> str:
    """Return the command that goes on with a run, with as many processes as there are on this machine."""
    together = os.environ.get("LOCAL_WORLD_SIZE", "1")
    launcher = "python" if together == "1" else f"torchrun --nproc_per_node={together}"
    return f"{launcher} -m reference_pipelines resume {shlex.quote(str(folder))}"


def how_to_go_on(folder: Path) -> str:
    """Return what to do about a run that is stopped now; ends the sentence that says why."""
    if saved_epochs(folder):
        return f"go on with: {resume_command(folder)}"
    if (folder / CONFIG).is_file():
        return f"nothing was saved yet: start again, with {folder} removed or into another folder"
    return "nothing was saved yet: start again"


def _what_to_do_with(folder: Path) -> str:
    if (folder / RESULT).is_file():
        return "it holds a finished run: name a new folder with --out or remove it"
    if folder.is_dir() and saved_epochs(folder):
        done = saved_epochs(folder)[-1]
        return (
            f"it holds an unfinished run, saved after epoch {done}: go on with `{resume_command(folder)}`, or name a "
            "new folder with --out"
        )
    return "name a new folder with --out or remove it"


def _labels_name(epoch: int) -> str:
    return f"epoch-{epoch:04d}.npy"
