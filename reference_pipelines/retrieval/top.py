"""What the nearest k gallery images of each query tell of a ranking, without the rest of it.

The rules are those of `evaluate`. CMC up to k is exact. How many matches a query has is known from the labels, so that
the average precision lies between two bounds: the matches that are not among the k stand directly behind them, or at
the gallery's end.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from reference_pipelines.config.clustering import Engine
from reference_pipelines.distributed.processes import ALONE, Processes
from reference_pipelines.neighbours.engines import Approximation, check_engine
from reference_pipelines.neighbours.gallery import find_in_gallery
from reference_pipelines.neighbours.search import unit_features
from reference_pipelines.ranks.scoring import Ranked, starts_of
from reference_pipelines.retrieval.ranking import Labels, check_labels, no_match


@dataclass(frozen=True)
class TopResult:
    """Scores out of the k nearest images of each query; all figures are 0 to 1, means over the queries with a match.

    Args:
        k: images of a query that were looked at, those that the rules drop not counted.
        cmc: for each k' up to k the part of the queries with a match among the first k'.
        mAP: least and greatest mean average precision that the whole ranking can have; equal where k is all of it.
        mAP_market: the same of the average precision as Market-1501's evaluation code has it.
        average_precision: (valid queries, 2) the bounds of each.
        average_precision_market: (valid queries, 2) the bounds of each.
        queries: (valid queries,) their indices among the queries given.
        skipped: queries left out because nothing in the gallery matches them.
        approximation: what the engine missed, which makes all scores estimates and no bounds; None of an exact search.
    """

    k: int
    cmc: dict[int, float]
    mAP: tuple[float, float]
    mAP_market: tuple[float, float]
    average_precision: np.ndarray
    average_precision_market: np.ndarray
    queries: np.ndarray
    skipped: int
    approximation: Approximation | None = None


def evaluate_top(
    query_features: ArrayLike | Tensor,
    query_ids: ArrayLike,
    query_cameras: ArrayLike | None,
    gallery_features: ArrayLike | Tensor,
    gallery_ids: ArrayLike,
    gallery_cameras: ArrayLike | None,
    *,
    k: int,
    engine: Engine = "exact",
    recall: float = 0.99,
    ranks: tuple[int, ...] = (1, 5, 10, 20),
    processes: Processes = ALONE,
) -> TopResult:
    """Find the k nearest gallery images of each query by cosine, and score what they tell of the whole ranking.

    So many more than k are searched for as the rules drop images of a query at most. They are ordered in double
    precision, ties by gallery index; `evaluate` orders by float32 products of float32 features, which may rank images
    otherwise whose cosines differ by less than 1e-6.

    Args:
        query_features: (Q, D) features; half precision is computed in float32.
        query_ids: (Q,) person ids.
        query_cameras: (Q,) cameras, or None as in `evaluate`.
        gallery_features: (G, D) features.
        gallery_ids: (G,) person ids; 0 marks a distractor and -1 junk.
        gallery_cameras: (G,) cameras, or None.
        k: images of a query, at least 1.
        engine: "exact", or an index of faiss, "faiss-flat" or "faiss-hnsw", of which the scores are estimates.
        recall: the part of the nearest images that an index is to find, above 0 and at most 1.
        ranks: the k of CMC@k; those up to k, and k itself, are scored.
        processes: who share the search. Each passes the same and gets the whole result.

    Raises:
        ValueError: shapes that do not fit, features that are not finite, options out of range, or no query with a
            match.
        UserError: an engine without faiss.
    """
    check_engine("evaluate", engine, recall)
    query = unit_features(query_features, "evaluate", "query_features").cpu().numpy()
    gallery = unit_features(gallery_features, "evaluate", "gallery_features").cpu().numpy()
    if query.shape[1] != gallery.shape[1]:
        widths = f"{query.shape[1]} and {gallery.shape[1]}"
        raise ValueError(f"evaluate: query and gallery features must have the same width, got {widths}")
    labels = check_labels(query_ids, query_cameras, gallery_ids, gallery_cameras, (len(query), len(gallery)))
    matches, dropped = labels.count_same_person()
    _check(labels, matches, k, ranks)
    width = k + int(dropped.max())
    found = find_in_gallery(query, gallery[labels.counted], width, engine=engine, recall=recall, processes=processes)
    return _score(labels, _Top(labels, found.indices, k), ranks, found.approximation)


def score_top(
    neighbours: ArrayLike,
    query_ids: ArrayLike,
    query_cameras: ArrayLike | None,
    gallery_ids: ArrayLike,
    gallery_cameras: ArrayLike | None,
    *,
    k: int,
    ranks: tuple[int, ...] = (1, 5, 10, 20),
) -> TopResult:
    """Score the nearest gallery images of each query, found by whatever means.

    Args:
        neighbours: (Q, w) gallery indices, nearest first, none twice for a query; -1 for none. After junk and the
            images of the query's own camera are dropped, k must be left, or all there are.
        query_ids: (Q,) person ids.
        query_cameras: (Q,) cameras, or None as in `evaluate`.
        gallery_ids: (G,) person ids.
        gallery_cameras: (G,) cameras, or None.
        k: images of a query that are looked at, at least 1.
        ranks: the k of CMC@k; those up to k, and k itself, are scored.

    Raises:
        ValueError: shapes that do not fit, too few neighbours of a query, k below 1, or no query with a match.
    """
    indices = np.asarray(neighbours)
    sizes = len(np.asarray(query_ids)), len(np.asarray(gallery_ids))
    labels = check_labels(query_ids, query_cameras, gallery_ids, gallery_cameras, sizes)
    if indices.ndim != 2 or len(indices) != sizes[0] or indices.dtype.kind not in "iu":
        got = f"{indices.shape} {indices.dtype}"
        raise ValueError(f"evaluate: neighbours must be ({sizes[0]}, w) gallery indices, got {got}")
    if indices.size and not -1 <= indices.min() <= indices.max() < sizes[1]:
        got = f"{indices.min()} to {indices.max()}"
        raise ValueError(f"evaluate: neighbours must be -1 or below {sizes[1]}, the gallery's size, got {got}")
    _check(labels, labels.count_same_person()[0], k, ranks)
    # Junk, which is not counted, takes the place of none.
    places = np.append(np.full(sizes[1], -1), -1)
    places[labels.counted] = np.arange(len(labels.counted))
    top = _Top(labels, places[indices], k)
    if short := np.flatnonzero(top.seen < np.minimum(k, top.images)).tolist():
        raise ValueError(
            f"evaluate: of each query {k} neighbours must be left where images are dropped, or all, query {short[0]} "
            f"has {top.seen[short[0]]}; give more"
        )
    return _score(labels, top, ranks, None)


def _check(labels: Labels, matches: np.ndarray, k: int, ranks: tuple[int, ...]) -> None:
    if k < 1 or any(rank < 1 for rank in ranks):
        raise ValueError(f"evaluate: k and ranks must be at least 1, got {k} and {ranks}")
    if not matches.any():
        raise ValueError(no_match(labels))


class _Top:
    """The first k of each query's neighbours that the rules leave.

    Args:
        labels: of Q queries and the K counted gallery images.
        neighbours: (Q, w) positions among the counted images, nearest first; -1 for none.
        k: that are kept.
    """

    def __init__(self, labels: Labels, neighbours: np.ndarray, k: int) -> None:
        self.k = k
        self.matches, dropped = labels.count_same_person()
        self.images = len(labels.counted) - dropped
        same = labels.gallery_ids[neighbours] == labels.query_ids[:, None]
        own = same & (labels.gallery_cameras[neighbours] == labels.query_cameras[:, None])
        valid = (neighbours >= 0) & ~own
        ranks = np.cumsum(valid, axis=1) - 1
        kept = valid & (ranks < k)
        self.seen = kept.sum(axis=1)
        self.queries, columns = (kept & same).nonzero()
        self.ranks = ranks[self.queries, columns]

    def ranked(self, *, unseen_next: bool) -> Ranked:
        """Return where the matches stand, if those that were not seen come next, or last."""
        unseen = self.matches - np.bincount(self.queries, minlength=len(self.matches))
        first = self.seen if unseen_next else self.images - unseen
        behind = np.repeat(np.arange(len(unseen)), unseen)
        numbers = np.arange(len(behind)) - np.repeat(np.cumsum(unseen) - unseen, unseen)
        queries = np.concatenate([self.queries, behind])
        ranks = np.concatenate([self.ranks, first[behind] + numbers])
        order = np.lexsort((ranks, queries))
        return Ranked(ranks[order], starts_of(queries[order]))


def _score(labels: Labels, top: _Top, ranks: tuple[int, ...], approximation: Approximation | None) -> TopResult:
    last, following = (top.ranked(unseen_next=each) for each in (False, True))
    precision = np.stack([last.average_precision(), following.average_precision()], axis=1)
    market = np.stack([last.average_precision_market(), following.average_precision_market()], axis=1)
    # A match that was not seen stands at k or behind, so that the first k places are known.
    cmc = {each: float(np.mean(last.first < each)) for each in sorted({*ranks, top.k}) if each <= top.k}
    queries = np.flatnonzero(top.matches)
    return TopResult(
        k=top.k,
        cmc=cmc,
        mAP=_bounds(precision),
        mAP_market=_bounds(market),
        average_precision=precision,
        average_precision_market=market,
        queries=queries,
        skipped=len(labels.query_ids) - len(queries),
        approximation=approximation,
    )


def _bounds(values: np.ndarray) -> tuple[float, float]:
    least, greatest = values.mean(axis=0).tolist()
    return least, greatest
