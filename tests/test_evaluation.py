"""`evaluate`: a trained network on its own data and on other data; nothing is trained, source and target are named."""

import json
import shutil

import pytest

from reference_pipelines.cli import main
from reference_pipelines.config import load_config
from reference_pipelines.data.rendering import render_market
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.reporting.report import write_report

COUNTS = {"train_ids": 8, "test_ids": 4, "cameras": 3, "images_per_camera": 3, "distractors": 2, "junk": 1}
CHANGES = {
    "apnet": {"sampler.ids": "4"},
    "mla": {"sampler.ids": "3", "sampler.images": "4", "iterations": "2", "clustering.k1": "6", "clustering.k2": "2"}
    | {"clustering.min_samples": "2"},
}


@pytest.fixture(scope="module")
def domains(tmp_path_factory):
    root = tmp_path_factory.mktemp("domains")
    for name in ("plaza", "mall"):
        render_market(root / name, **COUNTS, domain=name, image_size=(64, 32), workers=1, progress=False)
    return root


@pytest.fixture(scope="module")
def trained(domains, tmp_path_factory):
    """A run a pipeline, trained on the plaza."""
    out = tmp_path_factory.mktemp("trained")
    for name, pipeline in PIPELINES.items():
        values = {"data.image_size": "[32, 16]", "optimizer.epochs": "1", "optimizer.milestones": "[]"}
        values |= {"augment.pad": "2", "data.root": str(domains / "plaza"), **CHANGES[name]}
        recipe = ["--config", str(pipeline.recipes / "demo.yaml")]
        pipeline.train(
            load_config(pipeline.config, [*recipe, *(f"--{key}={values[key]}" for key in values)]), out / name
        )
    return out


@pytest.fixture
def runs(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "runs")


def evaluations(run):
    return [json.loads(path.read_text()) for path in sorted((run / "evaluations").glob("*.json"))]


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_on_its_own_data_the_scores_are_those_of_the_training(runs, pipeline):
    assert main(["evaluate", str(runs / pipeline)]) == 0
    (numbers,) = evaluations(runs / pipeline)
    result = json.loads((runs / pipeline / "result.json").read_text())
    assert numbers["scores"] == result["final"]
    assert numbers["chance"] == result["chance"]
    assert numbers["trained_on"] == numbers["tested_on"] == result["data"]


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_on_other_data_source_and_target_are_named_in_table_file_and_report(runs, domains, capsys, pipeline):
    run = runs / pipeline
    assert main(["evaluate", str(run), "--data", str(domains / "mall")]) == 0
    printed = capsys.readouterr().out
    assert printed.index("rendered plaza") < printed.index("rendered mall")
    (numbers,) = evaluations(run)
    assert (numbers["trained_on"]["name"], numbers["tested_on"]["name"]) == ("rendered plaza", "rendered mall")
    assert numbers["scores"]["mAP"] != json.loads((run / "result.json").read_text())["final"]["mAP"]
    page = write_report([run], run.parent / "report.html").read_text()
    assert f"<td>rendered plaza</td><td>rendered mall</td><td>{'flip' if numbers['flip'] else 'plain'}</td>" in page
    assert main(["evaluate", str(run), "--data", str(domains / "plaza")]) == 0
    assert len(evaluations(run)) == 2


def test_the_weights_file_may_be_named_and_the_options_are_recorded(runs, tmp_path, capsys):
    out = tmp_path / "deep" / "numbers.json"
    weights = str(runs / "apnet" / "model.safetensors")
    assert main(["evaluate", weights, "--no-flip", "--rerank", "--workers", "1", "--out", str(out)]) == 0
    numbers = json.loads(out.read_text())
    assert (numbers["flip"], numbers["reranked"]) == (False, True)
    assert "re-ranked" in capsys.readouterr().out
    plain = tmp_path / "plain.json"
    assert main(["evaluate", weights, "--no-flip", "--out", str(plain)]) == 0
    assert json.loads(plain.read_text())["scores"]["mAP"] != numbers["scores"]["mAP"]
    assert not (runs / "apnet" / "evaluations").exists()


def test_what_the_run_started_from_need_not_be_there_any_more(runs, domains):
    config = runs / "apnet" / "config.yaml"
    config.write_text(config.read_text().replace("weights: none", "weights: gone.safetensors"))
    assert main(["evaluate", str(runs / "apnet"), "--data", str(domains / "mall")]) == 0


@pytest.mark.parametrize("missing", ["config.yaml", "result.json", "model.safetensors"])
def test_a_folder_that_is_no_finished_run_is_refused_by_what_it_lacks(runs, capsys, missing):
    (runs / "apnet" / missing).unlink()
    assert main(["evaluate", str(runs / "apnet")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: evaluate: ")
    assert f"it has no {missing}" in error


def test_refusals(runs, tmp_path, capsys):
    def refused(*arguments):
        assert main(["evaluate", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        return error

    assert "there is no" in refused(tmp_path / "nowhere")
    assert "is not a folder" in refused(runs / "apnet", "--data", tmp_path / "nowhere")
    assert "workers must be at least 0" in refused(runs / "apnet", "--workers", "-1")
    (tmp_path / "taken").write_text("")
    assert "name another file with --out" in refused(runs / "apnet", "--out", tmp_path / "taken" / "x.json")
    (runs / "mla" / "result.json").write_text("{}")
    assert "was not written by `train`" in refused(runs / "mla")
    shutil.copy(runs / "mla" / "model.safetensors", runs / "apnet" / "model.safetensors")
    assert "do not fit" in refused(runs / "apnet")
