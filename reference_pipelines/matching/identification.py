"""Open-set identification: who is it, or nobody of the gallery?

The people of the probes are split by a seed. Those held out leave the gallery, so that their probes are of nobody in
it (non-mated); the others' probes are mated. At a threshold, FPIR is the part of the non-mated probes whose nearest
gallery image reaches it, and TPIR the part of the mated ones whose nearest does and shows the right person (ISO/IEC
19795-1, at rank 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from reference_pipelines.matching.pairs import unit_vectors
from reference_pipelines.matching.rates import (
    REPLICATES,
    Tail,
    check_rates,
    percentiles,
    person_weights,
    threshold_above,
    why_not_estimable,
    worth,
)

FALSE_POSITIVE_RATES = (1e-1, 1e-2, 1e-3)
HELD_OUT = 0.5

_BLOCK_NUMBERS = 2**22
_JUNK = -1
_Images = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # unit features, ids, cameras


@dataclass(frozen=True)
class IdentificationPoint:
    """A false-positive identification rate that was asked for, and what is identified at it.

    Args:
        rate: that was asked for.
        threshold: the least similarity with no higher rate; None where it is not estimable, as the next two.
        tpir: part of the mated probes that are identified.
        tpir_interval: 95 % over the people of the probes, the threshold found anew; the gallery stays.
        effective: how many independent false positives there are.
        reason: why the rate is not estimable; empty where it is.
    """

    rate: float
    threshold: float | None
    tpir: float | None
    tpir_interval: tuple[float, float] | None
    effective: float
    reason: str = ""


@dataclass(frozen=True)
class Identification:
    """Open-set identification on one data set.

    Args:
        points: one a rate.
        mated: probes of people in the gallery, with a match from another camera.
        non_mated: probes of the people held out.
        people: in the gallery, and held out.
        gallery: images in it.
    """

    points: tuple[IdentificationPoint, ...]
    mated: int
    non_mated: int
    people: tuple[int, int]
    gallery: int


def identify(
    query_features: ArrayLike,
    query_ids: ArrayLike,
    query_cameras: ArrayLike | None,
    gallery_features: ArrayLike,
    gallery_ids: ArrayLike,
    gallery_cameras: ArrayLike | None,
    *,
    rates: Sequence[float] = FALSE_POSITIVE_RATES,
    held_out: float = HELD_OUT,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Identification:
    """Search for each probe in a gallery that some of the people are held out of.

    As in ranking, gallery images of the probe's person and camera are dropped, and junk (id -1); distractors (id 0)
    stay. Ties are in the order of the gallery.

    Args:
        query_features: (Q, D) probes; those with ids of 0 and below are left out.
        query_ids: (Q,).
        query_cameras: (Q,), or None where cameras are not known.
        gallery_features: (G, D).
        gallery_ids: (G,).
        gallery_cameras: (G,), or None.
        rates: false-positive identification rates, above 0 and below 1.
        held_out: part of the probes' people that is held out of the gallery.
        replicates: resamples of the probes' people.
        seed: of the split and the resamples.

    Raises:
        ValueError: shapes that do not fit, a rate out of range, or too few people for both groups.
    """
    asked = check_rates(rates, "identify")
    query, gallery = (unit_vectors(each, "identify") for each in (query_features, gallery_features))
    ids, gallery_people = (
        _whole(each, len(features), "ids") for each, features in ((query_ids, query), (gallery_ids, gallery))
    )
    cameras = None
    if query_cameras is not None and gallery_cameras is not None:
        cameras = _whole(query_cameras, len(query), "cameras"), _whole(gallery_cameras, len(gallery), "cameras")
    known = np.unique(ids[ids > 0])
    count = round(held_out * len(known))
    if not 0 < count < len(known):
        raise ValueError(
            f"identify: some of the probes' people must be held out and some not, got {len(known)} people, "
            f"{count} of them held out; add people or change held_out"
        )
    away = np.sort(np.random.default_rng(seed).permutation(known)[:count])
    kept = (gallery_people != _JUNK) & ~np.isin(gallery_people, away)
    top, right, matched = _search(
        (query, ids, None if cameras is None else cameras[0]),
        (gallery[kept], gallery_people[kept], None if cameras is None else cameras[1][kept]),
    )
    foreign = np.isin(ids, away)
    mated = (ids > 0) & ~foreign & matched
    place = np.searchsorted(known, np.where(ids > 0, ids, known[0]))
    points = _points((top, right, place), foreign, mated, len(known), asked, replicates, seed)
    return Identification(points, int(mated.sum()), int(foreign.sum()), (len(known) - count, count), int(kept.sum()))


def _search(query: _Images, gallery: _Images) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (Q,) the similarity of the nearest, whether it shows the probe's person, and whether any image could."""
    (probes, ids, cameras), (images, people, taken_by) = query, gallery
    top, right, matched = np.full(len(probes), -np.inf), np.zeros(len(probes), bool), np.zeros(len(probes), bool)
    if not len(images):
        return top, right, matched
    step = max(1, _BLOCK_NUMBERS // len(images))
    for start in range(0, len(probes), step):
        block = slice(start, start + step)
        similarities = probes[block] @ images.T
        same = ids[block][:, None] == people
        if cameras is not None:
            dropped = same & (cameras[block][:, None] == taken_by)
            similarities[dropped] = -np.inf
            same &= ~dropped
        nearest = similarities.argmax(axis=1)
        rows = np.arange(len(nearest))
        top[block], right[block], matched[block] = similarities[rows, nearest], same[rows, nearest], same.any(axis=1)
    return top, right, matched


def _points(
    found: tuple[np.ndarray, np.ndarray, np.ndarray],
    foreign: np.ndarray,
    mated: np.ndarray,
    people: int,
    rates: np.ndarray,
    replicates: int,
    seed: int,
) -> tuple[IdentificationPoint, ...]:
    top, right, place = found
    order = np.flatnonzero(foreign)[np.argsort(-top[foreign], kind="stable")]
    tail = Tail(top[order], whole=True)
    counts, bounds = tail.cut(np.arange(1.0, len(order) + 1), len(order), rates)
    scores = np.where(right[mated], top[mated], -np.inf)
    identified = scores[:, None] > bounds
    wrongly, rightly = np.full((2, replicates, len(rates)), np.nan)
    for r, weights in enumerate(person_weights(people, replicates, seed)):
        sums = np.concatenate([[0.0], np.cumsum(weights[place[order]])])
        own = weights[place[mated]]
        if sums[-1] and own.sum():
            wrongly[r] = sums[counts] / sums[-1]
            _, anew = tail.cut(sums[1:], sums[-1], rates)
            rightly[r] = own @ (scores[:, None] > anew) / own.sum()
    points = []
    for k, rate in enumerate(rates.tolist()):
        effective = worth(wrongly[:, k])
        reason = why_not_estimable(rate, len(order), effective, "probes of people who are not in the gallery")
        if not reason and not mated.any():
            reason = "not estimable: no probe of a person in the gallery has a match from another camera"
        if reason:
            points.append(IdentificationPoint(rate, None, None, None, effective, reason))
            continue
        tpir, interval = float(identified[:, k].mean()), percentiles(rightly[:, k])
        points.append(IdentificationPoint(rate, threshold_above(bounds[k]), tpir, interval, effective))
    return tuple(points)


def _whole(values: ArrayLike, count: int, name: str) -> np.ndarray:
    found = np.asarray(values)
    if found.shape != (count,) or found.dtype.kind not in "iu":
        raise ValueError(f"identify: {name} must be ({count},) whole numbers, got {found.shape} {found.dtype}")
    return found
