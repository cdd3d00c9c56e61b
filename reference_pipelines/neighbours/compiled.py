"""The compiled loops over sparse neighbours; each works off a range of rows, so that threads can share the rows."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import njit
from scipy import sparse

from reference_pipelines.progress import progress_bar

_ROWS_AT_ONCE = 1024
_COMPETING_ROWS = 512
_PAIRS_AT_ONCE = 65_536


def shared_minima(
    rows: sparse.csr_array, others: sparse.csr_array, *, max_distance: float, shown: bool = False
) -> sparse.csr_array:
    """Return the Jaccard distances 1 - m / (2 - m), m the sum of the minima of two rows of weights.

    Args:
        rows: (R, N) weights, each row's sum being 1.
        others: (S, N) weights likewise.
        max_distance: pairs further apart are left out; at 1 those that share no column.
        shown: whether a progress bar is.

    Returns:
        (R, S) distances in [0, max_distance] with sorted columns; zeros are stored.
    """
    by_column = others.tocsc()
    arrays = (rows.indptr, rows.indices, rows.data, by_column.indptr, by_column.indices, by_column.data)

    def work(start: int, stop: int) -> Any:
        return _minima_of_rows(*arrays, others.shape[0], max_distance, start, stop)

    blocks = _in_blocks(work, rows.shape[0], _ROWS_AT_ONCE, "Jaccard distances", shown) or [work(0, 0)]
    counts, indices, distances = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    indptr = np.concatenate([[0], np.cumsum(counts)])
    graph = sparse.csr_array((distances, indices, indptr), shape=(rows.shape[0], others.shape[0]))
    graph.sort_indices()
    return graph


def compete(best: np.ndarray, columns: np.ndarray, block: np.ndarray, first_column: int) -> None:
    """Let the columns of a (R, C) block of similarities compete for the best of each row, which are changed in place.

    Args:
        best: (R, width) largest similarities so far, in falling order.
        columns: (R, width) their columns.
        block: (R, C) similarities.
        first_column: the number of the block's first column.
    """

    def work(start: int, stop: int) -> None:
        _compete(best, columns, block, first_column, start, stop)

    _in_blocks(work, len(block), _COMPETING_ROWS)


def dot_products(points: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the (P,) products of the rows `rows` and `columns`, each (P,), of (N, D) `points`, in double precision.

    A product depends on its two vectors alone, not on where they stand: those of duplicates are equal.
    """
    products = np.empty(len(rows))

    def work(start: int, stop: int) -> None:
        _dot_products(points, rows, columns, products, start, stop)

    _in_blocks(work, len(rows), _PAIRS_AT_ONCE)
    return products


def look_up(indices: np.ndarray, values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return what is known of the pairs (rows[p], columns[p]) from either one's neighbours, and NaN where nothing is.

    Args:
        indices: (N, k) neighbours.
        values: (N, k) what is known of them, the same for (i, j) as for (j, i).
        rows: (P,) points.
        columns: (P,) points.
    """
    found = np.empty(len(rows))

    def work(start: int, stop: int) -> None:
        _look_up(indices, values, rows, columns, found, start, stop)

    _in_blocks(work, len(rows), _PAIRS_AT_ONCE)
    return found


def _in_blocks(
    work: Callable[[int, int], Any], count: int, size: int, title: str = "", shown: bool = False
) -> list[Any]:
    """Return what `work` makes of each block of `count` items, in their order, on as many threads as torch uses."""
    starts = range(0, count, size)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        results = pool.map(lambda start: work(start, min(start + size, count)), starts)
        return list(progress_bar(results, len(starts), title, unit="block", shown=shown))


@njit(cache=True, nogil=True)
def _minima_of_rows(  # type: ignore[no-untyped-def]
    row_starts, row_columns, row_weights, column_starts, column_rows, column_weights, others, max_distance, start, stop
):
    """Return how many pairs each row from `start` to `stop` keeps, their other rows and their distances."""
    shared = np.zeros(others, dtype=np.float64)
    touched = np.empty(others, dtype=np.int32)
    counts = np.zeros(stop - start, dtype=np.int64)
    indices = np.empty(1024, dtype=np.int32)
    distances = np.empty(1024, dtype=np.float64)
    kept = 0
    for row in range(start, stop):
        reached = 0
        for entry in range(row_starts[row], row_starts[row + 1]):
            column, weight = row_columns[entry], row_weights[entry]
            for other in range(column_starts[column], column_starts[column + 1]):
                neighbour = column_rows[other]
                if shared[neighbour] == 0.0:
                    touched[reached] = neighbour
                    reached += 1
                shared[neighbour] += min(weight, column_weights[other])
        if kept + reached > len(indices):
            longer = 2 * (kept + reached)
            indices = np.concatenate((indices[:kept], np.empty(longer - kept, dtype=np.int32)))
            distances = np.concatenate((distances[:kept], np.empty(longer - kept, dtype=np.float64)))
        before = kept
        for position in range(reached):
            neighbour = touched[position]
            distance = max(0.0, 1.0 - shared[neighbour] / (2.0 - shared[neighbour]))
            shared[neighbour] = 0.0
            if distance <= max_distance:
                indices[kept] = neighbour
                distances[kept] = distance
                kept += 1
        counts[row - start] = kept - before
    return counts, indices[:kept].copy(), distances[:kept].copy()


@njit(cache=True, nogil=True)
def _compete(best, columns, block, first_column, start, stop):  # type: ignore[no-untyped-def]
    """Insert what is larger than the last of the best, row by row from `start` to `stop`."""
    last = best.shape[1] - 1
    for row in range(start, stop):
        least = best[row, last]
        for column in range(block.shape[1]):
            value = block[row, column]
            if value > least:
                place = last
                while place > 0 and best[row, place - 1] < value:
                    best[row, place] = best[row, place - 1]
                    columns[row, place] = columns[row, place - 1]
                    place -= 1
                best[row, place] = value
                columns[row, place] = first_column + column
                least = best[row, last]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _dot_products(points, rows, columns, products, start, stop):  # type: ignore[no-untyped-def]
    """Write the products of the pairs from `start` to `stop`."""
    for pair in range(start, stop):
        first, second = points[rows[pair]], points[columns[pair]]
        product = 0.0
        for d in range(points.shape[1]):
            product += np.float64(first[d]) * np.float64(second[d])
        products[pair] = product


@njit(cache=True, nogil=True)
def _look_up(indices, values, rows, columns, found, start, stop):  # type: ignore[no-untyped-def]
    """Write what is known of the pairs from `start` to `stop`."""
    for pair in range(start, stop):
        row, column = rows[pair], columns[pair]
        found[pair] = np.nan
        for position in range(indices.shape[1]):
            if indices[row, position] == column:
                found[pair] = values[row, position]
                break
            if indices[column, position] == row:
                found[pair] = values[column, position]
                break
