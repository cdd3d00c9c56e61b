"""What an engine's neighbours cost and how many it misses, effort by effort: python -m benchmarks.engines."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from attnreid.files import replacing
from benchmarks.arguments import made_folder
from benchmarks.clustering import K1, make_features
from benchmarks.hardware import describe_conditions
from benchmarks.table import markdown
from reference_pipelines.config.clustering import Engine
from reference_pipelines.errors import UserError
from reference_pipelines.progress import progress_bar

ENGINES = tuple(engine for engine in get_args(Engine) if engine != "exact")
_SEARCHED = 2000  # rows whose search is timed
_JUDGED = 250  # of them, those whose neighbours are found exactly at a time


@dataclass(frozen=True)
class Tried:
    """One engine at one effort on one size.

    Fields: `building` and `searching` in core-seconds, the latter of some rows and scaled up to all; `recall` of the
    k nearest, on the rows that were searched.
    """

    engine: Engine
    count: int
    effort: int
    building: float
    searching: float
    recall: float


def main(arguments: Sequence[str]) -> int:
    """Measure every size and engine, print the table; return the exit status."""
    options = build_parser().parse_args(arguments)
    sizes = sorted(set(options.points))
    try:
        if sizes[0] <= K1 or options.dim < 1:
            raise UserError(f"benchmarks: points must be more than {K1} x 1, got {sizes[0]} x {options.dim}: pass more")
        tried = [
            row
            for count in sizes
            for engine in dict.fromkeys(options.engine)
            for row in try_engine(engine, count, options.dim, options.keep, noise=options.noise)
        ]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(format_tried(tried))
    conditions = describe_conditions(torch.device("cpu"), torch.float32)
    print("", "{device}, threads: {threads}, {dtype}, torch {torch}, {date}".format(**conditions), sep="\n")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engines",
        description=f"Build each engine's index of made-up features, search it for {_SEARCHED:,} of them at every "
        "effort, and count what it misses.",
    )
    parser.add_argument("--points", nargs="+", type=int, default=[10_000, 30_000], metavar="N")
    parser.add_argument("--dim", type=int, default=256, metavar="D")
    parser.add_argument("--engine", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--noise", action="store_true", help="directions without any order instead: no people")
    parser.add_argument("--keep", type=made_folder, metavar="FOLDER", help="keep the indices, and take them from there")
    return parser


def try_engine(
    engine: Engine, count: int, dim: int, keep: Path | None = None, *, noise: bool = False
) -> Iterator[Tried]:
    """Search an engine's index of (count, dim) made-up features at each of its efforts, lowest first."""
    from reference_pipelines.neighbours import engines
    from reference_pipelines.neighbours.search import nearest_columns, pair_similarities

    engines.require_engine(engine)
    points = make_noise(count, dim) if noise else make_features(count, dim)
    vectors = points.numpy()
    name = f"{count}x{dim}-{engine}{'-noise' if noise else ''}"
    index, building = _built(engine, vectors, None if keep is None else keep / name)
    rows = np.random.default_rng(0).choice(count, min(_SEARCHED, count), replace=False).astype(np.int32)
    everything = np.arange(count, dtype=np.int32)
    starts = range(0, len(rows), _JUDGED)
    shown = progress_bar(starts, len(starts), f"the neighbours of {count:,}", unit="block")
    true = [nearest_columns(points, rows[start : start + _JUDGED], everything, K1)[1] for start in shown]
    last = np.concatenate(true)[:, -1:]
    width = min(K1 + engines.SPARE, count)
    for effort in index.efforts:
        before = time.process_time()
        found = engines.propose(index, vectors[rows], width, effort, shown=False).astype(np.int32)
        seconds = time.process_time() - before
        similarities = pair_similarities(points, np.repeat(rows, width), found.clip(0).ravel()).reshape(found.shape)
        nearest = -np.sort(-np.where(found < 0, -np.inf, similarities))[:, :K1]
        yield Tried(engine, count, effort, building, seconds * count / len(rows), float((nearest >= last).mean()))


def make_noise(count: int, dim: int) -> Tensor:
    """Return (count, dim) unit vectors whose directions are uniform; the same ones at each call."""
    return functional.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(0)), dim=1)


def _built(engine: Engine, vectors: np.ndarray, file: Path | None) -> tuple[Any, float]:
    """Return an engine's index and the core-seconds that building it took, now or when it was kept."""
    import faiss

    from reference_pipelines.neighbours import engines

    kept = None if file is None else (file.with_suffix(".index"), file.with_suffix(".seconds"))
    if kept and all(each.exists() for each in kept):
        faiss.omp_set_num_threads(torch.get_num_threads())
        return engines.index_of(engine, faiss.read_index(str(kept[0]))), float(kept[1].read_text())
    before = time.process_time()
    index = engines.build_index(engine, vectors)
    seconds = time.process_time() - before
    if kept:
        _keep(kept[0], lambda draft: faiss.write_index(index.index, str(draft)))
        _keep(kept[1], lambda draft: draft.write_text(str(seconds)))
    return index, seconds


def _keep(file: Path, write: Callable[[Path], Any]) -> None:
    with replacing(file) as draft:
        write(draft)


def format_tried(tried: Sequence[Tried]) -> str:
    """Return the table."""
    header = ("points", "engine", "effort", "building, core-s", "searching all, core-s", "in all", f"recall of {K1}")
    lines = [
        (
            f"{row.count:,}",
            row.engine,
            str(row.effort),
            f"{row.building:.1f}",
            f"{row.searching:.1f}",
            f"{row.building + row.searching:.1f}",
            f"{row.recall:.4f}",
        )
        for row in tried
    ]
    return markdown(header, lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
