"""What a run folder says of its run: its result.json, or, of a run that has none, its newest checkpoint."""

import hashlib
import json
from pathlib import Path
from typing import Any

from reference_pipelines.runs.checkpoint import MODEL, place_of, read_states
from reference_pipelines.runs.folder import BEST, RESULT, WEIGHTS


def read_result(folder: Path, weights: str = WEIGHTS) -> dict[str, Any] | None:
    """Return what stands in a run's result.json, or as much of it as an unfinished run's checkpoint knows.

    The title of an unfinished run says so, and `unfinished` says the epoch of the weights, the epochs of the recipe and
    the epoch of the scores; `final` has no interval.

    Args:
        folder: the run folder.
        weights: the file in it whose epoch is told.

    Returns:
        The result; None where the folder has neither.

    Raises:
        OSError: result.json cannot be read.
        ValueError: it is no JSON.
    """
    if (folder / RESULT).is_file():
        result: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return result
    states = read_states(folder)
    if not states:
        return None
    if weights == WEIGHTS and (folder / WEIGHTS).is_file():
        # A run that was stopped between the two may have weights that are an epoch older than its newest checkpoint.
        with open(folder / WEIGHTS, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        states = [state for state in states if state["digests"][MODEL] == digest] or states
    state = states[0]
    epoch = state["best"].get("epoch", state["epoch"]) if weights == BEST else state["epoch"]
    return _so_far(state, epoch)


def last_weights(folder: Path) -> Path:
    """Return the weights file of a run folder; of one that was stopped before it got its name, the checkpoint's."""
    states = [] if (folder / WEIGHTS).is_file() else read_states(folder)
    return place_of(folder, states[0]["epoch"]) / MODEL if states else folder / WEIGHTS


def _so_far(state: dict[str, Any], epoch: int) -> dict[str, Any]:
    config, clustering = state["config"], state["measured"]
    root = Path(config["data"]["root"])
    # Runs of before kept less of what they are.
    unknown = {"name": root.name, "summary": f"the images at {root}", "fingerprint": state["fingerprint"]}
    about = {"title": config["title"], "data": unknown, "chance": None, "hardware": "unknown hardware"}
    about |= {"weights": config["model"]["weights"], "command": None, "commit": None, "remarks": [], "recipe": None}
    about |= state.get("about", {})
    scored = [entry for entry in state["log"] if entry.get("mAP") is not None and entry["epoch"] <= epoch][-1]
    epochs = config["optimizer"]["epochs"]
    kept = ("pipeline", "weights_digest", "start", "best", "config", "code", "versions", "resumed", "processes")
    return {
        **{name: state[name] for name in kept},
        **about,
        "title": f"{about['title']}, unfinished: epoch {epoch} of {epochs}",
        "final": {"mAP": scored["mAP"], "rank1": scored["rank1"], "interval": None},
        "seconds": state["seconds"],
        "train_seconds": state["train_seconds"],
        "unfinished": {"epoch": epoch, "epochs": epochs, "scored": scored["epoch"]},
        "remarks": [
            *about["remarks"],
            f"unfinished: stopped after epoch {state['epoch']} of {epochs}, its scores are of epoch {scored['epoch']}",
        ],
        **({"clustering": clustering} if "clusters" in clustering else {}),
    }
