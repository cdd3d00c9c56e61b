"""Both papers' tables, read from their files: one value a row, data set and metric.

A row bears one name wherever it is printed: `ResNet50 + APNet-C` of Table V and `APNet-C` of Table IV are `APNet-C_2`
of Table II. Table II stands where Table IV has other numbers (its `APNet-S` for MSMT17 mixes two rows).
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).with_name("paper_tables")


class Cell(NamedTuple):
    """One number of a table: `paper`, `row`, `dataset` and `metric`."""

    paper: str
    row: str
    dataset: str
    metric: str


# File, the column with the row's name, the column with the data set or the one that all rows share. The first file that
# has a cell is right.
_TABLES = (
    ("apnet_table2_ablation", "model", "dataset"),
    ("apnet_table3_gflops", "method", "224x224"),
    ("apnet_table5_backbones", "backbone", "Market-1501"),
    ("apnet_table6_occluded_duke", "model", "Occluded-Duke"),
    ("apnet_table7_cross_domain", "model", "target"),
    ("apnet_table4_sota_own_rows", "model", "dataset"),
    ("apnet_table4_others", "model", "dataset"),
    ("mla_table1_hierarchical_clustering", "model", "dataset"),
    ("mla_tables6to7_ablation", "variant", "dataset"),
    ("mla_tables2to5_own_rows", "model", "dataset"),
)

_NAMES = {
    "APNet-C_0": "APNet_0",
    "APNet-C": "APNet-C_2",
    "APNet-S": "APNet-S_2",
    "RGA-S (reproduced by the authors)": "APNet-S_1",
    "ResNet50": "APNet_0",
    "ResNet50 + APNet-C_2": "APNet-C_2",
    "ALL": "MLA",
    "Cluster contrast": "baseline",
    "without attention": "hierarchical",
    "with attention": "hierarchical + attention",
}
_METRICS = ("mAP", "rank1", "rank5", "rank10", "gflops")


def paper_values() -> dict[Cell, float]:
    """Return every number of the tables."""
    found: dict[Cell, float] = {}
    for name, row, dataset in _TABLES:
        for cell, value in _read(name, row, dataset):
            found.setdefault(cell, value)
    return found


def _read(name: str, row: str, dataset: str) -> Iterator[tuple[Cell, float]]:
    with open(FOLDER / f"{name}.csv", encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            model = _row_name(line, row)
            images = f"{line['source']} to {line['target']}" if "source" in line else line.get(dataset, dataset)
            for metric in _METRICS:
                if line.get(metric):
                    yield Cell(name.partition("_")[0], model, images, metric), float(line[metric])


def _row_name(line: Mapping[str, str], row: str) -> str:
    name = line[row]
    if line.get("attention", "none") != "none":
        name = f"{name} + {_NAMES.get(line['attention'], line['attention'])}"
    return _NAMES.get(name, name)
