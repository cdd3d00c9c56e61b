"""A run folder: config.yaml, log.jsonl, checkpoints, the weights (last and best), examples, and result.json, last."""

import contextlib
import functools
import hashlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import attnreid
from reference_pipelines.config import to_plain
from reference_pipelines.errors import UserError
from reference_pipelines.training.checkpoint import (
    MODEL,
    Checkpoint,
    clear,
    place_of,
    replace_by_link,
    replace_file,
    saved_epochs,
    write_checkpoint,
    writing,
)

CONFIG = "config.yaml"
LOG = "log.jsonl"
RESULT = "result.json"
EVALUATIONS = "evaluations"
WEIGHTS = "model.safetensors"
BEST = "best.safetensors"
LABELS = "pseudo_labels"


class Run:
    """Where one training writes.

    Args:
        folder: the run folder.
        config: a config dataclass.
    """

    def __init__(self, folder: Path, config: Any) -> None:
        self.folder = folder
        self.config = to_plain(config)
        self.entries: list[dict[str, Any]] = []
        self._started = time.perf_counter()
        self._seconds_before = 0.0
        self._opened_new = False

    def open_new(self) -> None:
        """Create the folder.

        Raises:
            UserError: it holds something already, or cannot be written.
        """
        folder = self.folder
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"run: {folder} exists and is not empty; {_what_to_do_with(folder)}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._opened_new = True
            self._write_config()
        except OSError as error:
            raise UserError(f"run: cannot write in {folder} ({error.strerror}); choose another --out") from None

    def open_again(self, entries: Sequence[Mapping[str, Any]], seconds: float) -> None:
        """Go on after a checkpoint, with the log that it holds.

        Args:
            entries: of the log.
            seconds: that the run has taken.
        """
        self.entries = [dict(entry) for entry in entries]
        self._seconds_before = seconds
        epoch = self.entries[-1]["epoch"]
        with writing(self.folder):
            (self.folder / RESULT).unlink(missing_ok=True)
            for path in (self.folder / LABELS).glob("epoch-*"):
                if path.name > _labels_name(epoch):
                    path.unlink()
            self._write_config()
            replace_file(self.folder / LOG, "".join(json.dumps(entry) + "\n" for entry in self.entries).encode())
            replace_by_link(self.folder / WEIGHTS, place_of(self.folder, epoch) / MODEL)

    def _write_config(self) -> None:
        write_text(self.folder / CONFIG, yaml.safe_dump(self.config, sort_keys=False))

    def seconds(self) -> float:
        """Return the seconds that the run has taken, those before an interruption included."""
        return self._seconds_before + time.perf_counter() - self._started

    def end_epoch(self, entry: Mapping[str, Any], checkpoint: Checkpoint, *, best: bool) -> None:
        """Save an epoch and show its line of the log; the checkpoint is given the log so far.

        Args:
            entry: the line.
            checkpoint: what the next epoch depends on.
            best: whether these are the best weights so far.
        """
        entry = {**entry, "seconds": round(self.seconds(), 2)}
        self.entries.append(entry)
        checkpoint.state["log"] = self.entries
        write_checkpoint(self.folder, checkpoint)
        with writing(self.folder):
            weights = place_of(self.folder, checkpoint.epoch) / MODEL
            for name in (WEIGHTS, BEST) if best else (WEIGHTS,):
                replace_by_link(self.folder / name, weights)
            with open(self.folder / LOG, "a", encoding="utf-8") as log:
                log.write(json.dumps(entry) + "\n")
        print("  ".join(f"{name} {_short(value)}" for name, value in entry.items() if value is not None), flush=True)

    def save_labels(self, epoch: int, labels: np.ndarray) -> None:
        """Write the pseudo-labels (N,) of the training images that an epoch is trained on."""
        folder = self.folder / LABELS
        with writing(folder):
            folder.mkdir(exist_ok=True)
            path = folder / _labels_name(epoch)
            partial = path.with_suffix(".partial")
            with open(partial, "wb") as file:
                np.save(file, labels.astype(np.int32), allow_pickle=False)
            partial.replace(path)

    def load_labels(self, epoch: int) -> np.ndarray:
        """Return the pseudo-labels (N,) that an epoch was trained on.

        Raises:
            UserError: they are not there, or are damaged.
        """
        path = self.folder / LABELS / _labels_name(epoch)
        try:
            labels: np.ndarray = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"resume: {path} must hold the labels of epoch {epoch}, which the next one goes on from, and cannot be "
                f"read ({' '.join(str(error).split())}); train again into another folder"
            ) from None
        return labels

    def discard_unless_trained(self) -> None:
        """Remove what a new run that failed before the end of its first epoch has written."""
        if not self._opened_new or any(saved_epochs(self.folder)):
            return
        with contextlib.suppress(OSError):
            clear(self.folder)
            for path in (*self.folder.glob("*.partial"), *(self.folder / LABELS).glob("*")):
                path.unlink()
            for name in (CONFIG, LOG, WEIGHTS, BEST):
                (self.folder / name).unlink(missing_ok=True)
            for folder in (self.folder / LABELS, self.folder):
                if folder.exists():
                    folder.rmdir()

    def finish(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Write the result with what it was measured by, and return it."""
        complete = {**result, "seconds": round(self.seconds(), 1), **provenance(), "config": self.config}
        with writing(self.folder / RESULT):
            write_text(self.folder / RESULT, json.dumps(complete, indent=2))
        return complete


def _what_to_do_with(folder: Path) -> str:
    if (folder / RESULT).is_file():
        return "it holds a finished run: name a new folder with --out or remove it"
    if folder.is_dir() and saved_epochs(folder):
        done = saved_epochs(folder)[-1]
        return (
            f"it holds an unfinished run, saved after epoch {done}: go on with `python -m reference_pipelines resume "
            f"{shlex.quote(str(folder))}`, or name a new folder with --out"
        )
    return "name a new folder with --out or remove it"


def _labels_name(epoch: int) -> str:
    return f"epoch-{epoch:04d}.npy"


def provenance() -> dict[str, Any]:
    """Return the versions, the commit and the command behind a number."""
    return {
        "command": shlex.join(["python", "-m", "reference_pipelines", *sys.argv[1:]]),
        "commit": _commit(),
        "code": code_digest(),
        "versions": {"attnreid": attnreid.__version__, "torch": torch.__version__},
    }


def file_digest(path: Path) -> str | None:
    """Return a digest of a file's content, or None where there is no such file."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@functools.cache
def code_digest() -> str:
    """Return a digest of torch's version and of the sources of both packages."""
    digest = hashlib.sha256(torch.__version__.encode())
    for package in (Path(attnreid.__file__).parent, Path(__file__).parents[1]):
        for source in sorted(package.rglob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader finds all of it or the one before."""
    replace_file(path, text.encode())


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
