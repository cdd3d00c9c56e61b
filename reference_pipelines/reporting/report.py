"""Runs as one HTML file that needs nothing beside it: scores, curves, rankings, attention, provenance."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from attnreid.files import parse_json, read_json, read_text, write_text
from reference_pipelines.data.layouts.three_folders import MANIFEST
from reference_pipelines.errors import UserError
from reference_pipelines.reporting.figures import (
    AttentionRow,
    Pictures,
    Points,
    attention_rows,
    colour_scale,
    legend_sample,
    line_chart,
)
from reference_pipelines.reporting.table import (
    EVALUATION_HEADINGS,
    HEADINGS,
    describe_recipe,
    evaluation_notes,
    evaluation_rows,
    table_notes,
    table_rows,
    tell_apart,
)
from reference_pipelines.runs.folder import EVALUATIONS, RESULT
from reference_pipelines.runs.result import read_result

PEOPLE = 8
_PIPELINES = {"apnet": "APNet: supervised", "mla": "MLA: unsupervised"}
_NEEDED = (
    *("pipeline", "title", "data", "weights", "chance", "start", "final", "train_seconds", "seconds"),
    *("hardware", "command", "commit", "code", "versions", "config"),
)

_LATER: dict[str, Any] = {"unfinished": None, "resumed": [], "weights_digest": None}  # what older results lack


@dataclass(frozen=True)
class ReadRun:
    """What a run's folder says.

    Args:
        key: its name in the page's ids.
        folder: where it lies.
        result: result.json.
        log: the lines of log.jsonl.
        evaluations: what `evaluate` wrote about it later.
        lists: the ranked lists of examples.json.
        attention: its gates, drawn.
        attention_images: what they are drawn over.
        digests: of the images in the lists, as the run saw them.
    """

    key: str
    folder: Path
    result: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    evaluations: Sequence[Mapping[str, Any]]
    lists: Sequence[Mapping[str, Any]]
    attention: Sequence[AttentionRow]
    attention_images: Sequence[str]
    digests: Mapping[str, str]

    @property
    def setting(self) -> str:
        """The network, the image size and the length of the training."""
        config = self.result["config"]
        height, width = config["data"]["image_size"]
        epochs = config["optimizer"]["epochs"]
        return f"{config['model']['backbone']} at {height} × {width} pixels, {epochs} epoch{'' if epochs == 1 else 's'}"

    @property
    def weights(self) -> str:
        """What the training started from."""
        return "random" if self.result["weights"] == "none" else str(self.result["weights"])

    @property
    def rendered(self) -> bool:
        """Whether its queries are drawings of the renderer, which leaves a manifest beside them."""
        if "rendered" in self.result["data"]:
            return bool(self.result["data"]["rendered"])
        return any((folder / MANIFEST).is_file() for shown in self.lists for folder in Path(shown["query"]).parents[:3])


class Group(NamedTuple):
    """The runs of one pipeline, with their table rows and charts."""

    name: str
    runs: list[ReadRun]
    rows: list[tuple[str, ...]]
    legend: list[tuple[Markup, str]]
    charts: list[tuple[str, Markup]]


class Person(NamedTuple):
    """Images that the ranked lists say are of one person."""

    queries: dict[str, None]
    gallery: dict[str, None]


def write_report(runs: Sequence[Path], out: Path, *, title: str = "attnreid report") -> Path:
    """Write one self-contained HTML file about runs and return its path.

    Args:
        runs: their folders, in the order of the table's rows; an unfinished run's says so.
        out: the file; one that exists is replaced when the new one is whole.
        title: heading of the page.

    Raises:
        UserError: no folder, a folder that is no run, or a file that cannot be written.
    """
    if not runs:
        raise UserError("report: at least one run is needed, got none; name its folder")
    loaded = [read_run(Path(folder), f"run{i}") for i, folder in enumerate(runs)]
    page = render_page(loaded, title)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, page)
    except OSError as error:
        raise UserError(f"report: cannot write {out} ({error.strerror}); choose another --out") from None
    return out


def read_run(folder: Path, key: str) -> ReadRun:
    """Read a run folder; `key` names it in the page.

    Raises:
        UserError: it is not the folder of a run.
    """
    try:
        result = read_result(folder)
        if result is None:
            found = f"it has no {RESULT} and no whole checkpoint" if folder.is_dir() else "there is no such folder"
            raise UserError(
                f"report: {folder} must be a run that has saved something, and {found}; name another folder"
            )
        result = {**_LATER, **result}
        lines = read_text(folder / "log.jsonl").splitlines()
        examples: dict[str, Any] = {"lists": [], "attention_images": []}
        attention: list[AttentionRow] = []
        if not result["unfinished"]:  # they are made at the end; what lies there is of an end before
            examples = read_json(folder / "examples.json")
            with np.load(folder / "attention.npz", allow_pickle=False) as gates:
                attention = attention_rows(dict(gates), examples["attention_images"], examples.get("digests"))
        log = [parse_json(line) for line in lines if line.strip()]
        later = sorted((folder / EVALUATIONS).glob("*.json"))
        evaluations = [read_json(path) for path in later]
        evaluation_rows(evaluations)  # to find a foreign file here
        lacking = [name for name in _NEEDED if name not in result]
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise UserError(
            f"report: {folder} must hold a whole run, and it does not ({_reason(error)}); train it again"
        ) from None
    if lacking:
        raise UserError(
            f"report: {folder / RESULT} must come from `train`, and it lacks {', '.join(lacking)}; train it again"
        )
    images, digests = examples["attention_images"], examples.get("digests", {})
    return ReadRun(key, folder, result, log, evaluations, examples["lists"], attention, images, digests)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{Path(error.filename).name}: {error.strerror}"
    return f"{type(error).__name__}: {error}"


def render_page(runs: Sequence[ReadRun], title: str) -> str:
    """Return the page."""
    environment = Environment(
        loader=PackageLoader("reference_pipelines.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.1f}"
    pipelines = _distinct(run.result["pipeline"] for run in runs)
    by_pipeline = [[run for run in runs if run.result["pipeline"] == pipeline] for pipeline in pipelines]
    results = [run.result for run in runs]
    titles = [str(result["title"]) for result in results]
    names = {run.key: name for run, name in zip(runs, tell_apart(titles, [run.folder for run in runs]), strict=True)}
    rows = dict(zip(names, table_rows(results, list(names.values())), strict=True))
    evaluations = [numbers for run in runs for numbers in run.evaluations]
    evaluated = _names_of_evaluations(runs, titles, names)
    pictures = Pictures({path: digest for run in runs for path, digest in run.digests.items()})
    people = find_people(shown for run in runs for shown in run.lists)
    return environment.get_template("report.html.j2").render(
        title=title,
        runs=runs,
        names=names,
        groups=[
            _group(pipeline, members, names, rows) for pipeline, members in zip(pipelines, by_pipeline, strict=True)
        ],
        headings=HEADINGS,
        notes=table_notes(results, list(names.values()), recipes=False),
        evaluations=evaluation_rows(evaluations, evaluated),
        evaluation_headings=EVALUATION_HEADINGS,
        evaluation_notes=evaluation_notes(evaluations, evaluated),
        changes={run.key: describe_recipe(run.result) for run in runs},
        data=[
            f"{summary}, fingerprint {fingerprint}"
            for fingerprint, summary in {
                result["data"]["fingerprint"]: result["data"]["summary"] for result in results
            }.items()
        ],
        settings=_distinct(run.setting for run in runs),
        seeds=_distinct(run.result["config"].get("seed") for run in runs),
        rendered=[run.rendered for run in runs],
        people=_spread([person for person in people if person.gallery] or people, PEOPLE),
        opened={members[0].key for members in by_pipeline},
        opened_maps={next((run.key for run in members if run.attention), None) for members in by_pipeline},
        pictures=pictures,
        colour_scale=colour_scale(),
    )


def _names_of_evaluations(runs: Sequence[ReadRun], titles: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """Return the title that each evaluation bears, with the folder where its run is told apart by that."""
    folders = [names[run.key].removeprefix(title) for run, title in zip(runs, titles, strict=True)]
    return [
        f"{numbers['title']}{folder}" for run, folder in zip(runs, folders, strict=True) for numbers in run.evaluations
    ]


def _group(pipeline: str, runs: list[ReadRun], names: Mapping[str, str], rows: Mapping[str, tuple[str, ...]]) -> Group:
    labels = [names[run.key] for run in runs]
    legend = [(legend_sample(f"legend-{run.key}", i), labels[i]) for i, run in enumerate(runs)]
    levels = [level for level in _distinct(run.result["chance"] for run in runs) if level is not None]
    chance = {f"chance {100 * level:.1f}": 100 * level for level in levels}

    def chart(measure: str, title: str, scale: float = 1, **options: Any) -> tuple[str, Markup]:
        lines = [Points(run.key, labels[i], i, _course(run.log, measure, scale)) for i, run in enumerate(runs)]
        return title, line_chart(f"{runs[0].key}-{measure}", title, lines, **options)

    charts = [
        chart("loss", "Training loss"),
        chart("mAP", "mAP in percent; epoch 0 is the starting network", 100, dashed=chance, floor=0),
    ]
    if any("id_purity" in entry for run in runs for entry in run.log):
        charts += [
            chart("id_purity", "Purity of the clusters by id", floor=0, ceiling=1.02),
            chart("camera_purity", "Purity of the clusters by camera", floor=0, ceiling=1.02),
        ]
    if any(entry.get("silhouette") is not None for run in runs for entry in run.log):
        charts.append(chart("silhouette", "Silhouette of the clusters"))
    return Group(_PIPELINES.get(pipeline, pipeline), runs, [rows[run.key] for run in runs], legend, charts)


def _course(log: Sequence[Mapping[str, Any]], measure: str, scale: float) -> list[tuple[float, float]]:
    """Return (epoch, value) of the epochs at which `measure` was taken."""
    taken = [(entry["epoch"], entry[measure]) for entry in log if entry.get(measure) is not None]
    return [(epoch, scale * value) for epoch, value in taken if math.isfinite(value)]


def find_people(lists: Iterable[Mapping[str, Any]]) -> list[Person]:
    """Return who is seen in the ranked lists: a query and its right matches are one person, by file name."""
    people: list[Person] = []
    for shown in lists:
        matches = {entry["image"]: None for entry in shown["ranked"] if entry["match"]}
        person = Person({shown["query"]: None}, matches)
        for known in [other for other in people if _overlap(person, other)]:
            people.remove(known)
            person = Person(known.queries | person.queries, known.gallery | person.gallery)
        people.append(person)
    return sorted(people, key=lambda person: min(person.queries))


def _overlap(one: Person, other: Person) -> bool:
    return bool(one.queries.keys() & other.queries.keys() or one.gallery.keys() & other.gallery.keys())


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """Return at most `count` of the items, evenly from first to last."""
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[place] for place in places]


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))
