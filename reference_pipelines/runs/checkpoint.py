"""Checkpoints of a run: everything that its next epoch depends on, whole or not there.

A checkpoint is a folder, checkpoints/epoch-0003: model.safetensors (the weights), training.safetensors (optimiser,
random generators, cluster memory, pseudo-labels) and state.json (the rest, with a digest of each file and of itself).
It is written under another name, synchronised with the disk, and renamed; so one that bears its name is whole, unless
something damaged it later, which the digests tell. The one before is kept for that case.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from reference_pipelines.errors import UserError

MODEL = "model.safetensors"
_TRAINING = "training.safetensors"
_STATE = "state.json"
_FOLDER = "checkpoints"
_PARTIAL = ".partial"
_FORMAT = 2
_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A run between two epochs.

    Args:
        epoch: how many are done.
        model: the weights.
        training: the other tensors.
        state: what JSON holds.
    """

    epoch: int
    model: dict[str, Tensor]
    training: dict[str, Tensor]
    state: dict[str, Any]


class Damaged(Exception):
    """A checkpoint that is not whole, and why."""


def place_of(folder: Path, epoch: int) -> Path:
    """Return where the checkpoint of `epoch` stands in a run folder."""
    return folder / _FOLDER / f"epoch-{epoch:04d}"


def saved_epochs(folder: Path) -> list[int]:
    """Return the epochs of which a run folder has a checkpoint, oldest first."""
    names = [path.name.removeprefix("epoch-") for path in (folder / _FOLDER).glob("epoch-*")]
    return sorted(int(name) for name in names if name.isdecimal())


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint into a run folder, and drop those before the last two.

    Raises:
        UserError: the disk is full or the folder is not writable; the checkpoints before are as they were.
    """
    place = place_of(folder, checkpoint.epoch)
    partial = place.with_name(place.name + _PARTIAL)
    with writing(partial):
        _remove(partial)
        partial.mkdir(parents=True)
        try:
            files = {
                MODEL: safetensors.torch.save(_plain(checkpoint.model)),
                _TRAINING: safetensors.torch.save(_plain(checkpoint.training)),
            }
            digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
            document = {"format": _FORMAT, "epoch": checkpoint.epoch, **checkpoint.state, "digests": digests}
            digests[_STATE] = state_digest(document)
            files[_STATE] = json.dumps(document, indent=1).encode()
            for name, content in files.items():
                write_synchronised(partial / name, content)
            synchronise_folder(partial)
            _remove(place)  # of this epoch there is one only where it is damaged
            os.rename(partial, place)
            synchronise_folder(place.parent)
        except OSError:
            with suppress(OSError):
                _remove(partial)  # to give a full disk its space back
            raise
        for epoch in saved_epochs(folder)[:-_KEPT]:
            _remove(place_of(folder, epoch))


def read_newest(folder: Path) -> tuple[Checkpoint, list[str]]:
    """Return the newest whole checkpoint of a run folder, and what is wrong with newer ones, a sentence each.

    Raises:
        UserError: there is none, or none is whole.
    """
    epochs = saved_epochs(folder)
    if not epochs:
        raise UserError(f"resume: {folder} must hold a checkpoint, got none; {_what_is_there(folder)}")
    wrong: list[str] = []
    for epoch in reversed(epochs):
        try:
            return read_checkpoint(place_of(folder, epoch)), wrong
        except Damaged as damage:
            wrong.append(f"{place_of(folder, epoch)} is not whole ({damage})")
    raise UserError(f"resume: no checkpoint can be read: {'; '.join(wrong)}; train again into another folder")


def _what_is_there(folder: Path) -> str:
    if not folder.exists():
        return "there is no such folder"
    if (folder / "config.yaml").is_file():
        return "the run stopped before it had anything to save: remove the folder and train again"
    return "name the folder of a run"


def read_states(folder: Path) -> list[dict[str, Any]]:
    """Return what state.json says in each checkpoint of a run folder, newest first; a damaged one is left out."""
    states = []
    for epoch in reversed(saved_epochs(folder)):
        with suppress(Damaged):
            states.append(_read_state(place_of(folder, epoch)))
    return states


def _read_state(place: Path) -> dict[str, Any]:
    with _reading():
        state = json.loads((place / _STATE).read_text(encoding="utf-8"))
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            raise Damaged(f"{_STATE} is not of format {_FORMAT} of these checkpoints")
        if state_digest(state) != state["digests"][_STATE]:
            raise Damaged(f"{_STATE} has not the content that was written")
        return state


def read_checkpoint(place: Path) -> Checkpoint:
    """Return the checkpoint in a folder.

    Raises:
        Damaged: a file is missing, cut off, or another than the one that was written.
    """
    state = _read_state(place)
    with _reading():
        contents = {name: (place / name).read_bytes() for name in (MODEL, _TRAINING)}
        for name, content in contents.items():
            if hashlib.sha256(content).hexdigest() != state["digests"][name]:
                raise Damaged(f"{name} has not the content that was written")
        model, training = (safetensors.torch.load(content) for content in contents.values())
        return Checkpoint(int(state["epoch"]), model, training, state)


@contextmanager
def _reading() -> Iterator[None]:
    """Turn what a damaged file raises into Damaged."""
    try:
        yield
    except OSError as error:
        raise Damaged(f"{Path(str(error.filename)).name}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise Damaged(f"{type(error).__name__}: {' '.join(str(error).split())}") from None


def state_digest(document: dict[str, Any]) -> str:
    """Return a digest of what a state.json holds, other than the digest of itself."""
    digests = {name: digest for name, digest in document["digests"].items() if name != _STATE}
    as_read = json.loads(json.dumps({**document, "digests": digests}))
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def clear_after(folder: Path, epoch: int) -> None:
    """Remove what a run folder holds of checkpoints after `epoch`, and of those that were never finished."""
    with writing(folder):
        for path in (folder / _FOLDER).glob(f"*{_PARTIAL}"):
            _remove(path)
        for later in saved_epochs(folder):
            if later > epoch:
                _remove(place_of(folder, later))


def clear(folder: Path) -> None:
    """Remove every checkpoint of a run folder."""
    _remove(folder / _FOLDER)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write into a sentence.

    Raises:
        UserError: an OSError came.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"run: cannot write {path} ({error.strerror}); make room or give the right to write") from None


def write_synchronised(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a reader finds all of it or the one before."""
    partial = path.with_name(path.name + _PARTIAL)
    with _removed_after(partial):
        write_synchronised(partial, content)
        os.replace(partial, path)


def replace_by_link(path: Path, target: Path) -> None:
    """Have `path` be the content of `target` too, without taking its room again where the file system can."""
    partial = path.with_name(path.name + _PARTIAL)
    partial.unlink(missing_ok=True)
    with _removed_after(partial):
        try:
            os.link(target, partial)
        except OSError:
            shutil.copyfile(target, partial)
        os.replace(partial, path)


@contextmanager
def _removed_after(partial: Path) -> Iterator[None]:
    """Leave no `partial`: a full disk does, and so does replacing a file by another name of itself."""
    try:
        yield
    finally:
        with suppress(OSError):
            partial.unlink()


def synchronise_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(path)
