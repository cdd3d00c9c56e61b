"""The table's cells against numbers written by hand."""

from pathlib import Path

import pytest

from reference_pipelines.reporting.table import (
    EVALUATION_HEADINGS,
    HEADINGS,
    evaluation_rows,
    format_camera_pairs,
    format_results,
    format_single_shot,
    learning_lines,
    name_data,
    table_notes,
    table_rows,
    tell_apart,
)
from reference_pipelines.text_table import format_table

RESULT = {
    "title": "APNet-C2",
    "data": {"name": "market1501"},
    "final": {"mAP": 0.5432, "interval": [0.5, 0.58765], "rank1": 0.75},
    "start": {"mAP": 0.0461, "interval": [0.04, 0.052], "rank1": 0.01},
    "chance": 0.0213,
    "seconds": 91.5,
}


NAMED = {"title": "MLA", "trained_on": {"name": "market1501"}, "tested_on": {"name": "dukemtmc"}}


def test_a_supervised_row_has_no_clusters():
    assert table_rows([RESULT]) == [
        ("APNet-C2", "market1501", "54.3 [50.0, 58.8]", "75.0", "4.6 [4.0, 5.2]", "2.1", "", "", "", "92")
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


def test_an_evaluation_says_where_from_where_to_and_how():
    numbers = {
        "title": "MLA",
        "trained_on": {"name": "market1501"},
        "tested_on": {"name": "dukemtmc"},
        "flip": False,
        "reranked": True,
        "chance": 0.0213,
        "scores": RESULT["final"] | {"rank5": 0.8, "rank10": 0.9, "rank20": 1.0, "mINP": 0.1, "mAP_market": 0.56},
        "weights": {"name": "model"},
    }
    (row,) = evaluation_rows([numbers])
    assert row[:5] == ("MLA", "market1501", "dukemtmc", "re-ranked", "54.3 [50.0, 58.8]")
    assert row[5:] == ("75.0", "80.0", "90.0", "100.0", "10.0", "56.0", "2.1")
    (plain,) = evaluation_rows([numbers | {"reranked": False}])
    assert plain[3] == "plain"
    best = numbers | {"weights": {"name": "best"}, "flip": True}
    elsewhere = {"trained_on": {"name": "a", "fingerprint": "1"}, "tested_on": {"name": "b", "fingerprint": "2"}}
    assert evaluation_rows([best | elsewhere])[0][3] == "best, chosen on its own test set + flip + re-ranked"
    here = {"trained_on": elsewhere["tested_on"], "tested_on": elsewhere["tested_on"]}
    assert evaluation_rows([best | here])[0][3] == "best, chosen on this test set + flip + re-ranked"
    assert len(row) == len(EVALUATION_HEADINGS)


def test_what_cannot_be_estimated_is_a_dash():
    one_query = {"mAP": 0.169, "interval": None, "rank1": 0.0}
    clustering = {"clusters": 31, "id_purity": None, "camera_purity": None}
    (row,) = table_rows([RESULT | {"final": one_query, "chance": None, "clustering": clustering}])
    assert row[2:] == ("16.9 [-]", "0.0", "4.6 [4.0, 5.2]", "-", "31", "-", "-", "92")
    assert learning_lines([RESULT | {"final": one_query}])[0].endswith("3.67 times its start, no intervals")
    assert learning_lines([RESULT])[0].endswith("11.78 times its start, intervals apart")


def test_data_sets_of_one_name_are_told_apart_by_their_fingerprints():
    named = [{"name": "market1501", "fingerprint": "a1"}, {"name": "market1501", "fingerprint": "b2"}, {"name": "duke"}]
    assert name_data(named) == ["market1501 (a1)", "market1501 (b2)", "duke"]
    assert name_data([named[0], named[0]]) == ["market1501", "market1501"]
    rows = table_rows([RESULT | {"data": each} for each in named])
    assert [row[1] for row in rows] == ["market1501 (a1)", "market1501 (b2)", "duke"]


def test_runs_of_one_title_are_told_apart_by_so_much_of_their_folders_as_that_takes():
    folders = [Path("/x/one/run"), Path("/x/two/run"), Path("/x/three"), Path("/x/four")]
    assert tell_apart(["a", "a", "a", "b"], folders) == ["a (one/run)", "a (two/run)", "a (three)", "b"]
    assert tell_apart(["a", "a"], [Path("run"), Path("run").absolute()]) == ["a", "a"]


def test_notes_name_their_run_where_there_are_several_and_say_what_was_changed():
    recipe = {"name": "demo", "title": "APNet-C2", "changed": {"attention.preset": ["apnet", "none"]}}
    result = RESULT | {"remarks": ["it fell"], "recipe": recipe}
    assert table_notes([result]) == ["it fell", "the recipe demo with attention.preset none"]
    assert table_notes([result], recipes=False) == ["it fell"]
    assert table_notes([result, RESULT], ["a", "b"])[0] == "a: it fell"
    assert format_results([result]).splitlines()[-2:] == [
        "note: it fell",
        "note: the recipe demo with attention.preset none",
    ]
    assert format_results([RESULT]) == format_table(table_rows([RESULT]), HEADINGS)


def test_camera_pairs_are_a_matrix_with_holes():
    pairs = [
        {"query_camera": 1, "gallery_camera": 2, "queries": 3, "mAP": 0.5, "rank1": 1.0},
        {"query_camera": 3, "gallery_camera": 1, "queries": 3, "mAP": 0.25, "rank1": 1.0},
    ]
    assert format_camera_pairs({**NAMED, "scores": {"camera_pairs": pairs}}).splitlines() == [
        "MLA, trained on market1501, tested on dukemtmc",
        "mAP of queries from  in 1  in 2",
        "-------------------  ----  ----",
        "camera 1                   50.0",
        "camera 3             25.0",
    ]


def test_single_shot_is_a_line_of_its_own():
    printed = format_single_shot({**NAMED, "scores": {"single_shot": {"rank1": 0.5, "rank10": 0.75}}})
    assert printed.splitlines()[0] == "MLA, trained on market1501, tested on dukemtmc"
    assert printed.splitlines()[1].split()[-2:] == ["rank-1", "rank-10"]
    assert printed.splitlines()[-1].endswith("50.0     75.0")


def test_the_printed_table_aligns_names_left_and_numbers_right():
    table = format_table([("a", "1.0"), ("longer", "10.0")], ("name", "mAP"), words=1)
    assert table.splitlines() == ["name     mAP", "------  ----", "a        1.0", "longer  10.0"]


def test_an_empty_last_cell_leaves_no_blanks_at_the_end():
    assert format_table([("a", "")], ("n", "x")).splitlines()[-1] == "a"
