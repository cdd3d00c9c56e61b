"""Every score that README and docs show, from the ledger in docs/results: python docs/scores.py writes them anew.

A block between `<!-- ledger: NAME -->` and `<!-- end of ledger -->` is the table of the catalogue's experiment NAME at
demo scale. `docs/results/reproduction.md` has all of them, and the claims' verdicts.
A block between `<!-- explain: NAME -->` and `<!-- end of explain -->` is how much of each heat map is on the person,
from `docs/results/explain/NAME.json`.
"""

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from reference_pipelines.claims.listing import read_claims
from reference_pipelines.claims.paper_values import Cell, paper_values
from reference_pipelines.claims.verdicts import DECISIONS, Line, Verdict, judge
from reference_pipelines.ledger.entry import SELECTIONS, Entry, Selection
from reference_pipelines.ledger.verifying import verify
from reference_pipelines.reproduction.catalogue import Experiment, experiments
from reference_pipelines.reproduction.table import METRICS, summary

ROOT = Path(__file__).parents[1]
LEDGER = ROOT / "docs" / "results" / "ledger"
PAGE = ROOT / "docs" / "results" / "reproduction.md"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
EXPLAINED = ROOT / "docs" / "results" / "explain"
SCALE = "demo"
_BLOCK = re.compile(r"(<!-- ledger: (\S+) -->\n).*?(<!-- end of ledger -->)", re.DOTALL)
_EXPLAINED = re.compile(r"(<!-- explain: (\S+) -->\n).*?(<!-- end of explain -->)", re.DOTALL)
_RULES = """\
## Three rules of selection

Of the same runs, without the `held out` people in training: the scores after the last epoch, of the epoch that is best
on the held-out people, and of the epoch that is best on the test set itself (the oracle, an upper limit that nobody has
in use). The tables above are of runs on all people.
"""
_INTRODUCTION = """\
# What the runs gave

Written by `python docs/scores.py` from [ledger](ledger), which `attnreid-pipelines check-result docs/results/ledger`
computes anew from the ranks. All of it is at demo scale: **rendered pedestrians and narrow networks, not the papers'
data sets**; each data set's name stands for a rendered stand-in. The paper's numbers stand beside ours to show what the
row is, and are of photographs. In percent, after the last epoch, with 95 % intervals: over the queries of one seed, or
over the seeds (Student's t). The scales gpu and paper are not run: no GPU and no data sets were at hand.
"""

Key = tuple[str, str, str]


def read_lines(ledger: Path = LEDGER) -> list[Line]:
    """Return the lines of a ledger, each once; it must be sound."""
    slices = verify(ledger)
    assert all(each.sound for each in slices), "the ledger is not sound: see check-result"
    found = {entry.to_line(): Line(each.path, entry) for each in slices for entry in each.entries}
    return list(found.values())


def by_cell(lines: Iterable[Line]) -> dict[Key, dict[int, Entry]]:
    """Return the first run of each seed by paper, row and data set."""
    found: dict[Key, dict[int, Entry]] = defaultdict(dict)
    for line in sorted(lines, key=lambda line: line.entry.recorded):
        entry, cell = line.entry, line.entry.cell
        if entry.scores is not None and entry.selection == "last" and not entry.held_out and cell.get("scale") == SCALE:
            found[cell["paper"], cell["row"], cell["dataset"]].setdefault(entry.seed, entry)
    return found


def selected(lines: Iterable[Line]) -> str:
    """Return the scores of the weights that each rule selects, of the runs that were tested by more than the last."""
    found: dict[tuple[str, str, int], dict[Selection, dict[int, Entry]]] = defaultdict(lambda: defaultdict(dict))
    for line in sorted(lines, key=lambda line: line.entry.recorded):
        entry, cell = line.entry, line.entry.cell
        if entry.scores is not None and cell.get("scale") == SCALE:
            of_rule = found[cell["row"], cell["dataset"], entry.held_out][entry.selection]
            of_rule.setdefault(entry.seed, entry)
    lines_ = ["| row | stands for | held out | seeds | mAP, last | mAP, held-out | mAP, oracle |", "|" + "---|" * 7]
    for (row, name, held_out), rules in found.items():
        seeds = set.intersection(*map(set, rules.values()))
        if len(rules) > 1 and seeds:
            scores = [
                _ours([rules[rule][seed] for seed in sorted(seeds)] if rule in rules else [], "mAP")
                for rule in SELECTIONS
            ]
            lines_.append(f"| {row} | {name} | {held_out} | {len(seeds)} | {' | '.join(scores)} |")
    return "\n".join(lines_) if len(lines_) > 2 else ""


def table(experiment: Experiment, cells: dict[Key, dict[int, Entry]], *, papers: bool) -> str:
    """Return an experiment's table in Markdown, the rows that were run."""
    numbers = paper_values()
    shown = [name for name in experiment.data if any((r.paper, r.name, name) in cells for r in experiment.rows)]
    several = len(experiment.data) > 1
    headings = ["row", *(["stands for"] if several else []), "seeds"]
    for metric in experiment.metrics:
        headings += [f"{METRICS[metric]}, the paper's", f"{METRICS[metric]}, ours"] if papers else [METRICS[metric]]
    rows = []
    for name in shown:
        for row in experiment.rows:
            entries = list(cells.get((row.paper, row.name, name), {}).values())
            cell = [row.name, *([name] if several else []), str(len(entries) or "")]
            for metric in experiment.metrics:
                paper = numbers.get(Cell(row.paper, row.name, name, metric))
                cell += ["" if paper is None else f"{paper:.1f}"] * papers
                cell.append(_ours(entries, metric))
            rows.append(cell)
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(each)} |" for each in lines)


def _ours(entries: Sequence[Entry], metric: str) -> str:
    if not entries:
        return "not run"
    mean, interval = summary([entry.scores for entry in entries if entry.scores is not None], metric)
    ends = "" if interval is None else " [{:.1f}, {:.1f}]".format(*interval)
    return f"{mean:.1f}{ends}"


def fill(text: str, cells: dict[Key, dict[int, Entry]]) -> str:
    """Return a page with its blocks written anew."""
    known = experiments()
    text = _EXPLAINED.sub(lambda found: f"{found[1]}\n{on_person(found[2])}\n\n{found[3]}", text)
    return _BLOCK.sub(lambda found: f"{found[1]}\n{table(known[found[2]], cells, papers=False)}\n\n{found[3]}", text)


def on_person(name: str) -> str:
    """Return how much of each heat map of a figure is on the person: a row a network and level, a column a stage."""
    numbers = json.loads((EXPLAINED / f"{name}.json").read_text(encoding="utf-8"))["numbers"]
    sites = list(dict.fromkeys(each["site"] for each in numbers))
    shown = {(each["row"], each["seed"], each["level"], each["site"]): _share(each) for each in numbers}
    rows = [
        [row, str(seed), level.replace("level", "level "), *(shown.get((row, seed, level, site), "") for site in sites)]
        for row, seed, level in dict.fromkeys(key[:3] for key in shown)
    ]
    covers = {each["site"]: f"{100 * each['covers']:.1f}" for each in numbers}
    rows.append(["a map without preference", "", "", *(covers[site] for site in sites)])
    lines = [["row", "seed", "Grad-CAM", *sites], ["---"] * (3 + len(sites)), *rows]
    return "\n".join(f"| {' | '.join(each)} |" for each in lines)


def _share(number: dict[str, float]) -> str:
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * number[name] for name in ("on_person", "low", "high")))


def page(lines: Sequence[Line]) -> str:
    """Return the page of all results."""
    cells, parts = by_cell(lines), [_INTRODUCTION]
    hardware = Counter(line.entry.hardware for line in lines)
    seconds = sum(line.entry.seconds for line in lines) / 3600
    failures = [line.entry for line in lines if line.entry.failure]
    parts.append(
        f"{len(lines)} lines, {len(failures)} of them failures; {seconds:.1f} hours of training on "
        f"{', '.join(hardware)}."
    )
    again = trained_again(lines)
    parts.append(f"{len(again)} trainings were run again: {sum(again)} came to the same ranks of every query.")
    for (day, row, data, why), count in Counter(map(_failed, failures)).items():
        parts.append(f"Failed on {day}, {count} runs: {row} on {data}: {why}")
    waiting = []
    for name, experiment in experiments().items():
        wanted = {(row.paper, row.name, data) for row in experiment.rows for data in experiment.data}
        done = wanted & set(cells)
        if experiment.kind in ("cost", "maps"):
            continue
        if not done:
            waiting.append(name)
            continue
        parts.append(f"## `reproduce {name}`\n\n{experiment.title}: {len(done)} of {len(wanted)} cells.")
        parts.append(table(experiment, cells, papers=name.partition(".")[2].startswith(("table", "figure"))))
    if by_rule := selected(lines):
        parts.append(f"{_RULES}\n{by_rule}")
    if waiting:
        parts.append(f"## Not run\n\n{', '.join(f'`{name}`' for name in waiting)}.")
    return "\n\n".join([*parts, _claims(lines)]) + "\n"


def trained_again(lines: Iterable[Line]) -> list[bool]:
    """Return, for each training that was done more than once, whether all its runs came to the same ranks.

    A run that was recorded twice is one: its weights are the same file.
    """
    found: dict[tuple[object, ...], dict[str | None, str]] = defaultdict(dict)
    for line in lines:
        entry = line.entry
        if entry.ranks is not None and entry.selection == "last":
            found[*sorted(entry.cell.items()), entry.seed, entry.held_out][entry.weights] = entry.ranks["sha256"]
    return [len(set(each.values())) == 1 for each in found.values() if len(each) > 1]


def _failed(entry: Entry) -> tuple[str, str, str, str]:
    return entry.recorded[:10], entry.cell["row"], entry.cell["dataset"], (entry.failure or "").partition("; ")[0]


def _claims(lines: Sequence[Line]) -> str:
    claims = read_claims()
    verdicts = judge(claims, lines, SCALE)
    counts = Counter(each.decision for each in verdicts)
    said = ", ".join(f"{counts[decision]} {decision}" for decision in DECISIONS)
    head = (
        f"## Claims\n\nOf {len(claims)} claims at demo scale: {said}. A verdict is about rendered pedestrians and "
        "narrow networks, where attention starts from random weights; it does not say what the papers measured. Fewer "
        "than 3 seeds decide nothing. *Measured* is the difference in points, left row minus right."
    )
    rows = [_verdict(each) for each in verdicts if each.decision != "not run" and each.estimate is not None]
    lines_ = ["| claim | verdict | the paper's | measured | seeds | seeds that would decide |", "|" + "---|" * 6, *rows]
    return "\n\n".join([head, "\n".join(lines_)])


def _verdict(verdict: Verdict) -> str:
    claim, measured = verdict.claim, verdict.estimate
    assert measured is not None
    ends = "" if measured.interval is None else " [{:+.1f}, {:+.1f}]".format(*measured.interval)
    papers = "" if claim.value is None else f"{claim.value:+.1f}"
    needed = "" if verdict.needed is None else str(verdict.needed)
    what = f"{claim.left} {claim.direction} than {claim.right}, {METRICS[claim.metric]}, {claim.dataset}"
    what = what.replace("alike than", "like")
    return (
        f"| {what} | {verdict.decision} | {papers} | {measured.difference:+.1f}{ends} | {measured.seeds} | {needed} |"
    )


def main() -> int:
    """Write every page anew."""
    lines = read_lines()
    cells = by_cell(lines)
    for path in PAGES:
        before = path.read_text(encoding="utf-8")
        if (after := fill(before, cells)) != before:
            path.write_text(after, encoding="utf-8")
            print(f"written: {path}")
    PAGE.write_text(page(lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
