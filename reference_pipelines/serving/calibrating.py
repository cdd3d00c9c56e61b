"""Calibration of a trained network on a data set, kept beside its weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from reference_pipelines.config.sections import DataConfig
from reference_pipelines.data import ReidData, read
from reference_pipelines.data.records import ImageList, Part
from reference_pipelines.errors import UserError
from reference_pipelines.evaluation.extraction import extract_features
from reference_pipelines.matching import calibrate
from reference_pipelines.matching.rates import RATES
from reference_pipelines.runs.provenance import provenance
from reference_pipelines.serving.calibration_file import (
    StoredCalibration,
    check_writable,
    read_calibration,
    write_calibration,
)
from reference_pipelines.serving.embedder import Embedder

CalibrationPart = Literal["test", "train", "all"]
_PARTS: dict[CalibrationPart, tuple[Part, ...]] = {
    "test": ("query", "gallery"),
    "train": ("train",),
    "all": ("train", "query", "gallery"),
}


def calibrate_model(
    model: Embedder,
    data: str | Path,
    *,
    part: CalibrationPart = "test",
    layout: str | None = None,
    rates: Sequence[float] = RATES,
    seed: int = 0,
    workers: int = 0,
    who: str = "calibrate",
) -> StoredCalibration:
    """Learn what a network's similarities mean on a data set, write it beside the weights, and return it.

    Afterwards `model.same` answers, and so does that of everyone who loads the same weights.

    Args:
        model: as `load` returns it.
        data: folder or CSV file, of people whom the network was not trained on.
        part: "test" takes query and gallery together, "train" the training images.
        layout: of the data set; found by content when None.
        rates: false-match rates, above 0 and below 1.
        seed: of all draws.
        workers: processes that decode; 0 decodes in this one.
        who: complains.

    Raises:
        UserError: no such data, too few people, a rate out of range, an image that does not decode, or a file that
            cannot be written. A calibration that is there stays as it is then.
    """
    file = model.calibration_file
    if file is None:
        raise UserError(f"{who}: the network must come from a weights file, beside which the calibration is kept")
    check_writable(file, who)
    found = read(data, layout, model.split)
    images = _images_of(found, part, who)
    own = model.identity
    mean, std = own.normalisation
    config = DataConfig(
        str(data), image_size=own.image_size, interpolation=own.interpolation, mean=mean, std=std, workers=workers
    )
    features = extract_features(
        model.model,
        images,
        config,
        batch_size=model.batch_size,
        flip=model.identity.flip,
        device=model.device,
        title=who,
    )
    cameras = images.cameras if found.cameras_known else None
    try:
        calibration = calibrate(features.numpy(), images.ids, cameras, rates=rates, seed=seed)
    except ValueError as error:
        raise UserError(f"{who}: {str(error).removeprefix('calibrate: ')}") from None
    about = {"title": model.title, "data": {**found.describe(), "part": part}, "seed": seed, **provenance()}
    identity = model.identity.to_plain()
    write_calibration(file, calibration, model=identity, about=about, who=who)
    return read_calibration(file, identity, who)


def _images_of(data: ReidData, part: CalibrationPart, who: str) -> ImageList:
    """Return the images of people, each file once."""
    names = _PARTS[part]
    present = [data.part(name) for name in names if len(data.part(name))]
    if not present:
        raise UserError(
            f"{who}: the data set must have {' or '.join(names)} images, {data.name} at {data.root} has none; choose "
            "another --part or data set"
        )
    paths = [path for images in present for path in images.paths]
    ids, cameras = (np.concatenate([getattr(images, name) for images in present]) for name in ("ids", "cameras"))
    first = {path: row for row, path in reversed(list(enumerate(paths)))}
    rows = np.array([row for row in sorted(first.values()) if ids[row] > 0], dtype=np.int64)
    return ImageList(tuple(paths[row] for row in rows), ids[rows], cameras[rows])
