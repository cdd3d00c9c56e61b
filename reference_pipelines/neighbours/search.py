"""The nearest neighbours of every point among all points, exact and block by block, or among what an engine proposes.

A product of blocks of at most 2,000 rows serves both of them, as similarity is symmetric; of each row only a few more
candidates than asked for are kept. The candidates' similarities are then computed again, pair by pair in double
precision, and these alone decide: neighbours are ordered by distance, then by index, whatever the blocks, the
threads, the processes and the rounding of the products. Memory grows with N k. Several processes share the pairs of
blocks, of which each reads the rows; then each orders the candidates of its own rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from reference_pipelines.config.clustering import Engine
from reference_pipelines.distributed.processes import ALONE, Processes
from reference_pipelines.neighbours import engines
from reference_pipelines.neighbours.compiled import compete, dot_products
from reference_pipelines.neighbours.engines import SPARE, Approximation
from reference_pipelines.progress import progress_bar
from reference_pipelines.unit_vectors import is_unit, unit_rows

SEARCH_BLOCK = 2000
"""Rows of a block of the search."""

PROGRESS_ABOVE = 10_000
"""Points above which the work is long enough for a progress bar."""

UNSETTLED_ROWS = 250
"""Rows whose neighbours are found at a time by products in double precision."""

_PAIRS_AT_ONCE = 4096
# The largest relative error of a factor where torch is allowed to shorten float32 products.
_SHORTENED = {"high": 2.0**-10, "medium": 2.0**-7}


@dataclass(frozen=True)
class Neighbours:
    """The k nearest of N points, each point itself among the candidates.

    Fields: `indices` (N, k), nearest first, ties in the order of the index; `similarities` (N, k) cosines;
    `least` (N,) the cosine of the farthest point, where it was asked for; `approximation` what an engine's search
    missed, None of an exact one.
    """

    indices: np.ndarray
    similarities: np.ndarray
    least: np.ndarray | None = None
    approximation: Approximation | None = None


def unit_features(features: ArrayLike | Tensor, who: str, name: str = "features") -> Tensor:
    """Return (N, D) features as L2-normalised float32 or float64, on the device where they are.

    Those that are so already are not copied: a memory-mapped file is not loaded.

    Raises:
        ValueError: features that are not finite (N, D) with N > 0.
    """
    points = torch.as_tensor(features).detach()
    if points.ndim != 2 or not len(points):
        raise ValueError(f"{who}: {name} must be (N, D) with N > 0, got {tuple(points.shape)}")
    blocks = list(_blocks(len(points)))
    for block in blocks:
        bad = (~torch.isfinite(points[block])).any(dim=1).nonzero()[:, 0]
        if len(bad):
            row = block.start + int(bad[0])
            raise ValueError(f"{who}: {name} must be finite, got NaN or Inf in row {row}; has training diverged?")
    points = points if points.dtype == torch.float64 else points.float()
    if all(is_unit(points[block]) for block in blocks):
        return points
    return unit_rows(points)


def find_neighbours(
    points: Tensor,
    k: int,
    *,
    engine: Engine = "exact",
    recall: float = 0.99,
    least: bool = False,
    processes: Processes = ALONE,
) -> Neighbours:
    """Return the min(k, N) nearest of every row of (N, D) unit `points` by cosine, the row itself among them.

    Args:
        points: unit vectors, on the device that is to search.
        k: neighbours a point.
        engine: "exact", or what proposes the neighbours where there are more than `engines.SAMPLED_ROWS` points: some
            may be missed, none is ranked wrongly.
        recall: the part of the neighbours that an engine is to find.
        least: whether the farthest point is wanted too; an exact search alone finds it, on the way.
        processes: who share the work. Each passes the same points and gets all neighbours.

    Raises:
        UserError: an engine whose package is not installed.
    """
    engines.require_engine(engine)
    k = min(k, len(points))
    width = min(k + SPARE, len(points))
    own = np.arange(len(points), dtype=np.int32)[processes.place(len(points))]
    doubtful, farthest, approximation = np.zeros(len(own), dtype=bool), None, None
    if engine == "exact" or len(points) <= engines.SAMPLED_ROWS:
        candidates, doubtful, farthest = _exact_candidates(points, k, width, least, processes)
    else:
        candidates, approximation = _proposed_candidates(points, k, width, engine, recall, processes)
    indices, similarities = _ordered(points, own, candidates, k)
    doubtful |= similarities[:, -1] == -np.inf
    indices, similarities, doubtful = (processes.join(each) for each in (indices, similarities, doubtful))
    unsettled = doubtful.nonzero()[0].astype(np.int32)
    indices[unsettled], similarities[unsettled] = _settle(points, unsettled, k, processes)
    farthest_similarities = None if farthest is None else processes.join(pair_similarities(points, own, farthest))
    return Neighbours(indices, similarities, farthest_similarities, approximation)


def pair_similarities(points: Tensor, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the (P,) cosines of the pairs of unit vectors `rows` and `columns`, each (P,), in double precision."""
    if points.device.type == "cpu":
        return dot_products(points.numpy(), rows, columns)
    return _pair_similarities_on_device(points, rows, columns)


def _pair_similarities_on_device(points: Tensor, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    count = len(rows)
    # All blocks are of one size, as the order in which a device sums up depends on it.
    rows, columns = (np.pad(each, (0, -count % _PAIRS_AT_ONCE)) for each in (rows, columns))
    similarities = np.empty(len(rows))
    for start in range(0, len(rows), _PAIRS_AT_ONCE):
        block = slice(start, start + _PAIRS_AT_ONCE)
        first, second = (points[torch.as_tensor(each[block], device=points.device)] for each in (rows, columns))
        similarities[block] = (first.double() * second.double()).sum(dim=1).cpu().numpy()
    return similarities[:count]


class _Best:
    """The largest similarities of each row so far, (N, width) values in falling order, and their columns."""

    def __init__(self, points: Tensor, width: int) -> None:
        shape = (len(points), width)
        self.values = torch.full(shape, -torch.inf, dtype=points.dtype, device=points.device)
        self.columns = torch.zeros(shape, dtype=torch.int32, device=points.device)

    def add(self, rows: slice, similarity: Tensor, first_column: int) -> None:
        """Let the columns of a (rows, columns) block compete."""
        values, columns = self.values[rows], self.columns[rows]
        if values.device.type == "cpu":
            compete(values.numpy(), columns.numpy(), similarity.numpy(), first_column)
        else:
            _compete_on_device(values, columns, similarity, first_column)

    def of_all(self, processes: Processes) -> tuple[Tensor, Tensor]:
        """Return the largest similarities that any process has found for this one's share of rows, and the columns."""
        if processes.count == 1:
            return self.values, self.columns
        values, columns = (torch.cat(processes.exchange(each), dim=1) for each in (self.values, self.columns))
        best = values.topk(self.values.shape[1], dim=1)
        return best.values, columns.gather(1, best.indices)


def _compete_on_device(values: Tensor, columns: Tensor, similarity: Tensor, first_column: int) -> None:
    """Do what `compete` does, on any device."""
    width = values.shape[1]
    new = similarity.topk(min(width, similarity.shape[1]), dim=1)
    together = torch.cat([values, new.values], dim=1)
    both = torch.cat([columns, new.indices.int() + first_column], dim=1)
    best = together.topk(width, dim=1)
    values.copy_(best.values)
    columns.copy_(both.gather(1, best.indices))


def _exact_candidates(
    points: Tensor, k: int, width: int, least: bool, processes: Processes
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return (n, width) candidates, the rows where others could belong to the first k, and, if asked, the farthest.

    The rows are this process's share.
    """
    best = _Best(points, width)
    farthest = _Best(points, 1) if least else None
    blocks = list(_blocks(len(points)))
    pairs = [(a, b) for number, a in enumerate(blocks) for b in blocks[number:]][processes.rank :: processes.count]
    shown = len(points) > PROGRESS_ABOVE and processes.first
    for a, b in progress_bar(pairs, len(pairs), "neighbour search", unit="block", shown=shown):
        similarity = points[a] @ points[b].T
        sides = [(a, similarity, b)] if a == b else [(a, similarity, b), (b, similarity.T.contiguous(), a)]
        for rows, block, columns in sides:
            best.add(rows, block, columns.start)
            if farthest is not None:
                farthest.add(rows, -block, columns.start)
    values, found = best.of_all(processes)
    doubtful = torch.zeros(len(values), dtype=torch.bool)
    if width < len(points):
        gaps = values[:, k - 1] - values[:, -1]
        doubtful = (gaps <= 2 * _product_error(points.shape[1], points.dtype)).cpu()
    last = None if farthest is None else farthest.of_all(processes)[1][:, 0].cpu().numpy()
    return found.cpu().numpy(), doubtful.numpy(), last


def _settle(points: Tensor, rows: np.ndarray, k: int, processes: Processes) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest among all points of the (R,) `rows`, and the similarities of those.

    The products are in double precision, so that only what is tied, or nearly, is left to the pair by pair ones.
    """
    own = rows[processes.place(len(rows))]
    indices, similarities = np.empty((len(own), k), dtype=np.int32), np.empty((len(own), k))
    columns = _without_later_duplicates(points, k) if len(own) else own
    starts = range(0, len(own), UNSETTLED_ROWS)
    shown = len(points) > PROGRESS_ABOVE and processes.first
    for start in progress_bar(starts, len(starts), "near ties", unit="block", shown=shown):
        some = slice(start, start + UNSETTLED_ROWS)
        indices[some], similarities[some] = nearest_columns(points, own[some], columns, k)
    return (processes.join(indices), processes.join(similarities)) if len(rows) else (indices, similarities)


def nearest_columns(points: Tensor, rows: np.ndarray, columns: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest of the (b,) `rows` among the points `columns`, and their similarities."""
    best, best_columns = np.full((len(rows), k), -np.inf), np.zeros((len(rows), k), dtype=np.int32)
    error = 2 * _product_error(points.shape[1], torch.float64)
    chosen = points[torch.as_tensor(rows, device=points.device)].double()
    for block in _blocks(len(columns)):
        others = columns[block]
        similarity = chosen @ points[torch.as_tensor(others, device=points.device)].double().T
        # No nearer than the last of the best so far, or than k others of this block: not among the nearest.
        low = torch.as_tensor(best[:, -1], device=points.device)
        if len(others) >= k:
            low = low.maximum(similarity.topk(k, dim=1).values[:, -1])
        near, places = (each.cpu().numpy() for each in (similarity >= low[:, None] - error).nonzero(as_tuple=True))
        new = others[places]
        values = pair_similarities(points, rows[near], new)
        near = np.concatenate([np.repeat(np.arange(len(rows)), k), near])
        new, values = np.concatenate([best_columns.ravel(), new]), np.concatenate([best.ravel(), values])
        order = np.lexsort((new, -values, near))
        first = order[np.arange(len(near)) - np.searchsorted(near[order], near[order]) < k]
        best, best_columns = values[first].reshape(-1, k), new[first].reshape(-1, k)
    return best_columns, best


def _without_later_duplicates(points: Tensor, k: int) -> np.ndarray:
    """Return the points that can be among anyone's k nearest, which one with k duplicates before it cannot."""
    key = np.array([hash(row.tobytes()) for block in _blocks(len(points)) for row in points[block].cpu().numpy()])
    order = np.argsort(key, kind="stable")
    before = np.arange(len(key)) - np.searchsorted(key[order], key[order])
    return np.sort(order[before < k]).astype(np.int32)


def _proposed_candidates(
    points: Tensor, k: int, width: int, engine: Engine, recall: float, processes: Processes
) -> tuple[np.ndarray, Approximation]:
    """Return (n, width) candidates of this process's rows, -1 where too few are found, and how many are missed."""
    vectors = points.float().cpu().numpy()
    index = engines.build_index(engine, vectors, processes)
    rows = engines.sample_rows(len(points)).astype(np.int32)
    nearest, own = _settle(points, rows, k, processes)[1], rows[processes.place(len(rows))]

    def find(effort: int) -> np.ndarray:
        proposed = index.search(vectors[own], width, effort).astype(np.int32)
        return processes.join(_ordered(points, own, proposed, k)[1])

    effort, approximation = engines.least_effort(index, find, nearest, recall)
    own_vectors = vectors[processes.place(len(vectors))]
    return engines.propose(index, own_vectors, width, effort, shown=processes.first), approximation


def _ordered(points: Tensor, rows: np.ndarray, candidates: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest of each row's (R, width) candidates, and their similarities; -inf where one is -1."""
    similarities = pair_similarities(points, np.repeat(rows, candidates.shape[1]), candidates.ravel())
    similarities = np.where(candidates < 0, -np.inf, similarities.reshape(candidates.shape))
    order = np.lexsort((candidates, -similarities))[:, :k]
    return np.take_along_axis(candidates, order, axis=1), np.take_along_axis(similarities, order, axis=1)


def _product_error(dim: int, dtype: torch.dtype) -> float:
    """Return how far a product of two unit vectors may be from the true one, at most."""
    error = (dim + 2) * torch.finfo(dtype).eps / 2
    if dtype == torch.float32:
        error += _SHORTENED.get(torch.get_float32_matmul_precision(), 0.0)
    return error


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + SEARCH_BLOCK, count)) for start in range(0, count, SEARCH_BLOCK))
