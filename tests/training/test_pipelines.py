"""Both programs from files to result.json, small: everything written, reproducible, nothing lost when they stop."""

import ast
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from attnreid import attachments
from reference_pipelines.commands.cli import main
from reference_pipelines.config.loading import load_config
from reference_pipelines.data import read
from reference_pipelines.data.verification import verify
from reference_pipelines.errors import UserError
from reference_pipelines.evaluation.extraction import extract_features
from reference_pipelines.mla import train as mla
from reference_pipelines.models import Embedding
from reference_pipelines.neighbours.engines import Approximation
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.pipelines.opening import open_run
from reference_pipelines.reporting.table import format_results
from reference_pipelines.runs.checkpoints import place_of
from reference_pipelines.runs.provenance import file_digest
from reference_pipelines.runs.resume import find_checkpoint
from reference_pipelines.training import session
from reference_pipelines.training.optimizer import rate_factor
from tests.conftest import says
from tests.training.runs import arguments, configured, trained


@pytest.fixture(scope="module")
def runs(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return {name: (out / name, trained(name, images, out / name)) for name in PIPELINES}


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_run_folder_is_complete(runs, images, pipeline):
    folder, result = runs[pipeline]
    assert json.loads((folder / "result.json").read_text()) == json.loads(json.dumps(result))
    assert not list(folder.glob("*.partial*"))
    assert not (folder / "tensorboard").exists()  # nobody asked for it
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log] == [0, 1, 2]
    assert log[0]["mAP"] == result["start"]["mAP"]
    assert log[-1]["mAP"] == result["final"]["mAP"]
    assert all(np.isfinite(entry["loss"]) for entry in log[1:])
    schedule = configured(pipeline, images).optimizer
    rates = [schedule.learning_rate * rate_factor(schedule, epoch) for epoch in (0, 1)]
    assert [entry["learning_rate"] for entry in log[1:]] == pytest.approx(rates)
    assert rates[0] != rates[1]
    assert result["data"]["fingerprint"] == read(images).fingerprint()
    assert result["final"]["interval"][0] <= result["final"]["mAP"] <= result["final"]["interval"][1]
    assert 0 < result["chance"] < 1
    again = load_config(PIPELINES[pipeline].config, ["--config", str(folder / "config.yaml")])
    assert again == configured(pipeline, images)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_same_seed_gives_the_same_weights_and_another_does_not(runs, images, tmp_path, pipeline):
    first = load_file(runs[pipeline][0] / "model.safetensors")
    trained(pipeline, images, tmp_path / "same")
    same = load_file(tmp_path / "same" / "model.safetensors")
    assert all(torch.equal(first[name], same[name]) for name in first)
    trained(pipeline, images, tmp_path / "other", seed="2")
    other = load_file(tmp_path / "other" / "model.safetensors")
    assert not torch.equal(first["backbone.conv1.weight"], other["backbone.conv1.weight"])


@pytest.mark.parametrize(
    ("pipeline", "what"),
    [("apnet", "the backbone and its attention"), ("mla", "the backbone alone")],
)
def test_training_starts_from_another_runs_folder(runs, images, tmp_path, capsys, pipeline, what):
    source, out = runs["apnet"][0], tmp_path / "run"
    changes = {"model.weights": str(source), "optimizer.epochs": "1", "optimizer.milestones": "[]"}
    assert main(["train", pipeline, "--out", str(out), *arguments(pipeline, images, **changes)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert says(printed[1], f"weights: {what} ", f"{source / 'model.safetensors'} under 'backbone.'")
    assert says(printed[2], "weights: left aside 6 ", ": classifier, neck")
    assert sum(line.startswith("weights: ") for line in printed) == 2
    before, start = load_file(source / "model.safetensors"), load_file(place_of(out, 0) / "model.safetensors")
    taken = [name for name in start if name.startswith("backbone.") and (pipeline == "apnet" or name in before)]
    assert all(torch.equal(start[name], before[name]) for name in taken)
    assert any(".attention." in name for name in taken) == (pipeline == "apnet")
    result = json.loads((out / "result.json").read_text())
    assert result["weights_digest"] == file_digest(source / "model.safetensors") is not None


def test_what_is_clustered_is_reported(runs):
    clustering = runs["mla"][1]["clustering"]
    assert clustering["clusters"] >= 2
    sizes = {"smallest", "median", "largest"}
    assert set(clustering) == {"clusters", "noise", "id_purity", "id_nmi", "camera_purity", "silhouette", "eps", *sizes}
    log = [json.loads(line) for line in (runs["mla"][0] / "log.jsonl").read_text().splitlines()]
    assert [entry["eps"] for entry in log[1:]] == [0.4, 0.4] == [clustering["eps"]] * 2


def test_the_examples_are_ranked_and_marked_by_identity(runs, images):
    document = json.loads((runs["apnet"][0] / "examples.json").read_text())
    assert document["lists"]
    precisions = [shown["average_precision"] for shown in document["lists"]]
    assert precisions == sorted(precisions)
    for shown in document["lists"]:
        person = shown["query"].rpartition("/")[2][:4]
        for ranked in shown["ranked"]:
            assert (ranked["image"].rpartition("/")[2][:4] == person) == ranked["match"]


@pytest.mark.parametrize(
    ("pipeline", "expected"),
    [
        ("apnet", {f"layer{i}/level{j}" for i in (1, 2, 3, 4) for j in (1, 2)}),
        ("mla", {"layer4.0.conv2/pixel", "layer4.0.conv2/domain"}),
    ],
)
def test_the_attention_of_the_examples_is_kept(runs, pipeline, expected):
    gates = np.load(runs[pipeline][0] / "attention.npz")
    assert set(gates.files) == {f"backbone.{name}" for name in expected}
    assert all(((gates[name] >= 0) & (gates[name] <= 1)).all() for name in gates.files)


def test_a_session_does_nothing_before_it_is_entered(images, tmp_path, monkeypatch, capsys):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    monkeypatch.setattr(
        "reference_pipelines.training.session.pick_device", lambda *_: pytest.fail("something was done")
    )
    opened = session.Session("apnet", configured("apnet", tmp_path / "nowhere"), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out == ""
    monkeypatch.undo()
    with pytest.raises(UserError, match="nowhere"), opened:
        pass
    assert not list(tmp_path.iterdir())


def test_what_begins_in_an_entered_session_is_undone_where_entering_fails(images, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(session, "seed_generators", fail)
    opened = session.Session("apnet", configured("apnet", images), tmp_path / "run")
    with pytest.raises(RuntimeError, match="out of luck"), opened:
        pass
    assert not list(tmp_path.iterdir())


def imported_by(folder):
    found = set()
    for path in Path(session.__file__).parents[1].joinpath(folder).glob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        found |= {
            node.module.split(".")[1]
            for node in nodes
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module.startswith("reference_pipelines.")
        }
    return found


def test_what_trains_does_not_know_what_reports_and_a_runs_files_know_neither():
    assert "runs" in imported_by("training")
    assert imported_by("training").isdisjoint({"reporting", "apnet", "mla", "pipelines", "commands"})
    assert imported_by("runs").isdisjoint({"training", "reporting", "models", "evaluation", "pipelines", "commands"})


def test_unsupervised_training_never_sees_the_ids(images, tmp_path, monkeypatch):
    plain = trained("mla", images, tmp_path / "plain")
    # Other ids for the same files: only the purity, which training does not use, may change.
    original = read

    def relabelled(*arguments):
        data = original(*arguments)
        data.train.ids[:] = np.arange(len(data.train)) + 1
        return data

    monkeypatch.setattr("reference_pipelines.training.images.read", relabelled)
    changed = trained("mla", images, tmp_path / "changed")
    assert changed["final"]["mAP"] == plain["final"]["mAP"]
    assert changed["clustering"]["id_purity"] != plain["clustering"]["id_purity"]


def test_no_cluster_stops_with_one_sentence(images, tmp_path):
    with pytest.raises(UserError) as refused:
        trained("mla", images, tmp_path / "run", **{"clustering.min_samples": "60"})
    sentence = str(refused.value)
    assert says(sentence, "DBSCAN", "no cluster", "66 of 66 images", "noise; ", "--clustering.eps")
    assert says(sentence, "; nothing was trained yet", f"{tmp_path / 'run'} was removed")
    assert not (tmp_path / "run").exists()


def test_merging_goes_on_from_the_epoch_before_and_from_the_checkpoint(images, tmp_path):
    merging = {"clustering.method": "agglomerative", "clustering.merging.first": "0", "clustering.merging.every": "1"}
    whole = trained("mla", images, tmp_path / "whole", **merging)
    first, second = (np.load(path) for path in sorted((tmp_path / "whole" / "pseudo_labels").iterdir()))
    joined = {tuple(np.unique(second[first == cluster])) for cluster in np.unique(first)}
    assert all(len(clusters) == 1 for clusters in joined)  # what was together stays together
    assert len(np.unique(second)) == len(np.unique(first)) - 3 == 66 - 2 * 3  # 5 % of 66 images a step
    trained("mla", images, tmp_path / "cut", **merging, **{"optimizer.epochs": "1"})
    shutil.rmtree(tmp_path / "cut" / "pseudo_labels")  # the checkpoint has them
    config = configured("mla", images, **merging)
    checkpoint = find_checkpoint(tmp_path / "cut").checkpoint
    resumed = PIPELINES["mla"].train(config, tmp_path / "cut", checkpoint=checkpoint)
    assert (np.load(tmp_path / "cut" / "pseudo_labels" / "epoch-0002.npy") == second).all()
    assert resumed["final"] == whole["final"]


@pytest.mark.parametrize(("approximation", "logged"), [(None, {}), (Approximation(0.97, 0.99, 66), {"recall": 0.97})])
def test_clusters_are_found_on_the_device_and_their_memory_is_on_the_cpu(images, monkeypatch, approximation, logged):
    clusters, devices = np.arange(66) % 3, []

    def found(features, config, **options):
        devices.append(features.device.type)
        return clusters, 0.7, approximation

    monkeypatch.setattr(mla, "cluster", found)
    config = configured("mla", images)
    options = (read(images), config, 1, None, torch.device("meta"))
    labels, memory, measured = mla.make_pseudo_labels(torch.randn(66, 8), *options)
    assert labels is clusters
    assert devices == ["meta"]
    assert measured["eps"] == 0.7
    assert {name: measured[name] for name in measured if name == "recall"} == logged
    assert memory.centers.device.type == "cpu"


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("seed", ["-1", str(2**32)])
def test_a_seed_is_what_every_generator_takes(images, pipeline, seed):
    assert configured(pipeline, images, seed=str(2**32 - 1)).seed == 2**32 - 1
    with pytest.raises(UserError, match=rf"seed .*0 .*below 2\*\*32, got {seed}"):
        configured(pipeline, images, seed=seed)


def test_without_cameras_nothing_is_said_of_them(images, tmp_path):
    rows = ["image,id,split"]
    for split, folder in (("train", "bounding_box_train"), ("query", "query"), ("gallery", "bounding_box_test")):
        files = [path for path in sorted((images / folder).iterdir()) if not path.name.startswith("-1")]
        rows += [f"{path},{int(path.name[:4])},{split}" for path in files]
    (tmp_path / "own.csv").write_text("\n".join(rows))
    # Each image is its own camera, so nothing but the very same file is dropped.
    result = trained("mla", tmp_path / "own.csv", tmp_path / "run")
    assert result["clustering"]["camera_purity"] is None
    assert result["final"]["camera_pairs"] == []
    assert result["final"]["skipped"] == 0


def test_corrupt_images_are_left_out_of_a_run_that_is_told_to(images, tmp_path, capsys):
    broken = shutil.copytree(images, tmp_path / "images")
    for folder in ("bounding_box_train", "query"):
        sorted((broken / folder).iterdir())[0].write_bytes(b"")
    result = trained("apnet", broken, tmp_path / "run", **{"data.skip_corrupt": "true"})
    assert "2 of" in capsys.readouterr().out
    assert "train 65 images" in result["data"]["summary"]
    assert any(says(remark, "2 images", "not decode") for remark in result["remarks"])
    assert result["final"]["queries"] + result["final"]["skipped"] == 8


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_corrupt_training_image_is_found_before_anything_is_computed(images, tmp_path, monkeypatch, pipeline):
    broken = shutil.copytree(images, tmp_path / "images")
    last = sorted((broken / "bounding_box_train").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:200])  # its header is whole
    monkeypatch.setattr(session.Session, "place", lambda *_: pytest.fail("something was computed"))
    with pytest.raises(UserError, match=rf"{last.name} .* 66 of train; .*--data.skip_corrupt true"):
        trained(pipeline, broken, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("pipeline", "changes", "said"),
    [
        (
            "apnet",
            {"sampler.ids": "9"},
            "9 different people, .* 8; .*--sampler.ids .*8",
        ),
        ("mla", {"clustering.method": "kmeans", "clustering.kmeans": "67"}, r"got 66 images; .*--clustering\.kmeans"),
    ],
)
def test_too_few_images_are_found_before_anything_is_computed(images, tmp_path, monkeypatch, pipeline, changes, said):
    monkeypatch.setattr(session.Session, "place", lambda *_: pytest.fail("something was computed"))
    with pytest.raises(UserError, match=said):
        trained(pipeline, images, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def listed(images, path, of_train):
    """Write a CSV of the images, their train ids changed, and return it."""
    rows = ["image,id,camera,split"]
    for split, folder in (("train", "bounding_box_train"), ("query", "query"), ("gallery", "bounding_box_test")):
        for file in sorted((images / folder).iterdir()):
            person = int(file.name.partition("_")[0])
            if person >= 0:
                rows.append(f"{file},{of_train(person) if split == 'train' else person},{file.name[6]},{split}")
    path.write_text("\n".join(rows))
    return path


def test_one_training_id_gets_one_advice_and_unlabelled_images_no_purity(images, tmp_path):
    unlabelled = listed(images, tmp_path / "own.csv", lambda person: 1)
    with pytest.raises(UserError, match=r"at least two people .*, .* 1; "):
        trained("apnet", unlabelled, tmp_path / "run")
    result = trained("mla", unlabelled, tmp_path / "run", **{"optimizer.epochs": "1", "optimizer.milestones": "[]"})
    assert result["clustering"]["id_purity"] is result["clustering"]["id_nmi"] is None
    assert result["clustering"]["camera_purity"] > 0
    assert not any("people of train" in remark for remark in result["remarks"])


def test_people_who_are_trained_and_tested_on_are_said_first_and_stay_with_the_result(images, tmp_path, capsys):
    tested = sorted({int(path.name[:4]) for path in (images / "query").iterdir()})
    people = sorted({int(path.name[:4]) for path in (images / "bounding_box_train").iterdir()})
    shared = listed(images, tmp_path / "own.csv", lambda person: tested[0] if person == people[0] else person)
    result = trained("apnet", shared, tmp_path / "run", **{"optimizer.epochs": "1", "optimizer.milestones": "[]"})
    said = "1 of the 8 people of train are in query or gallery too"
    assert result["remarks"][0].startswith(said)
    assert said in capsys.readouterr().err
    assert f"note: {said}" in format_results([result])


def test_one_camera_is_said_with_a_way_out_that_works(images, tmp_path):
    one = listed(images, tmp_path / "own.csv", lambda person: person)
    one.write_text(re.sub(r",\d,(?=[a-z])", ",4,", one.read_text()))
    with pytest.raises(UserError, match=r"all .*camera 4, .*image,id,split .*no camera"):
        read(one)
    (finding,) = (each for each in verify(one).findings if each.kind == "no match" and each.severity == "error")
    assert "image,id,split" in finding.text
    one.write_text(re.sub(r",(4|camera),(?=[a-z])", ",", one.read_text()))
    assert read(one).match_counts().all()


def test_two_images_of_nobody_give_the_triplet_nothing(images, tmp_path):
    numbers = iter(range(1000, 2000))
    alone = listed(images, tmp_path / "own.csv", lambda person: next(numbers))
    with pytest.raises(UserError, match=r"66 people of train .*two images .*triplet, all .*one"):
        trained("apnet", alone, tmp_path / "run")


def test_a_triplet_needs_two_images_a_person(images):
    with pytest.raises(UserError, match=r"sampler\.images .* 2, .*triplet .*, got 1"):
        configured("apnet", images, **{"sampler.images": "1"})
    assert configured("apnet", images, **{"sampler.images": "1", "loss.triplet_weight": "0"}).sampler.images == 1


def test_the_images_are_the_same_ones_wherever_the_config_is_read_again(images, tmp_path, monkeypatch):
    shutil.copytree(images, tmp_path / "here" / "data")
    monkeypatch.chdir(tmp_path / "here")
    result = trained("apnet", "data", tmp_path / "run", **{"optimizer.epochs": "1", "optimizer.milestones": "[]"})
    root = str(tmp_path / "here" / "data")
    assert result["config"]["data"]["root"] == root
    assert f"root: {root}\n" in (tmp_path / "run" / "config.yaml").read_text()
    assert find_checkpoint(tmp_path / "run").checkpoint.state.description.config["data"]["root"] == root


def test_a_run_from_random_weights_is_warned_of_and_one_that_stays_says_so(images, tmp_path, capsys):
    slow = {"optimizer.learning_rate": "1e-12", "optimizer.epochs": "1", "optimizer.milestones": "[]"}
    result = trained("mla", images, tmp_path / "run", **slow)
    warned = capsys.readouterr().err
    assert says(warned, "random weights", "--model.weights")

    assert any(remark.startswith("its mAP has not moved") for remark in result["remarks"])


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_chunk_of_the_batch_needs_two_images(images, pipeline):
    with pytest.raises(UserError, match=r" 2 .*10 model\.bn_chunks, got (12|16)"):
        configured(pipeline, images, **{"model.bn_chunks": "10"})


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_chunks_that_do_not_divide_the_batch_are_refused(images, pipeline):
    uneven = {"sampler.ids": "3", "sampler.images": "6", "model.bn_chunks": "4"}
    message = r"4 model\.bn_chunks .*, got 18"
    with pytest.raises(UserError, match=message):
        configured(pipeline, images, **uneven)


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(images, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(UserError, match=r"loss .*(nan|inf) .*step 2 of epoch 1/2"):
        trained("apnet", images, out, **{"optimizer.learning_rate": "1e30", "optimizer.warmup_epochs": "0"})
    assert not out.exists()


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_last_step_that_ruins_the_weights_is_noticed_before_they_are_saved(images, tmp_path, pipeline):
    one_step = {"sampler.ids": "8"} if pipeline == "apnet" else {"iterations": "1"}
    ruin = {"optimizer.learning_rate": "1e30", "optimizer.warmup_epochs": "0", "sampler.images": "8"}
    with pytest.raises(UserError, match=r"features .*NaN or Inf .*last step of epoch 1/2"):
        trained(pipeline, images, tmp_path / "run", **ruin, **one_step)
    assert not (tmp_path / "run").exists()


def test_flipping_adds_the_features_of_the_mirror(images):
    data = read(images)
    config = configured("apnet", images)

    def model(pixels):
        flat = pixels[:, :, :4, :4].flatten(1)
        return Embedding(flat, flat, None)

    def extract(flip):
        options = {"batch_size": 5, "flip": flip, "device": torch.device("cpu"), "title": "test"}
        return extract_features(model, data.query, config.data, **options)

    def mirrored(pixels):
        return Embedding(pixels, model(pixels).features + model(pixels.flip(-1)).features, None)

    options = {"batch_size": 3, "flip": False, "device": torch.device("cpu"), "title": "test"}
    expected = extract_features(mirrored, data.query, config.data, **options)
    assert torch.allclose(extract(flip=True), expected, atol=1e-6)
    assert not torch.allclose(extract(flip=False), expected, atol=1e-3)
    assert torch.allclose(extract(flip=False).norm(dim=1), torch.ones(len(data.query)))


BACKBONES = [
    ("apnet", "timm:mobilenetv3_small_050", {"attention.preset": "pyramid", "model.bn_chunks": "2"}),
    (
        "mla",
        "timm:tf_efficientnet_lite0",
        {
            "model.weights": "package",
            "data.mean": "[0.5, 0.5, 0.5]",
            "data.std": "[0.5, 0.5, 0.5]",
            "model.pooling": "gem",
            "attention.preset": "se",
        },
    ),
    # Those of APNet's Table V.
    *(
        pytest.param("apnet", name, {"data.image_size": size}, marks=pytest.mark.slow)
        for name, size in (("resnet101", "[64, 32]"), ("densenet169", "[64, 32]"), ("inception_v3", "[96, 96]"))
    ),
    pytest.param("apnet", "convnext_tiny", {"data.image_size": "[64, 32]"}, marks=pytest.mark.slow),
    pytest.param(
        "apnet",
        "timm:vit_tiny_patch16_224",
        {"data.image_size": "[64, 32]", "model.last_stride": "null"},
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("pipeline", "backbone", "changes"), BACKBONES)
def test_other_backbones_train_by_config(images, tmp_path, pipeline, backbone, changes):
    once = {"optimizer.epochs": "1", "optimizer.milestones": "[]", "model.backbone": backbone}
    result = trained(pipeline, images, tmp_path / "run", **once, **changes)
    assert np.isfinite(result["final"]["mAP"])
    run = open_run(tmp_path / "run")
    assert attachments(run.model.backbone)[0].sites
    before = load_file(place_of(tmp_path / "run", 0) / "model.safetensors")
    after = load_file(tmp_path / "run" / "model.safetensors")
    learnt = [name for name in after if ".attention." in name and after[name].is_floating_point()]
    assert any(not torch.equal(after[name], before[name]) for name in learnt)
