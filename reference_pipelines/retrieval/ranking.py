"""Where each query's true matches stand in its ranking, found by counting what is nearer; no gallery is sorted.

The rules are those of Market-1501 (Zheng et al., ICCV 2015): gallery images of the query's person *and* camera are
dropped, and junk (id -1); distractors (id 0) stay as negatives. Ties are in the order of the gallery index.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from numba import njit
from numpy.typing import ArrayLike

from reference_pipelines.distributed.processes import ALONE, Processes
from reference_pipelines.retrieval.distances import Distances

JUNK = -1

_BLOCK_NUMBERS = 2**25
_LEAST_QUERIES, _MOST_QUERIES = 64, 256
_TASKS_A_THREAD = 4


@dataclass(frozen=True)
class Labels:
    """Who is on each image and which camera took it, junk left out.

    Args:
        query_ids: (Q,) person ids.
        query_cameras: (Q,) cameras.
        counted: (K,) indices of the gallery images that are not junk, ascending.
        gallery_ids: (K,) their person ids.
        gallery_cameras: (K,) their cameras.
        by_id: (K,) positions among `counted`, sorted by id, then by position.
    """

    query_ids: np.ndarray
    query_cameras: np.ndarray
    counted: np.ndarray
    gallery_ids: np.ndarray
    gallery_cameras: np.ndarray
    by_id: np.ndarray

    def same_person(self, queries: slice) -> "SamePerson":
        """Return the counted gallery images of the persons of a block of queries."""
        ids = self.gallery_ids[self.by_id]
        first = np.searchsorted(ids, self.query_ids[queries], side="left")
        sizes = np.searchsorted(ids, self.query_ids[queries], side="right") - first
        starts = np.concatenate([[0], np.cumsum(sizes)])
        rows = np.repeat(np.arange(len(sizes)), sizes)
        columns = self.by_id[np.arange(starts[-1]) + (first - starts[:-1])[rows]]
        dropped = self.gallery_cameras[columns] == self.query_cameras[queries][rows]
        return SamePerson(starts, rows, columns, dropped)

    def count_same_person(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (Q,) how many true matches each query has and (Q,) how many images its own camera took."""
        _, person = np.unique(np.concatenate([self.query_ids, self.gallery_ids]), return_inverse=True)
        cameras, camera = np.unique(np.concatenate([self.query_cameras, self.gallery_cameras]), return_inverse=True)
        _, taken = np.unique(person * len(cameras) + camera, return_inverse=True)
        queries = len(self.query_ids)
        total, dropped = (np.bincount(each[queries:], minlength=len(each))[each[:queries]] for each in (person, taken))
        return total - dropped, dropped


@dataclass(frozen=True)
class SamePerson:
    """The counted gallery images of each query's person, for a block of b queries.

    Args:
        starts: (b + 1,) where each query's images start.
        rows: (E,) the query of each image, counted from the block's first.
        columns: (E,) the image's position among the counted ones, ascending within a query.
        dropped: (E,) whether the query's own camera took it; the others are the true matches.
    """

    starts: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    dropped: np.ndarray


@dataclass(frozen=True)
class Hits:
    """The true matches of all queries, query by query, nearest first.

    Args:
        queries: (H,) the query of each match.
        ranks: (H,) how many counted images stand before it in the query's ranking.
        images: (H,) its gallery index.
    """

    queries: np.ndarray
    ranks: np.ndarray
    images: np.ndarray


def check_labels(
    query_ids: ArrayLike,
    query_cameras: ArrayLike | None,
    gallery_ids: ArrayLike,
    gallery_cameras: ArrayLike | None,
    shape: tuple[int, int],
) -> Labels:
    """Return the labels of Q queries and G gallery images, `shape` being (Q, G).

    Where both have no cameras each image is given one of its own, so that none is dropped.

    Raises:
        ValueError: not one id and one camera an image, or one that is no number; or cameras of one side alone.
    """
    if (query_cameras is None) != (gallery_cameras is None):
        missing = "query_cameras" if query_cameras is None else "gallery_cameras"
        raise ValueError(
            f"evaluate: cameras must be given for queries and gallery, or be None for both, {missing} is None"
        )
    if query_cameras is None:
        query_cameras, gallery_cameras = np.arange(shape[0]), shape[0] + np.arange(shape[1])
    given = {
        "query_ids": (np.asarray(query_ids), shape[0]),
        "query_cameras": (np.asarray(query_cameras), shape[0]),
        "gallery_ids": (np.asarray(gallery_ids), shape[1]),
        "gallery_cameras": (np.asarray(gallery_cameras), shape[1]),
    }
    for name, (values, size) in given.items():
        if values.shape != (size,):
            raise ValueError(f"evaluate: {name} must be ({size},), one an image, got {values.shape}")
        if values.dtype.kind not in "iuf":  # the words "-1" would be no junk
            raise ValueError(f"evaluate: {name} must be numbers, got {values.dtype}")
    ids, cameras = given["gallery_ids"][0], given["gallery_cameras"][0]
    counted = np.flatnonzero(ids != JUNK)
    return Labels(
        query_ids=given["query_ids"][0],
        query_cameras=given["query_cameras"][0],
        counted=counted,
        gallery_ids=ids[counted],
        gallery_cameras=cameras[counted],
        by_id=np.argsort(ids[counted], kind="stable"),
    )


def no_match(labels: Labels) -> str:
    """Say that no query has a match, and what may be the cause."""
    cameras = np.unique(np.concatenate([labels.query_cameras, labels.gallery_cameras]))
    advice = "check ids and cameras"
    if len(cameras) == 1 and np.isin(labels.query_ids, labels.gallery_ids).any():
        advice = (
            f"all of them are of camera {cameras[0]}, and the protocol drops what the query's own camera took; with "
            "one camera only, give None for both cameras: then every gallery image of the person is a match"
        )
    return (
        f"evaluate: at least one of the {len(labels.query_ids)} queries must have a gallery image of the same "
        f"id from another camera, none has; {advice}"
    )


def distance_blocks(
    distances: Distances, labels: Labels, processes: Processes = ALONE
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield a process's share of the blocks of queries, with their (b, K) distances to the counted gallery images."""
    queries, gallery = distances.shape
    size = min(max(_LEAST_QUERIES, _BLOCK_NUMBERS // gallery), _MOST_QUERIES)
    columns: torch.Tensor | None = None
    # The blocks do not depend on how many processes there are: a product's rounding depends on its size.
    for start in processes.share(range(0, queries, size)):
        block = slice(start, min(start + size, queries))
        rows = distances.rows(block).detach()
        if len(labels.counted) < gallery:
            columns = torch.as_tensor(labels.counted, device=rows.device) if columns is None else columns
            rows = rows[:, columns]
        yield block, np.ascontiguousarray(rows.cpu().numpy())


def rank_matches(rows: np.ndarray, same: SamePerson) -> np.ndarray:
    """Return (E,) how many counted images stand before each one of the query's person; -1 where it is dropped.

    Args:
        rows: (b, K) distances to the counted gallery images.
        same: those of the person of each of the b queries.
    """
    ranks = np.full(len(same.columns), -1)
    threads = torch.get_num_threads()
    step = ceil(len(rows) / (_TASKS_A_THREAD * threads))

    def count(start: int) -> None:
        stop = min(start + step, len(rows))
        _count_before(rows, same.starts, same.columns, same.dropped, ranks, start, stop)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(count, range(0, len(rows), step)))
    return ranks


def collect_hits(
    labels: Labels, found: list[tuple[slice, SamePerson, np.ndarray]], processes: Processes = ALONE
) -> Hits:
    """Return the matches of all blocks: each with its queries, their persons' images and the ranks of those.

    Each of several processes passes its share of the blocks and gets the matches of all.
    """
    queries, ranks, images = ([np.empty(0, dtype=np.int64)] for _ in range(3))
    for block, same, before in found:
        kept = ~same.dropped
        queries.append(block.start + same.rows[kept])
        ranks.append(before[kept])
        images.append(labels.counted[same.columns[kept]])
    query, rank, image = (processes.join(np.concatenate(parts)) for parts in (queries, ranks, images))
    order = np.lexsort((rank, query))
    return Hits(query[order], rank[order], image[order])


@njit(cache=True, nogil=True)
def _count_before(rows, starts, columns, dropped, ranks, first, last):  # type: ignore[no-untyped-def]
    """Write the ranks of the queries from `first` to `last`."""
    for row in range(first, last):
        distances = rows[row]
        for match in range(starts[row], starts[row + 1]):
            if dropped[match]:
                continue
            column = columns[match]
            own = distances[column]
            # What is as near and has the lower index stands before it.
            before = _count_up_to(distances[:column], own) + _count_below(distances[column + 1 :], own)
            for other in range(starts[row], starts[row + 1]):
                if dropped[other]:
                    distance = distances[columns[other]]
                    before -= distance < own or (distance == own and columns[other] < column)
            ranks[match] = before


@njit(cache=True, nogil=True)
def _count_up_to(values, limit):  # type: ignore[no-untyped-def]
    count = np.int32(0)  # in 32 bits as many are compared at once as floats fit
    for index in range(values.size):
        count += np.int32(1) if values[index] <= limit else np.int32(0)
    return np.int64(count)


@njit(cache=True, nogil=True)
def _count_below(values, limit):  # type: ignore[no-untyped-def]
    count = np.int32(0)
    for index in range(values.size):
        count += np.int32(1) if values[index] < limit else np.int32(0)
    return np.int64(count)
