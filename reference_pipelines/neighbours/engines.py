"""Engines that propose neighbours: faiss's indices, each searched as hard as a recall that is asked for takes.

An engine only proposes. What it proposes is compared again in double precision and ordered by similarity, then by
index; what it misses is counted on rows whose neighbours are found exactly too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, get_args

import numpy as np
import torch

from reference_pipelines.config.clustering import Engine
from reference_pipelines.distributed.processes import ALONE, Processes
from reference_pipelines.errors import UserError
from reference_pipelines.progress import progress_bar

SAMPLED_ROWS = 1000
"""Rows that are searched exactly too, to measure an engine's recall; of up to so many rows all are."""

SPARE = 8
"""Candidates beyond k that are asked for, as the engines' products are of single precision."""

_QUERIES_AT_ONCE = 2000
# Of the HNSW graph (Malkov and Yashunin, TPAMI 2020): edges a point, and how hard it looks for them.
_EDGES, _BUILDING_EFFORT = 32, 100


class Index(Protocol):
    """Vectors that can be searched, N of D numbers.

    Fields: `efforts`, how hard it can search, rising; `index`, faiss's own.
    """

    efforts: tuple[int, ...]
    index: Any

    def search(self, query: np.ndarray, width: int, effort: int) -> np.ndarray:
        """Return (Q, width) rows of the vectors, -1 where fewer were found, for each float32 query of (Q, D)."""
        ...


class _Flat:
    """All vectors are looked at, in single precision."""

    efforts: tuple[int, ...] = (1,)

    def __init__(self, index: Any) -> None:
        self.index = index

    @staticmethod
    def empty(faiss: Any, dim: int) -> Any:
        """Return faiss's index without vectors."""
        return faiss.IndexFlatIP(dim)

    def search(self, query: np.ndarray, width: int, effort: int) -> np.ndarray:
        found: np.ndarray = self.index.search(query, width)[1]
        return found


class _Graph:
    """A graph of near vectors is walked; its effort is how many candidates the walk keeps."""

    efforts: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048)

    def __init__(self, index: Any) -> None:
        self.index = index

    @staticmethod
    def empty(faiss: Any, dim: int) -> Any:
        """Return faiss's index without vectors."""
        index = faiss.IndexHNSWFlat(dim, _EDGES, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _BUILDING_EFFORT
        return index

    def search(self, query: np.ndarray, width: int, effort: int) -> np.ndarray:
        self.index.hnsw.efSearch = max(effort, width)
        found: np.ndarray = self.index.search(query, width)[1]
        return found


_INDICES: dict[str, type[_Flat] | type[_Graph]] = {"faiss-flat": _Flat, "faiss-hnsw": _Graph}


@dataclass(frozen=True)
class Approximation:
    """How many of the true neighbours an engine found.

    Args:
        recall: of the k nearest, the part that it found, on rows that were searched exactly too.
        target: the recall that was asked for.
        rows: how many rows those were.
    """

    recall: float
    target: float
    rows: int

    def __str__(self) -> str:
        below = f", below the {self.target:g} asked for" if self.recall < self.target else ""
        return f"recall {self.recall:.4f} on {self.rows:,} sampled rows{below}"


def check_engine(who: str, engine: Engine, recall: float) -> None:
    """Refuse what is no engine, or no recall.

    Raises:
        ValueError: it is none.
    """
    if engine not in get_args(Engine):
        raise ValueError(f"{who}: engine must be one of {', '.join(get_args(Engine))}, got {engine!r}")
    if not 0 < recall <= 1:
        raise ValueError(f"{who}: recall must be above 0 and at most 1, got {recall:g}")


def require_engine(engine: Engine) -> None:
    """Refuse an engine whose package is not installed.

    Raises:
        UserError: it is not.
    """
    if engine == "exact":
        return
    try:
        import faiss  # noqa: F401
    except ModuleNotFoundError:
        raise UserError(
            f"search: the engine {engine} needs faiss, which is not installed; "
            "pip install 'attnreid[faiss]' or search with the engine exact"
        ) from None


def build_index(engine: Engine, vectors: np.ndarray, processes: Processes = ALONE) -> Index:
    """Return float32 `vectors` (N, D) in an engine's index, on as many threads as torch has.

    The first process builds it and hands it to the others: on several threads no two graphs are the same.
    """
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = None
    if processes.first:
        index = _INDICES[engine].empty(faiss, vectors.shape[1])
        index.add(np.ascontiguousarray(vectors))
    if processes.count > 1:
        written = processes.spread(np.empty(0) if index is None else faiss.serialize_index(index))
        index = faiss.deserialize_index(written) if index is None else index
    return index_of(engine, index)


def index_of(engine: Engine, built: Any) -> Index:
    """Return faiss's own index of an engine as what is searched here."""
    return _INDICES[engine](built)


def sample_rows(count: int) -> np.ndarray:
    """Return `SAMPLED_ROWS` of `count` rows, ascending; the same at each call."""
    return np.sort(np.random.default_rng(0).choice(count, SAMPLED_ROWS, replace=False))


def least_effort(
    index: Index, find: Callable[[int], np.ndarray], nearest: np.ndarray, target: float
) -> tuple[int, Approximation]:
    """Return the least effort that reaches a recall, or the greatest where none does, and the recall it reaches.

    Args:
        index: what is searched.
        find: returns the similarities (S, k) of what the index finds for the sampled rows at an effort, falling.
        nearest: (S, k) similarities of the true neighbours, falling. One as near as the last of them is a neighbour,
            so that ties are not counted as missed.
        target: the recall.
    """
    for effort in index.efforts:
        recall = float((find(effort) >= nearest[:, -1:]).mean())
        if recall >= target:
            break
    return effort, Approximation(recall, target, len(nearest))


def propose(index: Index, query: np.ndarray, width: int, effort: int, *, shown: bool = True) -> np.ndarray:
    """Return (Q, width) rows of the index that may be the nearest to each of the (Q, D) float32 queries."""
    candidates = np.empty((len(query), width), dtype=np.int32)
    starts = range(0, len(query), _QUERIES_AT_ONCE)
    for start in progress_bar(starts, len(starts), "approximate search", unit="block", shown=shown):
        block = slice(start, start + _QUERIES_AT_ONCE)
        candidates[block] = index.search(np.ascontiguousarray(query[block]), width, effort)
    return candidates
