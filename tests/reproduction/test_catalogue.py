"""The experiments as data: every row has its recipe, every number of the papers its cell, every run its folder."""

import csv
import json
from pathlib import Path

import pytest

from reference_pipelines.claims.paper_values import paper_values
from reference_pipelines.commands.cli import main
from reference_pipelines.config.loading import load_config
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.reproduction.catalogue import experiments, find_experiment, rows, scales
from reference_pipelines.reproduction.cells import Plan
from tests.conftest import says

SETS = ("Market-1501-v15.09.15", "DukeMTMC-reID", "MSMT17_V1", "Occluded_Duke", "PersonX")
HALVES = ("cuhk03-np/detected", "cuhk03-np/labeled")

# Rows that others published.
PUBLISHED = {"SCSN", "Pyramid ReID", "HOReID", "PGFA", "SCAL-C"}


def planned(name, scale, tmp_path, **options):
    for folder in (*SETS, *HALVES):
        (tmp_path / "sets" / folder).mkdir(parents=True, exist_ok=True)
    root = tmp_path / "sets" if scale == "paper" else None
    return Plan(find_experiment(name), scales()[scale], tmp_path / "out", root=root, **options)


@pytest.mark.parametrize("scale", scales())
@pytest.mark.parametrize("name", experiments())
def test_every_run_is_a_config_of_its_own(name, scale, tmp_path):
    plan = planned(name, scale, tmp_path)
    if plan.experiment.kind == "cost":
        assert not plan.runs
        return
    assert {cell.reason for cell in plan.cells if cell.run is None} <= {
        plan.scale.why_not(cell.row, cell.dataset) for cell in plan.cells
    }
    configs = [json.dumps([run.pipeline, str(run.config)]) for run in plan.runs]
    assert len(set(configs)) == len(configs)
    for cell in plan.cells:
        if cell.run is not None:
            assert cell.run.config.title == cell.row.name
            assert cell.run.config.seed == cell.seed
            assert set(cell.run.config.attention.layer) <= {"se", "rga_s"}
    assert scale != "paper" or all(cell.run is not None for cell in plan.cells)


def test_every_number_of_the_papers_own_rows_has_a_cell():
    cells = {
        (row.paper, row.name, dataset, metric)
        for each in experiments().values()
        for row in each.rows
        for dataset in each.data
        for metric in each.metrics
    }
    own = {cell for cell in paper_values() if (cell.paper, cell.row) in rows()}
    assert own <= cells
    others = {cell.row for cell in paper_values() if (cell.paper, cell.row) not in rows()}
    assert others >= PUBLISHED
    assert not {row for row in others if row.startswith(("APNet", "Stacked", "baseline", "PLA", "HLA", "DLA", "MLA"))}


# What tells a row's network and schedule from that of the recipe: read from the papers, not from rows.yaml.
MEANT = {
    "SE-ResNet": {"attention.preset": "se"},
    "Stacked Attention (C)": {"attention.levels": 3, "attention.radix": 1},
    "APNet-S_3": {"attention.levels": 3, "attention.layer": ("rga_s",), "optimizer.epochs": 600},
    "ResNet101": {"model.backbone": "resnet101", "attention.preset": "none"},
    "PLA+HLA": {"attention.parts": ("pixel", "head"), "attention.place": "instead"},
    "hierarchical + attention": {"attention.parts": ("head",), "clustering.method": "agglomerative"},
}


@pytest.mark.parametrize("name", MEANT)
def test_rows_are_what_the_papers_describe(name, tmp_path):
    experiment = next(each for each in experiments().values() if name in [row.name for row in each.rows])
    plan = planned(experiment.name, "paper", tmp_path, only=[name])
    for run in plan.runs:
        for key, value in MEANT[name].items():
            section, _, field = key.partition(".")
            assert getattr(getattr(run.config, section), field) == value


def test_msmt17_has_twice_the_iterations(tmp_path):
    runs = planned("mla.table7", "paper", tmp_path).runs
    assert {(run.images, run.config.iterations) for run in runs} == {("MSMT17", 800), ("PersonX", 400)}


def test_two_tables_share_a_run_and_seeds_do_not(tmp_path):
    two, six = (planned(name, "demo", tmp_path, seeds=2) for name in ("mla.table2", "mla.table6"))
    assert {run.folder for run in two.runs} < {run.folder for run in six.runs}
    assert len(six.runs) == 6 * 2 * 2
    sources = {run.config.model.weights for run in six.runs}
    assert sources == {str(six.source().folder / "model.safetensors")}


def test_a_row_across_domains_is_trained_once_for_all_that_test_it(tmp_path):
    across, ablation = planned("apnet.table7", "demo", tmp_path), planned("apnet.table2", "demo", tmp_path)
    assert {run.folder for run in across.runs} < {run.folder for run in ablation.runs}
    tests = {cell.result.name for cell in across.cells}
    assert tests == {"on-dukemtmc-reid.json", "on-market-1501.json"}


def test_another_place_is_no_other_run(tmp_path):
    one = planned("apnet.table6", "demo", tmp_path / "a").runs
    other = planned("apnet.table6", "demo", tmp_path / "b").runs
    assert [run.folder.name for run in one] == [run.folder.name for run in other]


def test_every_row_builds_a_config_at_the_demo_scale_that_trains_small():
    for scale in ("demo", "gpu", "paper"):
        for recipe in scales()[scale].recipes.values():
            pipeline = PIPELINES[recipe.pipeline]
            load_config(pipeline.config, ["--config", recipe.config, "--data.root=d"], recipes=pipeline.recipes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["apnet.table22"], "apnet.table2.*; did you mean apnet.table2|got 'apnet.table22'"),
        (
            ["apnet.table2", "--only", "APNet-C_9"],
            "has the rows APNet_0, .*data sets Market-1501, .*got 'APNet-C_9'.*APNet-C_",
        ),
        (["apnet.table2", "--scale", "paper"], "folder that holds them .*--data.root"),
        (["apnet.table2", "--seeds", "0"], "--seeds"),
        (["apnet.table2", "--select", "best"], "--select.*best"),
        (["apnet.table3", "--select", "oracle"], "--select must be last for apnet.table3.*got oracle"),
        (["apnet.figure6", "--select", "last", "held_out"], "--select must be last for apnet.figure6"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message, tmp_path, capsys):
    import re

    assert main(["reproduce", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_missing_data_set_is_told_and_the_others_are_planned(tmp_path):
    (tmp_path / "Market-1501").mkdir()
    plan = Plan(find_experiment("apnet.table2"), scales()["paper"], tmp_path, root=tmp_path)
    assert {cell.dataset for cell in plan.cells if cell.run is not None} == {"Market-1501"}
    assert {cell.reason for cell in plan.cells if cell.run is None} == {
        f"{name} is not in {tmp_path}" for name in ("DukeMTMC-reID", "MSMT17")
    }


def test_a_dry_run_says_what_would_be_run_and_writes_nothing(tmp_path, capsys):
    assert main(["reproduce", "mla.table6", "--dry-run", "--seeds", "3", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert says(printed, "36 of 36 runs to train", "core-minutes", "MB")
    assert not (tmp_path / "out").exists()

    assert main(["reproduce", "mla.table6", "--dry-run", "--json", "--out", str(tmp_path / "out")]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert (plain["experiment"], plain["scale"], plain["not_run"]) == ("mla.table6", "demo", [])
    assert len(plain["runs"]) == 12
    assert all(f"{each['run']} " in printed and each["folder"] in printed for each in plain["runs"])
    assert not any(each["done"] for each in plain["runs"])
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_run_stands_in_the_json_of_a_dry_run(tmp_path, capsys):
    (tmp_path / "Market-1501").mkdir()
    words = ["reproduce", "apnet.table2", "--dry-run", "--json", "--scale", "paper", "--data.root", str(tmp_path)]
    assert main(words) == 0
    plain = json.loads(capsys.readouterr().out)
    assert {each["data"] for each in plain["not_run"]} == {"DukeMTMC-reID", "MSMT17"}
    assert {each["reason"] for each in plain["not_run"]} == {
        f"{name} is not in {tmp_path}" for name in ("DukeMTMC-reID", "MSMT17")
    }


def test_the_list_names_every_experiment(capsys):
    assert main(["reproduce", "list"]) == 0
    printed = capsys.readouterr().out
    assert main(["reproduce", "list", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert [each["experiment"] for each in plain["experiments"]] == [*experiments()]
    assert plain["scales"] == {scale.name: scale.about for scale in scales().values()}
    for each in plain["experiments"]:
        (line,) = (line for line in printed.splitlines() if line.startswith(f"{each['experiment']} "))
        trained = 0 if each["kind"] == "cost" else len(each["rows"]) * len(each["data"])
        assert line.split()[-3:] == [str(number) for number in (len(each["rows"]), len(each["data"]), trained)]
        assert each["title"] in line


def test_table_iii_is_counted(tmp_path, capsys):
    assert main(["reproduce", "apnet.table3", "--only", "APNet_0", "--out", str(tmp_path)]) == 0
    (line,) = csv.DictReader((Path(tmp_path) / "demo" / "tables" / "apnet.table3.csv").open())
    # A ResNet-50 with last stride 1 at 224x224: 4.09 at stride 2, of which layer4 without its first 1x1 twice over.
    assert (line["row"], line["paper"]) == ("APNet_0", "6.23")
    assert abs(float(line["ours"]) - 6.21) < 0.02
    assert "6.2" in capsys.readouterr().out
    assert main(["reproduce", "apnet.table3", "--only", "APNet_0", "--out", str(tmp_path), "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    (value,) = plain["table"]
    assert (value["row"], value["metric"], value["paper"]) == ("APNet_0", line["metric"], 6.23)
    assert round(value["ours"], 3) == float(line["ours"])
    assert (plain["experiment"], plain["failed"]) == ("apnet.table3", [])
    assert str(tmp_path / "demo" / "tables" / "apnet.table3.csv") in plain["written"]


def test_only_takes_rows_and_data_sets(tmp_path):
    plan = planned("apnet.table2", "demo", tmp_path, only=["MSMT17", "APNet_0", "APNet-S_1"])
    assert [(cell.row.name, cell.dataset) for cell in plan.cells] == [("APNet_0", "MSMT17"), ("APNet-S_1", "MSMT17")]
    assert len(planned("apnet.table2", "demo", tmp_path, only=["MSMT17"]).cells) == 10
    assert len(planned("apnet.table2", "demo", tmp_path, only=["APNet_0"]).cells) == 3
