"""Tables of runs and of evaluations, as cells for people: printed by the commands and set in the report."""

from collections.abc import Mapping, Sequence
from typing import Any

HEADINGS = (
    "variant",
    "trained and tested on",
    "mAP [95 %]",
    "rank-1",
    "mAP at start [95 %]",
    "chance",
    "clusters",
    "purity: id",
    "camera",
    "seconds",
)

EVALUATION_HEADINGS = (
    "variant",
    "trained on",
    "tested on",
    "how",
    "mAP [95 %]",
    "rank-1",
    "rank-5",
    "rank-10",
    "rank-20",
    "mINP",
    "Market AP",
    "chance",
)


_LAST = "model"  # the weights that a run ends with, which need not be named


def table_rows(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return a row of cells a result (a run's result.json), in the order of HEADINGS; mAP and rank-1 in percent."""
    return [_row(result) for result in results]


def _row(result: Mapping[str, Any]) -> tuple[str, ...]:
    clustering = result.get("clustering")
    clusters = ("", "", "")
    if clustering:
        clusters = (
            str(clustering["clusters"]),
            _purity(clustering["id_purity"]),
            _purity(clustering["camera_purity"]),
        )
    return (
        str(result["title"]),
        result["data"]["name"],
        _with_interval(result["final"]),
        _percent(result["final"]["rank1"]),
        _with_interval(result["start"]),
        _percent(result["chance"]),
        *clusters,
        f"{result['seconds']:.0f}",
    )


def evaluation_rows(evaluations: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return a row of cells an evaluation (a file of `evaluate`), in the order of EVALUATION_HEADINGS, in percent."""
    return [_evaluation_row(numbers) for numbers in evaluations]


def _evaluation_row(numbers: Mapping[str, Any]) -> tuple[str, ...]:
    scores = numbers["scores"]
    weights = numbers["weights"]["name"]
    said = ((weights, weights != _LAST), ("flip", numbers["flip"]), ("re-ranked", numbers["reranked"]))
    how = [word for word, used in said if used]
    return (
        str(numbers["title"]),
        numbers["trained_on"]["name"],
        numbers["tested_on"]["name"],
        " + ".join(how) or "plain",
        _with_interval(scores),
        *(_percent(scores[name]) for name in ("rank1", "rank5", "rank10", "rank20", "mINP", "mAP_market")),
        _percent(numbers["chance"]),
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


def _purity(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"  # None: not known


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _with_interval(score: Mapping[str, Any]) -> str:
    low, high = score["interval"]
    return f"{_percent(score['mAP'])} [{_percent(low)}, {_percent(high)}]"


def format_table(rows: Sequence[Sequence[str]], headings: Sequence[str] = HEADINGS, *, words: int = 2) -> str:
    """Return the rows under their headings in aligned columns, the first `words` columns left, the others right."""
    widths = [max(len(row[i]) for row in (headings, *rows)) for i in range(len(headings))]
    lines = []
    for row in (headings, tuple("-" * width for width in widths), *rows):
        cells = [
            cell.ljust(width) if column < words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def format_evaluations(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of the evaluations."""
    return format_table(evaluation_rows(evaluations), EVALUATION_HEADINGS, words=4)


def format_camera_pairs(numbers: Mapping[str, Any]) -> str:
    """Return an evaluation's mAP in percent by the camera of the queries (rows) and of their matches (columns)."""
    pairs = {(pair["query_camera"], pair["gallery_camera"]): pair for pair in numbers["scores"]["camera_pairs"]}
    queries, matches = (sorted({pair[side] for pair in pairs}) for side in (0, 1))
    rows = [
        (
            f"camera {query}",
            *(_percent(pairs[query, match]["mAP"]) if (query, match) in pairs else "" for match in matches),
        )
        for query in queries
    ]
    table = format_table(rows, ("mAP of queries from", *(f"in {match}" for match in matches)), words=1)
    return f"{_from_where_to_where(numbers)}\n{table}"


def format_single_shot(numbers: Mapping[str, Any]) -> str:
    """Return an evaluation's CMC in percent with one random gallery image a person."""
    single = numbers["scores"]["single_shot"]
    row = ("CUHK03's single gallery shot", *(_percent(value) for value in single.values()))
    table = format_table([row], ("protocol", *(name.replace("rank", "rank-") for name in single)), words=1)
    return f"{_from_where_to_where(numbers)}\n{table}"


def _from_where_to_where(numbers: Mapping[str, Any]) -> str:
    trained, tested = numbers["trained_on"]["name"], numbers["tested_on"]["name"]
    return f"{numbers['title']}, trained on {trained}, tested on {tested}"
