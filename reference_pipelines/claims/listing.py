"""The claims, one a row: claims.yaml's sentences times their pairs, data sets and metrics, with the tables' values."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from reference_pipelines.claims.paper_values import Cell, paper_values

SOURCE = Path(__file__).with_name("claims.yaml")
Direction = Literal["higher", "lower", "alike"]
Kind = Literal["runs", "cost", "published"]


@dataclass(frozen=True)
class Claim:
    """One comparison: left against right, on one data set, by one metric.

    Args:
        id: its name.
        paper: "apnet" or "mla".
        table: where its rows stand.
        page: of the table.
        section: of the sentence.
        says: the sentence, in our words.
        left: the first row.
        right: the second.
        dataset: as the paper calls it.
        metric: "mAP", "rank1", "rank5", "rank10" or "gflops".
        left_value: of the table; None where it has none.
        right_value: of the table; None where it has none.
        value: left minus right.
        direction: of the table; the sentence's where the table has no value.
        margin: what a difference must have to count.
        prose: what the sentence says where the table says something else.
        kind: "runs" is judged by the ledger; "cost" is counted and "published" is of others, neither is.
        note: what else differs.
    """

    id: str
    paper: str
    table: str
    page: int
    section: str
    says: str
    left: str
    right: str
    dataset: str
    metric: str
    left_value: float | None
    right_value: float | None
    value: float | None
    direction: Direction
    margin: float
    prose: str
    kind: Kind
    note: str


def read_claims(source: Path = SOURCE) -> list[Claim]:
    """Return all claims, in the order of the file."""
    plan = yaml.safe_load(source.read_text(encoding="utf-8"))
    values = paper_values()
    return [claim for group in plan["claims"] for claim in _expanded(group, plan, values)]


def _expanded(group: Mapping[str, Any], plan: Mapping[str, Any], values: Mapping[Cell, float]) -> Iterator[Claim]:
    where = group["where"]
    for left, right in group["pairs"]:
        for dataset in group["datasets"]:
            for metric in group["metrics"]:
                ends = [values.get(Cell(where["paper"], row, dataset, metric)) for row in (left, right)]
                value = None if ends[0] is None or ends[1] is None else round(ends[0] - ends[1], 2)
                direction, margin = _judged_by_the_table(value, group["prose"], plan["margin"][metric], plan["unknown"])
                yield Claim(
                    id=_id(group["id"], left, right, dataset, metric),
                    **where,
                    says=group["says"],
                    left=left,
                    right=right,
                    dataset=dataset,
                    metric=metric,
                    left_value=ends[0],
                    right_value=ends[1],
                    value=value,
                    direction=direction,
                    margin=margin,
                    prose=_otherwise(group["prose"], direction),
                    kind=group.get("kind", "runs"),
                    note=group.get("note", ""),
                )


def _judged_by_the_table(
    value: float | None, prose: Direction, margin: float, unknown: float
) -> tuple[Direction, float]:
    """Return direction and margin of a row; the sentence gives the direction only where the table has no value."""
    if value is None:
        return prose, unknown
    if value == 0 or (prose == "alike" and abs(value) <= margin):
        return "alike", margin
    return ("higher" if value > 0 else "lower"), round(min(margin, abs(value) / 2), 3)


def _otherwise(prose: str, direction: Direction) -> str:
    if prose == direction:
        return ""
    return "the prose is silent" if prose == "silent" else f"the prose says {prose}"


def _id(group: str, left: str, right: str, dataset: str, metric: str) -> str:
    words = (left, "over", right, "on", dataset, metric)
    return ".".join([group, "-".join("".join(c if c.isalnum() else "-" for c in word) for word in words).lower()])


def as_csv(claims: Sequence[Claim]) -> str:
    """Return the claims as a CSV file."""
    content = io.StringIO()
    rows = csv.DictWriter(content, [field.name for field in fields(Claim)], lineterminator="\n")
    rows.writeheader()
    rows.writerows({name: "" if cell is None else cell for name, cell in asdict(claim).items()} for claim in claims)
    return content.getvalue()
