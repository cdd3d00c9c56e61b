"""The demo from its entry in the catalogue to its report, in miniature; a second call does nothing again."""

import json
import re

import pytest

from reference_pipelines.config.loading import to_plain
from reference_pipelines.errors import UserError
from reference_pipelines.ledger.verifying import verify
from reference_pipelines.reproduction import running
from reference_pipelines.reproduction.catalogue import Experiment, find_experiment, scales
from reference_pipelines.reproduction.cells import Plan
from reference_pipelines.reproduction.demo import run_demo
from tests.reproduction.miniature import BASELINE, PLAIN, SCALE, run_here

SMALL = Experiment("demo", "A miniature", (PLAIN, BASELINE), ("Market-1501",), ("mAP", "rank1"))


def test_the_demo_ends_with_a_table_and_a_report_and_is_not_done_twice(tmp_path, capsys, monkeypatch):
    out, commands = tmp_path / "demo", []
    monkeypatch.setattr(running, "run_jobs", run_here(commands))
    report = run_demo(out, SMALL, SCALE)
    printed = capsys.readouterr().out
    assert [command[:2] for command in commands] == [["train", "apnet"], ["train", "apnet"], ["train", "mla"]]
    source, *runs = commands
    results = [json.loads((out / "mini" / "runs" / command[3] / "result.json").read_text()) for command in runs]
    assert [result["title"] for result in results] == ["APNet_0", "baseline"]
    assert results[1]["weights"] == f"{source[3]}/model.safetensors"
    assert results[0]["weights"] == "none"
    assert results[0]["command"].startswith("python -m reference_pipelines train apnet --out ")
    for result in results:
        row = next(line for line in printed.splitlines() if re.match(rf"{result['title']} +rendered", line))
        assert f"{100 * result['final']['mAP']:.1f} [" in row
    page = report.read_text()
    assert "rendered mall" in page
    assert page.count("<b>holds</b>") == 2  # the lines of the ledger about both runs
    assert report.stat().st_size < 8e6
    assert report == out / "report.html"
    (slice_,) = verify(out / "ledger")
    assert [entry.cell["row"] for entry in slice_.entries] == ["APNet_0", "baseline"]

    commands.clear()
    assert run_demo(out, SMALL, SCALE) == report
    assert capsys.readouterr().out.count("taken over from an earlier call") == 2
    assert not commands

    folder = out / "mini" / "runs" / runs[1][3]
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, "code": "of before"}))
    run_demo(out, SMALL, SCALE)
    assert [command[:2] for command in commands] == [["train", "mla"]]


def test_a_run_that_fails_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(running, "run_jobs", run_here([]))
    broken = Experiment(
        "demo",
        "A miniature",
        (PLAIN.__class__("broken", "apnet", "apnet_c", {"optimizer.learning_rate": 1e30}),),
        ("Market-1501",),
        ("mAP",),
    )
    with pytest.raises(UserError, match="broken on Market-1501, seed 1 failed: it failed"):
        run_demo(tmp_path / "demo", broken, SCALE)


def test_a_folder_without_the_demos_mark_is_never_touched(tmp_path):
    for name in ("images/mine.txt", "mla/config.yaml", "mla/thesis.txt"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("all of it")
    with pytest.raises(UserError, match="out .*not a demo"):
        run_demo(tmp_path / "out", SMALL, SCALE)
    assert (tmp_path / "out" / "mla" / "thesis.txt").read_text() == "all of it"


def test_the_variants_of_a_paper_differ_in_their_attention_alone(tmp_path):
    plan = Plan(find_experiment("demo"), scales()["demo"], tmp_path)
    source = plan.source()
    for paper in ("apnet", "mla"):
        configs = [to_plain(run.config) for run in plan.runs if run.pipeline == paper]
        rest = [
            {key: value for key, value in config.items() if key not in ("title", "attention")} for config in configs
        ]
        assert all(other == rest[0] for other in rest)
        assert len({str(config["attention"]) for config in configs}) == len(configs)
    images = scales()["demo"].images
    assert images["source"]["domain"] != images["Market-1501"]["domain"]
    assert images["source"]["seed"] != images["Market-1501"]["seed"]
    assert source.config.attention.preset == "none"
