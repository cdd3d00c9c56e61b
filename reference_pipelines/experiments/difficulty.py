"""How hard a data set is: what chance, colours, untrained and trained networks reach, by person and by camera.

By person is the protocol of `retrieval.evaluate`. By camera asks the same features the wrong question: for each query
the gallery images of all *other* people and the distractors are ranked, and those from the query's camera count as
hits. Features far above chance there see the place, the light and the colours of a camera: the temptation that
re-identification has to resist.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from reference_pipelines.config.sections import DataConfig, EvaluationConfig, ModelConfig
from reference_pipelines.data import ReidData
from reference_pipelines.distributed.device import pick_device
from reference_pipelines.evaluation.evaluator import Evaluator
from reference_pipelines.experiments.colour_histogram import ColourHistogram
from reference_pipelines.models import ReidModel, build_backbone
from reference_pipelines.pipelines.opening import TrainedRun, open_run
from reference_pipelines.reporting.table import name_data, name_weights, tell_apart
from reference_pipelines.retrieval.scores import expected_average_precision
from reference_pipelines.text_table import format_table
from reference_pipelines.unit_vectors import unit_rows

HEADINGS = ("feature", "mAP [95 %]", "rank-1", "by camera: mAP", "rank-1")
HISTOGRAM_SIZE = (128, 64)
UNTRAINED = {"resnet50": (128, 64), "resnet_demo": (64, 32)}
_SEED = 1


@dataclass(frozen=True)
class Difficulty:
    """What one feature reaches on a data set; every score is in 0 ... 1.

    Args:
        feature: what it is.
        mAP: by person.
        interval: its 95 % bootstrap interval over the queries; None for chance.
        rank1: by person; None for chance.
        camera_mAP: by camera; None where the data set gives no cameras, or no query's camera saw anybody else in the
            gallery.
        camera_rank1: by camera; None likewise.
    """

    feature: str
    mAP: float
    interval: tuple[float, float] | None
    rank1: float | None
    camera_mAP: float | None
    camera_rank1: float | None


@dataclass(frozen=True)
class CameraRetrieval:
    """How well features find images of other people from the query's camera, means over the queries.

    Args:
        mAP: mean average precision.
        rank1: part of the queries whose nearest image of somebody else is from their camera.
        chance: what mAP would be for random rankings, in expectation.
        chance_rank1: what rank1 would be for them.
    """

    mAP: float
    rank1: float
    chance: float
    chance_rank1: float


def measure_difficulty(
    data: ReidData, runs: Sequence[Path] = (), *, workers: int = 0, device: torch.device | None = None
) -> list[Difficulty]:
    """Return one row a feature: chance, two colour histograms, two untrained networks, and the trained `runs`.

    Args:
        data: its query and gallery are used.
        runs: finished run folders, or weights files in them.
        workers: processes that decode images; 0 decodes in this one.
        device: where the networks compute; CUDA where there is one if None.

    Raises:
        UserError: a part has no images, or a run is none.
    """
    data.require("data difficulty", "query", "gallery")
    device = device or pick_device("auto")
    trained = [open_run(run) for run in runs]
    config = DataConfig(str(data.root), image_size=HISTOGRAM_SIZE, workers=workers)
    evaluator = Evaluator(data, config, EvaluationConfig(), device)
    rows = [
        _row("colour histogram", ColourHistogram(centred=False), evaluator),
        _row("colour histogram, centred, grey world", ColourHistogram(centred=True), evaluator),
    ]
    for name, size in UNTRAINED.items():
        sized = DataConfig(config.root, image_size=size, workers=workers)
        rows.append(_row(f"{name}, untrained", untrained(name), Evaluator(data, sized, evaluator.config, device)))
    for run, name in zip(trained, _trained_names(trained, data), strict=True):
        own = run.config.data
        sized = DataConfig(config.root, image_size=own.image_size, interpolation=own.interpolation, workers=workers)
        its = Evaluator(data, sized, run.config.evaluation, device)
        rows.append(_row(name, run.model, its))
    return [_chance(evaluator), *rows]


def untrained(backbone: str) -> ReidModel:
    """Return a network with random weights, always the same ones."""
    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        return ReidModel(*build_backbone(ModelConfig(backbone=backbone, weights="none")))


def retrieve_by_camera(
    query_features: Tensor,
    query_ids: np.ndarray,
    query_cameras: np.ndarray,
    gallery_features: Tensor,
    gallery_ids: np.ndarray,
    gallery_cameras: np.ndarray,
) -> CameraRetrieval | None:
    """Rank, for each query, the gallery without the query's own person; hits are from the query's camera.

    Queries whose camera saw nobody else in the gallery are left out; None where all are.

    Args:
        query_features: (Q, D); ranked by cosine, ties by gallery index.
        query_ids: (Q,).
        query_cameras: (Q,).
        gallery_features: (G, D).
        gallery_ids: (G,).
        gallery_cameras: (G,).
    """
    query, gallery = unit_rows(query_features), unit_rows(gallery_features)
    precisions, firsts, matches, images = [], [], [], []
    for row, person, camera in zip(query, query_ids, query_cameras, strict=True):
        others = np.flatnonzero(gallery_ids != person)
        nearest = others[np.argsort(-(gallery @ row).numpy()[others], kind="stable")]
        hits = np.flatnonzero(gallery_cameras[nearest] == camera)
        if len(hits):
            precisions.append(np.mean(np.arange(1, len(hits) + 1) / (hits + 1)))
            firsts.append(hits[0] == 0)
            matches.append(len(hits))
            images.append(len(others))
    if not matches:
        return None
    relevant, ranked = np.array(matches), np.array(images)
    return CameraRetrieval(
        mAP=float(np.mean(precisions)),
        rank1=float(np.mean(firsts)),
        chance=float(expected_average_precision(relevant, ranked).mean()),
        chance_rank1=float((relevant / ranked).mean()),
    )


def format_difficulty(rows: Sequence[Difficulty]) -> str:
    """Return the rows as an aligned table, in percent."""
    return format_table([_cells(row) for row in rows], HEADINGS)


def _trained_names(runs: Sequence[TrainedRun], data: ReidData) -> list[str]:
    """Return what tells the runs apart: their data, title and weights, and what these were chosen on."""
    here = data.describe()
    titles = tell_apart([run.result["title"] for run in runs], [run.folder for run in runs])
    *trained_on, _ = name_data([*(run.result["data"] for run in runs), here])
    names = []
    for run, title, name in zip(runs, titles, trained_on, strict=True):
        weights = name_weights(run.weights.stem, run.result["data"], here)
        names.append(f"{run.config.model.backbone}, trained on {name}: {title}{f', {weights}' if weights else ''}")
    return names


def _row(feature: str, model: nn.Module, evaluator: Evaluator) -> Difficulty:
    query, gallery = evaluator.features(model.to(evaluator.device))
    result = evaluator.score(query, gallery)
    cameras = _by_camera(query, gallery, evaluator.data)
    return Difficulty(
        feature,
        result.mAP,
        result.interval,
        result.cmc[1],
        cameras.mAP if cameras else None,
        cameras.rank1 if cameras else None,
    )


def _by_camera(query: Tensor, gallery: Tensor, data: ReidData) -> CameraRetrieval | None:
    if not data.cameras_known:
        return None
    return retrieve_by_camera(
        query, data.query.ids, data.query.cameras, gallery, data.gallery.ids, data.gallery.cameras
    )


def _chance(evaluator: Evaluator) -> Difficulty:
    data = evaluator.data
    cameras = _by_camera(torch.ones(len(data.query), 1), torch.ones(len(data.gallery), 1), data)
    return Difficulty(
        "chance",
        evaluator.chance(),
        None,
        None,
        cameras.chance if cameras else None,
        cameras.chance_rank1 if cameras else None,
    )


def _cells(row: Difficulty) -> tuple[str, ...]:
    by_person = _percent(row.mAP)
    if row.interval is not None:
        by_person += f" [{', '.join(_percent(end) for end in row.interval)}]"
    return (row.feature, by_person, *(_percent(value) for value in (row.rank1, row.camera_mAP, row.camera_rank1)))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
