"""A calibration on the disk: a JSON file beside the weights that it is of."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnreid.files import read_json, write_text
from reference_pipelines.errors import UserError
from reference_pipelines.matching import Calibration

_FORMAT = 1


@dataclass(frozen=True)
class StoredCalibration:
    """What stands in the file.

    Args:
        file: it.
        calibration: what was learnt.
        data: on which images, as a result says it, and of which part.
    """

    file: Path
    calibration: Calibration
    data: Mapping[str, Any]


def calibration_file(weights: Path) -> Path:
    """Return where the calibration of a weights file is: model.calibration.json beside model.safetensors."""
    return weights.with_name(f"{weights.stem}.calibration.json")


def check_writable(file: Path, who: str) -> None:
    """Refuse a file that could not be written, before anything is computed.

    Raises:
        UserError: it is a folder, or nothing can be written in its own.
    """
    if file.is_dir():
        raise UserError(f"{who}: {file} must be a file to write, it is a folder; move it away")
    try:
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise _not_written(file, error, who) from None


def write_calibration(
    file: Path, calibration: Calibration, *, model: Mapping[str, Any], about: Mapping[str, Any], who: str
) -> None:
    """Write it, whole or not at all; one that is there is replaced.

    Args:
        file: beside the weights.
        calibration: what was learnt.
        model: identity of the features.
        about: the rest, `data` among it.
        who: complains.

    Raises:
        UserError: it cannot be written.
    """
    content = {"format": _FORMAT, "model": dict(model), **about, "calibration": calibration.to_plain()}
    try:
        write_text(file, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise _not_written(file, error, who) from None


def _not_written(file: Path, error: OSError, who: str) -> UserError:
    return UserError(f"{who}: cannot write {file} ({error.strerror}); make room or give the right to write")


def read_calibration(file: Path, model: Mapping[str, Any], who: str) -> StoredCalibration:
    """Return the calibration of a network's features.

    Args:
        file: beside the weights.
        model: identity of the features, which must be those that were calibrated.
        who: complains.

    Raises:
        UserError: there is none, it is damaged, or of other weights or preprocessing.
    """
    try:
        content = read_json(file)
        if content["format"] != _FORMAT:
            raise ValueError(f"it is of format {content['format']!r}")
        theirs, data = dict(content["model"]), dict(content["data"])
        calibration = Calibration.from_plain(content["calibration"])
    except FileNotFoundError:
        raise UserError(
            f"{who}: the network must be calibrated first, there is no {file}; run `calibrate` with images of people "
            "that it was not trained on"
        ) from None
    except OSError as error:
        raise UserError(f"{who}: cannot read {file} ({error.strerror}); check the rights") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{who}: {file} must be a calibration ({reason}); run `calibrate` again") from None
    keys = [key for key in {**model, **theirs} if model.get(key) != theirs.get(key)]
    if keys:
        listed = ", ".join(f"{key} ({theirs.get(key)}, now {model.get(key)})" for key in keys)
        raise UserError(
            f"{who}: {file} must be of these weights and this preprocessing, it differs in {listed}; run `calibrate` "
            "again"
        )
    return StoredCalibration(file, calibration, data)
