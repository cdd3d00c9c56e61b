"""Runs as one HTML file that needs nothing beside it: scores, curves, rankings, attention, provenance."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from markupsafe import Markup

from reference_pipelines.config.loading import flat
from reference_pipelines.data.names import printable
from reference_pipelines.errors import UserError
from reference_pipelines.ledger.entry import SELECTIONS, digest
from reference_pipelines.ledger.verifying import verify
from reference_pipelines.reporting.cells import (
    Heading,
    Table,
    config_table,
    difference_table,
    evaluation_table,
    open_set_tables,
    score_table,
    share,
    without_empty_columns,
    words,
)
from reference_pipelines.reporting.charts import Dot, Points, legend_mark, legend_sample, line_chart, scatter_chart
from reference_pipelines.reporting.comparing import MOST_PAIRS, Outcome, differences
from reference_pipelines.reporting.figures import Pictures, attention_rows, colour_scales
from reference_pipelines.reporting.reading import ReadRun, read_run
from reference_pipelines.reporting.table import (
    describe_recipe,
    evaluation_notes,
    evaluation_rows,
    name_data,
    table_notes,
    tell_apart,
)
from reference_pipelines.templates import find_template, write_page

PEOPLE = 8
_PACKAGE = "reference_pipelines.reporting"
_PIPELINES = {"apnet": "APNet: supervised", "mla": "MLA: unsupervised"}
_HEAT = (0.1, 0.25, 0.5, 0.75)  # parts of the queries from which a pair of cameras is marked more strongly


class Group(NamedTuple):
    """The runs of one pipeline, with their table and charts."""

    name: str
    runs: list[ReadRun]
    table: Table
    legend: list[tuple[Markup, str]]
    charts: list[tuple[str, Markup]]


class Comparison(NamedTuple):
    """A chart of several networks on one data set, with its legend."""

    name: str
    legend: list[tuple[Markup, str]]
    chart: Markup


class CameraMatrix(NamedTuple):
    """Queries whose first image is wrong, by their camera (rows) and that of their matches (columns).

    Each cell is (their part in percent, the queries, a degree of 0 to 4), or None where no query has a match there.
    """

    queries: list[int]
    matches: list[int]
    rows: list[list[tuple[str, int, int] | None]]


class EmbeddingMap(NamedTuple):
    """A run's map of features, coloured by person and by camera."""

    shares: tuple[float, float]
    shown: int
    people: int
    by_person: Markup
    persons: list[tuple[Markup, str]]
    by_camera: Markup | None
    cameras: list[tuple[Markup, str]]


class Person(NamedTuple):
    """Images that the ranked lists say are of one person, each with what its list knows of it."""

    queries: dict[str, Mapping[str, Any]]
    gallery: dict[str, Mapping[str, Any]]


def write_report(
    runs: Sequence[Path],
    out: Path,
    *,
    title: str = "attnreid report",
    images: bool = True,
    ledger: Path | None = None,
) -> Path:
    """Write one self-contained HTML file about runs and return its path.

    Args:
        runs: their folders, in the order of the table's rows; an unfinished run's says so.
        out: the file; one that exists is replaced when the new one is whole.
        title: heading of the page.
        images: whether pixels of the data's images are in the page; the numbers and names stay without them.
        ledger: a folder, or a slice's file, whose lines about these runs are shown.

    Raises:
        UserError: no folder, a folder that is no run, no ledger, or a file that cannot be written.
    """
    if not runs:
        raise UserError("report: at least one run is needed, got none; name its folder")
    loaded = [read_run(Path(folder), f"run{i}") for i, folder in enumerate(runs)]
    page = render_page(loaded, title, images=images, ledger=ledger)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_page(out, page)
    except OSError as error:
        raise UserError(f"report: cannot write {out} ({error.strerror}); choose another --out") from None
    return out


def render_page(runs: Sequence[ReadRun], title: str, *, images: bool = True, ledger: Path | None = None) -> str:
    """Return the page."""
    pipelines = _distinct(run.result["pipeline"] for run in runs)
    by_pipeline = [[run for run in runs if run.result["pipeline"] == pipeline] for pipeline in pipelines]
    results = [run.result for run in runs]
    titles = [str(result["title"]) for result in results]
    names = {run.key: name for run, name in zip(runs, tell_apart(titles, [run.folder for run in runs]), strict=True)}
    evaluations = [each.numbers for run in runs for each in run.evaluations]
    evaluated = _names_of_evaluations(runs, titles, names)
    pictures = Pictures({path: digest for run in runs for path, digest in run.digests.items()}, hidden=not images)
    people = find_people(shown for run in runs for shown in run.lists) if images else []
    attention = {
        run.key: attention_rows(run.gates, run.attention_images, run.digests, hidden=not images) for run in runs
    }
    rendered = [run.rendered for run in runs]
    style, script = _style(), Markup(files(_PACKAGE).joinpath("report.js").read_text(encoding="utf-8"))
    page = find_template(_PACKAGE, "report.html.j2").render(
        title=title,
        style=style,
        script=script,
        runs=runs,
        names=names,
        groups=[_group(pipeline, members, names) for pipeline, members in zip(pipelines, by_pipeline, strict=True)],
        notes=table_notes(results, list(names.values()), recipes=False),
        claim=_claim(runs),
        data=_data(runs),
        evaluations=evaluation_table(evaluations, evaluated) if evaluations else None,
        evaluation_notes=evaluation_notes(evaluations, evaluated),
        **_comparisons(runs, names, evaluations, evaluated),
        open_sets=_open_sets(evaluations, evaluated),
        cameras={run.key: camera_matrix(run.result) for run in runs},
        embeddings={run.key: _embedding(run, names[run.key]) for run in runs},
        attention=attention,
        changes={run.key: describe_recipe(run.result) for run in runs},
        configs={run.key: yaml.safe_dump(run.result["config"], sort_keys=False, allow_unicode=True) for run in runs},
        differing=_differing(runs, names),
        ledger=None if ledger is None else _ledger_table(ledger, runs, names),
        ledger_place=ledger,
        rendered=rendered,
        images=images,
        people=_spread([person for person in people if person.gallery] or people, PEOPLE),
        opened={members[0].key for members in by_pipeline},
        opened_maps={next((run.key for run in members if attention[run.key]), None) for members in by_pipeline},
        pictures=pictures,
    )
    return printable(page)


def _style() -> Markup:
    maps, strips = colour_scales()
    sheet = files(_PACKAGE).joinpath("report.css").read_text(encoding="utf-8")
    return Markup(f"{sheet}.scale.maps i {{ background: {maps}; }}\n.scale.strips i {{ background: {strips}; }}\n")


def _claim(runs: Sequence[ReadRun]) -> str:
    """Return what the numbers are of, and what they do not say."""
    rendered = [run.rendered for run in runs]
    settings = "; ".join(_distinct(run.setting for run in runs))
    seeds = _distinct(run.result["config"].get("seed") for run in runs)
    of = ""
    if any(rendered):
        of = "rendered drawings, not photographs, and of " if all(rendered) else "data that is in part rendered "
        of += "" if all(rendered) else "drawings, not photographs, and of "
    papers = ""
    if any(rendered):
        papers = "they are not the papers’ numbers, and "
    elif any(run.published for run in runs):
        papers = "whether they may stand beside the papers’ numbers is for `reproduce` to say, and "
    count = "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
    return (
        f"These are numbers of {of}{settings}, with {count} and one training a row; {papers}a difference between two "
        "rows need not hold for other data, networks or seeds."
    )


def _data(runs: Sequence[ReadRun]) -> list[dict[str, str]]:
    """Return the data sets that the runs and their evaluations name, each once."""
    described = [run.result["data"] for run in runs]
    for run in runs:
        described += [each.numbers[side] for each in run.evaluations for side in ("trained_on", "tested_on")]
    names = name_data(described)
    found = {
        each.get("fingerprint", name): {
            "name": name,
            "summary": each.get("summary", ""),
            "fingerprint": each.get("fingerprint", "unknown"),
        }
        for each, name in zip(described, names, strict=True)
    }
    return list(found.values())


def _names_of_evaluations(runs: Sequence[ReadRun], titles: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """Return the title that each evaluation bears, with the folder where its run is told apart by that."""
    folders = [names[run.key].removeprefix(title) for run, title in zip(runs, titles, strict=True)]
    return [
        f"{each.numbers['title']}{folder}"
        for run, folder in zip(runs, folders, strict=True)
        for each in run.evaluations
    ]


def _group(pipeline: str, runs: list[ReadRun], names: Mapping[str, str]) -> Group:
    labels = [names[run.key] for run in runs]
    legend = [(legend_sample(i), labels[i]) for i in range(len(runs))]
    levels = [level for level in _distinct(run.result["chance"] for run in runs) if level is not None]
    chance = {f"chance {100 * level:.1f}": 100 * level for level in levels}
    name = _PIPELINES.get(pipeline, pipeline)

    def chart(measure: str, title: str, scale: float = 1, **options: Any) -> tuple[str, Markup]:
        lines = [Points(run.key, labels[i], i, _course(run.log, measure, scale)) for i, run in enumerate(runs)]
        return title, line_chart(f"{runs[0].key}-{measure}", title, lines, **options)

    measured = {measure for run in runs for entry in run.log for measure in entry if entry[measure] is not None}
    wanted: list[tuple[str, str, float, dict[str, Any]]] = [
        ("loss", "Training loss", 1, {}),
        ("mAP", "mAP in percent; epoch 0 is the starting network", 100, {"dashed": chance, "floor": 0}),
        ("held_out_mAP", "mAP in percent on training people who were held out", 100, {"floor": 0}),
        ("clusters", "Clusters", 1, {"floor": 0}),
        ("noise", "Images in no cluster, in percent", 100, {"floor": 0}),
        ("id_purity", "Purity of the clusters by id", 1, {"floor": 0, "ceiling": 1}),
        ("camera_purity", "Purity of the clusters by camera", 1, {"floor": 0, "ceiling": 1}),
        ("id_nmi", "Mutual information of clusters and ids, normalised", 1, {"floor": 0, "ceiling": 1}),
        ("silhouette", "Silhouette of the clusters", 1, {}),
    ]
    charts = [
        chart(measure, title, scale, **options)
        for measure, title, scale, options in wanted
        if measure in measured or measure in ("loss", "mAP")
    ]
    return Group(name, runs, score_table(runs, names, name), legend, charts)


def _course(log: Sequence[Mapping[str, Any]], measure: str, scale: float) -> list[tuple[float, float]]:
    """Return (epoch, value) of the epochs at which `measure` was taken."""
    taken = [(entry["epoch"], entry[measure]) for entry in log if entry.get(measure) is not None]
    return [(epoch, scale * value) for epoch, value in taken if math.isfinite(value)]


def _comparisons(
    runs: Sequence[ReadRun],
    names: Mapping[str, str],
    evaluations: Sequence[Mapping[str, Any]],
    evaluated: Sequence[str],
) -> dict[str, Any]:
    """Return CMC curves by data set, and the paired differences of all that was tested on the same data."""
    outcomes, data = _outcomes(runs, names, evaluations, evaluated)
    curves = []
    for i, fingerprint in enumerate(_distinct(each.data for each in outcomes)):
        alike = [each for each in outcomes if each.data == fingerprint]
        lines = [Points(f"line{k}", each.name, k, each.cmc()) for k, each in enumerate(alike)]
        title = f"CMC on {data[fingerprint]}: queries in percent with a match among the first k"
        chart = line_chart(f"cmc{i}", title, lines, x_title="k", ceiling=100)
        legend = [(legend_sample(k), each.name) for k, each in enumerate(alike)]
        curves.append(Comparison(data[fingerprint], legend, chart))
    found = differences(outcomes)
    tested = {each.name: data[each.data] for each in outcomes}
    where = tested if len({tested[each.left] for each in found}) > 1 else {}
    on_each = Counter(each.data for each in outcomes).values()
    return {
        "cmc": curves,
        "differences": difference_table(found, where) if found else None,
        "first_alone": any(math.comb(count, 2) > MOST_PAIRS for count in on_each),
    }


def _outcomes(
    runs: Sequence[ReadRun],
    names: Mapping[str, str],
    evaluations: Sequence[Mapping[str, Any]],
    evaluated: Sequence[str],
) -> tuple[list[Outcome], dict[str, str]]:
    """Return all that was tested, each test once, and what the data sets with these fingerprints are called."""
    described = [run.result["data"] for run in runs] + [numbers["tested_on"] for numbers in evaluations]
    called = name_data(described)
    data = {_fingerprint(each): name for each, name in zip(described, called, strict=True)}
    outcomes = [
        Outcome(names[run.key], _fingerprint(run.result["data"]), dict(run.result["final"]), run.ranks)
        for run in runs
        if run.result["final"]
    ]
    told = iter(zip(evaluation_rows(evaluations, evaluated), evaluated, strict=True))
    for each in (each for run in runs for each in run.evaluations):
        (_, _, tested, how, *_), name = next(told)
        fingerprint = _fingerprint(each.numbers["tested_on"])
        known = [other for other in outcomes if other.data == fingerprint]
        new = Outcome(f"{name}, {how}, on {tested}", fingerprint, dict(each.numbers["scores"]), each.ranks)
        # What a run's own last test has measured already is no second network.
        if not any(name == other.name and np.array_equal(new.precision, other.precision) for other in known):
            outcomes.append(new)
    return list({outcome.name: outcome for outcome in outcomes}.values()), data


def _fingerprint(data: Mapping[str, Any]) -> str:
    return str(data.get("fingerprint", data["name"]))


def _open_sets(evaluations: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return what the evaluations with open-set scores say: tables, the curve, and sentences."""
    rows = evaluation_rows(evaluations, names)
    found = []
    for i, (numbers, (name, _, tested, how, *_)) in enumerate(zip(evaluations, rows, strict=True)):
        if "open_set" not in numbers:
            continue
        scores = numbers["open_set"]
        pairs, search, stored = scores["verification"], scores["identification"], scores["calibration"]
        said = [
            f"One person or two: {pairs['genuine']:,} genuine and {pairs['impostors']:,} impostor pairs of "
            f"{pairs['people']:,} people in {pairs['images']:,} images."
        ]
        if "missing" in search:
            said.append(f"Who is it, or nobody: {search['missing']}.")
        else:
            said.append(
                f"Who is it, or nobody: {search['mated']:,} probes of {search['people'][0]:,} people in a gallery of "
                f"{search['gallery']:,} images, {search['non_mated']:,} probes of {search['people'][1]:,} people who "
                "are not in it."
            )
        said.append(
            f"Stored calibration: {stored['missing']}."
            if "missing" in stored
            else f"Stored thresholds, of {stored['data']}: {stored['drift']}."
        )
        curve = [(rate, 100 * missed) for _, rate, missed in reversed(pairs["roc"]) if rate > 0]
        title = "FNMR in percent by FMR: lower is better"
        chart = line_chart(f"roc{i}", title, [Points("line", name, 0, curve)], x_title="FMR", floor=0, logarithmic=True)
        found.append(
            {
                "name": f"{name}, {how}, on {tested}",
                "said": said,
                "tables": open_set_tables(scores),
                "title": title,
                "chart": chart if curve else None,
            }
        )
    return found


def camera_matrix(result: Mapping[str, Any]) -> CameraMatrix | None:
    """Return where the queries of a run fail, by camera; None where the result knows no cameras."""
    pairs = (result["final"] or {}).get("camera_pairs") or ()
    if not pairs:
        return None
    found = {(pair["query_camera"], pair["gallery_camera"]): pair for pair in pairs}
    queries, matches = (sorted({pair[side] for pair in found}) for side in (0, 1))

    def cell(query: int, match: int) -> tuple[str, int, int] | None:
        pair = found.get((query, match))
        if pair is None:
            return None
        failed = 1 - pair["rank1"]
        return f"{100 * failed:.0f}", pair["queries"], sum(failed >= degree for degree in _HEAT)

    return CameraMatrix(queries, matches, [[cell(query, match) for match in matches] for query in queries])


def _embedding(run: ReadRun, name: str) -> EmbeddingMap | None:
    if not run.embedding or not run.embedding["points"]:
        return None
    points = run.embedding["points"]
    persons = _distinct(point["person"] for point in points)
    cameras = sorted({point["camera"] for point in points}) if all(map(_has_camera, points)) else []

    def chart(side: str, title: str, values: Sequence[Any]) -> Markup:
        dots = [
            Dot(tuple(point["at"]), values.index(point[side]), point["query"], _words_of(point)) for point in points
        ]
        return scatter_chart(f"{run.key}-map-{side}", f"{title}, {name}", sorted(dots, key=lambda dot: dot.strong))

    return EmbeddingMap(
        shares=tuple(run.embedding["shares"]),
        shown=len(persons),
        people=run.embedding["people"],
        by_person=chart("person", "Features by person", persons),
        persons=[(legend_mark(i), str(person)) for i, person in enumerate(persons)],
        by_camera=chart("camera", "Features by camera", cameras) if cameras else None,
        cameras=[(legend_mark(i), f"camera {camera}") for i, camera in enumerate(cameras)],
    )


def _has_camera(point: Mapping[str, Any]) -> bool:
    return point.get("camera") is not None


def _words_of(point: Mapping[str, Any]) -> str:
    camera = f", camera {point['camera']}" if _has_camera(point) else ""
    return f"person {point['person']}{camera}, {'query' if point['query'] else 'gallery'}: {point['image']}"


def _differing(runs: Sequence[ReadRun], names: Mapping[str, str]) -> Table | None:
    """Return the keys in which the runs' configs differ; None of one run, or where they differ in nothing."""
    configs = [{key: value for key, value in flat(run.result["config"]).items() if key != "title"} for run in runs]
    table = config_table(configs, [names[run.key] for run in runs])
    return table if len(runs) > 1 and table.rows else None


def _ledger_table(ledger: Path, runs: Sequence[ReadRun], names: Mapping[str, str]) -> Table:
    """Return the ledger's lines about the runs' weights."""
    if not ledger.exists():
        raise UserError(f"report: --ledger must be a ledger, there is no {ledger}; name its folder")
    weights = {digest: names[run.key] for run in reversed(runs) for digest in run.weights_digests()}
    rows = []
    for checked in verify(ledger):
        for entry in checked.entries:
            if entry.weights not in weights:
                continue
            faults = [each for each in checked.findings if each.wrong and each.line in (None, entry.number)]
            rows.append(
                [
                    words(weights[entry.weights]),
                    words(f"{entry.slice}, line {entry.number}"),
                    words(
                        f"{entry.cell.get('row', '')} on {entry.cell.get('dataset', '')}, {entry.cell.get('scale', '')}"
                    ),
                    words(entry.recorded),
                    words(SELECTIONS.get(entry.selection, entry.selection)),
                    share((entry.scores or {}).get("mAP"), strong=True),
                    words("; ".join(each.what for each in faults) or "holds"),
                    words(digest(entry.to_line())[:16]),
                ]
            )
    headings = ("variant", "slice", "cell", "recorded", "weights", "mAP", "check", "digest")
    return without_empty_columns(
        Table([Heading(each, number=each == "mAP") for each in headings], rows, "Lines of the ledger about these runs")
    )


def find_people(lists: Iterable[Mapping[str, Any]]) -> list[Person]:
    """Return who is seen in the ranked lists: a query and its right matches are one person, by file name."""
    people: list[Person] = []
    for shown in lists:
        matches = {entry["image"]: entry for entry in shown["ranked"] if entry["match"]}
        person = Person({shown["query"]: shown}, matches)
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
