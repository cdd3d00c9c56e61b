"""The checkpoints of a run: everything that its next epoch depends on, whole or not there.

Each is a folder, checkpoints/epoch-0003: model.safetensors, a file of `attnreid.save_checkpoint` with the run's
description, and training.safetensors, the state of the training, whose digest that description has. The folder is
written under another name and renamed; so one that bears its name is whole, unless something damaged it later, which
the digests tell. The one before is kept for that case.
"""

import hashlib
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from attnreid import save_checkpoint
from attnreid.files import PARTIAL, synchronise_folder
from reference_pipelines.errors import UserError, writing
from reference_pipelines.runs.description import Damaged, RunDescription, describe_file
from reference_pipelines.runs.former import is_former
from reference_pipelines.runs.state import TrainingState

MODEL = "model.safetensors"
_TRAINING = "training.safetensors"
_DIGEST = "training"  # in the description
_FOLDER = "checkpoints"
_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a run, and the state of the training in it.

    Args:
        place: its folder, which `attnreid.load_checkpoint` reads.
        state: what the next epoch depends on besides the weights.
    """

    place: Path
    state: TrainingState

    @property
    def epoch(self) -> int:
        """How many epochs are done."""
        return self.state.description.epoch


def place_of(folder: Path, epoch: int) -> Path:
    """Return where the checkpoint of `epoch` stands in a run folder."""
    return folder / _FOLDER / f"epoch-{epoch:04d}"


def saved_epochs(folder: Path) -> list[int]:
    """Return the epochs of which a run folder has a checkpoint, oldest first."""
    names = [path.name.removeprefix("epoch-") for path in (folder / _FOLDER).glob("epoch-*")]
    return sorted(int(name) for name in names if name.isdecimal())


def write_checkpoint(folder: Path, model: nn.Module, state: TrainingState) -> None:
    """Write a checkpoint into a run folder, and drop those before the last two.

    Raises:
        UserError: the disk is full or the folder is not writable; the checkpoints before are as they were.
    """
    place = place_of(folder, state.description.epoch)
    partial = place.with_name(place.name + PARTIAL)
    with writing(partial):
        _remove(partial)
        partial.mkdir(parents=True)
        try:
            state.write(partial / _TRAINING)
            digest = _digest(partial / _TRAINING)
            save_checkpoint(model, partial / MODEL, description={**state.description.to_json(), _DIGEST: digest})
            _remove(place)  # of this epoch there is one only where it is damaged, or was evaluated afterwards
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
        UserError: there is none, or none is whole, or the run is of an earlier version.
    """
    epochs = saved_epochs(folder)
    if not epochs:
        raise UserError(f"resume: {folder} must hold a checkpoint, got none; {_what_is_there(folder)}")
    wrong: list[str] = []
    for epoch in reversed(epochs):
        place = place_of(folder, epoch)
        if is_former(place):
            raise UserError(
                f"resume: {folder} must have the checkpoints that this version writes, {place} is of an earlier one; "
                "go on with the code that the run was made with, or start a new one from its weights: "
                f"--model.weights {folder}"
            )
        try:
            return read_checkpoint(place), wrong
        except Damaged as damage:
            wrong.append(f"{place} is not whole ({damage})")
    raise UserError(f"resume: no checkpoint can be read: {'; '.join(wrong)}; train again into another folder")


def read_checkpoint(place: Path) -> Checkpoint:
    """Return the checkpoint in a folder; its weights are verified and stay there.

    Raises:
        Damaged: a file is missing, cut off, or another than the one that was written.
    """
    description, more = describe_file(place / MODEL)
    path = place / _TRAINING
    try:
        if _digest(path) != more.get(_DIGEST):
            raise Damaged(f"{_TRAINING} has not the content that was written")
        return Checkpoint(place, TrainingState.read(path, description))
    except OSError as error:
        raise Damaged(f"{_TRAINING}: {error.strerror}") from None


def newest_model(folder: Path) -> tuple[Path, RunDescription] | None:
    """Return the weights of the newest checkpoint of a run folder that has whole ones, and what they say of the run."""
    for epoch in reversed(saved_epochs(folder)):
        path = place_of(folder, epoch) / MODEL
        with suppress(Damaged):
            return path, describe_file(path)[0]
    return None


def clear_after(folder: Path, epoch: int) -> None:
    """Remove what a run folder holds of checkpoints after `epoch`, and of those that were never finished."""
    with writing(folder):
        for path in (folder / _FOLDER).glob(f"*{PARTIAL}"):
            _remove(path)
        for later in saved_epochs(folder):
            if later > epoch:
                _remove(place_of(folder, later))


def clear(folder: Path) -> None:
    """Remove every checkpoint of a run folder."""
    _remove(folder / _FOLDER)


def _what_is_there(folder: Path) -> str:
    if not folder.exists():
        return "there is no such folder"
    if (folder / "config.yaml").is_file():
        return "the run stopped before it had anything to save: remove the folder and train again"
    return "name the folder of a run"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(path)
