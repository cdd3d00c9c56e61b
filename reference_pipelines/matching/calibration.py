"""A calibration: thresholds for false-match rates, probabilities and the look of the images, for one network.

Each pair of cameras has its own where it has enough pairs; the others use the pooled one of all images, and a verdict
says which it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from reference_pipelines.matching.drift import DriftReference, learn_drift
from reference_pipelines.matching.pairs import Pairs, check_features, collect_pairs, draw_images
from reference_pipelines.matching.probability import BALANCED, Probability, fit_probability
from reference_pipelines.matching.rates import (
    HELD,
    RATES,
    REPLICATES,
    OperatingPoint,
    check_rates,
    operating_points,
)

MOST_IMAGES = 10_000
"""Images that make pairs; of more so many are drawn, which costs pairs and hardly any people."""

LEAST_PEOPLE = 20
"""People with genuine pairs that a pair of cameras must have for a scale of its own."""


@dataclass(frozen=True)
class Scale:
    """What similarities mean, of all images or of a pair of cameras.

    Args:
        points: one a false-match rate.
        probability: that two images show one person; None without genuine pairs.
        people: whose images they are.
        genuine: number of genuine pairs.
        impostors: number of impostor pairs.
    """

    points: tuple[OperatingPoint, ...]
    probability: Probability | None
    people: int
    genuine: int
    impostors: int

    def at(self, rate: float) -> OperatingPoint | None:
        """Return the point of a rate; None where it was not asked for."""
        return next((point for point in self.points if np.isclose(point.rate, rate, rtol=1e-9)), None)


@dataclass(frozen=True)
class Verdict:
    """Whether two images show one person.

    Args:
        same: whether the similarity reaches the threshold.
        similarity: cosine of the two features.
        threshold: of the false-match rate.
        rate: that was asked for.
        interval: where the realised rate of people like the calibration's is expected, 95 %.
        probability: that they show one person, at the prior; None where the calibration has no genuine pairs.
        prior: part of the pairs that show one person, before looking.
        scale: which scale it was, "cameras 1 and 2" or "pooled", and why.
    """

    same: bool
    similarity: float
    threshold: float
    rate: float
    interval: tuple[float, float] | None
    probability: float | None
    prior: float
    scale: str


@dataclass(frozen=True)
class Calibration:
    """What was learnt of one network's features on one data set.

    Args:
        pooled: the scale of all images.
        camera_pairs: the scales of the pairs of cameras that have enough; the lower number is first.
        cameras: all cameras; empty where they are not known.
        images: that made pairs.
        drift: what other galleries are compared with; None where the images are too few.
    """

    pooled: Scale
    camera_pairs: Mapping[tuple[int, int], Scale]
    cameras: tuple[int, ...]
    images: int
    drift: DriftReference | None

    def judge(
        self,
        similarity: float,
        *,
        rate: float = RATES[0],
        cameras: tuple[int, int] | None = None,
        prior: float = BALANCED,
    ) -> Verdict:
        """Return whether two images of a similarity show one person.

        Args:
            similarity: cosine of their features.
            rate: a false-match rate of the calibration.
            cameras: that took them, where they are known.
            prior: part of the pairs that show one person, before looking; it moves the probability alone.

        Raises:
            ValueError: the rate was not calibrated or is not estimable, or a prior out of range.
        """
        asked = self.pooled.at(rate)
        if asked is None:
            there = ", ".join(f"{point.rate:g}" for point in self.pooled.points)
            raise ValueError(f"same: rate must be one that was calibrated ({there}), got {rate:g}; calibrate it too")
        own, said = self._own_scale(cameras)
        point = own.at(rate) if own else None
        if point is None or point.threshold is None:
            if own:
                said = f"pooled: cameras {_named(cameras)} have too few pairs for this rate"
            own, point = self.pooled, asked
        if point.threshold is None:
            raise ValueError(f"same: the false-match rate {rate:g} is {point.reason}; ask for a higher one")
        curve = own.probability if own else None
        probability = curve.at(similarity, prior) if curve else None
        same = bool(similarity >= point.threshold)
        return Verdict(same, float(similarity), point.threshold, rate, point.interval, probability, prior, said)

    def _own_scale(self, cameras: tuple[int, int] | None) -> tuple[Scale | None, str]:
        """Return the scale of two cameras, or None, and what to say of it."""
        if cameras is None:
            return None, "pooled: no cameras given"
        if not self.cameras:
            return None, "pooled: calibrated without cameras"
        strange = [camera for camera in cameras if camera not in self.cameras]
        if strange:
            return None, f"pooled: camera {strange[0]} is not among the calibration's"
        if cameras[0] == cameras[1]:
            return None, f"pooled: both of camera {cameras[0]}, of which the protocol has no genuine pairs"
        found = self.camera_pairs.get((min(cameras), max(cameras)))
        if found is None:
            return None, f"pooled: cameras {_named(cameras)} have too few pairs"
        return found, f"cameras {_named(cameras)}"

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        plain = asdict(self)
        plain["camera_pairs"] = [{"cameras": list(pair), **asdict(scale)} for pair, scale in self.camera_pairs.items()]
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Calibration":
        """Return what `to_plain` gave, after JSON too.

        Raises:
            KeyError: a field is missing.
            TypeError: one is missing or of another type.
            ValueError: likewise.
        """
        drift = plain["drift"]
        if drift is not None:
            limits = {int(size): (float(first), float(second)) for size, (first, second) in drift["limits"].items()}
            similarities, levels, centre = (_numbers(drift[name]) for name in ("similarities", "levels", "centre"))
            drift = DriftReference(similarities, levels, centre, limits)
        pairs = {}
        for scale in plain["camera_pairs"]:
            first, second = map(int, scale["cameras"])
            pairs[first, second] = _scale_of({key: value for key, value in scale.items() if key != "cameras"})
        cameras = tuple(map(int, plain["cameras"]))
        return cls(_scale_of(plain["pooled"]), pairs, cameras, int(plain["images"]), drift)


def calibrate(
    features: ArrayLike,
    ids: ArrayLike,
    cameras: ArrayLike | None = None,
    *,
    rates: Sequence[float] = RATES,
    replicates: int = REPLICATES,
    most_images: int = MOST_IMAGES,
    seed: int = 0,
) -> Calibration:
    """Learn what similarities mean from images of known people, who should be none that the network was trained on.

    Args:
        features: (N, D).
        ids: (N,) person ids; images of 0 and below are left out.
        cameras: (N,), or None where they are not known.
        rates: false-match rates, above 0 and below 1.
        replicates: resamples of the people.
        most_images: that make pairs; of more so many are drawn.
        seed: of the draw, the resamples and the halves.

    Raises:
        ValueError: shapes that do not fit, features that are not finite, fewer than 2 people, or a rate out of range.

    Example:
        calibration = calibrate(features, ids, cameras)
        verdict = calibration.judge(float(features[0] @ features[1]), rate=0.01)
    """
    asked = tuple(sorted(check_rates(rates, "calibrate").tolist(), reverse=True))
    unit, people, taken_by = check_features(features, ids, cameras, "calibrate")
    some = draw_images(len(unit), most_images, seed)
    unit, people, taken_by = unit[some], people[some], None if taken_by is None else taken_by[some]
    depth = min(1.0, HELD * asked[0])

    def scale(pairs: Pairs) -> Scale:
        points = operating_points(pairs, asked, replicates=replicates, seed=seed)
        return Scale(points, fit_probability(pairs), pairs.people, len(pairs.genuine), pairs.impostors)

    pooled = scale(collect_pairs(unit, people, taken_by, depth=depth, who="calibrate"))
    seen = () if taken_by is None else tuple(np.unique(taken_by).tolist())
    own = {}
    for between in combinations(seen, 2):
        both = np.intersect1d(*(people[taken_by == camera] for camera in between))
        if len(both) >= LEAST_PEOPLE:
            found = scale(collect_pairs(unit, people, taken_by, between=between, depth=depth, who="calibrate"))
            if found.points[0].threshold is not None:
                own[between] = found
    return Calibration(pooled, own, seen, len(unit), learn_drift(unit, people, seed))


def _scale_of(plain: Mapping[str, Any]) -> Scale:
    points = tuple(map(_point_of, plain["points"]))
    if not points:
        raise ValueError("there must be a false-match rate, got none")
    curve = plain["probability"]
    if curve is not None:
        curve = Probability(_numbers(curve["similarities"]), _numbers(curve["values"]))
        rising = all(a <= b for a, b in pairwise(curve.values)) and all(a <= b for a, b in pairwise(curve.similarities))
        if not 0 < len(curve.values) == len(curve.similarities) or not rising:
            raise ValueError("a probability must have values that rise with as many similarities")
        if not 0 < curve.values[0] <= curve.values[-1] < 1:
            raise ValueError(f"a probability must lie between 0 and 1, got {curve.values[0]} to {curve.values[-1]}")
    return Scale(points, curve, int(plain["people"]), int(plain["genuine"]), int(plain["impostors"]))


def _point_of(plain: Mapping[str, Any]) -> OperatingPoint:
    numbers = {name: None if plain[name] is None else float(plain[name]) for name in ("threshold", "fnmr")}
    pairs = {name: _interval(plain[name]) for name in ("interval", "fnmr_interval")}
    rates = {name: float(plain[name]) for name in ("rate", "effective")}
    point = OperatingPoint(**{**plain, **numbers, **pairs, **rates})
    if not 0 < point.rate < 1:
        raise ValueError(f"a false-match rate must lie between 0 and 1, got {point.rate}")
    if point.threshold is not None and not isfinite(point.threshold):
        raise ValueError(f"a threshold must be finite, got {point.threshold}")
    return point


def _numbers(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(map(float, values))


def _interval(values: Sequence[float] | None) -> tuple[float, float] | None:
    if values is None:
        return None
    low, high = map(float, values)
    return low, high


def _named(cameras: tuple[int, int] | None) -> str:
    return "" if cameras is None else f"{cameras[0]} and {cameras[1]}"
