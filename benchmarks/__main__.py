"""The command line: python -m benchmarks. A user's mistake ends in one sentence and exit status 2."""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks import layers, rendering
from benchmarks.timing import Case, Row, measure
from reference_pipelines.errors import UserError, closest

CASES = (*layers.CASES, *rendering.CASES)
COLUMNS = ("what", "against", "ratio", "ours ms", "theirs ms", "rounds", "note")
LEAST_ROUNDS = 5


def main(arguments: Sequence[str], cases: Sequence[Case] = CASES) -> int:
    """Measure, print the table and return the exit status: 1 if a row was refused, 2 for a mistake of the user's."""
    options = build_parser(cases).parse_args(arguments)
    try:
        chosen = _choose(cases, options.only)
        _check(options)
        rows = _measure(chosen, options)
        conditions = describe_conditions(options.device)
        print(format_table(rows), "", _caption(conditions), sep="\n")
        if options.json is not None:
            _write(options.json, {**conditions, "rows": [asdict(row) for row in rows]})
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 1 if any(row.refused for row in rows) else 0


def build_parser(cases: Sequence[Case] = CASES) -> argparse.ArgumentParser:
    """Return the parser."""
    names = ", ".join(case.name for case in cases)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Time attnreid against what one would use instead."
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help=f"at least {LEAST_ROUNDS}; default 7")
    parser.add_argument("--threads", type=int, metavar="N", help="torch's threads on the CPU; default: torch's own")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows and the conditions here too")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"rows to measure, of: {names}")
    return parser


def format_table(rows: Sequence[Row]) -> str:
    """Return the rows as one Markdown table, the ratio before the times."""
    lines = [COLUMNS, tuple("---" for _ in COLUMNS)]
    for row in rows:
        figures = (f"{value:.2f}" if value is not None else "-" for value in (row.ratio, row.ours_ms, row.theirs_ms))
        lines.append((row.what, row.against or "-", *figures, str(row.rounds), row.note))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[-1] = 0  # nothing stands right of the notes
    padded = ((cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def describe_conditions(device: str) -> dict[str, str | int]:
    """Return under what the rows were measured: date, device, threads and versions."""
    name = torch.cuda.get_device_name() if device == "cuda" else _cpu_name()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _caption(conditions: dict[str, str | int]) -> str:
    return (
        "ratio: their time by ours, median of the rounds' ratios; layers forward and backward in train mode, float32; "
        "{device}, threads: {threads}, torch {torch}, {date}".format(**conditions)
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _choose(cases: Sequence[Case], only: Sequence[str] | None) -> list[Case]:
    """Return the cases of these names in the table's order; an unknown name is refused with the closest ones."""
    names = [case.name for case in cases]
    for name in only or ():
        if name not in names:
            hint = closest(name, names) or f"; choose from {', '.join(names)}"
            raise UserError(f"benchmarks: --only must name rows of the table, got {name!r}{hint}")
    return [case for case in cases if only is None or case.name in only]


def _check(options: argparse.Namespace) -> None:
    """Refuse what would fail only after the measuring, or measure too little."""
    if options.rounds < LEAST_ROUNDS:
        raise UserError(f"benchmarks: --rounds must be at least {LEAST_ROUNDS}, got {options.rounds}: pass more")
    if options.threads is not None and options.threads < 1:
        raise UserError(f"benchmarks: --threads must be at least 1, got {options.threads}: pass more")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("benchmarks: --device cuda needs a CUDA device, got none: pass --device cpu")
    if options.json is not None and (options.json.is_dir() or not options.json.parent.is_dir()):
        raise UserError(f"benchmarks: --json must be a file in a folder that exists, got {options.json}: pass one")


def _measure(cases: Sequence[Case], options: argparse.Namespace) -> list[Row]:
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32, in the convs too
    return measure(cases, device=torch.device(options.device), rounds=options.rounds)


def _write(path: Path, content: dict[str, object]) -> None:
    """Write the JSON file, whole or not at all."""
    unfinished = path.with_name(f".{path.name}.partial")
    try:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise UserError(f"benchmarks: {path} must be writable, got '{error.strerror}': choose another file") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
