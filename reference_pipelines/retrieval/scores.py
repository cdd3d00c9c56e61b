"""The matches by query and by camera, and what random rankings score."""

from dataclasses import dataclass

import numpy as np

from reference_pipelines.ranks.scoring import QueryRanks, Ranked, starts_of
from reference_pipelines.retrieval.ranking import Hits, Labels


@dataclass(frozen=True)
class CameraPair:
    """How well queries of one camera find their persons' images of another.

    The matches of the other cameras are dropped, the negatives of all cameras stay, as in Market-1501's own figures
    of camera pairs. A query counts where it has a match from that camera.

    Args:
        query_camera: the camera of the queries.
        gallery_camera: the camera of the matches.
        queries: how many queries count.
        mAP: mean of their average precision, 0 to 1.
        rank1: the part of them with a match first.
    """

    query_camera: int
    gallery_camera: int
    queries: int
    mAP: float
    rank1: float


def query_ranks(hits: Hits, labels: Labels) -> QueryRanks:
    """Return the ranks by query; hits has at least one."""
    ranked = _by_query(hits)
    queries = hits.queries[ranked.starts]
    _, dropped = labels.count_same_person()
    return QueryRanks(
        ranks=hits.ranks.astype(np.int32),
        matches=ranked.sizes.astype(np.int32),
        images=(len(labels.counted) - dropped[queries]).astype(np.int32),
        queries=queries.astype(np.int32),
        people=labels.query_ids[queries].astype(np.int64),
        skipped=len(labels.query_ids) - len(queries),
    )


def camera_pairs(hits: Hits, query_cameras: np.ndarray, gallery_cameras: np.ndarray) -> tuple[CameraPair, ...]:
    """Return the pairs that have a match, by query camera and gallery camera.

    Args:
        hits: the matches.
        query_cameras: (Q,) cameras.
        gallery_cameras: (G,) cameras.
    """
    whole = _by_query(hits)
    cameras, camera = np.unique(gallery_cameras[hits.images], return_inverse=True)
    order = np.lexsort((hits.ranks, camera, hits.queries))
    group = hits.queries * len(cameras) + camera[order]  # the order within a query changes alone
    starts = starts_of(group)
    # The group's own matches count as before; the other cameras' before each are dropped.
    number = Ranked(hits.ranks, starts).numbers
    part = Ranked(hits.ranks[order] - whole.numbers[order] + number, starts)
    precision, found = part.average_precision(), part.first == 0
    kinds, query_camera = np.unique(query_cameras[hits.queries[starts]], return_inverse=True)
    pair = query_camera * len(cameras) + camera[order][starts]
    result = []
    for each in np.unique(pair):
        own = pair == each
        names = kinds[each // len(cameras)].item(), cameras[each % len(cameras)].item()
        result.append(CameraPair(*names, int(own.sum()), float(precision[own].mean()), float(found[own].mean())))
    return tuple(result)


def expected_average_precision(matches: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return (N,) the expectation of the average precision when `images` are in random order, `matches` of them hits.

    At rank r stands a hit with probability m/n, and then (m-1)/(n-1) of the r-1 images before it are expected to be
    hits; so the expectation is (H + (m-1)/(n-1) * (n - H)) / n with H = 1 + 1/2 + ... + 1/n.

    Args:
        matches: (N,) m, at least 1.
        images: (N,) n, at least m.
    """
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, images.max() + 1))])[images]
    others = (matches - 1) / np.maximum(images - 1, 1)
    return (harmonic + others * (images - harmonic)) / images


def _by_query(hits: Hits) -> Ranked:
    return Ranked(hits.ranks, starts_of(hits.queries))
