"""The tables as they are printed: Markdown, the ratio before the times, what is to be said numbered below."""

from collections.abc import Callable, Sequence

from benchmarks.complexity import ComplexityRow
from benchmarks.limits import MOST, RULE, LimitRow, Rates
from benchmarks.measuring import Figures, Row

COLUMNS = ("what", "map", "against", "ratio", "target", "ms", "peak MiB", "resident MiB", "MMAC", "notes")
COMPLEXITY_COLUMNS = ("model", "counted", "paper", "added by a level", "target")
LIMIT_COLUMNS = ("layer", "map", "times bound", "ms", "bound ms", "bound by", "MMAC", "least MiB", "note")
_MIB = 2**20


def format_rows(rows: Sequence[Row]) -> str:
    """Return the first table and its notes; figures stand as "ours / theirs"."""
    notes: dict[str, int] = {}
    lines = []
    for row in rows:
        numbers = [str(notes.setdefault(note, len(notes) + 1)) for note in row.notes]
        pairs = (
            _pair(row, lambda figures: figures.ms),
            _pair(row, lambda figures: _scaled(figures.peak, _MIB)),
            _pair(row, lambda figures: _scaled(figures.resident, _MIB)),
            _pair(row, lambda figures: _scaled(figures.multiply_adds, 1e6)),
        )
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
        lines.append((row.what, row.problem, row.against or "-", ratio, _target(row), *pairs, ", ".join(numbers)))
    listed = [f"{number}. {note}" for note, number in notes.items()]
    return "\n".join([markdown(COLUMNS, lines), *(["", *listed] if listed else [])])


def summarise(rows: Sequence[Row]) -> str:
    """Say how many targets were met, then list, one a line, which were missed or not measured."""
    wanted = [
        row for row in rows if {row.target, row.memory_target, row.per_second_target, row.resident_target} != {None}
    ]
    if not wanted:
        return "targets: none in these rows"
    lines = [f"targets: {sum(row.met is True for row in wanted)} of {len(wanted)} rows met"]
    lines += [f"- MISSED: {_name(row)}, {_target(row)}" for row in wanted if row.met is False]
    lines += [f"- not measured: {_name(row)}" for row in wanted if row.met is None]
    return "\n".join(lines)


def format_limits(rows: Sequence[LimitRow], rates: Rates) -> str:
    """Return the second table, one part a mode, with the rule of its bytes and the largest gaps."""
    parts = [
        f"matrix product {rates.multiply_adds / 1e9:.3g} GMAC/s, copy {rates.bytes / 1e9:.3g} GB/s (read and "
        f"written); {RULE}."
    ]
    for mode in dict.fromkeys(row.mode for row in rows):
        own = [row for row in rows if row.mode == mode]
        trained = "eval mode" if mode == "forward" else "train mode"
        parts.append(f"{mode}, {trained}:\n\n{markdown(LIMIT_COLUMNS, [_limit_cells(row) for row in own])}")
        gaps = sorted((row for row in own if row.times_bound is not None), key=lambda row: -(row.times_bound or 0))
        named = ", ".join(f"{row.layer} {row.problem} ({row.times_bound:.1f}x)" for row in gaps[:3])
        parts.append(f"largest gaps, {mode}: {named or 'none measured'}")
        above = sum(row.is_above for row in gaps)
        parts.append(
            f"above {MOST[mode]:g} times the bound, {mode}: {above} of {len(gaps)}, with the operators that take the "
            "most of the time"
        )
    return "\n\n".join(parts)


def format_complexity(rows: Sequence[ComplexityRow]) -> str:
    """Return the third table: counted operations beside the paper's."""
    lines = []
    for row in rows:
        added = "-" if row.added is None else f"{row.added:.4f}"
        verdict = "met" if row.met else "MISSED"
        lines.append(
            (f"APNet-C{row.levels}", f"{row.counted:.3f}", f"{row.paper:.2f}", added, f"{row.target} {verdict}")
        )
    return markdown(COMPLEXITY_COLUMNS, lines)


def _limit_cells(row: LimitRow) -> tuple[str, ...]:
    if row.times_bound is None:
        return (row.layer, row.problem, *("-" for _ in range(6)), row.note)
    return (
        row.layer,
        row.problem,
        f"{row.times_bound:.1f}",
        _short(row.ms),
        _short(row.bound_ms),
        row.bound_by,
        _short(row.multiply_adds / 1e6),
        _short(row.least_bytes / _MIB),
        row.note,
    )


def _name(row: Row) -> str:
    ratio = f", ratio {row.ratio:.2f}" if row.ratio is not None else ""
    against = f" against {row.against}" if row.against else ""
    return f"{row.what} {row.problem}{against}{ratio}"


def _target(row: Row) -> str:
    """Say what was to be reached and whether it was; then what the counted operations allow."""
    said = []
    if row.target is not None:
        said.append(f">= {row.target:.3g} {_verdict(row.ratio, row.target)}".strip())
    if row.memory_target is not None:
        worst = min((each for each in (row.memory_ratio, row.resident_ratio) if each is not None), default=None)
        said.append(
            f"extra memory {_short(worst)} >= {row.memory_target:.3g} {_verdict(worst, row.memory_target)}".strip()
        )
    if row.per_second_target is not None:
        said.append(
            f">= {row.per_second_target:.3g} a second {_verdict(row.per_second, row.per_second_target)}".strip()
        )
    if row.resident_target is not None:
        resident = None if row.ours is None else row.ours.resident
        verdict = "" if resident is None else "met" if resident <= row.resident_target else "MISSED"
        said.append(f"resident <= {_short(row.resident_target / _MIB)} MiB {verdict}".strip())
    if row.allowed_ratio is not None:
        said.append(f"MACs allow {row.allowed_ratio:.2f}")
    return "; ".join(said) or "-"


def _verdict(got: float | None, least: float) -> str:
    if got is None:
        return ""
    return "met" if got >= least else "MISSED"


def _pair(row: Row, value: Callable[[Figures], float | None]) -> str:
    if row.ours is None:
        return "-"
    figures = [row.ours] if row.theirs is None else [row.ours, row.theirs]
    shown = [_short(value(each)) for each in figures]
    return "-" if set(shown) == {"-"} else " / ".join(shown)


def _scaled(value: int | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _short(value: float | None) -> str:
    """Return three digits, without an exponent."""
    if value is None:
        return "-"
    decimals = 0 if value >= 99.95 else 1 if value >= 9.995 else 2 if value >= 0.0995 else 3
    return f"{value:.{decimals}f}"


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table whose columns are aligned."""
    table = [tuple(header), tuple("---" for _ in header), *lines]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    widths[-1] = 0  # nothing stands right of the last column
    padded = ((cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table)
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)
