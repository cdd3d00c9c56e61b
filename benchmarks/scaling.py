"""How clustering grows with the number of points, phase by phase: python -m benchmarks.scaling."""

import argparse
import gc
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from attnreid.files import replacing
from benchmarks.arguments import made_folder
from benchmarks.clustering import EPS, K1, K2, MIN_SAMPLES, make_features
from benchmarks.hardware import describe_conditions
from benchmarks.resident import read_status, reset_maximum
from benchmarks.table import markdown
from reference_pipelines.config.clustering import Engine
from reference_pipelines.errors import UserError
from reference_pipelines.progress import progress_bar

PHASES = ("normalise", "search", "reciprocal sets", "query expansion", "sum of minima", "DBSCAN")
LEAST_FITTED = 3000  # below that what is set up once hides the growth
_WARM_UP = 500


@dataclass(frozen=True)
class Scaled:
    """One size, clustered once in a fresh process.

    Fields: `seconds` and `peaks` by phase, a peak being the resident maximum above what was resident with the
    features; `core_seconds` of all phases, which other programs on the machine lengthen less; `features` and
    `resident` the bytes of the features and the process's resident maximum, both in all; `clusters` and the share of
    `noise` are what came out.
    """

    count: int
    dim: int
    seconds: tuple[float, ...]
    core_seconds: float
    peaks: tuple[int, ...]
    features: int
    resident: int
    clusters: int
    noise: float


def main(arguments: Sequence[str]) -> int:
    """Measure every size, print the tables and the fitted growth; return the exit status."""
    options = build_parser().parse_args(arguments)
    sizes = sorted(set(options.points))
    try:
        if sizes[0] < 1 or options.dim < 1:
            raise UserError(f"benchmarks: sizes must be at least 1, got {sizes[0]} x {options.dim}: pass more")
        start = in_fresh_process(measure_start)
        shown = progress_bar(sizes, len(sizes), "scaling", unit="size")
        rows = [in_fresh_process(measure_size, count, options.dim, options.engine, options.keep) for count in shown]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    conditions = describe_conditions(torch.device("cpu"), torch.float32)
    print(format_seconds(rows), format_memory(rows), format_growth(rows), sep="\n\n")
    print("", "before the first call: imports {:.1f} s, compiling {:.1f} s, once".format(*start), sep="\n")
    print("{device}, threads: {threads}, {dtype}, torch {torch}, {date}".format(**conditions))
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description="Cluster made-up features of several sizes, each once in a fresh process, phase by phase.",
    )
    parser.add_argument("--points", nargs="+", type=int, default=[1000, 3000, 10_000, 30_000], metavar="N")
    parser.add_argument("--dim", type=int, default=256, metavar="D")
    parser.add_argument("--engine", choices=get_args(Engine), default="exact")
    parser.add_argument(
        "--keep",
        type=made_folder,
        metavar="FOLDER",
        help="keep what a search has found, and take it from there another time",
    )
    return parser


def in_fresh_process(function: Callable[..., Any], *arguments: object) -> Any:
    """Return what `function` makes of the arguments in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure_start() -> tuple[float, float]:
    """Return how many seconds the imports take, and then the compiling, which is kept for later runs."""
    with tempfile.TemporaryDirectory() as empty:
        os.environ["NUMBA_CACHE_DIR"] = empty
        before = time.perf_counter()
        from reference_pipelines.clustering import dbscan, jaccard_graph

        imported = time.perf_counter()
        features = make_features(_WARM_UP, 16)
        dbscan(jaccard_graph(features, max_distance=EPS), eps=EPS, min_samples=MIN_SAMPLES)
        return imported - before, time.perf_counter() - imported


def measure_size(count: int, dim: int, engine: Engine, keep: Path | None = None) -> Scaled:
    """Cluster (count, dim) features, phase by phase; a search that is kept in a folder is not done again."""
    cluster(make_features(_WARM_UP, dim), engine, lambda work: work())
    features = make_features(count, dim)
    gc.collect()
    before = read_status("VmRSS")
    seconds: list[float] = []
    core_seconds: list[float] = []
    peaks: list[int] = []

    def timed(work: Callable[[], Any]) -> Any:
        file = keep / f"{count}x{dim}-{engine}.npz" if keep and PHASES[len(seconds)] == "search" else None
        if file is not None and file.exists():
            found, took, cores_took, peak = _read_search(file)
            seconds.append(took)
            core_seconds.append(cores_took)
            peaks.append(peak + before)
            return found
        reset_maximum()
        start, start_of_cores = time.perf_counter(), time.process_time()
        result = work()
        seconds.append(time.perf_counter() - start)
        core_seconds.append(time.process_time() - start_of_cores)
        peaks.append(read_status("VmHWM"))
        if file is not None:
            _keep_search(file, result, (seconds[-1], core_seconds[-1], peaks[-1] - before))
        return result

    labels = cluster(features, engine, timed)
    return Scaled(
        count,
        dim,
        tuple(seconds),
        sum(core_seconds),
        tuple(peak - before for peak in peaks),
        features.nbytes,
        max(peaks),
        int(labels.max()) + 1,
        float((labels < 0).mean()),
    )


def _keep_search(file: Path, found: Any, cost: tuple[float, float, int]) -> None:
    missed = found.approximation
    said = (-1.0, 0.0, 0) if missed is None else (missed.recall, missed.target, missed.rows)
    with replacing(file) as draft, draft.open("wb") as content:
        np.savez(content, indices=found.indices, similarities=found.similarities, cost=cost, missed=said)


def _read_search(file: Path) -> tuple[Any, float, float, int]:
    from reference_pipelines.arrays import load_arrays
    from reference_pipelines.neighbours.engines import Approximation
    from reference_pipelines.neighbours.search import Neighbours

    kept = load_arrays(file)
    recall, target, rows = kept["missed"].tolist()
    missed = None if recall < 0 else Approximation(recall, target, int(rows))
    seconds, core_seconds, peak = kept["cost"].tolist()
    return Neighbours(kept["indices"], kept["similarities"], approximation=missed), seconds, core_seconds, int(peak)


def cluster(features: Tensor, engine: Engine, timed: Callable[..., Any]) -> np.ndarray:
    """Return the labels as the pipeline computes them; each phase is passed to `timed`, which calls it."""
    from reference_pipelines.clustering import dbscan
    from reference_pipelines.neighbours import reciprocal
    from reference_pipelines.neighbours import search as nearest
    from reference_pipelines.neighbours.compiled import shared_minima

    points = timed(lambda: nearest.unit_features(features, "scaling"))
    found = timed(lambda: nearest.find_neighbours(points, K1, engine=engine))
    weights = timed(lambda: reciprocal.weigh(points, found, k1=K1))
    averaged = timed(lambda: reciprocal.average(weights, found, K2))
    graph = timed(lambda: shared_minima(averaged, averaged, max_distance=EPS))
    labels: np.ndarray = timed(lambda: dbscan(graph, eps=EPS, min_samples=MIN_SAMPLES))
    return labels


def fit_exponent(counts: Sequence[int], seconds: Sequence[float]) -> float:
    """Return e of the power N^e that fits the seconds best, in logarithms."""
    return float(np.polyfit(np.log(counts), np.log(seconds), 1)[0])


def format_seconds(rows: Sequence[Scaled]) -> str:
    """Return the seconds of each phase and what came out."""
    header = ("N x D", *PHASES, "seconds in all", "core-seconds", "clusters", "noise")
    lines = [
        (
            f"{row.count:,} x {row.dim:,}",
            *(f"{second:.2f}" for second in row.seconds),
            f"{sum(row.seconds):.2f}",
            f"{row.core_seconds:.2f}",
            f"{row.clusters:,}",
            f"{row.noise:.1%}",
        )
        for row in rows
    ]
    return markdown(header, lines)


def format_memory(rows: Sequence[Scaled]) -> str:
    """Return the memory of each phase above the features, and the process's in all."""
    header = ("N x D", "features MiB", *(f"{phase}, + MiB" for phase in PHASES), "process MiB")
    lines = [
        (
            f"{row.count:,} x {row.dim:,}",
            *(f"{number / 2**20:,.0f}" for number in (row.features, *row.peaks, row.resident)),
        )
        for row in rows
    ]
    return markdown(header, lines)


def format_growth(rows: Sequence[Scaled]) -> str:
    """Say with which power of N each phase's seconds grow."""
    fitted = [row for row in rows if row.count >= LEAST_FITTED]
    if len(fitted) < 2:
        return f"growth: not fitted, which takes two sizes of at least {LEAST_FITTED:,} points"
    counts = [row.count for row in fitted]
    by_phase = zip(PHASES, zip(*(row.seconds for row in fitted), strict=True), strict=True)
    powers = ", ".join(f"{phase} N^{fit_exponent(counts, seconds):.2f}" for phase, seconds in by_phase)
    return f"growth, fitted from {counts[0]:,} to {counts[-1]:,} points: {powers}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
