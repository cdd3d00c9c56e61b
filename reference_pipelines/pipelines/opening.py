"""A trained network back from its run folder: what it was trained on, its config and its weights."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reference_pipelines.config.loading import load_config
from reference_pipelines.errors import UserError
from reference_pipelines.models.weights import load_whole, read_file
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.runs.folder import CONFIG, RESULT
from reference_pipelines.runs.result import last_weights, read_result


@dataclass(frozen=True)
class TrainedRun:
    """A run, ready to be used: finished, or as it was when it was last saved.

    Args:
        folder: where it lies.
        weights: the file that its weights were read from.
        pipeline: "apnet" or "mla".
        config: the config that it was trained with.
        result: what stands in its result.json; of an unfinished run what its checkpoint knows, with `unfinished`.
        model: the network without classifier, on the CPU, in eval mode.
    """

    folder: Path
    weights: Path
    pipeline: str
    config: Any
    result: dict[str, Any]
    model: nn.Module


def open_run(checkpoint: Path) -> TrainedRun:
    """Return the trained network of a run.

    Args:
        checkpoint: a run folder, or a weights file in it.

    Raises:
        UserError: it is no run, has saved nothing yet, or its files do not fit one another.
    """
    folder, weights = (checkpoint, last_weights(checkpoint)) if checkpoint.is_dir() else (checkpoint.parent, checkpoint)
    if not checkpoint.exists():
        raise UserError(f"evaluate: there is no {checkpoint}; name a run folder or the weights file in it")
    for needed in (folder / CONFIG, weights):
        if not needed.is_file():
            raise UserError(
                f"evaluate: {folder} must be a run, with its {CONFIG} and weights, and it has no {needed.name}; "
                "name another"
            )
    try:
        result = read_result(folder, weights.name)
        if result is None:
            raise UserError(
                f"evaluate: {folder} must hold a run that has saved something, and it has no {RESULT} and no whole "
                "checkpoint; name another"
            )
        pipeline = PIPELINES[result["pipeline"]]
        _ = result["title"], result["data"]["name"]  # what tables say of it
    except (ValueError, KeyError, TypeError):
        raise UserError(f"evaluate: {folder / RESULT} was not written by `train`; name a run folder") from None
    config: Any = load_config(pipeline.config, [f"--config={folder / CONFIG}"], prog="evaluate")
    # The weights of the run replace whatever it started from, which need not be there any more.
    model = pipeline.build(replace(config, model=replace(config.model, weights="none")))
    tensors = read_file(weights).tensors
    load_whole(
        model,
        {key: value for key, value in tensors.items() if not key.startswith("classifier.")},
        f"evaluate: the weights {weights} must be those of the network in {folder / CONFIG}, attention and all",
        "name the run that they come from, or start a training from them with --model.weights",
    )
    model = model.to(memory_format=torch.channels_last).eval()  # as in training: the same features, bit for bit
    return TrainedRun(folder, weights, result["pipeline"], config, result, model)
