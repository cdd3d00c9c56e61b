"""The command line: python -m benchmarks. A user's mistake ends in one sentence and exit status 2."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from attnreid.files import write_text
from benchmarks.agreement import TOLERANCES
from benchmarks.cases import Case, Job, Problem, Shape, Skipped
from benchmarks.catalogue import CASES
from benchmarks.complexity import NAME, count_apnet
from benchmarks.hardware import describe_conditions, make_rates
from benchmarks.limits import KINDS, RULE, Kind, compare, explain, find_rates, list_limits
from benchmarks.measuring import Row, measure
from benchmarks.table import format_complexity, format_limits, format_rows, summarise
from benchmarks.timing import keep_memory
from reference_pipelines.errors import UserError, closest

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in TOLERANCES}
LEAST_ROUNDS = 5
TABLES = ROWS, LIMITS, GFLOPS = "rows", "limits", "gflops"


def main(arguments: Sequence[str], cases: Sequence[Case] = CASES, kinds: Sequence[Kind] = KINDS) -> int:
    """Measure, print the tables and return the exit status: 1 if a row was refused, 2 for a mistake of the user's."""
    options = build_parser().parse_args(arguments)
    try:
        names = list(dict.fromkeys([*(case.name for case in cases), *(kind.name for kind in kinds), NAME]))
        if options.list:
            print("\n".join(names))
            return 0
        _check(options, names)
        cases = [case for case in cases if _wanted(ROWS, case.name, options, on_request=case.on_request)]
        kinds = [kind for kind in kinds if _wanted(LIMITS, kind.name, options)]
        content, ok = _run(cases, kinds, options)
        if options.json is not None:
            _write(options.json, content)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0 if ok else 1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure attnreid against what one would use instead, and against what the machine allows.",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32")
    parser.add_argument("--batch", type=int, metavar="N", help="default: each row's own")
    parser.add_argument(
        "--shapes", nargs="+", type=_shape, metavar="CxHxW", help="maps of the layers' rows, in place of their own"
    )
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help=f"at least {LEAST_ROUNDS}; default 7")
    parser.add_argument("--threads", type=int, metavar="N", help="torch's threads on the CPU; default: torch's own")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="rows and layers to measure; see --list")
    parser.add_argument(
        "--tables",
        nargs="+",
        choices=TABLES,
        default=TABLES,
        help="rows: against other ways; limits: against the counted least; gflops: beside the paper's; default all",
    )
    parser.add_argument(
        "--no-resident", action="store_true", help="do not confirm peak memory in a fresh process for each variant"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures and the conditions here too")
    parser.add_argument("--list", action="store_true", help="list the names and stop")
    return parser


def list_jobs(cases: Sequence[Case], options: argparse.Namespace) -> list[Job]:
    """Return every case at every shape that is asked for."""
    jobs = []
    for case in cases:
        shapes = options.shapes if options.shapes and case.resizable else case.shapes
        jobs += [Job(case, _problem(case, shape, options)) for shape in shapes]
    return jobs


def _problem(case: Case, shape: Shape, options: argparse.Namespace) -> Problem:
    # A case without peers or counts is no tensor work: its batch is its own.
    batch = options.batch if options.batch and case.counted else case.batch
    return Problem(_device(options), DTYPES[options.dtype], batch, shape)


def _run(cases: Sequence[Case], kinds: Sequence[Kind], options: argparse.Namespace) -> tuple[dict[str, object], bool]:
    """Measure everything in one run, print the tables and return what the JSON file holds."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32, in the convs too
    kept = keep_memory()
    device, dtype = _device(options), DTYPES[options.dtype]
    jobs = list_jobs(cases, options)
    limits = list_limits(device, dtype, kinds=kinds, shapes=options.shapes, batch=options.batch)
    rate_cases = make_rates(device) if limits else ()
    rate_jobs = [Job(case, Problem(device, dtype, 1, case.shapes[0])) for case in rate_cases]

    all_jobs = [*jobs, *rate_jobs, *(limit.job for limit in limits)]
    measured = measure(all_jobs, rounds=options.rounds, resident=not options.no_resident)
    count = sum(max(1, len(job.case.peers)) for job in jobs)
    rows, rest = measured[:count], measured[count:]
    conditions = {**describe_conditions(device, dtype), "freed_memory_kept": kept}
    content: dict[str, object] = {**conditions, "tolerances": {name: TOLERANCES[DTYPES[name]] for name in DTYPES}}
    if rows:
        print(format_rows(rows), "", summarise(rows), _caption(rows), sep="\n")
        content["rows"] = [_as_json(row) for row in rows]
    if limits:
        rates = find_rates(rest[: len(rate_jobs)], rate_jobs)
        compared = explain(limits, compare(limits, rest[len(rate_jobs) :], rates))
        print("", "What each layer must do, and what it takes:", "", format_limits(compared, rates), sep="\n")
        content["limits"] = {"rates": asdict(rates), "rule": RULE, "rows": [asdict(row) for row in compared]}
    if _wanted(GFLOPS, NAME, options):
        content["gflops"] = _print_complexity()
    print("", "{device}, threads: {threads}, {dtype}, torch {torch}, {date}".format(**conditions), sep="\n")
    return content, all(row.ok for row in measured)


def _print_complexity() -> list[dict[str, object]]:
    """Print the counts of whole models beside the paper's, and return them for the JSON file."""
    print("", "APNet-C at 224x224, last stride 1, billions of multiply-adds:", "", sep="\n")
    try:
        rows = count_apnet()
    except Skipped as reason:
        print(f"skipped: {reason}")
        return []
    print(format_complexity(rows))
    return [asdict(row) for row in rows]


def _as_json(row: Row) -> dict[str, object]:
    return {**asdict(row), "met": row.met}


def _caption(rows: Sequence[Row]) -> str:
    rounds = max((row.rounds for row in rows), default=0)
    return (
        f"ratio: their time by ours, median of the ratios of {rounds} rounds; ms, MiB, MMAC (million multiply-adds): "
        "ours / theirs; layers forward and backward in train mode where the row does not say inference; peak: above "
        "what was live before, by the profiler's memory events (CUDA: by the allocator); resident: how far a call "
        "raises the resident maximum of a fresh process; extra memory: the peak less the output and the gradients; "
        "what is freed is kept for the next call; MMAC counts products, convolutions and attention only"
    )


def _shape(text: str) -> Shape:
    numbers = text.lower().split("x")
    if len(numbers) != 3 or not all(number.isdecimal() and int(number) > 0 for number in numbers):
        raise argparse.ArgumentTypeError(f"must be CHANNELSxHEIGHTxWIDTH, such as 256x64x32, got {text!r}")
    channels, height, width = map(int, numbers)
    return channels, height, width


def _device(options: argparse.Namespace) -> torch.device:
    return torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _wanted(table: str, name: str, options: argparse.Namespace, *, on_request: bool = False) -> bool:
    if table not in options.tables:
        return False
    return not on_request if options.only is None else name in options.only


def _check(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Refuse what would fail only after the measuring, or measure too little."""
    for name in options.only or ():
        if name not in names:
            hint = closest(name, names) or f"; choose from {', '.join(names)}"
            raise UserError(f"benchmarks: --only must name rows of the table, got {name!r}{hint}")
    if options.rounds < LEAST_ROUNDS:
        raise UserError(f"benchmarks: --rounds must be at least {LEAST_ROUNDS}, got {options.rounds}: pass more")
    for name in ("threads", "batch"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"benchmarks: --{name} must be at least 1, got {value}: pass more")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("benchmarks: --device cuda needs a CUDA device, got none: pass --device cpu")
    if options.json is not None and (options.json.is_dir() or not options.json.parent.is_dir()):
        raise UserError(f"benchmarks: --json must be a file in a folder that exists, got {options.json}: pass one")


def _write(path: Path, content: dict[str, object]) -> None:
    """Write the JSON file, whole or not at all."""
    try:
        write_text(path, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"benchmarks: {path} must be writable, got '{error.strerror}': choose another file") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
