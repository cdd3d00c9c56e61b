"""No cell of a CSV file that we write is a formula, and what is read back is what was written."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_pipelines.clustering.labels_file import write_clusters
from reference_pipelines.features.reading import _read_table
from reference_pipelines.features.writing import Listing
from reference_pipelines.reproduction.table import Value, as_csv
from reference_pipelines.spreadsheet import as_cell, from_cell

STARTS = ("=", "+", "-", "@", "\t", "\r")
NAMES = [
    "=1+1.jpg",
    "+1.jpg",
    "-1.jpg",
    "@SUM(A1).jpg",
    "\tx.jpg",
    "\rx.jpg",
    "'=x.jpg",
    "''x.jpg",
    "'x.jpg",
    "plain.jpg",
    "a=b.jpg",
]


@given(st.text(alphabet=st.sampled_from([*STARTS, "'", "a", "1", ",", '"', "\n"]), max_size=6))
def test_every_text_comes_back_and_none_is_a_formula(text):
    cell = as_cell(text)
    assert not cell.startswith(STARTS)
    assert from_cell(cell) == text


@pytest.mark.parametrize("cell", ["plain", "'plain", "1", "", "'"])
def test_a_cell_that_was_not_written_so_stays(cell):
    assert from_cell(cell) == cell


def test_a_stores_table_comes_back(tmp_path):
    paths = tuple(map(Path, NAMES))
    table = tmp_path / "table.csv"
    ids = np.arange(-1, len(NAMES) - 1)
    table.write_text(Listing("x", paths, ids).table(()), encoding="utf-8", newline="")
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert not any(row[0].startswith(STARTS) for row in rows)
    assert rows[0][1] == "-1", "numbers stay numbers"
    read, numbers, cameras = _read_table(table)
    assert read == paths
    assert numbers.tolist() == ids.tolist()
    assert cameras is None


def test_clusters_name_their_images_as_text(tmp_path):
    write_clusters(tmp_path / "labels.csv", NAMES, np.array([-1] * len(NAMES)))
    with open(tmp_path / "labels.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert not any(row[0].startswith(STARTS) for row in rows)
    assert [from_cell(row[0]) for row in rows] == NAMES
    assert {row[1] for row in rows} == {"-1"}


def test_a_tables_folders_are_text_and_its_numbers_are_numbers():
    value = Value("row", "Market-1501", "mAP", -1.5, -2.0, (-3.0, -1.0), 3, ("-runs/a", "-runs/b"))
    (row,) = list(csv.reader(io.StringIO(as_csv([value]))))[1:]
    assert row[4:8] == ["-1.5", "-2.0", "-3.0", "-1.0"]
    assert row[9] == "'-runs/a -runs/b"
