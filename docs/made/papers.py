"""Both papers' claims, sentence by sentence, each comparison with the verdict that the ledger allows."""

import csv
from collections import Counter
from functools import cache
from itertools import groupby
from pathlib import Path

from docs.scores import SCALE, read_lines
from reference_pipelines.claims.listing import Claim, read_claims
from reference_pipelines.claims.verdicts import DECISIONS, Verdict, judge
from reference_pipelines.reproduction.table import METRICS

LISTED = Path(__file__).parents[1] / "results" / "claims.csv"


@cache
def verdicts() -> tuple[Verdict, ...]:
    """Return the verdict on each claim, in the order of the list."""
    claims = read_claims()
    with LISTED.open(encoding="utf-8", newline="") as file:
        listed = [row["id"] for row in csv.DictReader(file)]
    if listed != [claim.id for claim in claims]:
        raise ValueError("papers: claims.csv must list the claims; python -m reference_pipelines.claims docs/results")
    return tuple(judge(claims, read_lines(), SCALE))


def annotated(paper: str) -> str:
    """Return a paper's claims in Markdown: a heading a sentence, and below it its comparisons.

    Args:
        paper: "apnet" or "mla".
    """
    own = [each for each in verdicts() if each.claim.paper == paper]
    counts = Counter(each.decision for each in own)
    said = ", ".join(f"{counts[decision]} {decision}" for decision in DECISIONS)
    lines = [f"{len(own)} comparisons: {said}.", ""]
    groups = groupby(own, key=lambda each: (each.claim.id.split(".")[1], each.claim.says))
    for (_, says), found in groups:
        lines += _sentence(says, list(found))
    return "\n".join(lines)


def _sentence(says: str, found: list[Verdict]) -> list[str]:
    claim = found[0].claim
    counts = Counter(each.decision for each in found)
    said = ", ".join(f"{counts[decision]} {decision}" for decision in DECISIONS if counts[decision])
    where = f"Section {claim.section}, Table {claim.table}, page {claim.page}. {len(found)} comparisons: {said}."
    lines = [f"### {says[0].upper()}{says[1:]}", "", where]
    if claim.note:
        lines += ["", f"*Note.* {claim.note[0].upper()}{claim.note[1:]}."]
    headings = ["comparison", "data set", "metric", "the paper's", "verdict", "measured on rendered people", "why"]
    table = [headings, ["---"] * len(headings), *(_row(each) for each in found)]
    # Colons: a closed block, opened where one looks for it.
    lines += ["", f"::::{{dropdown}} {len(found)} comparisons", ""]
    lines += [f"| {' | '.join(row)} |" for row in table]
    return [*lines, "::::", ""]


def _row(verdict: Verdict) -> list[str]:
    claim, estimate = verdict.claim, verdict.estimate
    value = "" if claim.value is None else f"{claim.value:+.1f}"
    measured = ""
    if estimate is not None:
        ends = "" if estimate.interval is None else " [{:+.1f}, {:+.1f}]".format(*estimate.interval)
        measured = f"{estimate.difference:+.1f}{ends}, {estimate.seeds} {'seed' if estimate.seeds == 1 else 'seeds'}"
    why = "; ".join(part for part in (claim.prose, verdict.why) if part)
    return [_comparison(claim), claim.dataset, METRICS[claim.metric], value, verdict.decision, measured, why]


def _comparison(claim: Claim) -> str:
    direction = "like" if claim.direction == "alike" else f"{claim.direction} than"
    return f"{claim.left} {direction} {claim.right}"
