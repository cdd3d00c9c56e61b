"""`evaluate`: a trained network on its own data and on other data; nothing is trained, source and target are named."""

import errno
import hashlib
import json
import os
import re
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from attnreid import Difference, attachments, load_checkpoint, read_description, save_checkpoint
from attnreid.files import write_bytes
from reference_pipelines.commands.cli import main
from reference_pipelines.config.loading import load_config
from reference_pipelines.data import read
from reference_pipelines.errors import UserError
from reference_pipelines.ledger.recording import record
from reference_pipelines.models import build_backbone
from reference_pipelines.neighbours import engines
from reference_pipelines.pipelines import PIPELINES, opening
from reference_pipelines.pipelines.opening import open_run
from reference_pipelines.rendering import render_market
from reference_pipelines.reporting.report import write_report
from reference_pipelines.reporting.table import table_rows
from reference_pipelines.runs.checkpoints import newest_model, place_of, read_checkpoint
from reference_pipelines.runs.provenance import file_digest
from reference_pipelines.runs.result import last_weights, read_result
from tests.checkpoints.forging import forge_file
from tests.conftest import says

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


def test_json_is_what_the_table_and_the_file_say_and_nothing_else(runs, capsys):
    words = ["evaluate", str(runs / "apnet"), "--open-set", "--single-shot", "2"]
    assert main(words) == 0
    table = capsys.readouterr().out
    assert main([*words, "--json", "--camera-pairs"]) == 0
    printed, noted = capsys.readouterr()
    numbers = json.loads(printed)
    (written,) = evaluations(runs / "apnet")
    ranks = written.pop("ranks")
    assert numbers == written
    assert ranks not in numbers.values()
    for name in ("mAP", "rank1", "mINP"):
        assert f"{100 * numbers['scores'][name]:.1f}" in table
    assert numbers["scores"]["camera_pairs"]
    assert "open_set" in numbers
    assert says(noted, numbers["title"], "trained on", "tested on", numbers["tested_on"]["fingerprint"])


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_on_its_own_data_the_scores_are_those_of_the_training(runs, pipeline):
    assert main(["evaluate", str(runs / pipeline)]) == 0
    (numbers,) = evaluations(runs / pipeline)
    result = json.loads((runs / pipeline / "result.json").read_text())
    assert numbers["scores"] == result["final"]
    assert numbers["chance"] == result["chance"]
    assert numbers["trained_on"] == numbers["tested_on"] == result["data"]


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_run_and_its_evaluations_go_into_a_ledger_that_gives_their_scores_again(runs, domains, pipeline, capsys):
    run, ledger = runs / pipeline, runs / "ledger"
    assert main(["evaluate", str(run / "best.safetensors"), "--data", str(domains / "mall"), "--rerank"]) == 0
    (numbers,) = (path for path in (run / "evaluations").glob("*.json"))
    cell = {"paper": pipeline, "row": pipeline, "dataset": "plaza", "scale": "test"}
    trained = record(ledger, "slice", run, cell=cell)
    tested = record(ledger, "slice", numbers, cell=cell)
    result, evaluation = (json.loads(path.read_text()) for path in (run / "result.json", numbers))
    assert all(result["final"][name] == value for name, value in trained.scores.items())
    assert all(evaluation["scores"][name] == value for name, value in tested.scores.items())
    assert (trained.selection, tested.selection) == ("last", "oracle")
    assert trained.config_sha256 == tested.config_sha256
    assert trained.tested_on["fingerprint"] != tested.tested_on["fingerprint"]
    assert main(["check-result", str(ledger)]) == 0
    assert "1 slices, 2 lines, 1 of the slices sound" in capsys.readouterr().out


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
    words = re.findall(r'role="cell" data-label="(?:trained on|tested on|how)".*?<b>(.*?)</b>', page)
    assert words == ["rendered plaza", "rendered mall", "flip" if numbers["flip"] else "plain"]
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


def test_the_nearest_images_alone_give_cmc_and_bounds_beside_the_whole(runs, capsys, monkeypatch):
    run = runs / "apnet"
    assert main(["evaluate", str(run), "--top-k", "5"]) == 0
    assert "from the 5 nearest images of each query, by exact: CMC is exact" in capsys.readouterr().out
    (numbers,) = evaluations(run)
    whole, top = numbers["scores"], numbers["top_k"]
    assert whole == read_result(run)["final"]
    assert (top["k"], top["engine"], top["recall"]) == (5, "exact", None)
    assert {name: top[name] for name in ("rank1", "rank5")} == {name: whole[name] for name in ("rank1", "rank5")}
    assert "rank10" not in top
    for name in ("mAP", "mAP_market"):
        assert top[name][0] < whole[name] < top[name][1]
    pytest.importorskip("faiss", reason="faiss is not installed")
    monkeypatch.setattr(engines, "SAMPLED_ROWS", 3)
    assert main(["evaluate", str(run), "--top-k", "5", "--engine", "faiss-flat", "--recall", "0.9"]) == 0
    assert "by faiss-flat: estimates, recall 1.0000 on 3 sampled rows" in capsys.readouterr().out
    estimated = next(each["top_k"] for each in evaluations(run) if each["top_k"]["engine"] == "faiss-flat")
    assert estimated["recall"] == 1.0
    assert estimated["mAP"] == top["mAP"]


def test_refusals_of_the_nearest_images(runs, capsys, monkeypatch):
    def refused(*words):
        assert main(["evaluate", str(runs / "apnet"), *words]) == 2
        return capsys.readouterr().err

    assert says(refused("--engine", "faiss-flat"), "evaluate: --engine faiss-flat", "--top-k", "missing")
    assert says(refused("--top-k", "5", "--rerank"), "evaluate: --top-k", "--rerank", "leave one out")
    assert says(refused("--top-k", "0"), "--top-k must be at least 1, got 0")
    assert says(refused("--top-k", "5", "--recall", "1.5"), "evaluate: --recall", "at most 1, got 1.5")
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert says(refused("--top-k", "5", "--engine", "faiss-hnsw"), "faiss-hnsw needs faiss", "not installed")
    assert not (runs / "apnet" / "evaluations").exists()


def test_what_was_read_is_printed_and_the_asked_for_tables_follow(runs, domains, capsys):
    run, data = str(runs / "apnet"), str(domains / "mall")
    assert main(["evaluate", run, "--data", data, "--single-shot", "3", "--camera-pairs"]) == 0
    printed = capsys.readouterr().out
    title = json.loads((runs / "apnet" / "result.json").read_text())["title"]
    assert says(
        printed.partition("\n")[0], title, "trained on rendered plaza", "tested on rendered images (market1501)"
    )
    assert f", fingerprint {read(data).fingerprint()}\n" in printed
    assert "CUHK03's single gallery shot" in printed
    assert "mAP of queries from" in printed
    assert main(["evaluate", run, "--data", data]) == 0
    printed = capsys.readouterr().out
    assert "single gallery shot" not in printed
    assert "mAP of queries from" not in printed
    # None of them replaces another's numbers.
    assert main(["evaluate", run, "--data", data, "--rerank"]) == 0
    assert main(["evaluate", str(runs / "apnet" / "best.safetensors"), "--data", data]) == 0
    printed = capsys.readouterr().out
    assert "best, chosen on its own test set + flip" in printed
    assert "chosen by" not in printed
    assert len(evaluations(runs / "apnet")) == 4


def test_weights_that_were_chosen_on_the_test_set_say_so_in_table_file_and_report(runs, capsys):
    run = runs / "apnet"
    assert main(["evaluate", str(run / "best.safetensors")]) == 0
    printed = capsys.readouterr().out
    assert "best, chosen on this test set + flip" in printed
    said = "best.safetensors was chosen by its mAP"
    assert says(printed, "note: ", said)
    assert any(said in remark for remark in evaluations(run)[0]["remarks"])
    assert said in write_report([run], run.parent / "report.html").read_text()


def test_other_images_in_the_place_of_the_runs_own_are_refused_unless_named(runs, domains, tmp_path, capsys):
    run = runs / "apnet"
    place = tmp_path / "plaza"
    shutil.copytree(domains / "plaza", place)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(domains / "plaza"), str(place)))
    assert main(["evaluate", str(run)]) == 0  # the same images, moved
    capsys.readouterr()
    sorted((place / "query").iterdir())[0].unlink()
    assert main(["evaluate", str(run)]) == 2
    error = capsys.readouterr().err
    prints = [read(folder).fingerprint() for folder in (domains / "plaza", place)]
    assert says(error, "evaluate: ", f"fingerprint {prints[0]}", f"fingerprint {prints[1]}", "--data")
    assert "--data" in error
    assert main(["evaluate", str(run), "--data", str(place)]) == 0
    printed = capsys.readouterr().out
    assert f"fingerprint {prints[1]}" in printed
    assert "trained on rendered plaza, tested on rendered images (market1501" in printed


def test_a_run_that_left_corrupt_images_out_is_scored_on_the_same_images(domains, tmp_path, capsys):
    data = shutil.copytree(domains / "plaza", tmp_path / "plaza")
    sorted((data / "query").iterdir())[0].write_bytes(b"")
    pipeline = PIPELINES["apnet"]
    values = ["--data.image_size=[32, 16]", "--optimizer.epochs=1", "--optimizer.milestones=[]", "--sampler.ids=4"]
    recipe = ["--config", str(pipeline.recipes / "demo.yaml"), f"--data.root={data}", "--data.skip_corrupt=true"]
    result = pipeline.train(load_config(pipeline.config, [*recipe, *values]), tmp_path / "run")
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert evaluations(tmp_path / "run")[0]["scores"] == result["final"]
    assert says(capsys.readouterr().out, "note: 1 images", "not decode")


def stopped(run, epochs):
    """Make a finished run one that was stopped."""
    (run / "result.json").unlink()
    for name in ("examples.json", "attention.npz"):
        (run / name).unlink()
    return f"unfinished: epoch {epochs} of {epochs}"


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("weights", ["", "best.safetensors"])
def test_an_unfinished_run_is_tested_and_reported_and_marked(runs, pipeline, weights, capsys):
    run = runs / pipeline
    finished = json.loads((run / "result.json").read_text())
    mark = stopped(run, 1)
    if weights:
        mark = f"unfinished: epoch {finished['best']['epoch']} of 1"
    assert main(["evaluate", str(run / weights)]) == 0
    printed = capsys.readouterr().out
    assert f"{finished['title']}, {mark}" in printed
    assert says(printed, "note: ", "not finished")
    (numbers,) = evaluations(run)
    assert numbers["trained_on"] == finished["data"]
    assert numbers["chance"] == finished["chance"]
    if not weights:
        assert numbers["scores"] == finished["final"]
    page = write_report([run], run.parent / "report.html").read_text()
    assert f"{finished['title']}, unfinished: epoch 1 of 1" in page
    assert "1 run, 1 of them unfinished" in page
    assert f"<b>{100 * finished['final']['mAP']:.1f}</b></td>" in page  # without an interval
    assert finished["code"] in page


def test_without_any_whole_checkpoint_there_is_nothing_to_test(runs, capsys):
    run = runs / "apnet"
    stopped(run, 1)
    shutil.rmtree(run / "checkpoints")
    assert main(["evaluate", str(run)]) == 0  # the weights say by themselves what they are
    (run / "model.safetensors").write_bytes(b"half of it")
    assert main(["evaluate", str(run)]) == 2
    assert says(capsys.readouterr().err, "model: ", str(run / "model.safetensors"), "whole file")
    assert main(["report", str(run), "--out", str(run / "r.html")]) == 2
    assert says(capsys.readouterr().err, str(run), "result.json", "checkpoint")


def test_weights_that_are_an_epoch_older_than_the_newest_checkpoint_say_their_epoch(runs):
    run = runs / "apnet"
    stopped(run, 1)
    shutil.copy(run / "checkpoints" / "epoch-0000" / "model.safetensors", run / "model.safetensors")
    result = read_result(run)
    assert result["unfinished"] == {"epoch": 0, "epochs": 1, "scored": 0}
    (run / "model.safetensors").unlink()
    assert last_weights(run) == run / "checkpoints" / "epoch-0001" / "model.safetensors"
    assert main(["evaluate", str(run)]) == 0


def as_before(run):
    """Write a run of one epoch anew as versions before did: plain weights, and a state.json in each checkpoint."""
    for place in sorted((run / "checkpoints").iterdir()):
        checkpoint = read_checkpoint(place)
        about, rest = checkpoint.state.description, checkpoint.state.to_json()
        (place / "training.safetensors").unlink()
        weights = place / "model.safetensors"
        save_file(load_file(weights), weights)
        kept = ("pipeline", "config", "fingerprint", "weights_digest", "processes", "code", "versions", "start", "best")
        kept += ("measured", "resumed", "seconds", "train_seconds", "epoch")
        shown = ("title", "recipe", "data", "weights", "chance", "hardware", "remarks")
        state = {"format": 2, **{name: getattr(about, name) for name in kept}, "log": rest["log"]}
        state["about"] = {name: getattr(about, name) for name in shown}
        state["digests"] = {"model.safetensors": hashlib.sha256(weights.read_bytes()).hexdigest()}
        (place / "state.json").write_text(json.dumps(state))
    for name in ("model.safetensors", "best.safetensors"):
        save_file(load_file(run / name), run / name)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_finished_run_of_before_is_tested_and_reported(runs, pipeline):
    run = runs / pipeline
    as_before(run)
    result = json.loads((run / "result.json").read_text())
    assert main(["evaluate", str(run)]) == 0
    assert evaluations(run)[0]["scores"] == result["final"]
    assert result["title"] in write_report([run], run.parent / "report.html").read_text()
    weights = run / "model.safetensors"
    save_file({key: value for key, value in load_file(weights).items() if "layer3" not in key}, weights)
    with pytest.raises(UserError, match=r"evaluate: .*must be those of the network in .*config.yaml.*, got .*layer3"):
        open_run(run)


@pytest.mark.parametrize("known", ["all", "less"])
def test_an_unfinished_run_of_before_is_tested_and_reported_but_not_gone_on_with(runs, known, capsys):
    run = runs / "mla"
    finished = json.loads((run / "result.json").read_text())
    as_before(run)
    stopped(run, 1)
    path = run / "checkpoints" / "epoch-0001" / "state.json"
    if known == "less":  # the first of them kept less of what they are
        state = json.loads(path.read_text())
        del state["about"]
        path.write_text(json.dumps(state))
    result = read_result(run)
    assert result["data"]["fingerprint"] == finished["data"]["fingerprint"]
    assert result["final"]["mAP"] == finished["final"]["mAP"]
    assert (table_rows([result])[0][5] == "-") == (known == "less")
    page = write_report([run], run.parent / "report.html").read_text()
    assert f"{finished['title'] if known == 'all' else 'MLA'}, unfinished: epoch 1 of 1" in page
    assert main(["evaluate", str(run)]) == 0
    shutil.copy(run / "checkpoints" / "epoch-0000" / "model.safetensors", run / "model.safetensors")
    assert read_result(run)["unfinished"]["epoch"] == 0
    capsys.readouterr()
    assert main(["resume", str(run)]) == 2
    assert says(capsys.readouterr().err, "resume: ", str(run), "of an earlier one; ", f"--model.weights {run}")


def test_a_checkpoint_is_tested_wherever_it_lies(runs, tmp_path, capsys):
    run, alone = runs / "mla", tmp_path / "elsewhere" / "mine.safetensors"
    alone.parent.mkdir()
    shutil.copy(run / "model.safetensors", alone)
    finished = json.loads((run / "result.json").read_text())
    assert main(["evaluate", str(alone)]) == 0
    assert capsys.readouterr().out.startswith(f"{finished['title']}, trained on rendered plaza, ")
    (numbers,) = evaluations(alone.parent)
    assert (numbers["scores"], numbers["unfinished"]) == (finished["final"], None)
    shutil.copy(run / "checkpoints" / "epoch-0000" / "model.safetensors", alone)
    assert main(["evaluate", str(alone)]) == 0
    assert f"{finished['title']}, unfinished: epoch 0 of 1" in capsys.readouterr().out
    assert main(["evaluate", str(newest_model(run)[0].parent), "--out", str(tmp_path / "of_epoch.json")]) == 0
    save_checkpoint(open_run(run).model, alone, description={"mine": 1})
    assert main(["evaluate", str(alone)]) == 2
    assert says(capsys.readouterr().err, "model: ", str(alone), "no description of format")


def test_anothers_weights_in_a_runs_folder_are_noticed(runs, capsys):
    """Even where the network is the same."""
    run = runs / "apnet"
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("margin: 0.3", "margin: 0.4"))
    assert main(["evaluate", str(run)]) == 2
    assert says(capsys.readouterr().err, "model.safetensors", "config.yaml", "loss.margin: 0.3 -> 0.4; ")


def test_a_runs_weights_are_the_librarys_checkpoint(runs):
    for name, pipeline in PIPELINES.items():
        opened = open_run(runs / name)
        fresh = pipeline.build(opened.config)
        fresh.set_classifier(read_description(runs / name)["classes"])
        assert load_checkpoint(fresh, runs / name) == Difference()
        backbone = build_backbone(opened.config.model)[0]
        assert load_checkpoint(backbone, runs / name, prefix="backbone.") == Difference()
        assert attachments(backbone)
        images = torch.rand(2, 3, 32, 16)
        fresh, backbone = (each.to(memory_format=torch.channels_last).eval() for each in (fresh, backbone))
        with torch.no_grad():
            assert torch.equal(fresh(images).features, opened.model(images).features)
            assert torch.equal(backbone(images), opened.model(images).pooled)


def test_a_corrupt_image_stops_it_or_is_left_out(runs, domains, tmp_path, capsys):
    data = shutil.copytree(domains / "mall", tmp_path / "mall")
    broken = sorted((data / "query").iterdir())[0]
    broken.write_bytes(b"")
    assert main(["evaluate", str(runs / "apnet"), "--data", str(data)]) == 2
    assert broken.name in capsys.readouterr().err
    assert main(["evaluate", str(runs / "apnet"), "--data", str(data), "--skip-corrupt", "--workers", "0"]) == 0
    assert broken.name in capsys.readouterr().out


def test_without_cameras_every_table_says_so(runs, domains, tmp_path, capsys):
    rows = ["image,id,split"]
    for split, folder in (("train", "bounding_box_train"), ("query", "query"), ("gallery", "bounding_box_test")):
        files = [path for path in sorted((domains / "mall" / folder).iterdir()) if path.name[0] != "-"]
        # Strangers are distractors, id 0, in the gallery alone.
        rows += [f"{path},{int(path.name[:4])},{split}" for path in files]
    (tmp_path / "own.csv").write_text("\n".join(rows))
    assert main(["evaluate", str(runs / "apnet"), "--data", str(tmp_path / "own.csv"), "--camera-pairs"]) == 0
    printed = capsys.readouterr().out
    assert "csv, no cameras" in printed
    assert says(printed, "no camera pairs", "no cameras")


def test_what_the_run_started_from_need_not_be_there_any_more(runs, domains):
    config = runs / "apnet" / "config.yaml"
    config.write_text(config.read_text().replace("weights: none", "weights: gone.safetensors"))
    assert main(["evaluate", str(runs / "apnet"), "--data", str(domains / "mall")]) == 0


@pytest.mark.parametrize("missing", ["config.yaml", "model.safetensors"])
def test_a_folder_that_is_no_run_is_refused_by_what_it_lacks(runs, capsys, missing):
    as_before(runs / "apnet")  # a checkpoint of today has its config in it
    (runs / "apnet" / missing).unlink()
    shutil.rmtree(runs / "apnet" / "checkpoints")
    assert main(["evaluate", str(runs / "apnet")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: evaluate: ")
    assert f"no {missing}" in error


@pytest.mark.parametrize(
    ("pipeline", "lacking"), [("apnet", ".attention."), ("apnet", "layer3.attention."), ("mla", "head")]
)
def test_weights_without_all_of_the_attention_are_never_evaluated(runs, capsys, pipeline, lacking):
    weights = runs / pipeline / "model.safetensors"
    whole = load_file(weights)
    forge_file(weights, tensors=lambda held: {key: value for key, value in held.items() if lacking not in key})
    assert main(["evaluate", str(runs / pipeline)]) == 2
    error = capsys.readouterr().err
    missing = sum(lacking in key for key in whole)
    assert says(error, "config.yaml", f"got {missing} missing ('backbone.", "--model.weights")
    assert error.endswith("start a training from them with --model.weights\n")
    assert evaluations(runs / pipeline) == []


def fail_to_write(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_cannot_be_written_is_refused_before_anything_is_computed(runs, tmp_path, capsys, monkeypatch):
    def compute(*_):
        raise AssertionError("it was computed")

    monkeypatch.setattr("reference_pipelines.commands.evaluate.Evaluator", compute)
    run = runs / "apnet"
    (tmp_path / "taken").write_text("")
    for out, said in (
        (tmp_path / "taken" / "x.json", "cannot write"),
        (tmp_path / "taken" / "deep" / "x.json", "cannot write"),
        (tmp_path, "--out"),
    ):
        assert main(["evaluate", str(run), "--out", str(out)]) == 2
        assert says(capsys.readouterr().err, "evaluate: ", said, str(out))
    # A full disk takes a name and no content; a folder that may not be written, neither.
    monkeypatch.setattr("reference_pipelines.commands.evaluate.tempfile.TemporaryFile", fail_to_write)
    assert main(["evaluate", str(run)]) == 2
    assert says(capsys.readouterr().err, f"cannot write {run / 'evaluations'} (No space left on device)")
    assert not (run / "evaluations").exists()


def test_scores_are_printed_before_they_are_written(runs, capsys, monkeypatch):
    monkeypatch.setattr("reference_pipelines.commands.evaluate.write_text", fail_to_write)
    assert main(["evaluate", str(runs / "apnet"), "--camera-pairs"]) == 2
    printed = capsys.readouterr()
    assert "mAP [95 %]" in printed.out
    assert "mAP of queries from" in printed.out
    assert "cannot write" in printed.err
    assert "No space left on device" in printed.err


def test_refusals(runs, tmp_path, capsys):
    def refused(*arguments):
        assert main(["evaluate", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        return error

    assert says(refused(tmp_path / "nowhere"), "there is no", str(tmp_path / "nowhere"))
    assert says(refused(runs / "apnet", "--data", tmp_path / "nowhere"), "no folder", str(tmp_path / "nowhere"))
    assert says(refused(runs / "apnet", "--workers", "-1"), "--workers", "0, got -1")
    (tmp_path / "taken").write_text("")
    assert says(refused(runs / "apnet", "--out", tmp_path / "taken" / "x.json"), "cannot write", "x.json", "--out")
    (runs / "mla" / "result.json").write_text("{}")
    assert says(refused(runs / "mla"), str(runs / "mla"), "`train`")
    (tmp_path / "empty.pth").write_bytes(b"")
    for name in ("config.yaml", "empty.pth"):
        shutil.copy(tmp_path / name if name == "empty.pth" else runs / "apnet" / name, runs / "apnet" / f"x{name}")
        assert "model: " in refused(runs / "apnet" / f"x{name}")
    assert says(refused(runs / "apnet", "--single-shot", "-1"), "--single-shot", "0, got -1")
    shutil.copy(runs / "mla" / "model.safetensors", runs / "apnet" / "model.safetensors")
    assert says(refused(runs / "apnet"), "model.safetensors", "network", "config.yaml")


def test_an_epoch_that_is_saved_while_a_run_is_opened_is_not_taken_for_another(trained, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(trained / "apnet", folder)
    before, after = ((place_of(folder, epoch) / "model.safetensors").read_bytes() for epoch in (0, 1))
    write_bytes(folder / "model.safetensors", before)
    monkeypatch.setattr(opening, "_config_of", saving_once(opening._config_of, folder / "model.safetensors", after))
    opened = opening.open_run(folder)
    assert opened.digest == file_digest(folder / "model.safetensors")
    monkeypatch.setattr(opening, "_TRIES", 1)
    write_bytes(folder / "model.safetensors", before)
    monkeypatch.setattr(opening, "_config_of", saving_once(opening._config_of, folder / "model.safetensors", after))
    with pytest.raises(UserError, match="must stay while they are read"):
        opening.open_run(folder)


def saving_once(function, path, content):
    """Return a function before which, at its first call, a file gets other content."""

    def call(*arguments):
        if path.read_bytes() != content:
            write_bytes(path, content)
        return function(*arguments)

    return call
