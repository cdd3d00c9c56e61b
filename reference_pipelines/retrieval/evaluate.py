"""mAP, CMC and mINP after the Market-1501 rules (Zheng et al., ICCV 2015), streamed by blocks of queries.

For each query the gallery images of the same person *and* camera are dropped, and junk (id -1); distractors (id 0)
stay as negatives. A query without a match left is counted and left out. Ties are ordered by gallery index. Without
cameras no image is dropped but junk.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from reference_pipelines.distributed.processes import ALONE, Processes
from reference_pipelines.ranks.scoring import QueryRanks, score
from reference_pipelines.retrieval.distances import Distances, Metric, feature_distances, given_distances
from reference_pipelines.retrieval.ranking import check_labels, collect_hits, distance_blocks, no_match, rank_matches
from reference_pipelines.retrieval.scores import CameraPair, camera_pairs, expected_average_precision, query_ranks
from reference_pipelines.retrieval.single_shot import SingleShot

_EQUAL_COSINES = 2e-6  # what one float32 product leaves between equal ones


@dataclass(frozen=True)
class RetrievalResult:
    """How well the gallery was ranked; all figures are 0 to 1 and means over the queries that have a match.

    Args:
        mAP: mean of the average precision, the mean of the precision at each match.
        cmc: for each k the part of the queries with a match among the first k.
        mINP: mean of the number of matches divided by the rank of the last (Ye et al., TPAMI 2021).
        mAP_market: mean of the average precision as Market-1501's evaluation code has it, by trapezoids: another
            number than mAP, not to be compared with it.
        interval: 95 % bootstrap interval of mAP over the queries; None of one query, which shows no spread.
        interval_market: that of mAP_market.
        average_precision: (valid queries,) the average precision of each.
        queries: (valid queries,) their indices among the queries given.
        ranks: where the true matches of these queries stand, from which all figures above can be computed again.
        skipped: queries left out because nothing in the gallery matches them.
        camera_pairs: the same by the query's and the matches' camera, for the pairs that have a match.
        single_shot_cmc: CMC after CUHK03's single-gallery-shot protocol; None where it was not asked for.
        remarks: what makes the figures say less than they seem to: features of length 0, and queries that are equally
            far from the whole gallery. They are warned of too.
    """

    mAP: float
    cmc: dict[int, float]
    mINP: float
    mAP_market: float
    interval: tuple[float, float] | None
    interval_market: tuple[float, float] | None
    average_precision: np.ndarray
    queries: np.ndarray
    ranks: QueryRanks
    skipped: int
    camera_pairs: tuple[CameraPair, ...]
    single_shot_cmc: dict[int, float] | None
    remarks: tuple[str, ...] = ()


def evaluate(
    query_features: ArrayLike | Tensor | None,
    query_ids: ArrayLike,
    query_cameras: ArrayLike | None,
    gallery_features: ArrayLike | Tensor | None,
    gallery_ids: ArrayLike,
    gallery_cameras: ArrayLike | None,
    *,
    metric: Metric = "cosine",
    ranks: tuple[int, ...] = (1, 5, 10, 20),
    distances: Distances | ArrayLike | Tensor | None = None,
    device: torch.device | str | None = None,
    single_shot: int = 0,
    seed: int = 0,
    processes: Processes = ALONE,
) -> RetrievalResult:
    """Rank the gallery for each query and score the ranking.

    A block of queries is worked off at a time: its distances are made, and for each true match what is nearer is
    counted, without sorting. A query with m matches costs one pass over its distances a match.

    Args:
        query_features: (Q, D) features; half precision is computed in float32.
        query_ids: (Q,) person ids.
        query_cameras: (Q,) cameras; None, and None for the gallery, where they are not known: then every gallery image
            of the query's person is a match. (The commands leave out the query's very own file, which arrays do not
            tell.)
        gallery_features: (G, D) features.
        gallery_ids: (G,) person ids; 0 marks a distractor and -1 junk.
        gallery_cameras: (G,) cameras, or None.
        metric: "cosine" ranks by angle, "euclidean" by distance of the features as given.
        ranks: the k of CMC@k.
        distances: (Q, G) distances to rank by: an array or tensor, or what makes them a block at a time, such as
            `rerank`'s; the features are not looked at then, and may be None.
        device: where the features' distances are computed; None: where the query features are.
        single_shot: how many galleries of one random image a person are drawn a query for CUHK03's
            single-gallery-shot CMC, the mean over them; 0 leaves it out. Published code draws 10 or 100.
        seed: of these draws.
        processes: who share the queries. Each passes the same and gets the whole result.

    Warns:
        UserWarning: each of the result's remarks.

    Raises:
        ValueError: shapes that do not fit, features or distances that are not finite, or no query with a match.
    """
    if any(rank < 1 for rank in ranks):
        raise ValueError(f"evaluate: ranks must be at least 1, got {ranks}")
    remarks: list[str] = []
    if distances is None:
        if query_features is None or gallery_features is None:
            raise ValueError("evaluate: features must be given where no distances are, got None")
        distances = feature_distances(query_features, gallery_features, metric, device)
        remarks += _without_direction(query_features, gallery_features) if metric == "cosine" else []
        equal = _EQUAL_COSINES if metric == "cosine" else 0.0
    else:
        distances = given_distances(distances)
        equal = 0.0
        asked = _sizes(query_ids, gallery_ids)
        if distances.shape != asked:
            raise ValueError(f"evaluate: distances must be {asked}, queries by gallery, got {distances.shape}")
    if min(single_shot, seed) < 0:
        raise ValueError(f"evaluate: single_shot and seed must not be negative, got {single_shot} and {seed}")
    labels = check_labels(query_ids, query_cameras, gallery_ids, gallery_cameras, distances.shape)
    shots = SingleShot(labels, single_shot, seed) if single_shot else None
    found, drawn, tied = [], [np.empty((0, single_shot), dtype=np.int64)], [np.empty(0, dtype=bool)]
    for block, rows in distance_blocks(distances, labels, processes):
        tied.append(_all_equal(rows, equal))
        same = labels.same_person(block)
        found.append((block, same, rank_matches(rows, same)))
        if shots is not None:
            drawn.append(shots.ranks(block, rows, same))
    hits = collect_hits(labels, found, processes)
    if not len(hits.queries):
        raise ValueError(no_match(labels))
    standing = query_ranks(hits, labels)
    scores = score(standing, ranks)
    single = None if shots is None else processes.join(np.concatenate(drawn))
    remarks += _ties(processes.join(np.concatenate(tied))[standing.queries])
    for remark in remarks:
        warnings.warn(f"evaluate: {remark}", stacklevel=2)
    return RetrievalResult(
        mAP=scores.mAP,
        cmc=scores.cmc,
        mINP=scores.mINP,
        mAP_market=scores.mAP_market,
        interval=scores.interval,
        interval_market=scores.interval_market,
        average_precision=scores.average_precision,
        queries=standing.queries,
        ranks=standing,
        skipped=standing.skipped,
        camera_pairs=()
        if gallery_cameras is None
        else camera_pairs(hits, labels.query_cameras, np.asarray(gallery_cameras)),
        single_shot_cmc=None if single is None else {k: float(np.mean(single < k)) for k in ranks},
        remarks=tuple(remarks),
    )


def chance_level(
    query_ids: ArrayLike,
    query_cameras: ArrayLike | None,
    gallery_ids: ArrayLike,
    gallery_cameras: ArrayLike | None,
) -> float:
    """Return the expected mAP of a random ranking under the same protocol; it is exact, nothing is drawn.

    Args:
        query_ids: (Q,) person ids.
        query_cameras: (Q,) cameras, or None as in `evaluate`.
        gallery_ids: (G,) person ids.
        gallery_cameras: (G,) cameras, or None.

    Raises:
        ValueError: shapes that do not fit, or no query with a match.
    """
    labels = check_labels(query_ids, query_cameras, gallery_ids, gallery_cameras, _sizes(query_ids, gallery_ids))
    matches, dropped = labels.count_same_person()
    valid = matches > 0
    if not valid.any():
        raise ValueError(no_match(labels))
    return float(expected_average_precision(matches[valid], len(labels.counted) - dropped[valid]).mean())


def ranked_matches(
    query_feature: ArrayLike | Tensor,
    query_id: int,
    query_camera: int | None,
    gallery_features: ArrayLike | Tensor,
    gallery_ids: ArrayLike,
    gallery_cameras: ArrayLike | None,
    *,
    first: int,
) -> list[tuple[int, bool]]:
    """Return the `first` gallery indices for one query (D,) by cosine, each with whether it is a true match."""
    distances = feature_distances(torch.as_tensor(query_feature)[None], gallery_features)
    camera = None if query_camera is None else [query_camera]
    labels = check_labels([query_id], camera, gallery_ids, gallery_cameras, distances.shape)
    ((block, rows),) = distance_blocks(distances, labels)
    same = labels.same_person(block)
    rows[0, same.columns[same.dropped]] = np.inf
    order = np.argsort(rows[0], kind="stable")[: min(first, rows.shape[1] - same.dropped.sum())]
    matches = np.isin(order, same.columns[~same.dropped])
    return [(int(labels.counted[column]), bool(hit)) for column, hit in zip(order, matches, strict=True)]


def _sizes(query_ids: ArrayLike, gallery_ids: ArrayLike) -> tuple[int, int]:
    return len(np.asarray(query_ids)), len(np.asarray(gallery_ids))


def _without_direction(query: ArrayLike | Tensor, gallery: ArrayLike | Tensor) -> list[str]:
    """Say how many features have length 0."""
    counts = {
        name: int((torch.as_tensor(features) == 0).all(dim=-1).sum())
        for name, features in (("query", query), ("gallery", gallery))
    }
    if not any(counts.values()):
        return []
    return [
        f"{counts['query']} query and {counts['gallery']} gallery features are all zeros, which have no direction: "
        "their cosine is 0 to every image"
    ]


def _all_equal(rows: np.ndarray, tolerance: float) -> np.ndarray:
    """Return (b,) whether a query is equally far from all of two or more images; rows is (b, K)."""
    if rows.shape[1] < 2:
        return np.zeros(len(rows), dtype=bool)
    # Few rows are left after a look at two columns, so that none but these are read once more.
    equal: np.ndarray = np.abs(rows[:, 0] - rows[:, -1]) <= tolerance
    some = rows[equal]
    equal[equal] = some.max(axis=1, initial=-np.inf) - some.min(axis=1, initial=np.inf) <= tolerance
    return equal


def _ties(tied: np.ndarray) -> list[str]:
    if not tied.any():
        return []
    return [
        f"{tied.sum()} of the {len(tied)} queries that are scored are equally far from every gallery image: their "
        "ranking is the gallery's order and says nothing of the features"
    ]
