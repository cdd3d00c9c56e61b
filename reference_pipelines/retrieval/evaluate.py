"""mAP and CMC after the Market-1501 rules (Zheng et al., ICCV 2015).

For each query the gallery images of the same person *and* camera are dropped, and junk (id -1); distractors (id 0)
stay as negatives. A query without a match left is counted and left out. Ties are ordered by gallery index.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional

Metric = Literal["cosine", "euclidean"]

_QUERY_BLOCK = 256
_JUNK = -1


@dataclass(frozen=True)
class RetrievalResult:
    """How well the gallery was ranked.

    Args:
        mAP: mean over the queries of the average precision (the mean of the precision at each hit), 0 to 1.
        cmc: for each k the part of the queries with a hit among the first k.
        interval: 95 % bootstrap interval of mAP over the queries.
        average_precision: (valid queries,) the average precision of each.
        queries: (valid queries,) their indices among the queries given.
        skipped: queries left out because nothing in the gallery matches them.
    """

    mAP: float
    cmc: dict[int, float]
    interval: tuple[float, float]
    average_precision: np.ndarray
    queries: np.ndarray
    skipped: int


@dataclass(frozen=True)
class _Labels:
    query_ids: np.ndarray
    query_cameras: np.ndarray
    gallery_ids: np.ndarray
    gallery_cameras: np.ndarray


def evaluate(
    query_features: ArrayLike | Tensor,
    query_ids: ArrayLike,
    query_cameras: ArrayLike,
    gallery_features: ArrayLike | Tensor,
    gallery_ids: ArrayLike,
    gallery_cameras: ArrayLike,
    *,
    metric: Metric = "cosine",
    ranks: tuple[int, ...] = (1, 5, 10),
) -> RetrievalResult:
    """Rank the gallery for each query and score the ranking.

    Args:
        query_features: (Q, D) features.
        query_ids: (Q,) person ids.
        query_cameras: (Q,) cameras.
        gallery_features: (G, D) features.
        gallery_ids: (G,) person ids; 0 marks a distractor and -1 junk.
        gallery_cameras: (G,) cameras.
        metric: "cosine" ranks by angle, "euclidean" by distance of the features as given.
        ranks: the k of CMC@k.

    Raises:
        ValueError: shapes that do not fit, features that are not finite, or no query with a match.
    """
    query, gallery = _check_features(query_features, gallery_features)
    labels = _check_labels(query_ids, query_cameras, gallery_ids, gallery_cameras, (len(query), len(gallery)))
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f'evaluate: metric must be "cosine" or "euclidean", got {metric!r}')
    queries, precision, first_hits = _score(labels, _distance_rows(query, gallery, metric))
    return RetrievalResult(
        mAP=float(precision.mean()),
        cmc={k: float(np.mean(first_hits < k)) for k in ranks},
        interval=bootstrap_interval(precision),
        average_precision=precision,
        queries=queries,
        skipped=len(labels.query_ids) - len(queries),
    )


def chance_level(
    query_ids: ArrayLike,
    query_cameras: ArrayLike,
    gallery_ids: ArrayLike,
    gallery_cameras: ArrayLike,
    *,
    rankings: int = 20,
    seed: int = 0,
) -> float:
    """Return the mean mAP of random rankings under the same protocol.

    Args:
        query_ids: (Q,) person ids.
        query_cameras: (Q,) cameras.
        gallery_ids: (G,) person ids.
        gallery_cameras: (G,) cameras.
        rankings: how many random rankings are averaged.
        seed: of the rankings.
    """
    sizes = (len(np.asarray(query_ids)), len(np.asarray(gallery_ids)))
    labels = _check_labels(query_ids, query_cameras, gallery_ids, gallery_cameras, sizes)
    rng = np.random.default_rng(seed)

    def random_rows(rows: slice) -> np.ndarray:
        return rng.random((rows.stop - rows.start, sizes[1]))

    return float(np.mean([_score(labels, random_rows)[1].mean() for _ in range(rankings)]))


def ranked_matches(
    query_feature: ArrayLike | Tensor,
    query_id: int,
    query_camera: int,
    gallery_features: ArrayLike | Tensor,
    gallery_ids: ArrayLike,
    gallery_cameras: ArrayLike,
    *,
    first: int,
) -> list[tuple[int, bool]]:
    """Return the `first` gallery indices for one query (D,) by cosine, each with whether it is a true match."""
    query, gallery = _check_features(torch.as_tensor(query_feature)[None], gallery_features)
    labels = _check_labels([query_id], [query_camera], gallery_ids, gallery_cameras, (1, len(gallery)))
    distances = _distance_rows(query, gallery, "cosine")(slice(0, 1))[0]
    order, hits = _ranking(distances, labels, 0)
    return [(int(index), bool(hit)) for index, hit in zip(order[:first], hits[:first], strict=True)]


def _ranking(distances: np.ndarray, labels: _Labels, query: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the gallery indices that count for one query, nearest first, and which of them are hits."""
    same_id = labels.gallery_ids == labels.query_ids[query]
    same_camera = labels.gallery_cameras == labels.query_cameras[query]
    counted = np.flatnonzero(~(same_id & same_camera) & (labels.gallery_ids != _JUNK))
    order = counted[np.argsort(distances[counted], kind="stable")]
    return order, same_id[order]


def _score(labels: _Labels, rows: Callable[[slice], np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the queries that have a match, their average precisions and the 0-based ranks of their first hits."""
    queries, precisions, first_hits = [], [], []
    for query, distances in _each_row(rows, len(labels.query_ids)):
        _, hits = _ranking(distances, labels, query)
        positions = np.flatnonzero(hits)
        if not len(positions):
            continue
        queries.append(query)
        first_hits.append(positions[0])
        precisions.append(np.mean(np.arange(1, len(positions) + 1) / (positions + 1)))
    if not queries:
        raise ValueError(
            f"evaluate: at least one of the {len(labels.query_ids)} queries must have a gallery image of the same "
            "id from another camera, none has; check ids and cameras"
        )
    return np.array(queries), np.array(precisions), np.array(first_hits)


def bootstrap_interval(values: np.ndarray, *, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean of (n,) `values`."""
    rng = np.random.default_rng(seed)
    # A block of resamples at a time, so that a large query set does not fill the memory.
    sizes = [min(64, resamples - start) for start in range(0, resamples, 64)]
    means = [values[rng.integers(len(values), size=(size, len(values)))].mean(axis=1) for size in sizes]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def _each_row(rows: Callable[[slice], np.ndarray], count: int) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, count, _QUERY_BLOCK):
        block = slice(start, min(start + _QUERY_BLOCK, count))
        yield from enumerate(rows(block), start=start)


def _distance_rows(query: Tensor, gallery: Tensor, metric: Metric) -> Callable[[slice], np.ndarray]:
    if metric == "euclidean":
        # The fast form by a matrix product loses near ties of long features in float32.
        exact = "donot_use_mm_for_euclid_dist"
        return lambda rows: torch.cdist(query[rows], gallery, compute_mode=exact).numpy()
    query, gallery = functional.normalize(query, dim=1), functional.normalize(gallery, dim=1)
    return lambda rows: (1 - query[rows] @ gallery.T).numpy()


def _check_features(query: ArrayLike | Tensor, gallery: ArrayLike | Tensor) -> tuple[Tensor, Tensor]:
    tensors = []
    for name, given in (("query", query), ("gallery", gallery)):
        features = torch.as_tensor(given).detach().cpu()
        if features.ndim != 2 or not len(features):
            raise ValueError(f"evaluate: {name}_features must be (n, D) with n > 0, got {tuple(features.shape)}")
        if features.dtype != torch.float64:
            features = features.float()
        if not torch.isfinite(features).all():
            raise ValueError(f"evaluate: {name}_features must be finite, got NaN or Inf; has training diverged?")
        tensors.append(features)
    if tensors[0].shape[1] != tensors[1].shape[1]:
        widths = f"{tensors[0].shape[1]} and {tensors[1].shape[1]}"
        raise ValueError(f"evaluate: query and gallery features must have the same width, got {widths}")
    return tensors[0], tensors[1]


def _check_labels(
    query_ids: ArrayLike,
    query_cameras: ArrayLike,
    gallery_ids: ArrayLike,
    gallery_cameras: ArrayLike,
    sizes: tuple[int, int],
) -> _Labels:
    given = {
        "query_ids": (np.asarray(query_ids), sizes[0]),
        "query_cameras": (np.asarray(query_cameras), sizes[0]),
        "gallery_ids": (np.asarray(gallery_ids), sizes[1]),
        "gallery_cameras": (np.asarray(gallery_cameras), sizes[1]),
    }
    for name, (values, size) in given.items():
        if values.shape != (size,):
            raise ValueError(f"evaluate: {name} must be ({size},), one an image, got {values.shape}")
    return _Labels(**{name: values for name, (values, _) in given.items()})
