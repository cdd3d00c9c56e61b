"""Clustering on one process and on several, of one thread each: python -m benchmarks.sharding."""

import argparse
import hashlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from benchmarks.clustering import EPS, K1, K2, MIN_SAMPLES, make_features
from benchmarks.hardware import describe_conditions
from benchmarks.table import markdown

Result = TypeVar("Result")
PHASES = ("search", "Jaccard distances", "DBSCAN")
_WARM_UP = 500


def main(arguments: Sequence[str]) -> int:
    """Cluster the same features on each number of processes in turn, print the table and return the exit status."""
    options = build_parser().parse_args(arguments)
    if options.worker:
        print(json.dumps(measure(options.points, options.dim)), flush=True)
        return 0
    found: dict[int, list[dict[str, Any]]] = {count: [] for count in options.processes}
    for _ in range(options.rounds):
        for count, rounds in found.items():
            rounds.append(run_together(count, options.points, options.dim))
    digests = {each["labels"] for rounds in found.values() for each in rounds}
    print(format_table(found))
    print("", "labels and neighbours: " + ("the same bits everywhere" if len(digests) == 1 else "DIFFERENT"), sep="\n")
    print("{device}, {dtype}, torch {torch}, {date}".format(**describe_conditions(torch.device("cpu"), torch.float32)))
    return 0 if len(digests) == 1 else 1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sharding",
        description="Cluster made-up features on one process and on several, of one thread each.",
    )
    parser.add_argument("--points", type=int, default=30_000, metavar="N")
    parser.add_argument("--dim", type=int, default=256, metavar="D")
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2], metavar="W")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser


def run_together(count: int, points: int, dim: int) -> dict[str, Any]:
    """Return what the first of `count` processes has measured, with the seconds of the whole command."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.sharding", "--worker", "--points", str(points), "--dim", str(dim)]
    start = time.perf_counter()
    workers = [
        subprocess.Popen(
            command, env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE
        )
        for rank in range(count)
    ]
    printed = [worker.communicate()[0] for worker in workers]
    return {**json.loads(printed[0]), "command": time.perf_counter() - start}


def measure(points: int, dim: int) -> dict[str, Any]:
    """Return the seconds of each phase on this process, one of several, and a digest of what came out."""
    from reference_pipelines.clustering import dbscan, jaccard_of_neighbours
    from reference_pipelines.distributed.processes import ALONE, join_processes
    from reference_pipelines.neighbours.search import find_neighbours, unit_features

    torch.set_num_threads(1)
    with join_processes(lambda: "start it again", "benchmarks") as processes:
        seconds: list[float] = []

        def timed(work: Callable[[], Result]) -> Result:
            processes.agree(0)  # all begin together
            start = time.perf_counter()
            result = work()
            seconds.append(time.perf_counter() - start)
            return result

        def cluster(count: int, together: Any) -> tuple[Any, np.ndarray]:
            features = unit_features(make_features(count, dim), "benchmarks")
            found = timed(lambda: find_neighbours(features, K1, processes=together))
            options = {"k1": K1, "k2": K2}
            graph = timed(
                lambda: jaccard_of_neighbours(features, found, max_distance=EPS, processes=together, **options)
            )
            return found, timed(lambda: dbscan(graph, eps=EPS, min_samples=MIN_SAMPLES, processes=together))

        cluster(_WARM_UP, ALONE)
        seconds.clear()
        found, labels = cluster(points, processes)
        digest = hashlib.sha256(found.indices.tobytes() + found.similarities.tobytes() + labels.tobytes())
        return {"seconds": seconds, "labels": digest.hexdigest()}


def format_table(found: dict[int, list[dict[str, Any]]]) -> str:
    """Return the medians of each number of processes, and how many times as fast as the first it is."""
    first = next(iter(found))
    medians = {
        count: [statistics.median(column) for column in zip(*map(_columns, rounds), strict=True)]
        for count, rounds in found.items()
    }
    rows = []
    for count, numbers in medians.items():
        ratios = [mine / other for mine, other in zip(medians[first], numbers, strict=True)]
        rows.append(
            (str(count), *(f"{number:.2f} ({ratio:.2f}x)" for number, ratio in zip(numbers, ratios, strict=True)))
        )
    return markdown(("processes", *PHASES, "together", "whole command"), rows)


def _columns(measured: dict[str, Any]) -> list[float]:
    return [*measured["seconds"], sum(measured["seconds"]), measured["command"]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
