"""What came out, beside the paper's numbers: as a table on the terminal, CSV, an HTML page, and a curve."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from attnreid.files import write_bytes, write_text
from reference_pipelines.claims.paper_values import Cell as PaperCell
from reference_pipelines.claims.paper_values import paper_values
from reference_pipelines.ledger.entry import SELECTIONS, Selection
from reference_pipelines.reproduction.cells import Cell, Plan
from reference_pipelines.runs.folder import RESULT
from reference_pipelines.spreadsheet import as_cell
from reference_pipelines.templates import find_template, write_page
from reference_pipelines.text_table import format_table

NOT_RUN = "not run"
OURS: dict[Selection, str] = {"last": "ours", "held_out": "ours, held-out", "oracle": "ours, oracle"}
METRICS = {"mAP": "mAP", "rank1": "R-1", "rank5": "R-5", "rank10": "R-10", "gflops": "GFLOPs"}


@dataclass(frozen=True)
class Value:
    """One number of a table, ours and the paper's.

    Args:
        row: its name.
        dataset: of the papers, or "A to B".
        metric: "mAP", "rank1", ...; scores are in percent.
        paper: the paper's; None where it gives none.
        ours: the mean over the seeds; None where it was not run.
        interval: 95 %, over the queries of one seed, or Student's t over several; None where there is none.
        seeds: how many.
        runs: their folders.
        reason: why it was not run, where it cannot be.
        selection: by which rule the weights were chosen.
    """

    row: str
    dataset: str
    metric: str
    paper: float | None
    ours: float | None = None
    interval: tuple[float, float] | None = None
    seeds: int = 0
    runs: tuple[str, ...] = ()
    reason: str | None = None
    selection: Selection = "last"

    @property
    def shown(self) -> str:
        """Ours, to read."""
        if self.ours is None:
            return NOT_RUN
        digits = 2 if self.metric == "gflops" else 1
        ends = "" if self.interval is None else " [{:.{d}f}, {:.{d}f}]".format(*self.interval, d=digits)
        return f"{self.ours:.{digits}f}{ends}"

    @property
    def paper_shown(self) -> str:
        """The paper's, to read."""
        return "" if self.paper is None else f"{self.paper:.{2 if self.metric == 'gflops' else 1}f}"


def values_of(plan: Plan, costs: dict[str, float] | None = None) -> list[Value]:
    """Return every number of a plan's table, rows first, and of a row and metric one for each rule of selection.

    Args:
        plan: what was run, in part or as a whole.
        costs: multiply-adds of each row, of an experiment that trains nothing.
    """
    papers = paper_values()
    found = []
    for dataset in plan.data:
        for row in plan.rows:
            cells = [cell for cell in plan.cells if (cell.row, cell.dataset) == (row, dataset)]
            for metric in plan.experiment.metrics:
                paper = papers.get(PaperCell(row.paper, row.name, dataset, metric))
                if costs is not None:
                    found.append(Value(row.name, dataset, metric, paper, costs[row.name]))
                else:
                    found += [_value(cells, metric, paper, rule) for rule in plan.select]
    return found


def _value(cells: Sequence[Cell], metric: str, paper: float | None, rule: Selection) -> Value:
    row, dataset, reason = cells[0].row.name, cells[0].dataset, cells[0].reason
    scores = [(cell, found) for cell in cells if (found := _scores(cell, rule)) is not None]
    if not scores:
        return Value(row, dataset, metric, paper, reason=reason, selection=rule)
    mean, interval = summary([found for _, found in scores], metric)
    runs = tuple(cell.run.folder.name for cell, _ in scores if cell.run is not None)
    return Value(row, dataset, metric, paper, mean, interval, len(scores), runs, selection=rule)


def summary(scores: Sequence[Mapping[str, Any]], metric: str) -> tuple[float, tuple[float, float] | None]:
    """Return the mean of a metric over seeds, in percent, and its 95 % interval.

    Args:
        scores: of each seed.
        metric: "mAP", "rank1", ...

    Returns:
        The interval is Student's t over several seeds, of what lies within 0 and 100; of one seed it is that of its
        queries, where there is one.
    """
    numbers = [100 * found[metric] for found in scores]
    mean = float(np.mean(numbers))
    if len(numbers) > 1:
        half = stats.t.ppf(0.975, len(numbers) - 1) * np.std(numbers, ddof=1) / len(numbers) ** 0.5
        return mean, (max(0.0, mean - float(half)), min(100.0, mean + float(half)))
    if metric == "mAP" and scores[0]["interval"]:
        low, high = scores[0]["interval"]
        return mean, (100 * low, 100 * high)
    return mean, None


def _scores(cell: Cell, rule: Selection) -> dict[str, Any] | None:
    result = cell.result_of(rule)
    if result is None or not result.is_file():
        return None
    content = json.loads(result.read_text(encoding="utf-8"))
    scores: dict[str, Any] = content["final" if result.name == RESULT else "scores"]
    return scores


def caption(plan: Plan) -> str:
    """Say what the numbers are of."""
    about = f"{plan.experiment.title}. Scale {plan.scale.name}: {plan.scale.about}."
    if plan.experiment.kind == "cost":
        return f"{plan.experiment.title}. Counted on the network itself, without training."
    stand_ins = " Each data set is a rendered stand-in of its name, not the data set." if plan.scale.images else ""
    rules = "; ".join(f"{OURS[rule]}: {SELECTIONS[rule]}" for rule in plan.select)
    apart = f" {plan.scale.held_out} training people were held out of all of it." if "held_out" in plan.select else ""
    return (
        f"{about}{stand_ins} In percent. Weights of {rules}.{apart} 95 % intervals, over the queries of one seed or "
        "over several seeds (Student's t)."
    )


def as_text(plan: Plan, values: Sequence[Value]) -> str:
    """Return the table as a terminal shows it: for each metric the paper's and ours, by each rule of selection."""
    whose = ["paper", *(OURS[rule] for rule in plan.select)]
    headings = ["row", "data set", *(f"{METRICS[metric]} {who}" for metric in plan.experiment.metrics for who in whose)]
    rows = []
    for row, dataset, found in _lines(plan, values):
        shown = []
        for value in found:
            shown += [value.paper_shown or "-"] if value.selection == plan.select[0] else []
            shown.append(value.shown)
        rows.append([row, dataset, *shown])
    table = format_table(rows, headings)
    reasons = sorted({f"{value.dataset}: {value.reason}" for value in values if value.reason})
    return "\n".join([table, *(f"not run: {reason}" for reason in reasons)])


def _lines(plan: Plan, values: Sequence[Value]) -> Iterator[tuple[str, str, list[Value]]]:
    for dataset in plan.data:
        for row in plan.rows:
            yield row.name, dataset, [v for v in values if (v.row, v.dataset) == (row.name, dataset)]


def as_csv(values: Sequence[Value]) -> str:
    """Return one line a number."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", "dataset", "metric", "selection", "paper", "ours", "low", "high", "seeds", "runs"])
    for value in values:
        ours = NOT_RUN if value.ours is None else round(value.ours, 3)
        ends = ["", ""] if value.interval is None else [round(end, 3) for end in value.interval]
        paper = "" if value.paper is None else value.paper
        runs = as_cell(" ".join(value.runs))
        about = [value.row, value.dataset, value.metric, value.selection]
        writer.writerow([*about, paper, ours, *ends, value.seeds, runs])
    return out.getvalue()


def as_html(plan: Plan, values: Sequence[Value]) -> str:
    """Return a page with the table in the paper's layout."""
    template = find_template("reference_pipelines.reproduction", "table.html.j2")
    by_cell = {(value.row, value.dataset, value.metric, value.selection): value for value in values}
    return template.render(
        experiment=plan.experiment,
        plan=plan,
        rows=plan.rows,
        caption=caption(plan),
        values=by_cell,
        metrics=METRICS,
        ours=OURS,
    )


def as_png(plan: Plan, values: Sequence[Value]) -> bytes:
    """Return the curve of an experiment: a line a metric, ours with its interval, by the first rule of selection."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    experiment = plan.experiment
    labels = dict(zip([row.name for row in experiment.rows], experiment.labels, strict=True))
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for metric in experiment.metrics:
        wanted = (plan.data[0], metric, plan.select[0])
        found = [value for value in values if (value.dataset, value.metric, value.selection) == wanted]
        points = [(labels[value.row], value) for value in found if value.ours is not None]
        if points:
            ours = np.array([value.ours for _, value in points], dtype=float)
            ends = np.array([value.interval or (value.ours, value.ours) for _, value in points], dtype=float)
            axes.errorbar(
                [label for label, _ in points],
                ours,
                yerr=np.stack([ours - ends[:, 0], ends[:, 1] - ours]),
                marker="o",
                capsize=3,
                label=f"{METRICS[metric]} {OURS[plan.select[0]]}",
            )
    axes.set_xlabel(experiment.axis)
    axes.set_ylabel("percent")
    axes.set_title(experiment.title, fontsize=10)
    if axes.has_data():
        axes.legend()
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    return out.getvalue()


def write_tables(plan: Plan, values: Sequence[Value]) -> list[Path]:
    """Write the table as CSV and HTML, a curve as PNG too, and return the files."""
    folder = plan.out / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    name = plan.experiment.name
    written = [folder / f"{name}.csv", folder / f"{name}.html"]
    write_text(written[0], as_csv(values))
    write_page(written[1], as_html(plan, values))
    if plan.experiment.kind == "curve":
        written.append(folder / f"{name}.png")
        write_bytes(written[-1], as_png(plan, values))
    return written
