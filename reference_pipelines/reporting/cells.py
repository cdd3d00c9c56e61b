"""Tables of the report as data: cells with what they are sorted by, columns without a value left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reference_pipelines.reporting.comparing import Difference
from reference_pipelines.reporting.reading import ReadRun
from reference_pipelines.reporting.table import NONE, evaluation_rows, format_purity, name_data, percent


@dataclass(frozen=True)
class Cell:
    """A cell.

    Args:
        text: what it says.
        below: a smaller second line: an interval.
        order: what a number is sorted by; None sorts after every number.
        strong: whether it is the one to look at.
    """

    text: str
    below: str = ""
    order: float | None = None
    strong: bool = False


@dataclass(frozen=True)
class Heading:
    """A column's heading.

    Args:
        text: what it says.
        number: whether the column is of numbers; words stand at the left.
    """

    text: str
    number: bool = True


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Args:
        headings: one a column.
        rows: one cell a heading each.
        caption: what the table is of, for those who do not see it.
    """

    headings: Sequence[Heading]
    rows: Sequence[Sequence[Cell]]
    caption: str


def words(text: object) -> Cell:
    """Return a cell of words."""
    return Cell(str(text))


def number(value: float | None, text: str) -> Cell:
    """Return a cell of a number, as it is to be written."""
    return Cell(NONE) if value is None else Cell(text, order=value)


def share(value: float | None, interval: Sequence[float] | None = None, *, strong: bool = False) -> Cell:
    """Return a cell of a figure between 0 and 1 in percent, with its interval."""
    below = "" if value is None or interval is None else "[" + ", ".join(percent(end) for end in interval) + "]"
    return Cell(percent(value), below, value, strong and value is not None)


def without_empty_columns(table: Table) -> Table:
    """Return the table without the columns that have no value in any row."""
    kept = [
        place
        for place in range(len(table.headings))
        if place == 0 or any(row[place].text not in ("", NONE) for row in table.rows)
    ]
    rows = [[row[place] for place in kept] for row in table.rows]
    return Table([table.headings[place] for place in kept], rows, table.caption)


def score_table(runs: Sequence[ReadRun], names: Mapping[str, str], caption: str) -> Table:
    """Return the scores of runs, a row a run."""
    data = name_data([run.result["data"] for run in runs])
    several = len(set(data)) > 1
    headings = [Heading("variant", number=False)]
    headings += [Heading("tested on", number=False)] if several else []
    headings += [Heading(each) for each in ("mAP", "rank-1", "rank-5", "rank-10", "mINP", "mAP at start", "chance")]
    headings += [Heading(each) for each in ("clusters", "purity: id", "purity: camera", "minutes")]
    rows = []
    for run, tested in zip(runs, data, strict=True):
        result, final = run.result, run.result["final"] or {}
        start, clustering = result["start"] or {}, result.get("clustering") or {}
        clusters, pure, by_camera = (clustering.get(each) for each in ("clusters", "id_purity", "camera_purity"))
        rows.append(
            [
                words(names[run.key]),
                *([words(tested)] if several else []),
                share(final.get("mAP"), final.get("interval"), strong=True),
                *(share(final.get(each)) for each in ("rank1", "rank5", "rank10", "mINP")),
                share(start.get("mAP"), start.get("interval")),
                share(result["chance"]),
                number(clusters, str(clusters)),
                number(pure, format_purity(pure)),
                number(by_camera, format_purity(by_camera)),
                number(result["seconds"], f"{result['seconds'] / 60:.1f}"),
            ]
        )
    return without_empty_columns(Table(headings, rows, caption))


def evaluation_table(evaluations: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    """Return what `evaluate` measured later, a row an evaluation."""
    wanted = ("rank1", "rank5", "rank10", "rank20", "mINP")
    headings = [Heading(each, number=False) for each in ("variant", "trained on", "tested on", "how")]
    headings += [Heading(each) for each in ("mAP", "rank-1", "rank-5", "rank-10", "rank-20", "mINP", "Market AP")]
    headings.append(Heading("chance"))
    rows = []
    for numbers, told in zip(evaluations, evaluation_rows(evaluations, names), strict=True):
        scores = numbers["scores"]
        rows.append(
            [
                *map(words, told[:4]),
                share(scores["mAP"], scores["interval"], strong=True),
                *(share(scores[each]) for each in wanted),
                share(scores["mAP_market"], scores.get("interval_market")),
                share(numbers["chance"]),
            ]
        )
    return without_empty_columns(Table(headings, rows, "Evaluated later"))


def difference_table(found: Sequence[Difference], where: Mapping[str, str]) -> Table:
    """Return paired differences in points of a percent, a row a pair.

    Args:
        found: the differences.
        where: the name of the data that the left one of each was tested on; empty where all were on the same.
    """
    headings = [Heading(each, number=False) for each in ("this", "minus this")]
    headings += [Heading("on", number=False)] if where else []
    headings += [Heading(each) for each in ("mAP", "rank-1", "queries")]
    headings.append(Heading("says", number=False))
    rows = [
        [
            words(each.left),
            words(each.right),
            *([words(where[each.left])] if where else []),
            _points(each.mAP, each.interval, strong=True),
            _points(each.rank1, each.rank1_interval),
            number(each.queries, f"{each.queries:,}"),
            words(_verdict(each)),
        ]
        for each in found
    ]
    return Table(headings, rows, "Differences, paired by query")


def _points(value: float | None, interval: Sequence[float] | None, *, strong: bool = False) -> Cell:
    if value is None:
        return Cell(NONE)
    below = "" if interval is None else "[" + ", ".join(f"{100 * end:+.1f}" for end in interval) + "]"
    return Cell(f"{100 * value:+.1f}", below, value, strong)


def _verdict(found: Difference) -> str:
    if found.interval is None:
        return "one query"
    if found.interval[0] > 0:
        return "higher"
    return "lower" if found.interval[1] < 0 else "not told apart"


def open_set_tables(found: Mapping[str, Any]) -> list[Table]:
    """Return an evaluation's open-set scores: pairs, identification, and how a stored calibration held."""
    tables = []
    rows = [
        [
            Cell(_rate(point["rate"]), order=point["rate"]),
            _threshold(point["threshold"]),
            share(point["fnmr"], point["fnmr_interval"], strong=True),
            words(point["reason"] or ""),
        ]
        for point in found["verification"]["points"]
    ]
    headings = [Heading("FMR", number=False), Heading("threshold"), Heading("FNMR"), Heading("note", number=False)]
    tables.append(without_empty_columns(Table(headings, rows, "One person or two: false non-matches")))
    search = found["identification"]
    if "missing" not in search:
        rows = [
            [
                Cell(_rate(point["rate"]), order=point["rate"]),
                _threshold(point["threshold"]),
                share(point["tpir"], point["tpir_interval"], strong=True),
                words(point["reason"] or ""),
            ]
            for point in search["points"]
        ]
        headings = [Heading("FPIR", number=False), Heading("threshold"), Heading("TPIR"), Heading("note", number=False)]
        tables.append(without_empty_columns(Table(headings, rows, "Who is it, or nobody: right identifications")))
    stored = found["calibration"]
    if "missing" not in stored:
        rows = [
            [
                Cell(_rate(point["rate"]), order=point["rate"]),
                _threshold(point["threshold"]),
                words(NONE if point["expected"] is None else " to ".join(map(_rate, point["expected"]))),
                share(point["fmr"], point["fmr_interval"], strong=True),
                share(point["fnmr"], point["fnmr_interval"]),
            ]
            for point in stored["points"]
        ]
        headings = [Heading("FMR", number=False), Heading("threshold"), Heading("FMR expected")]
        headings += [Heading("FMR here"), Heading("FNMR here")]
        tables.append(Table(headings, rows, "The stored thresholds on these images"))
    return [table for table in tables if table.rows]


def _rate(value: float) -> str:
    return f"{100 * value:.3g} %"


def _threshold(value: float | None) -> Cell:
    return number(value, "" if value is None else f"{value:.4f}")


def config_table(configs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    """Return the keys in which configs differ, a row a key and a column a run.

    Args:
        configs: flat, by dotted key.
        names: of their runs.
    """
    keys = dict.fromkeys(key for config in configs for key in config)
    missing = object()
    differing = [key for key in keys if any(c.get(key, missing) != configs[0].get(key, missing) for c in configs)]
    headings = [Heading("key", number=False), *(Heading(name, number=False) for name in names)]
    rows = [[words(key), *(words(_value(config.get(key, NONE))) for config in configs)] for key in differing]
    return Table(headings, rows, "Keys of the configs that differ")


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_value, value)) or "none"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
