"""The nearest of a gallery to each query, exact in double precision, or among what an engine proposes.

The gallery may lie on the disk: it is read a block at a time. Neighbours are ordered by similarity, then by index, as
in the search among all points, whatever the blocks.
"""

import numpy as np
import torch
from torch import Tensor

from reference_pipelines.config.clustering import Engine
from reference_pipelines.distributed.processes import ALONE, Processes
from reference_pipelines.neighbours import engines
from reference_pipelines.neighbours import search as among_all
from reference_pipelines.neighbours.search import Neighbours, nearest_columns, pair_similarities
from reference_pipelines.progress import progress_bar

GALLERY_BLOCK = 20_000
"""Rows of the gallery that are in memory at a time."""


def find_in_gallery(
    query: np.ndarray,
    gallery: np.ndarray,
    k: int,
    *,
    engine: Engine = "exact",
    recall: float = 0.99,
    processes: Processes = ALONE,
) -> Neighbours:
    """Return the min(k, G) nearest rows of the gallery to each query, by cosine.

    Args:
        query: (Q, D) unit vectors, float32.
        gallery: (G, D) unit vectors, float32; a memory-mapped array is not loaded whole.
        k: neighbours a query.
        engine: "exact", or what proposes the neighbours of more than `engines.SAMPLED_ROWS` queries: some may be
            missed, none is ranked wrongly.
        recall: the part of the neighbours that an engine is to find.
        processes: who share the queries. Each passes the same and gets all neighbours.

    Returns:
        `indices` (Q, k) rows of the gallery, -1 where an engine proposes too few; `similarities` (Q, k), -inf for
        these.

    Raises:
        UserError: an engine whose package is not installed.
    """
    engines.require_engine(engine)
    k = min(k, len(gallery))
    # To know the recall so many queries are searched exactly anyway.
    if engine != "exact" and len(query) > engines.SAMPLED_ROWS:
        return _among_proposed(query, gallery, k, engine, recall, processes)
    return _exactly(query, gallery, k, processes)


def _exactly(query: np.ndarray, gallery: np.ndarray, k: int, processes: Processes) -> Neighbours:
    query = query[processes.place(len(query))]
    found = [np.empty((len(query), 0), dtype=np.int64), np.empty((len(query), 0))]
    starts = range(0, len(gallery), GALLERY_BLOCK)
    for start in progress_bar(starts, len(starts), "search", unit="block", shown=processes.first):
        block = gallery[start : start + GALLERY_BLOCK]
        nearest, similarities = _nearest_of_block(query, block, min(k, len(block)))
        found = _merge(found, [nearest + start, similarities], k)
    return Neighbours(processes.join(found[0]), processes.join(found[1]))


def _nearest_of_block(query: np.ndarray, block: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    points = torch.from_numpy(np.concatenate([query, block]))
    columns = np.arange(len(query), len(points), dtype=np.int32)
    step = among_all.UNSETTLED_ROWS
    rows = [np.arange(i, min(i + step, len(query)), dtype=np.int32) for i in range(0, len(query), step)]
    found = [nearest_columns(points, some, columns, k) for some in rows or [np.empty(0, dtype=np.int32)]]
    return np.concatenate([each[0] for each in found]).astype(np.int64) - len(query), np.concatenate(
        [each[1] for each in found]
    )


def _merge(first: list[np.ndarray], second: list[np.ndarray], k: int) -> list[np.ndarray]:
    """Return the k best of two lists of indices and similarities a row, ties in the order of the index."""
    indices, similarities = (np.concatenate(pair, axis=1) for pair in zip(first, second, strict=True))
    order = np.lexsort((indices, -similarities))[:, :k]
    return [np.take_along_axis(each, order, axis=1) for each in (indices, similarities)]


def _among_proposed(
    query: np.ndarray, gallery: np.ndarray, k: int, engine: Engine, recall: float, processes: Processes
) -> Neighbours:
    width = min(k + engines.SPARE, len(gallery))
    index = engines.build_index(engine, gallery.astype(np.float32, copy=False), processes)
    some = query[engines.sample_rows(len(query))]
    nearest, sampled = _exactly(some, gallery, k, processes).similarities, some[processes.place(len(some))]

    def find(effort: int) -> np.ndarray:
        proposed = index.search(sampled.astype(np.float32, copy=False), width, effort)
        return processes.join(_best_of(sampled, gallery, proposed, k)[1])

    effort, approximation = engines.least_effort(index, find, nearest, recall)
    own = query[processes.place(len(query))]
    candidates = engines.propose(index, own.astype(np.float32, copy=False), width, effort, shown=processes.first)
    indices, similarities = (processes.join(each) for each in _best_of(own, gallery, candidates.astype(np.int64), k))
    return Neighbours(indices, similarities, approximation=approximation)


def _best_of(query: np.ndarray, gallery: np.ndarray, candidates: np.ndarray, k: int) -> list[np.ndarray]:
    """Return the k nearest of each query's (Q, width) candidates, rows of the gallery, and their similarities."""
    chosen, places = np.unique(candidates, return_inverse=True)
    points: Tensor = torch.from_numpy(np.concatenate([query, gallery[np.maximum(chosen, 0)]]))
    rows = np.repeat(np.arange(len(query), dtype=np.int32), candidates.shape[1])
    columns = (places.ravel() + len(query)).astype(np.int32)
    similarities = pair_similarities(points, rows, columns).reshape(candidates.shape)
    similarities[candidates < 0] = -np.inf
    none = [candidates[:, :0], similarities[:, :0]]
    return _merge(none, [candidates, similarities], k)
