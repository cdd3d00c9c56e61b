"""Going on with a run: its newest whole checkpoint, and the config that it may go on with."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnreid.files import read_json
from reference_pipelines.config.attention import modern
from reference_pipelines.config.loading import defaults_of, flat, to_plain
from reference_pipelines.errors import UserError
from reference_pipelines.runs.checkpoints import Checkpoint, read_newest
from reference_pipelines.runs.description import Damaged, RunDescription, describe_file
from reference_pipelines.runs.folder import BEST, HELD_OUT, RESULT
from reference_pipelines.runs.provenance import code_digest, provenance

# What may differ from the run's config: none of it changes what an epoch computes. (The images themselves must be the
# same wherever they lie now, which their fingerprint tells; a rate depends on the epoch's number and not on how many
# there are.)
FREE_KEYS = (
    *("title", "device", "data.root", "data.also", "data.test", "data.workers"),
    *("optimizer.epochs", "evaluation.every"),
)


@dataclass(frozen=True)
class Resumption:
    """How a run goes on.

    Args:
        checkpoint: where.
        notes: what the user should know, a line each.
    """

    checkpoint: Checkpoint
    notes: list[str]


def find_checkpoint(folder: Path, processes: int = 1) -> Resumption:
    """Return the newest whole checkpoint of a run folder.

    Args:
        folder: the run folder.
        processes: how many are to go on with it.

    Raises:
        UserError: there is none, or none is whole.
    """
    checkpoint, wrong = read_newest(folder)
    notes = [f"warning: {sentence}; going on from epoch {checkpoint.epoch}" for sentence in wrong]
    run, versions = checkpoint.state.description, provenance()["versions"]
    notes += _about_best_weights(folder, run)
    if run.versions != versions:
        was, now = (", ".join(map(" ".join, each.items())) for each in (run.versions, versions))
        notes.append(f"warning: the run was made with {was}, this is {now}; the results may differ")
    elif run.code != code_digest():
        notes.append("warning: the code is not what the run was made with; the results may differ")
    if run.processes != processes:
        notes.append(
            f"warning: the run was made with another number of processes ({run.processes}) than it goes on with "
            f"({processes}); the results may differ by rounding"
        )
    return Resumption(checkpoint, notes)


def _about_best_weights(folder: Path, run: RunDescription) -> list[str]:
    """Say which files of best weights are not those of an epoch before the checkpoint, whose own they may not be."""
    best = {BEST: run.best.get("epoch"), HELD_OUT: run.best.get("held_out", {}).get("epoch")}
    notes = []
    for name, epoch in best.items():
        if epoch is None or epoch == run.epoch:  # none are, or the checkpoint's are linked there
            continue
        try:
            found = describe_file(folder / name)[0].epoch
            wrong = None if found == epoch else f"it is of epoch {found}"
        except Damaged as damage:
            wrong = str(damage)
        if wrong is not None:
            notes.append(
                f"warning: {folder / name} has not the weights of epoch {epoch}, the best so far ({wrong}); they "
                "cannot be made again, and the file stays so until an epoch is better"
            )
    return notes


def finished(folder: Path, checkpoint: Checkpoint, epochs: int) -> bool:
    """Return whether the run in a folder has a result of so many epochs, and the weights that it is of.

    Args:
        folder: the run folder.
        checkpoint: its newest whole one.
        epochs: that are asked for.
    """
    try:
        result = read_json(folder / RESULT)
        return bool(result["config"]["optimizer"]["epochs"] == epochs <= checkpoint.epoch)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def changed_keys(folder: Path, checkpoint: Checkpoint, config: Any) -> dict[str, list[Any]]:
    """Return the keys that differ from the checkpoint's config, all of which may, with the old value and the new.

    Args:
        folder: the run folder.
        checkpoint: holds the config that the run was trained with.
        config: the one to go on with.

    Raises:
        UserError: a key differs that changes results, or more epochs are done than asked for.
    """
    changed = differing_keys(checkpoint.state.description.config, config)
    refused = {key: values for key, values in changed.items() if key not in FREE_KEYS}
    if refused:
        shown = list_differences(refused)
        raise UserError(
            f"resume: {folder} must go on with its own config, this one differs in {shown}; leave that as it was, "
            f"or train into another folder (what may differ: {', '.join(FREE_KEYS)})"
        )
    epochs = config.optimizer.epochs
    if epochs < checkpoint.epoch:
        raise UserError(
            f"resume: optimizer.epochs must be at least the {checkpoint.epoch} epochs that {folder} has done, "
            f"got {epochs}; raise --optimizer.epochs"
        )
    return changed


def differing_keys(saved: Mapping[str, Any], config: Any) -> dict[str, list[Any]]:
    """Return the dotted keys in which a config differs from one that a checkpoint holds, with that one's value first.

    A key that the checkpoint's code did not have yet differs only where it is not the default.
    """
    now = flat(to_plain(config))
    before = {**defaults_of(type(config)), **modern(flat(saved))}
    return {key: [before.get(key), now.get(key)] for key in {**now, **before} if before.get(key) != now.get(key)}


def list_differences(differing: Mapping[str, list[Any]]) -> str:
    """Return keys with the old value and the new, to read."""
    return ", ".join(f"{key}: {_said(old)} -> {_said(new)}" for key, (old, new) in differing.items())


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
