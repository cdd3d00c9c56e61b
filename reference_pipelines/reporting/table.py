"""The one table of a set of runs, as cells for people: printed by the demo and set in the report."""

from collections.abc import Mapping, Sequence
from typing import Any

HEADINGS = (
    "variant",
    "mAP [95 %]",
    "rank-1",
    "mAP at start [95 %]",
    "chance",
    "clusters",
    "purity: id",
    "camera",
    "seconds",
)


def table_rows(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return a row of cells a result (a run's result.json), in the order of HEADINGS; mAP and rank-1 in percent."""
    return [_row(result) for result in results]


def _row(result: Mapping[str, Any]) -> tuple[str, ...]:
    clustering = result.get("clustering")
    clusters = ("", "", "")
    if clustering:
        clusters = (
            str(clustering["clusters"]),
            f"{clustering['id_purity']:.2f}",
            f"{clustering['camera_purity']:.2f}",
        )
    return (
        str(result["title"]),
        _with_interval(result["final"]),
        _percent(result["final"]["rank1"]),
        _with_interval(result["start"]),
        _percent(result["chance"]),
        *clusters,
        f"{result['seconds']:.0f}",
    )


def learning_lines(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line a result: how far it is from chance and from its own start."""
    lines = []
    for result in results:
        start, final = result["start"], result["final"]
        apart = "apart" if start["interval"][1] < final["interval"][0] else "overlapping"
        lines.append(
            f"{result['title']}: {final['mAP'] / result['chance']:.1f} times chance, "
            f"{final['mAP'] / start['mAP']:.2f} times its start, intervals {apart}"
        )
    return lines


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _with_interval(score: Mapping[str, Any]) -> str:
    low, high = score["interval"]
    return f"{_percent(score['mAP'])} [{_percent(low)}, {_percent(high)}]"


def format_table(rows: Sequence[Sequence[str]], headings: Sequence[str] = HEADINGS) -> str:
    """Return the rows under their headings in aligned columns, the first column left, the others right."""
    widths = [max(len(row[i]) for row in (headings, *rows)) for i in range(len(headings))]
    lines = []
    for row in (headings, tuple("-" * width for width in widths), *rows):
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
