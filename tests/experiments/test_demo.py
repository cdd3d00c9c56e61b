"""The demo from its catalogue to its report, on a miniature of two runs; and that a second call does nothing again."""

import contextlib
import io
import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from reference_pipelines.commands.cli import main
from reference_pipelines.config.loading import load_config, to_plain
from reference_pipelines.data import read
from reference_pipelines.errors import UserError
from reference_pipelines.experiments import demo
from reference_pipelines.experiments import jobs as jobs_module
from reference_pipelines.experiments.catalogue import read_catalogue
from reference_pipelines.experiments.demo import CATALOGUE, _is_done, run_demo
from reference_pipelines.experiments.jobs import Job, run_jobs
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.runs.provenance import code_digest

FEW = {"train_ids": 8, "test_ids": 4, "cameras": 3, "images_per_camera": 3, "distractors": 2, "junk": 1}
QUICK = {"data.image_size": [32, 16], "optimizer.epochs": 1, "optimizer.milestones": []}
SUPERVISED = {"pipeline": "apnet", "change": {**QUICK, "sampler.ids": 4}}
CLUSTERED = {"clustering.k1": 6, "clustering.k2": 2, "clustering.min_samples": 2, "iterations": 2}
MINIATURE = {
    "images": {"source": {**FEW, "domain": "plaza", "seed": 1}, "target": {**FEW, "domain": "mall", "seed": 0}},
    "source": {**SUPERVISED, "images": "source", "change": {**SUPERVISED["change"], "attention.preset": "none"}},
    "runs": {
        "se": {**SUPERVISED, "images": "target"},
        "mla": {"pipeline": "mla", "images": "target", "change": {**QUICK, **CLUSTERED, "title": "small MLA"}},
    },
}


@pytest.fixture
def miniature(tmp_path):
    path = tmp_path / "catalogue.yaml"
    path.write_text(yaml.safe_dump(MINIATURE, sort_keys=False))
    return path


def train_here(jobs):
    """Train in this process, which has imported everything; `run_jobs` itself is tested below."""
    for job in jobs:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["attnreid-pipelines", *job.command])
            with contextlib.redirect_stdout(io.StringIO()):
                assert main(job.command) == 0


def test_the_demo_ends_with_a_table_and_a_report_and_is_not_done_twice(tmp_path, miniature, capsys, monkeypatch):
    out = tmp_path / "demo"
    monkeypatch.setattr(demo, "run_jobs", train_here)
    report = run_demo(out, miniature)
    printed = capsys.readouterr().out
    results = {name: json.loads((out / name / "result.json").read_text()) for name in ("source", "se", "mla")}
    assert results["mla"]["weights"] == str(out / "source" / "model.safetensors")
    assert results["se"]["weights"] == "none"
    assert results["se"]["command"].startswith("python -m reference_pipelines train apnet --out ")
    for name in ("se", "mla"):
        row = next(line for line in printed.splitlines() if line.startswith(results[name]["title"]))
        assert f"{100 * results[name]['final']['mAP']:.1f} [" in row
    assert "small MLA" in report.read_text()
    assert report == out / "report.html"

    class Asked(Exception):
        pass

    def ask(jobs):  # what a second call would train; no need to do it here
        if jobs:
            raise Asked([job.folder.name for job in jobs], [job.command for job in jobs])

    monkeypatch.setattr(demo, "run_jobs", ask)
    assert run_demo(out, miniature) == report
    assert capsys.readouterr().out.count("taken over from an earlier call") == 3

    result = json.loads((out / "mla" / "result.json").read_text())
    (out / "mla" / "result.json").write_text(json.dumps({**result, "weights_digest": "of other source weights"}))
    with pytest.raises(Asked) as asked:
        run_demo(out, miniature)
    assert asked.value.args[0] == ["mla"]
    assert not (out / "mla").exists()

    changed = {**MINIATURE["runs"]["se"], "change": {**QUICK, "sampler.ids": 4, "seed": 2}}
    miniature.write_text(yaml.safe_dump({**MINIATURE, "runs": {"se": changed}}, sort_keys=False))
    with pytest.raises(Asked) as asked:
        run_demo(out, miniature)
    assert asked.value.args[0] == ["se"]
    assert "--seed=2" in asked.value.args[1][0]


def test_a_run_of_a_relative_folder_is_known_again(tmp_path, market, monkeypatch):
    monkeypatch.chdir(market.parent)
    program = PIPELINES["apnet"]
    config = load_config(program.config, ["--config=demo", f"--data.root={market.name}"], recipes=program.recipes)
    result = {
        "config": to_plain(config),
        "code": code_digest(),
        "weights_digest": None,
        "data": {"fingerprint": read(market).fingerprint()},
    }
    for root, known in ((str(market), True), (market.name, False)):
        result["config"]["data"]["root"] = root
        (tmp_path / "result.json").write_text(json.dumps(result))
        assert _is_done(tmp_path, config, Path(market.name)) == known


def test_a_folder_without_the_demos_mark_is_never_touched(tmp_path, miniature):
    for name in ("images/mine.txt", "mla/config.yaml", "mla/thesis.txt"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("all of it")
    with pytest.raises(UserError, match="out .*not a demo"):
        run_demo(tmp_path / "out", miniature)
    assert (tmp_path / "out" / "mla" / "thesis.txt").read_text() == "all of it"


def test_the_variants_of_a_paper_differ_in_their_attention_alone():
    catalogue = read_catalogue(CATALOGUE)
    assert [entry.name for entry in catalogue.runs] == [
        *("none", "se", "apnet_c2", "apnet_s2"),
        *("baseline", "pla", "pla_hla", "mla"),
    ]
    configs = {
        entry.name: load_config(PIPELINES[entry.pipeline].config, entry.arguments(CATALOGUE.parent))
        for entry in (catalogue.source, *catalogue.runs)
    }
    for group in (("none", "se", "apnet_c2", "apnet_s2"), ("baseline", "pla", "pla_hla", "mla")):
        rest = [{k: v for k, v in vars(configs[n]).items() if k not in ("title", "attention")} for n in group]
        assert all(other == rest[0] for other in rest)
        assert len({str(configs[name].attention) for name in group}) == len(group)
    source, target = catalogue.images["source"], catalogue.images["target"]
    assert source["domain"] != target["domain"]
    assert source["seed"] != target["seed"]


def shell(tmp_path, name, code):
    """A job whose command is any Python."""
    return Job(name, ["-c", code], tmp_path / name, 1, tmp_path / "console" / f"{name}.txt")


@pytest.fixture
def plain_python(monkeypatch):
    """Starts jobs as plain Python, two at a time, and lists the processes."""
    processes = []

    def start(job, environment):
        job.console.parent.mkdir(parents=True, exist_ok=True)
        with open(job.console, "ab") as console:
            process = jobs_module.subprocess.Popen([sys.executable, *job.command], stdout=console, stderr=console)
        processes.append(process)
        return process

    monkeypatch.setattr(jobs_module, "_start", start)
    monkeypatch.setattr(jobs_module, "available_cores", lambda: 2)
    return processes


def test_a_job_that_fails_is_named_with_its_sentence_and_the_others_stop(tmp_path, plain_python):
    slow = shell(tmp_path, "slow", "import time; time.sleep(60)")
    bad = shell(tmp_path, "bad", "import sys; print('noise'); sys.exit('error: no such thing; do another')")
    with pytest.raises(UserError, match=re.escape("bad: no such thing; do another")):
        run_jobs([bad, slow])
    assert len(plain_python) == 2
    assert all(process.poll() is not None for process in plain_python)


def test_a_job_that_is_killed_is_named_with_its_status(tmp_path, plain_python):
    with pytest.raises(UserError, match="killed: exit status -9"):
        run_jobs([shell(tmp_path, "killed", "import os; print('half a bar'); os.kill(os.getpid(), 9)")])


def test_a_job_is_a_command_of_the_pipelines(tmp_path):
    run_jobs([Job("help", ["--help"], tmp_path / "help", 1, tmp_path / "console" / "help.txt")])
    assert "reference_pipelines COMMAND" in (tmp_path / "console" / "help.txt").read_text()


def test_every_job_runs_once(tmp_path, plain_python, capsys):
    jobs = [shell(tmp_path, f"job{i}", f"print('row {i}')") for i in range(5)]
    run_jobs(jobs)
    assert len(plain_python) == len(jobs)
    for i, job in enumerate(jobs):
        assert job.console.read_text() == f"row {i}\n"
