"""Does a gallery look like the images that a threshold was found on?

Nobody need know who is on the gallery's images. Two things are compared with the calibration's images. The one is how
alike two images are that are drawn at random, nearly always of two people: Kolmogorov and Smirnov's distance, the
largest difference of the two distribution functions at 99 similarities. The other is where the images lie: the distance
of the mean features, which is the maximum mean discrepancy of the cosine (Gretton et al., JMLR 2012, Eq. 2 with a
linear kernel). A gallery may lie elsewhere and be as alike in itself.

Pairs share images and images share people, so that no table of either holds. Their limits come from the calibration
itself: the people are split into halves at random, again and again, one half is the reference and images of the other
are the gallery. Each limit is what 0.5 % of these exceed, for galleries of that many images.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from reference_pipelines.matching.pairs import draw_images, unit_vectors

FALSE_ALARMS = 0.01
LEAST_IMAGES = 50
SIZES = (200, 100, LEAST_IMAGES)
MOST_IMAGES = 600

_SPLITS = 400
_LEVELS = np.arange(1, 100) / 100


@dataclass(frozen=True)
class Drift:
    """How unlike the calibration's images a gallery is.

    Args:
        images: of the gallery that were drawn.
        distance: largest difference of the two distribution functions of similarities, 0 to 1.
        limit: what 0.5 % of same-domain galleries exceed.
        shift: of the median similarity; above 0 the gallery's images are more alike.
        away: distance of the mean features, 0 to 2.
        away_limit: what 0.5 % of same-domain galleries exceed.
        false_alarms: how often one of the two is exceeded by same-domain galleries, 1 %.
    """

    images: int
    distance: float
    limit: float
    shift: float
    away: float
    away_limit: float
    false_alarms: float = FALSE_ALARMS

    @property
    def unlike(self) -> bool:
        """Whether the gallery looks unlike the calibration's images."""
        return self.distance > self.limit or self.away > self.away_limit


@dataclass(frozen=True)
class DriftReference:
    """What a gallery is compared with.

    Args:
        similarities: (99,) percentiles of the similarity of two of the calibration's images.
        levels: (99,) its distribution function there, exactly.
        centre: (D,) mean of their unit features.
        limits: number of images to the limits of both distances.
    """

    similarities: tuple[float, ...]
    levels: tuple[float, ...]
    centre: tuple[float, ...]
    limits: dict[int, tuple[float, float]]

    def compare(self, features: ArrayLike, seed: int = 0) -> Drift:
        """Return how unlike a gallery is.

        Args:
            features: (N, D) of its images, of which at most 200 are drawn.
            seed: of the draw.

        Raises:
            ValueError: fewer images than 50, features of another width, or that are not finite.
        """
        unit = unit_vectors(features, "drift")
        if unit.shape[1] != len(self.centre):
            raise ValueError(
                f"drift: features must have the calibration's width, {len(self.centre)}, got {unit.shape[1]}; take "
                "those of the same network"
            )
        size = max((size for size in self.limits if size <= len(unit)), default=None)
        if size is None:
            raise ValueError(
                f"drift: the gallery must have at least {min(self.limits)} images, got {len(unit)}; take a larger one"
            )
        some = unit[draw_images(len(unit), size, seed)]
        values = np.sort((some @ some.T)[_above_the_diagonal(size)])
        distance = _distance(values, np.array(self.similarities), np.array(self.levels))
        middle = self.similarities[len(_LEVELS) // 2]
        away = float(np.linalg.norm(some.mean(axis=0, dtype=np.float64) - self.centre))
        limit, away_limit = self.limits[size]
        return Drift(size, distance, limit, float(np.median(values) - middle), away, away_limit)


def learn_drift(features: np.ndarray, people: np.ndarray, seed: int = 0) -> DriftReference | None:
    """Return the reference of a calibration's images; None where half of them are too few for the smallest gallery.

    Args:
        features: (N, D) unit vectors; of more than 600 images so many are drawn.
        people: (N,) who is on each.
        seed: of the draw and the halves.
    """
    rng = np.random.default_rng(seed)
    some = draw_images(len(features), MOST_IMAGES, seed)
    unit, (_, who) = features[some].astype(np.float64), np.unique(people[some], return_inverse=True)
    similarities = features[some] @ features[some].T
    distances: dict[int, list[tuple[float, float]]] = {}
    for _ in range(_SPLITS):
        half = rng.permutation(who.max() + 1) < (who.max() + 1) // 2
        reference, gallery = (np.flatnonzero(half[who] == side) for side in (True, False))
        if len(reference) < 2:
            continue
        points, levels = _percentiles(_between(similarities, reference))
        centre = unit[reference].mean(axis=0)
        for size in SIZES:
            if size <= len(gallery):
                drawn = rng.choice(gallery, size, replace=False)
                values = np.sort(_between(similarities, drawn))
                away = float(np.linalg.norm(unit[drawn].mean(axis=0) - centre))
                distances.setdefault(size, []).append((_distance(values, points, levels), away))
    # A size that only some halves reach would be judged by the lopsided ones alone.
    enough = {size: np.array(found) for size, found in sorted(distances.items()) if len(found) >= _SPLITS // 2}
    if not enough:
        return None
    limits = {}
    for size, found in enough.items():
        first, second = np.quantile(found, 1 - FALSE_ALARMS / 2, axis=0).tolist()
        limits[size] = (first, second)
    points, levels = _percentiles(_between(similarities, np.arange(len(some))))
    centre = unit.mean(axis=0)
    return DriftReference(tuple(points.tolist()), tuple(levels.tolist()), tuple(centre.tolist()), limits)


def _between(similarities: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return the similarities of each two of some images."""
    some = similarities.take(images, axis=0).take(images, axis=1)
    return some[_above_the_diagonal(len(images))]


@lru_cache(maxsize=8)
def _above_the_diagonal(count: int) -> np.ndarray:
    return ~np.tri(count, dtype=bool)


def _percentiles(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return 99 percentiles of values, and which part of the values is not above each."""
    ordered = np.sort(values)
    points = ordered[(_LEVELS * len(ordered)).astype(np.int64)].astype(np.float64)
    return points, np.searchsorted(ordered, points, side="right") / len(ordered)


def _distance(ordered: np.ndarray, points: np.ndarray, levels: np.ndarray) -> float:
    return float(np.abs(np.searchsorted(ordered, points, side="right") / len(ordered) - levels).max())
