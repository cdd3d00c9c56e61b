"""Open-set scores of a data set's features: error rates of pairs, identification, and how a calibration holds."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor

from reference_pipelines.data import ReidData
from reference_pipelines.errors import UserError
from reference_pipelines.matching import (
    Calibration,
    collect_pairs,
    error_curve,
    identify,
    operating_points,
    realised_rates,
)
from reference_pipelines.matching.calibration import MOST_IMAGES
from reference_pipelines.matching.pairs import draw_images
from reference_pipelines.matching.rates import HELD, RATES

_CURVE_POINTS = 200


def measure_open_set(
    query: Tensor, gallery: Tensor, data: ReidData, calibration: Calibration | None, *, seed: int = 0
) -> dict[str, Any]:
    """Return the open-set scores as they are written to an evaluation.

    Args:
        query: (Q, D) features of the queries.
        gallery: (G, D) features of the gallery.
        data: who is on them.
        calibration: whose pooled thresholds are tried here; None where there is none.
        seed: of draws, resamples and the people who are held out of the gallery.

    Raises:
        UserError: fewer than 2 people.
    """
    parts = (data.query, data.gallery)
    features = np.concatenate([query.numpy(), gallery.numpy()])
    ids, cameras = (np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "cameras"))
    some = np.flatnonzero(ids > 0)
    some = some[draw_images(len(some), MOST_IMAGES, seed)]
    known = cameras if data.cameras_known else None
    stored = [] if calibration is None else [p for p in calibration.pooled.points if p.threshold is not None]
    thresholds = [point.threshold for point in stored if point.threshold is not None]
    try:
        pairs = collect_pairs(
            features[some],
            ids[some],
            None if known is None else known[some],
            depth=HELD * RATES[0],
            thresholds=thresholds,
            who="evaluate",
        )
    except ValueError as error:
        raise UserError(str(error)) from None
    here = realised_rates(pairs, seed=seed)
    found: dict[str, Any] = {
        "verification": {
            "people": pairs.people,
            "images": len(some),
            "genuine": len(pairs.genuine),
            "impostors": pairs.impostors,
            "points": [asdict(point) for point in operating_points(pairs, RATES, seed=seed)],
            "roc": _thinned(error_curve(pairs)),
        },
        "identification": _identification(query, gallery, data, seed),
    }
    if calibration is not None:
        found["calibration"] = {
            "points": [
                {"rate": point.rate, "expected": point.interval, **asdict(realised)}
                for point, realised in zip(stored, here, strict=True)
            ]
        }
    return found


def _identification(query: Tensor, gallery: Tensor, data: ReidData, seed: int) -> dict[str, Any]:
    known = data.cameras_known
    try:
        found = identify(
            query.numpy(),
            data.query.ids,
            data.query.cameras if known else None,
            gallery.numpy(),
            data.gallery.ids,
            data.gallery.cameras if known else None,
            seed=seed,
        )
    except ValueError as error:
        return {"missing": str(error).removeprefix("identify: ")}
    return asdict(found)


def _thinned(curve: Sequence[tuple[float, float, float]]) -> list[list[float]]:
    """Return at most 200 points of the curve, as evenly over the logarithm of FMR as they lie."""
    if len(curve) <= _CURVE_POINTS:
        return [list(point) for point in curve]
    rates = np.log([point[1] for point in curve])
    wanted = np.linspace(rates[0], rates[-1], _CURVE_POINTS)
    places = np.unique(np.searchsorted(-rates, -wanted).clip(max=len(curve) - 1))
    return [list(curve[place]) for place in places.tolist()]
