"""A run in words and numbers, before its first epoch: what its checkpoints, its result and its tables say of it."""

from dataclasses import replace

import torch

from reference_pipelines.config.loading import to_plain
from reference_pipelines.config.recipes import nearest_recipe, title_of
from reference_pipelines.data import ReidData
from reference_pipelines.distributed.device import describe_hardware
from reference_pipelines.distributed.processes import Processes
from reference_pipelines.evaluation.evaluator import Evaluator
from reference_pipelines.models.weights import weights_file
from reference_pipelines.runs import remarks
from reference_pipelines.runs.checkpoints import Checkpoint
from reference_pipelines.runs.description import RunDescription
from reference_pipelines.runs.provenance import code_digest, file_digest, provenance
from reference_pipelines.training.pipeline_config import PipelineConfig


def describe_run(
    pipeline: str,
    config: PipelineConfig,
    data: ReidData,
    left_out: int,
    evaluator: Evaluator | None,
    device: torch.device,
    processes: Processes,
) -> RunDescription:
    """Return the description of a run that begins.

    Args:
        pipeline: "apnet" or "mla".
        config: as the run keeps it.
        data: the images.
        left_out: how many images do not decode.
        evaluator: of the run; None where it has no query and gallery.
        device: that it is trained on.
        processes: who train together.
    """
    recipe, told = nearest_recipe(pipeline, config), data.describe()
    weights = weights_file(config.model.weights)
    return RunDescription(
        pipeline=pipeline,
        title=title_of(config.title, recipe),
        config=to_plain(config),
        recipe=recipe,
        classes=None,  # until the network is there
        data=told,
        fingerprint=told["fingerprint"],
        weights=config.model.weights,
        weights_digest=None if weights is None else file_digest(weights),
        chance=None if evaluator is None else evaluator.chance(),
        hardware=describe_hardware(device),
        remarks=[*remarks.of_people(data), *remarks.of_parts(data), *remarks.of_corrupt(left_out)],
        processes=processes.count,
        **provenance(),
    )


def go_on(run: RunDescription, checkpoint: Checkpoint, changed: dict[str, list[object]]) -> RunDescription:
    """Return the description of a run that goes on after a checkpoint.

    Args:
        run: as if it began.
        checkpoint: where it goes on.
        changed: keys of the config that are not as they were.
    """
    before = checkpoint.state.description
    kept = ("epoch", "start", "scored", "best", "measured", "weights_digest", "seconds", "train_seconds")
    how = {"epoch": before.epoch, "code": code_digest(), "processes": run.processes, "changed": changed}
    return replace(run, **{name: getattr(before, name) for name in kept}, resumed=[*before.resumed, how])
