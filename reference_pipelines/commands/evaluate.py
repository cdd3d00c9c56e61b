"""A trained network on any data set, its own or another, without training: what `evaluate` does."""

import json
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnreid.files import write_text
from reference_pipelines.commands.options import EvaluateOptions, check_recall
from reference_pipelines.config.loading import to_plain
from reference_pipelines.config.sections import DataConfig, EvaluationConfig
from reference_pipelines.data import ReidData, read
from reference_pipelines.data.decoding import without_corrupt
from reference_pipelines.distributed.device import describe_hardware, pick_device
from reference_pipelines.distributed.processes import ALONE, join_processes
from reference_pipelines.errors import UserError
from reference_pipelines.evaluation.evaluator import Evaluator, as_numbers
from reference_pipelines.evaluation.open_set import measure_open_set
from reference_pipelines.neighbours.engines import require_engine
from reference_pipelines.pipelines.opening import TrainedRun, open_run
from reference_pipelines.ranks.files import write_ranks
from reference_pipelines.ranks.scoring import QueryRanks
from reference_pipelines.reporting.matching import describe_drift, format_open_set
from reference_pipelines.reporting.table import (
    chosen_on_the_test_set,
    format_camera_pairs,
    format_evaluations,
    format_single_shot,
    format_top,
    name_data,
)
from reference_pipelines.retrieval import RetrievalResult, TopResult, evaluate_top, rerank
from reference_pipelines.runs.folder import EVALUATIONS, RANKS
from reference_pipelines.runs.provenance import provenance
from reference_pipelines.runs.remarks import of_corrupt, of_people, of_scores
from reference_pipelines.serving.calibration_file import StoredCalibration, calibration_file, read_calibration
from reference_pipelines.serving.embedder import identity_of
from reference_pipelines.training.images import read_images, read_wanted

_ROOM = 1 << 16  # bytes that a result may take
_NAME = 50  # characters of a data set's name in a file's, four bytes each at most


def run(options: EvaluateOptions) -> None:
    """Test a trained network, print the scores, and write them where `report` finds them or where --out says.

    Raises:
        UserError: no finished run, no data to test on, or a file that cannot be written.
    """
    began = time.perf_counter()
    _check_top(options)
    with join_processes(lambda: "nothing is written yet; start it again", "evaluate") as processes:
        run, data, left_out, device = processes.together(lambda: _opened(options, processes.local_rank))
        configs = _data_config(run, options), _evaluation_config(run, options)
        stored = processes.once(lambda: _calibration_of(run, configs[1].flip) if options.open_set else None)
        if processes.first:
            _announce(run, data, options)
        evaluator = Evaluator(data, *configs, device, processes)
        features = evaluator.features(run.model.to(device))
        result, top = processes.together(lambda: _scored(run, evaluator, *features, options))

        def tell() -> None:
            numbers = _numbers(run, evaluator, result, *features, stored, options) | top
            numbers["seconds"] = round(time.perf_counter() - began, 1)
            numbers["remarks"] = _remarks(run, data, left_out, numbers)
            _print(numbers, options)  # before it is written, so that a full disk does not take it along
            _write(options.out or run.folder / EVALUATIONS / _file_name(numbers), numbers, result.ranks)

        processes.once(tell)


def _opened(options: EvaluateOptions, local_rank: int) -> tuple[TrainedRun, ReidData, int, torch.device]:
    """Return the network, the images, how many do not decode, and where to compute."""
    device = pick_device(options.device, local_rank)
    run = open_run(options.checkpoint)
    _check_writable(options.out, run.folder / EVALUATIONS)
    data, left_out = _read(run, options, _data_config(run, options).workers)
    return run, data, left_out, device


def _announce(run: TrainedRun, data: ReidData, options: EvaluateOptions) -> None:
    tested = data.describe()
    trained, _ = name_data([run.result["data"], tested])
    print(
        f"{run.result['title']}, trained on {trained}, tested on {data}, fingerprint {tested['fingerprint']}",
        file=sys.stderr if options.json else sys.stdout,
        flush=True,
    )


def _scored(
    run: TrainedRun, evaluator: Evaluator, query: Tensor, gallery: Tensor, options: EvaluateOptions
) -> tuple[RetrievalResult, dict[str, Any]]:
    """Return the scores, and what is written of those out of the nearest images, if they are wanted."""
    distances = rerank(query, gallery, processes=evaluator.processes) if options.rerank else None
    result = evaluator.score(query, gallery, distances=distances, single_shot=options.single_shot, seed=run.config.seed)
    return result, {} if options.top_k is None else {"top_k": _top(query, gallery, evaluator, options.top_k, options)}


def _numbers(
    run: TrainedRun,
    evaluator: Evaluator,
    result: RetrievalResult,
    query: Tensor,
    gallery: Tensor,
    stored: StoredCalibration | None,
    options: EvaluateOptions,
) -> dict[str, Any]:
    """Return what is written of an evaluation."""
    return {
        "pipeline": run.pipeline,
        "title": run.result["title"],
        "trained_on": run.result["data"],
        "tested_on": evaluator.images.describe(),
        "flip": evaluator.config.flip,
        "reranked": options.rerank,
        "image_size": list(run.config.data.image_size),
        "chance": evaluator.chance(),
        "scores": as_numbers(result),
        **(
            {"open_set": _open_set(query, gallery, evaluator.data, stored, run.config.seed)} if options.open_set else {}
        ),
        "unfinished": run.result.get("unfinished"),
        "weights": {"name": run.weights.stem, "file": str(run.weights), "digest": run.digest},
        "start_weights": run.result.get("weights_digest"),
        "hardware": describe_hardware(evaluator.device),
        **provenance(),
        "config": to_plain(run.config),
    }


def _print(numbers: dict[str, Any], options: EvaluateOptions) -> None:
    if options.json:
        print(json.dumps(numbers, indent=2), flush=True)
        return
    print(format_evaluations([numbers]))
    if options.single_shot:
        print("\n" + format_single_shot(numbers))
    if "top_k" in numbers:
        print("\n" + format_top(numbers))
    if options.open_set:
        print("\n" + format_open_set(numbers))
    if options.camera_pairs:
        pairs = numbers["scores"]["camera_pairs"]
        print("\n" + (format_camera_pairs(numbers) if pairs else "no camera pairs: the data set gives no cameras"))
    sys.stdout.flush()


def _check_top(options: EvaluateOptions) -> None:
    """Refuse what does not fit the scores out of the nearest images, before anything is computed.

    Raises:
        UserError: it does not.
    """
    check_recall("evaluate", options.recall)
    if options.top_k is None and options.engine != "exact":
        raise UserError(
            f"evaluate: --engine {options.engine} is for the nearest images of --top-k, which is missing; give it"
        )
    if options.top_k is not None and options.rerank:
        raise UserError("evaluate: --top-k takes the order of the features, which --rerank changes; leave one out")
    require_engine(options.engine)


def _top(query: Tensor, gallery: Tensor, evaluator: Evaluator, k: int, options: EvaluateOptions) -> dict[str, Any]:
    """Return the scores out of the nearest images of each query, as they are written."""
    data = evaluator.data
    sides = (query, data.query.ids, data.query.cameras, gallery, data.gallery.ids, data.gallery.cameras)
    found: TopResult = evaluate_top(
        *sides, k=k, engine=options.engine, recall=options.recall, processes=evaluator.processes
    )
    missed = found.approximation
    return {
        "k": k,
        "engine": "exact" if missed is None else options.engine,
        "recall": None if missed is None else missed.recall,
        "said": None if missed is None else str(missed),
        **{f"rank{each}": value for each, value in found.cmc.items()},
        "mAP": list(found.mAP),
        "mAP_market": list(found.mAP_market),
    }


def _calibration_of(run: TrainedRun, flip: bool) -> StoredCalibration | None:
    """Return what was calibrated of these features, if anything was.

    Raises:
        UserError: a calibration that is of other weights or preprocessing, or damaged.
    """
    file = calibration_file(run.weights)
    return read_calibration(file, identity_of(run, flip=flip).to_plain(), "evaluate") if file.exists() else None


def _open_set(
    query: Tensor, gallery: Tensor, data: ReidData, stored: StoredCalibration | None, seed: int
) -> dict[str, Any]:
    """Return the open-set scores, with what a stored calibration says of this data set."""
    found = measure_open_set(query, gallery, data, None if stored is None else stored.calibration, seed=seed)
    if stored is None:
        return {**found, "calibration": {"missing": "none; `calibrate` makes one"}}
    said, reference = "too few images to compare", stored.calibration.drift
    drift = None
    if reference is not None:
        with suppress(ValueError):  # a gallery of few images
            drift = reference.compare(gallery.numpy(), seed)
            said = describe_drift(drift, data.name)
    if stored.data["fingerprint"] == data.fingerprint():
        said += "; the calibration is of these very images, which is no test of it"
    about = {"data": stored.data["name"], "fingerprint": stored.data["fingerprint"], "drift": said}
    distances = None if drift is None else {**asdict(drift), "unlike": drift.unlike}
    return {**found, "calibration": {**found["calibration"], **about, "distances": distances}}


def _read(run: TrainedRun, options: EvaluateOptions, workers: int) -> tuple[ReidData, int]:
    """Return the images to test on, and how many were left out because they do not decode.

    Raises:
        UserError: what lies where the run's own images did are others.
    """
    own: DataConfig = run.config.data
    mine = options.data is None
    if options.data is None:
        data = read_wanted(replace(own, layout=options.layout or own.layout))
        if not data.tested:
            raise UserError(
                f"evaluate: {run.folder} was trained on images without query and gallery; name a data set with --data"
            )
    else:
        data = read(options.data, options.layout, own.split).require("evaluate", "query", "gallery")
    skip = options.skip_corrupt or (mine and own.skip_corrupt)
    kept = data
    if skip and mine:
        kept = read_images(replace(own, skip_corrupt=True, workers=workers), ALONE)[0]
    elif skip:
        kept = without_corrupt(data, workers=workers)
    before = run.result["data"].get("fingerprint")
    if mine and before not in (None, data.fingerprint(), kept.fingerprint()):
        raise UserError(
            f"evaluate: the images in {data.root} must be those that the run was trained on (fingerprint {before}), "
            f"they are others (fingerprint {data.fingerprint()}); name the right folder with --data, or this one to "
            "test on what it holds"
        )
    return kept, sum(len(data.part(part)) - len(kept.part(part)) for part in ("query", "gallery"))


def _remarks(run: TrainedRun, data: ReidData, left_out: int, numbers: Mapping[str, Any]) -> list[str]:
    """Say what makes the scores say less than they seem to."""
    trained, tested = (numbers[side].get("fingerprint") for side in ("trained_on", "tested_on"))
    found = [*(of_people(data) if trained == tested else ()), *of_corrupt(left_out)]
    found += of_scores(numbers["scores"], numbers["chance"])
    if chosen_on_the_test_set(run.weights.stem, run.result["data"], numbers["tested_on"]):
        found.append(f"{run.weights.name} was chosen by its mAP on these very images: the scores are too high")
    if run.result.get("unfinished"):
        epoch, epochs = (run.result["unfinished"][name] for name in ("epoch", "epochs"))
        found.append(f"the run is not finished: these are its weights after epoch {epoch} of {epochs}")
    return found


def _data_config(run: TrainedRun, options: EvaluateOptions) -> Any:
    own = run.config.data
    return own if options.workers is None else replace(own, workers=options.workers)


def _evaluation_config(run: TrainedRun, options: EvaluateOptions) -> EvaluationConfig:
    own: EvaluationConfig = run.config.evaluation
    flip = own.flip if options.flip is None else options.flip
    size = own.batch_size if options.batch_size is None else options.batch_size
    return replace(own, flip=flip, batch_size=size)


def _file_name(numbers: Mapping[str, Any]) -> str:
    target = numbers["tested_on"]
    # The data set's name is its folder's: it may hold anything, and be as long as a name can be.
    name = re.sub(r"[\x00-\x1f\x7f /\\]", "_", target["name"]).lstrip(".")[:_NAME]
    words = [name, target["fingerprint"], numbers["weights"]["name"], "flip" if numbers["flip"] else "plain"]
    if numbers["reranked"]:
        words.append("reranked")
    if "single_shot" in numbers["scores"]:
        words.append("single_shot")
    if "open_set" in numbers:
        words.append("open_set")
    if "top_k" in numbers:
        words.append(f"top{numbers['top_k']['k']}_{numbers['top_k']['engine']}")
    return "-".join(words) + ".json"


def _check_writable(out: Path | None, evaluations: Path) -> None:
    """Refuse a file, or the run's folder of evaluations, that could not be written, before anything is computed."""
    if out is not None and out.is_dir():
        raise UserError(f"evaluate: --out must be a file, {out} is a folder; name a file in it")
    folder = evaluations if out is None else out.absolute().parent
    nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest) as file:
            file.write(bytes(_ROOM))
    except OSError as error:
        raise _not_written(out or evaluations, error) from None


def _write(path: Path, numbers: Mapping[str, Any], ranks: QueryRanks) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        standing = write_ranks(path.with_name(f"{path.stem}.{RANKS}"), ranks)
        write_text(path, json.dumps({**numbers, "ranks": standing}, indent=2) + "\n")
    except OSError as error:
        raise _not_written(path, error) from None


def _not_written(path: Path, error: OSError) -> UserError:
    return UserError(f"evaluate: cannot write {path} ({error.strerror}); name another file with --out")
