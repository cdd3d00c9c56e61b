"""Genuine and impostor pairs of images, tabulated a block at a time; no (N, N) matrix exists.

A genuine pair shows one person from two cameras; pairs of one person in one camera are left out, as the ranking
protocol of Market-1501 leaves them out. An impostor pair shows two people, whatever the cameras. Distractors (id 0)
and junk (id -1) are nobody in particular and make no pairs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import ArrayLike

BINS = 4096
"""Bins of the histograms of all pairs, of equal angles: features of one cone are near 1 and still told apart."""

EDGES = np.cos(np.linspace(np.pi, 0, BINS + 1))
CENTRES = (EDGES[1:] + EDGES[:-1]) / 2

_BLOCK_NUMBERS = 2**22


@dataclass(frozen=True)
class Pairs:
    """What the error rates of P people's images depend on.

    Args:
        genuine: (g,) similarities of the genuine pairs, ascending.
        genuine_people: (g,) their person, 0 to P - 1.
        highest: (K,) the highest similarities of impostor pairs, descending; all where K is `impostors`.
        first: (K,) the person on one side of each.
        second: (K,) the person on the other side.
        impostors: number of all impostor pairs.
        images: (2, P) each person's images on either side.
        one_set: whether both sides are the same images.
        genuine_histogram: (BINS,) numbers of genuine pairs by similarity.
        impostor_histogram: (BINS,) numbers of impostor pairs by similarity.
        thresholds: (T,) that were asked for.
        above: (T, P, P) how many impostor pairs of two people reach each threshold; the two orders add up.
    """

    genuine: np.ndarray
    genuine_people: np.ndarray
    highest: np.ndarray
    first: np.ndarray
    second: np.ndarray
    impostors: int
    images: np.ndarray
    one_set: bool
    genuine_histogram: np.ndarray
    impostor_histogram: np.ndarray
    thresholds: np.ndarray
    above: np.ndarray

    @property
    def people(self) -> int:
        """P."""
        return self.images.shape[1]

    def impostor_weight(self, weights: np.ndarray) -> float:
        """Return the sum of w_i w_j over all impostor pairs, of people's weights (P,), without visiting them."""
        return _impostor_weight(self.images * weights, one_set=self.one_set)


def collect_pairs(
    features: ArrayLike,
    ids: ArrayLike,
    cameras: ArrayLike | None = None,
    *,
    between: tuple[int, int] | None = None,
    depth: float = 1.0,
    thresholds: Sequence[float] = (),
    same_camera: bool = False,
    who: str = "collect_pairs",
) -> Pairs:
    """Tabulate the pairs of images by cosine similarity, in single precision.

    Args:
        features: (N, D) features of any length.
        ids: (N,) person ids; images of 0 and below are left out.
        cameras: (N,) cameras; None where they are not known: then every pair of one person is genuine.
        between: only pairs of one image of each of these two cameras.
        depth: which part of the impostor pairs, the most alike, is held one by one; the rest is counted.
        thresholds: count for these, by the two people, what reaches them.
        same_camera: count pairs of one person in one camera as genuine too.
        who: complains.

    Raises:
        ValueError: shapes that do not fit, features that are not finite, fewer than 2 people, or two cameras without
            cameras.
    """
    unit, persons, taken_by = check_features(features, ids, cameras, who)
    if taken_by is None and between is not None:
        raise ValueError(f"{who}: cameras must be given for the pairs between two of them, got None")
    if between is not None:
        assert taken_by is not None
        some = np.isin(taken_by, between)
        unit, persons, taken_by = unit[some], persons[some], taken_by[some]
    known, people = np.unique(persons, return_inverse=True)
    if len(known) < 2:
        where = "" if between is None else f" in cameras {between[0]} and {between[1]}"
        raise ValueError(
            f"{who}: pairs need images of at least 2 people, ids above 0, got {len(known)}{where}; add some"
        )
    sides = (taken_by if between else None, between or (0, 0))
    counts = [np.bincount(people[_side(len(people), *sides, side)], minlength=len(known)) for side in (0, 1)]
    one_set = between is None or between[0] == between[1]
    table = _Table(np.array(counts), one_set=one_set, depth=depth, thresholds=thresholds)
    free = taken_by is None or same_camera
    for rows, columns, similarities, counted in _blocks(unit, sides, one_set=one_set):
        same = people[rows][:, None] == people[columns]
        apart = counted & (True if free else taken_by[rows][:, None] != taken_by[columns])  # type: ignore[index]
        table.add(similarities, same & apart, ~same & counted, people[rows], people[columns])
    return table.finish()


def draw_images(count: int, most: int, seed: int) -> np.ndarray:
    """Return the indices of `most` of `count` images, drawn by the seed, in order; of all where they are not more."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def unit_vectors(features: ArrayLike, who: str) -> np.ndarray:
    """Return (N, D) features at length 1, float32; one of length 0 stays 0.

    Raises:
        ValueError: they are not (N, D) or not finite.
    """
    given = np.asarray(features)
    if given.ndim != 2 or given.dtype.kind not in "fiu":
        raise ValueError(f"{who}: features must be (N, D) real numbers, got {given.shape} {given.dtype}")
    wide = given.astype(np.float64)
    if not np.isfinite(wide).all():
        row = int((~np.isfinite(wide)).any(axis=1).argmax())
        raise ValueError(f"{who}: features must be finite, got NaN or Inf in row {row}; has training diverged?")
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0)
    wide /= np.where(largest > 0, largest, 1)
    lengths = np.sqrt(np.square(wide).sum(axis=1, keepdims=True))
    return (wide / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def check_features(
    features: ArrayLike, ids: ArrayLike, cameras: ArrayLike | None, who: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return unit features, ids and cameras of the images that show a person, ids above 0.

    Raises:
        ValueError: shapes that do not fit, or features that are not finite.
    """
    unit = unit_vectors(features, who)
    labels = {"ids": np.asarray(ids), "cameras": None if cameras is None else np.asarray(cameras)}
    for name, values in labels.items():
        if values is not None and (values.shape != (len(unit),) or values.dtype.kind not in "iu"):
            raise ValueError(
                f"{who}: {name} must be ({len(unit)},) whole numbers, one a feature, got {values.shape} {values.dtype}"
            )
    persons = labels["ids"]
    assert persons is not None
    some = persons > 0
    return unit[some], persons[some], None if labels["cameras"] is None else labels["cameras"][some]


class _Table:
    """Fills a `Pairs` from blocks."""

    def __init__(self, images: np.ndarray, *, one_set: bool, depth: float, thresholds: Sequence[float]) -> None:
        self.images = images
        self.one_set = one_set
        self.impostors = round(_impostor_weight(images, one_set=one_set))
        self.held = min(self.impostors, ceil(depth * self.impostors))
        self.genuine: list[tuple[np.ndarray, np.ndarray]] = []
        self.highest: list[tuple[np.ndarray, ...]] = []
        self.waiting = 0
        self.cut = -np.inf
        self.histograms = np.zeros((2, BINS), dtype=np.int64)
        self.thresholds = np.array(thresholds, dtype=np.float64)
        self.above = np.zeros((len(self.thresholds), images.shape[1] ** 2), dtype=np.int64)

    def add(
        self, similarities: np.ndarray, genuine: np.ndarray, impostor: np.ndarray, rows: np.ndarray, columns: np.ndarray
    ) -> None:
        """Take a block's pairs; `genuine` and `impostor` say which of them count, `rows` and `columns` who they are."""
        places = np.searchsorted(EDGES[1:-1], similarities, side="right")
        for histogram, which in zip(self.histograms, (genuine, impostor), strict=True):
            histogram += np.bincount(places[which], minlength=BINS)
        row, column = genuine.nonzero()
        self.genuine.append((similarities[row, column], rows[row]))
        row, column = (impostor & (similarities >= self.cut)).nonzero()
        self.highest.append((similarities[row, column], rows[row].astype(np.int32), columns[column].astype(np.int32)))
        self.waiting += len(row)
        for above, threshold in zip(self.above, self.thresholds, strict=True):
            row, column = (impostor & (similarities >= threshold)).nonzero()
            above += np.bincount(rows[row] * self.images.shape[1] + columns[column], minlength=len(above))
        if self.waiting > 2 * self.held + _BLOCK_NUMBERS:
            self._drop_the_lowest()

    def _drop_the_lowest(self) -> None:
        """Keep the `held` highest similarities, and what equals the last of them."""
        values, first, second = (np.concatenate(parts) for parts in zip(*self.highest, strict=True))
        if len(values) > self.held:
            self.cut = np.partition(values, -self.held)[-self.held]
            kept = values >= self.cut
            values, first, second = values[kept], first[kept], second[kept]
        self.highest, self.waiting = [(values, first, second)], len(values)

    def finish(self) -> Pairs:
        """Return the table, both lists in order."""
        self._drop_the_lowest()
        values, first, second = self.highest[0]
        genuine, people = (np.concatenate(parts) for parts in zip(*self.genuine, strict=True))
        high, low = np.argsort(-values, kind="stable"), np.argsort(genuine, kind="stable")
        return Pairs(
            genuine[low],
            people[low],
            values[high],
            first[high],
            second[high],
            self.impostors,
            self.images,
            self.one_set,
            self.histograms[0],
            self.histograms[1],
            self.thresholds,
            self.above.reshape(len(self.thresholds), *[self.images.shape[1]] * 2),
        )


def _impostor_weight(images: np.ndarray, *, one_set: bool) -> float:
    """Return the weight of all impostor pairs of the weights w_i n_i (2, P) of people's images on either side.

    Of one set of images it is ((sum w_i n_i)^2 - sum (w_i n_i)^2) / 2; of two, the product of the sums less the pairs
    of one person.
    """
    left, right = images.astype(np.float64)
    if one_set:
        return float((left.sum() ** 2 - np.square(left).sum()) / 2)
    return float(left.sum() * right.sum() - (left * right).sum())


def _side(count: int, cameras: np.ndarray | None, between: tuple[int, int], side: int) -> np.ndarray:
    """Return the indices of the images on one side of the pairs."""
    return np.arange(count) if cameras is None else np.flatnonzero(cameras == between[side])


def _blocks(
    unit: np.ndarray, sides: tuple[np.ndarray | None, tuple[int, int]], *, one_set: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield rows, columns, their similarities, and which of the pairs count: each pair once, no image with itself."""
    left, right = (_side(len(unit), *sides, side) for side in (0, 1))
    step = max(1, _BLOCK_NUMBERS // max(1, len(right)))
    for start in range(0, len(left), step):
        rows = left[start : start + step]
        columns = right[start:] if one_set else right
        counted = columns > rows[:, None] if one_set else np.ones((len(rows), len(columns)), dtype=bool)
        yield rows, columns, unit[rows] @ unit[columns].T, counted
