"""A trained network back from its checkpoint: what it was trained on, its config and its weights."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from reference_pipelines.config.loading import load_config
from reference_pipelines.errors import UserError
from reference_pipelines.models import ReidModel
from reference_pipelines.models.weights import load_whole
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.runs.description import Damaged, RunDescription, describe_file
from reference_pipelines.runs.folder import CONFIG, RESULT
from reference_pipelines.runs.former import has_former_weights, load_former_weights
from reference_pipelines.runs.provenance import file_digest
from reference_pipelines.runs.result import last_weights, read_result, told_by_itself
from reference_pipelines.runs.resume import FREE_KEYS, differing_keys, list_differences

# What may be otherwise in a run's folder than in its checkpoints: nothing of the network, nor of its images.
_FREE = (*FREE_KEYS, "model.weights")
_TRIES = 10


@dataclass(frozen=True)
class TrainedRun:
    """A run, ready to be used: finished, or as it was when it was last saved.

    Args:
        folder: where it lies.
        weights: the file that its weights were read from.
        digest: of that file as it was read; training may have replaced it since.
        pipeline: "apnet" or "mla".
        config: the config that it was trained with.
        result: what stands in its result.json; of an unfinished run what its checkpoint knows, with `unfinished`.
        model: the network, on the CPU, in eval mode; its classifier only where that was asked for.
    """

    folder: Path
    weights: Path
    digest: str
    pipeline: str
    config: Any
    result: dict[str, Any]
    model: ReidModel


def open_run(checkpoint: Path, who: str = "evaluate", *, classifier: bool = False) -> TrainedRun:
    """Return the trained network of a run.

    Args:
        checkpoint: a run folder, a weights file in it, or such a file anywhere else.
        who: complains.
        classifier: keep the classifier, where the weights have one; a run of an old format never has.

    Raises:
        UserError: it is none, has saved nothing yet, or its files do not fit one another.
    """
    if not checkpoint.exists():
        raise UserError(f"{who}: there is no {checkpoint}; name a run folder or a checkpoint")
    for _ in range(_TRIES):
        run = _read(checkpoint, who, classifier=classifier)
        # A run that is training may save an epoch while it is read: what is said of it and its weights would be of two.
        if file_digest(run.weights) == run.digest:
            return run
    raise UserError(f"{who}: the weights {run.weights} must stay while they are read, and change again and again; wait")


def _read(checkpoint: Path, who: str, *, classifier: bool) -> TrainedRun:
    """Return the network as its files are at the moment."""
    folder, weights = (checkpoint, last_weights(checkpoint)) if checkpoint.is_dir() else (checkpoint.parent, checkpoint)
    if not weights.is_file():
        raise _lacking(who, folder, weights.name)
    digest = file_digest(weights) or ""
    description = _description_of(weights)
    if (folder / CONFIG).is_file():
        result = _result_of(who, folder, weights)
    elif description is not None:
        result = told_by_itself(description)
    else:
        raise _lacking(who, folder, CONFIG)
    pipeline = PIPELINES[result["pipeline"]]
    config = _config_of(who, folder, weights, description, pipeline.config)
    # The weights of the run replace whatever it started from, which need not be there any more.
    model = pipeline.build(replace(config, model=replace(config.model, weights="none")))
    assert isinstance(model, ReidModel)
    _load(who, model, folder, weights, description)
    if not classifier:
        model.set_classifier(None)
    model = model.to(memory_format=torch.channels_last).eval()  # as in training: the same features, bit for bit
    return TrainedRun(folder, weights, digest, result["pipeline"], config, result, model)


def _lacking(who: str, folder: Path, name: str) -> UserError:
    return UserError(
        f"{who}: {folder} must be a run, with its {CONFIG} and weights, and it has no {name}; name another"
    )


def _description_of(weights: Path) -> RunDescription | None:
    """Return what a checkpoint says of its run; None for the weights of a run of before."""
    try:
        description = describe_file(weights)[0]
        if description.pipeline not in PIPELINES:
            raise Damaged(f"it is of the pipeline {description.pipeline!r}")
        return description
    except Damaged as damage:
        if has_former_weights(weights):
            return None
        raise UserError(f"model: {weights} must be a checkpoint of a run ({damage}); name a run folder") from None


def _result_of(who: str, folder: Path, weights: Path) -> dict[str, Any]:
    try:
        result = read_result(folder, weights.name)
        if result is not None:
            _ = PIPELINES[result["pipeline"]], result["title"], result["data"]["name"]  # what tables say of it
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{who}: {folder / RESULT} was not written by `train`; name a run folder") from None
    if result is None:
        raise UserError(
            f"{who}: {folder} must hold a run that has saved something, and it has no {RESULT} and no whole "
            "checkpoint; name another"
        )
    return result


def _config_of(who: str, folder: Path, weights: Path, description: RunDescription | None, schema: type) -> Any:
    """Return the config of the run's folder, which must be the checkpoint's; without a folder, the checkpoint's."""
    if not (folder / CONFIG).is_file():
        assert description is not None
        return _build_config(who, schema, description.config)
    config: Any = load_config(schema, [f"--config={folder / CONFIG}"], prog=who)
    if description is not None:
        differing = differing_keys(description.config, config)
        refused = {key: values for key, values in differing.items() if key not in _FREE}
        if refused:
            raise UserError(
                f"{who}: the weights {weights} must be those of the network in {folder / CONFIG}, which differs in "
                f"{list_differences(refused)}; name the run that they come from, or start a training from them with "
                "--model.weights"
            )
    return config


def _build_config(who: str, schema: type, content: Mapping[str, Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CONFIG
        path.write_text(yaml.safe_dump(dict(content)), encoding="utf-8")
        return load_config(schema, [f"--config={path}"], prog=who)


def _load(who: str, model: ReidModel, folder: Path, weights: Path, description: RunDescription | None) -> None:
    rule = f"{who}: the weights {weights} must be those of the network in {folder / CONFIG}, attention and all"
    way_on = "name the run that they come from, or start a training from them with --model.weights"
    if description is not None:
        model.set_classifier(description.classes)
        load_whole(model, weights, rule, way_on)
        return
    try:
        load_former_weights(model, weights)
    except ValueError as error:
        raise UserError(f"{rule}, got {error}; {way_on}") from None
