"""The table's cells against numbers written by hand."""

import pytest

from reference_pipelines.reporting.table import HEADINGS, format_table, table_rows

RESULT = {
    "title": "APNet-C2",
    "final": {"mAP": 0.5432, "interval": [0.5, 0.58765], "rank1": 0.75},
    "start": {"mAP": 0.0461, "interval": [0.04, 0.052], "rank1": 0.01},
    "chance": 0.0213,
    "seconds": 91.5,
}


def test_a_supervised_row_has_no_clusters():
    assert table_rows([RESULT]) == [
        ("APNet-C2", "54.3 [50.0, 58.8]", "75.0", "4.6 [4.0, 5.2]", "2.1", "", "", "", "92")
    ]


def test_an_unsupervised_row_has_them():
    clustering = {"clusters": 31, "noise": 0.25, "id_purity": 0.478, "camera_purity": 0.8}
    (row,) = table_rows([RESULT | {"clustering": clustering}])
    assert row[HEADINGS.index("clusters") :] == ("31", "0.48", "0.80", "92")


def test_a_row_a_result_in_their_order():
    rows = table_rows([RESULT | {"title": title} for title in ("b", "a")])
    assert [row[0] for row in rows] == ["b", "a"]
    assert {len(row) for row in rows} == {len(HEADINGS)}


@pytest.mark.parametrize("field", ["final", "start", "chance"])
def test_a_result_without_a_score_is_no_row(field):
    with pytest.raises(KeyError, match=field):
        table_rows([{name: value for name, value in RESULT.items() if name != field}])


def test_the_printed_table_aligns_names_left_and_numbers_right():
    table = format_table([("a", "1.0"), ("longer", "10.0")], ("name", "mAP"))
    assert table.splitlines() == ["name     mAP", "------  ----", "a        1.0", "longer  10.0"]


def test_an_empty_last_cell_leaves_no_blanks_at_the_end():
    assert format_table([("a", "")], ("n", "x")).splitlines()[-1] == "a"
