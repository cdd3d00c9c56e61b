"""An experiment from its images to its table and the ledger, on miniatures; a second call does nothing again."""

import csv
import json

import numpy as np
import pytest
from scipy import stats

from reference_pipelines.ledger.verifying import verify
from reference_pipelines.reproduction import running
from reference_pipelines.reproduction.catalogue import Experiment, Row
from reference_pipelines.reproduction.cells import Plan
from reference_pipelines.reproduction.running import run_plan
from reference_pipelines.reproduction.table import as_csv, as_html, as_png, as_text, summary, values_of, write_tables
from tests.conftest import says
from tests.reporting.support import check_policy
from tests.reproduction.miniature import BASELINE, PLAIN, PYRAMID, SCALE, run_here

BROKEN = Row("broken", "apnet", "apnet_c", {"optimizer.learning_rate": 1e30})


def planned(out, rows, data=("Market-1501",), *, seeds=1, kind="scores", select=("last",), **options):
    experiment = Experiment("apnet.mini", "A miniature", tuple(rows), data, ("mAP", "rank1"), kind, **options)
    return Plan(experiment, SCALE, out, seeds=seeds, select=select)


@pytest.fixture
def here(monkeypatch):
    """Run jobs in this process, which has imported everything; return the commands."""
    commands = []
    monkeypatch.setattr(running, "run_jobs", run_here(commands))
    return commands


@pytest.fixture
def ledger(tmp_path):
    def read():
        slices = verify(tmp_path / "ledger")
        assert all(each.sound for each in slices)
        return [entry for each in slices for entry in each.entries]

    return read


def test_an_experiment_ends_in_its_table_and_the_ledger_and_is_not_run_twice(tmp_path, here, ledger):
    plan = planned(tmp_path, [PLAIN, BASELINE], seeds=2)
    assert run_plan(plan) == []
    assert [command[:2] for command in here] == [
        ["train", "apnet"],
        *[["train", kind] for kind in ("apnet", "mla")] * 2,
    ]
    lines = ledger()
    assert {(line.cell["row"], line.seed, line.cell["scale"]) for line in lines} == {
        (row, seed, "mini") for row in ("APNet_0", "baseline") for seed in (1, 2)
    }
    results = {(cell.row.name, cell.seed): json.loads(cell.result.read_text())["final"]["mAP"] for cell in plan.cells}
    for line in lines:
        assert line.scores["mAP"] == pytest.approx(results[line.cell["row"], line.seed])
    value = next(value for value in values_of(plan) if (value.row, value.metric) == ("APNet_0", "mAP"))
    ours = 100 * np.array([results["APNet_0", 1], results["APNet_0", 2]])
    assert value.ours == pytest.approx(ours.mean())
    half = stats.sem(ours) * 12.706  # Student's t of one degree of freedom
    assert value.interval == pytest.approx((max(0, ours.mean() - half), min(100, ours.mean() + half)), abs=0.01)
    assert (value.paper, value.seeds) == (87.8, 2)
    here.clear()
    assert run_plan(planned(tmp_path, [PLAIN, BASELINE], seeds=2)) == []
    assert here == []
    assert len(ledger()) == 4


def test_an_interval_of_seeds_ends_where_scores_end():
    mean, ends = summary([{"mAP": 0.60}, {"mAP": 0.61}, {"mAP": 0.62}], "mAP")
    assert (mean, *ends) == pytest.approx((61, 61 - 4.3027 / 3**0.5, 61 + 4.3027 / 3**0.5), abs=1e-3)
    assert summary([{"rank1": 0.1}, {"rank1": 0.9}], "rank1")[1] == (0, 100)


def test_a_run_that_was_cut_off_is_gone_on_with(tmp_path, here):
    plan = planned(tmp_path, [PLAIN])
    run_plan(plan)
    (run,) = plan.runs
    (run.folder / "result.json").unlink()
    here.clear()
    run_plan(planned(tmp_path, [PLAIN]))
    assert here == [["resume", str(run.folder)]]
    assert run.done


def test_a_failure_stays_in_the_ledger_and_the_others_go_on(tmp_path, here, ledger, capsys):
    plan = planned(tmp_path, [BROKEN, PLAIN])
    (failure,) = run_plan(plan)
    assert failure.job.folder == plan.runs[0].folder
    failed, done = sorted(ledger(), key=lambda line: line.source != "failure")
    assert (failed.cell["row"], failed.scores, failed.failure) == ("broken", None, "it failed")
    assert done.cell["row"] == "APNet_0"
    shown = as_text(plan, values_of(plan))
    assert says(shown, "broken", "-", "not run")


def test_across_domains_a_run_is_tested_on_the_other(tmp_path, here, ledger):
    plan = planned(tmp_path, [PYRAMID], ("Market-1501 to DukeMTMC-reID",))
    run_plan(plan)
    assert [command[0] for command in here] == ["train", "evaluate"]
    (line,) = ledger()
    assert (line.source, line.cell["dataset"]) == ("evaluation", "Market-1501 to DukeMTMC-reID")
    scores = json.loads(plan.cells[0].result.read_text())["scores"]
    (value, _) = values_of(plan)
    assert (value.paper, value.ours) == (21.3, pytest.approx(100 * scores["mAP"]))
    assert value.ours != pytest.approx(
        100 * json.loads((plan.runs[0].folder / "result.json").read_text())["final"]["mAP"]
    )


def test_each_rule_of_selection_is_a_column_of_its_own(tmp_path, here, ledger):
    plan = planned(
        tmp_path, [PLAIN], ("Market-1501", "Market-1501 to DukeMTMC-reID"), select=("oracle", "last", "held_out")
    )
    assert run_plan(plan) == []
    (run,) = plan.runs
    weights = {
        "last": run.folder,
        "held_out": run.folder / "held_out.safetensors",
        "oracle": run.folder / "best.safetensors",
    }
    tested = [(command[1], "--data" in command) for command in here[1:]]
    assert tested == [
        (str(weights["last"]), True),
        *[(str(weights[rule]), across) for rule in ("held_out", "oracle") for across in (False, True)],
    ]
    lines = {(line.cell["dataset"], line.selection): line for line in ledger()}
    assert len(lines) == 6
    assert {line.held_out for line in lines.values()} == {2}
    values = values_of(plan)
    assert [(value.dataset, value.metric, value.selection) for value in values] == [
        (dataset, metric, rule)
        for dataset in plan.data
        for metric in ("mAP", "rank1")
        for rule in ("last", "held_out", "oracle")
    ]
    for value in values:
        assert value.ours == pytest.approx(100 * lines[value.dataset, value.selection].scores[value.metric])
    header, *_ = as_text(plan, values).splitlines()
    assert says(header, "mAP paper", "mAP ours", "mAP ours, held-out", "mAP ours, oracle", "R-1 paper")
    page = as_html(plan, values)
    assert page.count("<th>ours, oracle</th>") == 4
    assert page.count("<td") == 1 + 4 * 4
    assert "2 training people were held out" in page
    rules = [line["selection"] for line in csv.DictReader(as_csv(values).splitlines())]
    assert rules == ["last", "held_out", "oracle"] * 4
    here.clear()
    assert run_plan(plan) == []
    assert here == []
    assert len(ledger()) == 6


def test_nobody_is_held_out_where_nothing_is_selected_by_them(tmp_path):
    plain, oracle, apart = (
        planned(tmp_path, [PLAIN], select=select) for select in (("last",), ("last", "oracle"), ("last", "held_out"))
    )
    assert [each.runs[0].config.evaluation.held_out for each in (plain, oracle, apart)] == [0, 0, 2]
    assert plain.runs[0].folder == oracle.runs[0].folder != apart.runs[0].folder


def test_the_tables(tmp_path, here):
    plan = planned(tmp_path, [PLAIN, PYRAMID], kind="curve", labels=("0", "2"), axis="levels")
    nothing = values_of(plan)
    assert [value.shown for value in nothing] == ["not run"] * 4
    assert "not run" in as_csv(nothing)
    run_plan(Plan(plan.experiment, SCALE, tmp_path, only=["APNet_0"]))
    values = values_of(plan)
    lines = list(csv.DictReader(as_csv(values).splitlines()))
    assert [(line["row"], line["metric"], line["paper"], line["ours"] == "not run") for line in lines] == [
        ("APNet_0", "mAP", "87.8", False),
        ("APNet_0", "rank1", "95.0", False),
        ("APNet-C_2", "mAP", "90.5", True),
        ("APNet-C_2", "rank1", "96.2", True),
    ]
    assert lines[0]["runs"] == plan.runs[0].folder.name
    assert float(lines[0]["low"]) <= float(lines[0]["ours"]) <= float(lines[0]["high"])
    page = as_html(plan, values)
    assert says(page, "APNet_0", "87.8", values[0].shown)
    assert "stand-in" in page
    assert "<script" not in page
    assert "://" not in page
    check_policy(page, scripts=0)
    assert as_png(plan, values).startswith(b"\x89PNG")
    assert [path.suffix for path in write_tables(plan, values)] == [".csv", ".html", ".png"]
