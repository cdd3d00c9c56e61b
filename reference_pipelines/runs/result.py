"""What a run folder says of its run: its result.json, or, of a run that has none, its newest checkpoint."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from attnreid.files import read_json
from reference_pipelines.runs.checkpoints import newest_model
from reference_pipelines.runs.description import Damaged, RunDescription, describe_file
from reference_pipelines.runs.folder import BEST, RESULT, WEIGHTS
from reference_pipelines.runs.former import describe_former


def read_result(folder: Path, weights: str = WEIGHTS) -> dict[str, Any] | None:
    """Return what stands in a run's result.json, or as much of it as an unfinished run's checkpoints know.

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
        result: dict[str, Any] = read_json(folder / RESULT)
        return result
    with suppress(Damaged):
        return unfinished_result(describe_file(folder / weights)[0])
    newest = newest_model(folder)
    description = newest[1] if newest else describe_former(folder, folder / weights, folder / BEST)
    return None if description is None else unfinished_result(description)


def last_weights(folder: Path) -> Path:
    """Return the weights file of a run folder; of one that was stopped before it got its name, the checkpoint's."""
    if not (folder / WEIGHTS).is_file() and (newest := newest_model(folder)):
        return newest[0]
    return folder / WEIGHTS


def told_by_itself(run: RunDescription) -> dict[str, Any]:
    """Return as much of a result as a checkpoint knows that lies in no run folder: its last epoch may be the run's."""
    result = unfinished_result(run)
    if run.epoch < run.epochs:
        return result
    return {**result, "title": run.title, "unfinished": None, "remarks": run.remarks}


def unfinished_result(run: RunDescription) -> dict[str, Any]:
    """Return as much of a result as a checkpoint knows."""
    root = Path(run.config["data"]["root"])
    unknown = {"name": root.name, "summary": f"the images at {root}", "fingerprint": run.fingerprint}
    kept = (
        *("pipeline", "config", "recipe", "weights", "weights_digest", "chance", "hardware", "command", "commit"),
        *("code", "versions", "start", "best", "resumed", "processes", "seconds", "train_seconds"),
    )
    scored = run.scored
    of = f", its scores are of epoch {scored['epoch']}" if scored else ""
    return {
        **{name: getattr(run, name) for name in kept},
        "data": run.data or unknown,
        "title": f"{run.title}, unfinished: epoch {run.epoch} of {run.epochs}",
        "final": {"mAP": scored["mAP"], "rank1": scored["rank1"], "interval": None} if scored else None,
        "unfinished": {"epoch": run.epoch, "epochs": run.epochs, "scored": scored.get("epoch")},
        "remarks": [*run.remarks, f"unfinished: stopped after epoch {run.epoch} of {run.epochs}{of}"],
        **({"clustering": run.measured} if "clusters" in run.measured else {}),
    }
