"""Runs of versions before: they cannot be gone on with, but are still evaluated, reported and started from.

Their weights are plain safetensors, and each checkpoint's state.json said what a description says now.
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from attnreid import read_weights
from attnreid.files import read_json
from reference_pipelines.errors import UserError
from reference_pipelines.runs.description import RunDescription

_STATE, _FORMAT = "state.json", 2
_HEADERS = ("attnreid", "attnreid_header")  # of the library's files


def is_former(place: Path) -> bool:
    """Return whether the checkpoint in a folder is one of before."""
    return (place / _STATE).is_file()


def has_former_weights(path: Path) -> bool:
    """Return whether a file is of plain safetensors."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).keys().isdisjoint(_HEADERS)
    except (OSError, SafetensorError):
        return False


def load_former_weights(model: nn.Module, path: Path) -> None:
    """Load every key of a network without classifier, attention's too.

    Raises:
        ValueError: a key is missing or too many, or a shape differs.
    """
    tensors = {k: value for k, value in read_weights(path).tensors.items() if not k.startswith("classifier.")}
    own = model.state_dict()
    wrong = [key for key in {**own, **tensors} if key not in tensors or key not in own]
    if wrong:  # torch alone would let all of the attention be missing
        raise ValueError(f"{len(wrong)} keys that are missing or unexpected ({', '.join(map(repr, wrong[:3]))})")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())) from None


def describe_former(folder: Path, weights: Path, best: Path) -> RunDescription | None:
    """Return what the newest readable state.json of a run folder says; None where there is none.

    Args:
        folder: the run folder.
        weights: the file whose epoch is told; one that was saved an epoch before the newest checkpoint is known.
        best: the file of the best weights.
    """
    states = []
    for path in sorted(folder.glob(f"checkpoints/epoch-*/{_STATE}"), key=lambda path: path.parent.name, reverse=True):
        with suppress(OSError, ValueError):
            states.append(read_json(path))
    states = [state for state in states if isinstance(state, dict) and state.get("format") == _FORMAT]
    if states and weights.is_file():
        with weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        states = [state for state in states if digest in state["digests"].values()] or states
    try:
        return _described(states[0], of_best=weights == best) if states else None
    except (KeyError, TypeError, IndexError):
        raise UserError(f"run: {folder} has a {_STATE} that was not written by `train`; name another folder") from None


def _described(state: Mapping[str, Any], *, of_best: bool) -> RunDescription:
    config = state["config"]
    epoch = state["best"].get("epoch", state["epoch"]) if of_best else state["epoch"]
    # The first of these runs kept less of what they are.
    about = {"title": config["title"], "data": None, "chance": None, "hardware": "unknown hardware", "remarks": []}
    about |= {"weights": config["model"]["weights"], "recipe": None, **state.get("about", {})}
    scored = [entry for entry in state["log"] if entry.get("mAP") is not None and entry["epoch"] <= epoch][-1]
    kept = (
        *("pipeline", "config", "fingerprint", "weights_digest", "processes", "code", "versions"),
        *("start", "best", "measured", "resumed", "seconds", "train_seconds"),
    )
    return RunDescription(
        **{name: state[name] for name in kept},
        **about,
        classes=None,
        command=None,
        commit=None,
        epoch=epoch,
        scored={name: scored[name] for name in ("epoch", "mAP", "rank1")},
    )
