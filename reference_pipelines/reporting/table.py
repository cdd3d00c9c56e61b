"""Tables of runs and of evaluations, as cells for people: printed by the commands and set in the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reference_pipelines.config.recipes import list_changes
from reference_pipelines.text_table import format_table

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
_BEST = "best"  # those of the epoch with the highest mAP on the test set
_HELD_OUT = "held_out"  # those with the highest on training people who were held out
NONE = "-"  # what was not measured or cannot be said


def table_rows(results: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> list[tuple[str, ...]]:
    """Return a row of cells a result (a run's result.json), in the order of HEADINGS; mAP and rank-1 in percent.

    Args:
        results: of the runs.
        names: what each run is called; its title when left out.
    """
    names = names or [str(result["title"]) for result in results]
    data = name_data([result["data"] for result in results])
    return [_row(*each) for each in zip(results, names, data, strict=True)]


def table_notes(
    results: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None, *, recipes: bool = True
) -> list[str]:
    """Return what must be read with the rows, a sentence each: what falsifies a score, and what was changed.

    Args:
        results: of the runs.
        names: what each run is called; its title when left out.
        recipes: whether to say what of its nearest shipped recipe a run has changed.
    """
    names = names or [str(result["title"]) for result in results]
    notes = []
    for result, name in zip(results, names, strict=True):
        said = [*result.get("remarks", ()), describe_recipe(result) if recipes else ""]
        notes += [f"{name}: {each}" if len(results) > 1 else each for each in said if each]
    return notes


def describe_recipe(result: Mapping[str, Any]) -> str:
    """Return what of its nearest shipped recipe a run has changed; nothing where that is nothing, or not known."""
    recipe = result.get("recipe")
    if not recipe or not recipe["changed"]:
        return ""
    return f"the recipe {recipe['name']} with {list_changes(recipe['changed'])}"


def format_results(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of the results and, below, what must be read with it."""
    return "\n".join([format_table(table_rows(results), HEADINGS), *_below(table_notes(results))])


def tell_apart(titles: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Return the titles; of runs with the same one also so much of their folder as tells them apart."""
    names = []
    for title, folder in zip(titles, folders, strict=True):
        alike = {other.absolute() for name, other in zip(titles, folders, strict=True) if name == title}
        names.append(title if len(alike) == 1 else f"{title} ({_distinct_end(folder.absolute(), alike)})")
    return names


def _distinct_end(path: Path, alike: set[Path]) -> str:
    ends = (Path(*path.parts[-count:]) for count in range(1, len(path.parts) + 1))
    return str(next(end for end in ends if sum(Path(*each.parts[-len(end.parts) :]) == end for each in alike) == 1))


def name_data(data: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the data sets' names; of different ones with the same name also their fingerprints."""
    known: dict[str, set[str]] = {}
    for each in data:
        known.setdefault(each["name"], set()).add(each.get("fingerprint", NONE))
    return [
        each["name"] if len(known[each["name"]]) == 1 else f"{each['name']} ({each.get('fingerprint', NONE)})"
        for each in data
    ]


def _row(result: Mapping[str, Any], name: str, data: str) -> tuple[str, ...]:
    clustering = result.get("clustering")
    clusters = ("", "", "")
    if clustering:
        clusters = (
            str(clustering["clusters"]),
            format_purity(clustering["id_purity"]),
            format_purity(clustering["camera_purity"]),
        )
    final = result["final"] or {}
    return (
        name,
        data,
        _with_interval(final),
        percent(final.get("rank1")),
        _with_interval(result["start"]),
        percent(result["chance"]),
        *clusters,
        f"{result['seconds']:.0f}",
    )


def evaluation_rows(
    evaluations: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None
) -> list[tuple[str, ...]]:
    """Return a row of cells an evaluation (a file of `evaluate`), in the order of EVALUATION_HEADINGS, in percent.

    Args:
        evaluations: what the files hold.
        names: what each one's run is called; its title when left out.
    """
    names = names or [str(numbers["title"]) for numbers in evaluations]
    data = name_data([numbers[side] for numbers in evaluations for side in ("trained_on", "tested_on")])
    told = list(zip(names, data[::2], data[1::2], map(_how, evaluations), strict=True))
    rows = []
    for words, numbers in zip(told, evaluations, strict=True):
        alike = {_digest(other) for each, other in zip(told, evaluations, strict=True) if each == words}
        name, trained, tested, how = words
        apart = f"{how}, weights {_digest(numbers)}" if len(alike) > 1 else how
        rows.append(_evaluation_row(numbers, name, trained, tested, apart))
    return rows


def _how(numbers: Mapping[str, Any]) -> str:
    named = name_weights(numbers["weights"]["name"], numbers["trained_on"], numbers["tested_on"])
    said = ((named, bool(named)), ("flip", numbers["flip"]), ("re-ranked", numbers["reranked"]))
    return " + ".join(word for word, used in said if used) or "plain"


def _digest(numbers: Mapping[str, Any]) -> str:
    return str(numbers["weights"].get("digest", NONE))


def _evaluation_row(numbers: Mapping[str, Any], name: str, trained: str, tested: str, how: str) -> tuple[str, ...]:
    scores = numbers["scores"]
    return (
        name,
        trained,
        tested,
        how,
        _with_interval(scores),
        *(percent(scores[name]) for name in ("rank1", "rank5", "rank10", "rank20", "mINP", "mAP_market")),
        percent(numbers["chance"]),
    )


def name_weights(name: str, trained_on: Mapping[str, Any], tested_on: Mapping[str, Any]) -> str:
    """Return what to call a run's weights: nothing for the last, and for the best on what they were chosen.

    Args:
        name: of the weights file, without its ending.
        trained_on: the run's data.
        tested_on: the data that they are scored on.
    """
    if name == _LAST:
        return ""
    if name == _HELD_OUT:
        return "chosen on held-out training people"
    if name != _BEST:
        return name
    return f"{name}, chosen on {'this' if chosen_on_the_test_set(name, trained_on, tested_on) else 'its own'} test set"


def chosen_on_the_test_set(name: str, trained_on: Mapping[str, Any], tested_on: Mapping[str, Any]) -> bool:
    """Return whether weights were chosen by their scores on the very images that they are tested on."""
    return name == _BEST and trained_on.get("fingerprint") == tested_on.get("fingerprint")


def evaluation_notes(evaluations: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> list[str]:
    """Return what must be read with the rows of evaluations, a sentence each."""
    rows = evaluation_rows(evaluations, names)
    return [
        f"{name}, tested on {tested}, {how}: {remark}" if len(evaluations) > 1 else remark
        for (name, _, tested, how, *_), numbers in zip(rows, evaluations, strict=True)
        for remark in numbers.get("remarks", ())
    ]


def learning_lines(results: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> list[str]:
    """Return a line a result: how far it is from chance and from its own start."""
    lines = []
    for result, name in zip(results, names or [result["title"] for result in results], strict=True):
        start, final = result["start"], result["final"]
        if not final:
            lines.append(f"{name}: no query and gallery, so no scores")
            continue
        apart = "no intervals"
        if start["interval"] and final["interval"]:
            apart = f"intervals {'apart' if start['interval'][1] < final['interval'][0] else 'overlapping'}"
        lines.append(
            f"{name}: {final['mAP'] / result['chance']:.1f} times chance, "
            f"{final['mAP'] / start['mAP']:.2f} times its start, {apart}"
        )
    return lines


def format_purity(value: float | None) -> str:
    """Return a purity between 0 and 1 as a cell; a dash where there is none."""
    return NONE if value is None else f"{value:.2f}"


def percent(value: float | None) -> str:
    """Return a figure between 0 and 1 in percent, as a cell; a dash where there is none."""
    return NONE if value is None else f"{100 * value:.1f}"


def _with_interval(score: Mapping[str, Any]) -> str:
    """Return mAP with its interval, which one query does not give, nor an unfinished run; a dash without scores."""
    if not score:
        return NONE
    interval = NONE if score["interval"] is None else ", ".join(percent(end) for end in score["interval"])
    return f"{percent(score['mAP'])} [{interval}]"


def _below(notes: Sequence[str]) -> list[str]:
    return ["", *(f"note: {note}" for note in notes)] if notes else []


def format_evaluations(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of the evaluations and, below, what must be read with it."""
    table = format_table(evaluation_rows(evaluations), EVALUATION_HEADINGS, words=4)
    return "\n".join([table, *_below(evaluation_notes(evaluations))])


def format_top(numbers: Mapping[str, Any]) -> str:
    """Return an evaluation's scores out of the nearest images of each query, in percent.

    Args:
        numbers: of `evaluate`, with `top_k`.
    """
    found = numbers["top_k"]
    heading = f"from the {found['k']} nearest images of each query, by {found['engine']}"
    heading += ": CMC is exact" if found["said"] is None else f": estimates, {found['said']}"
    ranks = [name for name in found if name.startswith("rank")]
    bounds = [" to ".join(percent(end) for end in found[name]) for name in ("mAP", "mAP_market")]
    cells = (*(percent(found[name]) for name in ranks), *bounds)
    return f"{heading}\n" + format_table(
        [cells], (*(name.replace("rank", "rank-") for name in ranks), "mAP", "Market AP"), words=0
    )


def format_camera_pairs(numbers: Mapping[str, Any]) -> str:
    """Return an evaluation's mAP in percent by the camera of the queries (rows) and of their matches (columns)."""
    pairs = {(pair["query_camera"], pair["gallery_camera"]): pair for pair in numbers["scores"]["camera_pairs"]}
    queries, matches = (sorted({pair[side] for pair in pairs}) for side in (0, 1))
    rows = [
        (
            f"camera {query}",
            *(percent(pairs[query, match]["mAP"]) if (query, match) in pairs else "" for match in matches),
        )
        for query in queries
    ]
    table = format_table(rows, ("mAP of queries from", *(f"in {match}" for match in matches)), words=1)
    return f"{_from_where_to_where(numbers)}\n{table}"


def format_single_shot(numbers: Mapping[str, Any]) -> str:
    """Return an evaluation's CMC in percent with one random gallery image a person."""
    single = numbers["scores"]["single_shot"]
    row = ("CUHK03's single gallery shot", *(percent(value) for value in single.values()))
    table = format_table([row], ("protocol", *(name.replace("rank", "rank-") for name in single)), words=1)
    return f"{_from_where_to_where(numbers)}\n{table}"


def _from_where_to_where(numbers: Mapping[str, Any]) -> str:
    trained, tested = name_data([numbers["trained_on"], numbers["tested_on"]])
    return f"{numbers['title']}, trained on {trained}, tested on {tested}"
