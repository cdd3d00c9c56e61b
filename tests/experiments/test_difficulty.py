"""The difficulty report: colour histogram and retrieval by camera against oracles, its table, and the calibration."""

import colorsys
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from reference_pipelines.commands.cli import main
from reference_pipelines.config.loading import load_config
from reference_pipelines.config.sections import IMAGENET
from reference_pipelines.data import read
from reference_pipelines.errors import UserError
from reference_pipelines.experiments import difficulty
from reference_pipelines.experiments.colour_histogram import ColourHistogram, hue_saturation_value
from reference_pipelines.experiments.difficulty import (
    format_difficulty,
    measure_difficulty,
    retrieve_by_camera,
    untrained,
)
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.rendering import render_market
from tests.conftest import says
from tests.oracles import difficulty as oracle

FEATURES = [
    "chance",
    "colour histogram",
    "colour histogram, centred, grey world",
    "resnet50, untrained",
    "resnet_demo, untrained",
]


def normalised(colours):
    """What the network reads for colours (N, 3, H, W) in 0 ... 1."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    return (colours - mean) / std


def features(colours, *, centred):
    return ColourHistogram(centred=centred)(normalised(colours)).features


def random_colours(*shape, seed=0, low=0.05, high=0.6):
    """Colours of 8-bit pixels, between `low` and `high`."""
    colours = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * (high - low) + low
    return (colours * 255).round() / 255


def test_hue_saturation_and_value_are_those_of_the_standard_library():
    corners = torch.tensor([[r, g, b] for r in (0.0, 0.4, 1.0) for g in (0.0, 0.4, 1.0) for b in (0.0, 0.4, 1.0)])
    colours = torch.cat([corners, random_colours(200, 3, low=0.0, high=1.0)])
    found = hue_saturation_value(255 * colours[:, :, None, None])[..., 0, 0]
    expected = torch.tensor([colorsys.rgb_to_hsv(*colour) for colour in colours.tolist()])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("size", [(16, 8), (21, 13)])
def test_the_histogram_is_the_literal_count(centred, size):
    colours = random_colours(2, 3, *size)
    found = features(colours, centred=centred)
    images = (255 * colours).round().int().permute(0, 2, 3, 1).tolist()
    expected = torch.tensor([oracle.histogram(image, centred=centred) for image in images])
    assert not torch.allclose(expected[0], expected[1], atol=0.1)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_a_histogram_worked_by_hand():
    colours = torch.zeros(1, 3, 16, 4)
    colours[:, 0, :2] = 1.0  # the first stripe is red: hue 0, saturation 1, value 1
    colours[:, 2, 2:, :3] = 0.5  # the others are dark blue on three quarters: hue 2/3, saturation 1, value 1/2
    found = features(colours, centred=False).view(8, 8, 4, 4)
    assert found[0, 0, 3, 3] == pytest.approx(1)
    assert found[1:, 5, 3, 2].tolist() == pytest.approx([0.75**0.5] * 7)
    assert found[1:, 0, 0, 0].tolist() == pytest.approx([0.25**0.5] * 7)
    assert int((found > 0).sum()) == 15


def test_the_centred_histogram_ignores_a_cast_and_the_border():
    colours = random_colours(1, 3, 32, 32)
    cast = (colours * 255 * torch.tensor([1.3, 0.9, 0.7]).view(3, 1, 1)).round() / 255
    other_border = colours.clone()
    other_border[..., :8] = 0.3
    for changed in (cast, other_border):
        centred = torch.cosine_similarity(features(colours, centred=True), features(changed, centred=True))
        plain = torch.cosine_similarity(features(colours, centred=False), features(changed, centred=False))
        assert centred > 0.995 > plain


def test_a_black_image_has_a_histogram():
    assert torch.isfinite(features(torch.zeros(1, 3, 16, 8), centred=True)).all()


def labelled(rng, count, people, cameras):
    return rng.integers(0, people, count), rng.integers(1, cameras + 1, count)


@pytest.mark.parametrize("seed", range(10))
def test_retrieval_by_camera_is_the_literal_loop(seed):
    rng = np.random.default_rng(seed)
    # Small whole coordinates make many equal similarities.
    query, gallery = (torch.as_tensor(rng.integers(1, 3, (n, 3)), dtype=torch.float64) for n in (7, 25))
    labels = (*labelled(rng, 7, 4, 3), *labelled(rng, 25, 4, 3))
    found = retrieve_by_camera(query, labels[0], labels[1], gallery, labels[2], labels[3])
    unit = [features / features.norm(dim=1, keepdim=True) for features in (query, gallery)]
    similarity = torch.stack([unit[1] @ row for row in unit[0]]).tolist()
    assert (found.mAP, found.rank1) == pytest.approx(oracle.by_camera(similarity, *labels))


def test_retrieval_by_camera_worked_by_hand():
    query, gallery = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [1.0, 0.3]])
    # The first is the query's own person; of the others, the nearest and the farthest are from its camera.
    ids, cameras = np.array([5, 6, 0, 7]), np.array([2, 1, 2, 1])
    found = retrieve_by_camera(query, np.array([5]), np.array([1]), gallery, ids, cameras)
    assert (found.mAP, found.rank1) == pytest.approx(((1 + 2 / 3) / 2, 1.0))
    assert found.chance == pytest.approx(oracle.expected_average_precision([True, True, False]))
    assert found.chance_rank1 == pytest.approx(2 / 3)


def test_nothing_is_retrieved_by_camera_where_no_querys_camera_saw_anybody_else():
    one, two = torch.ones(1, 2), torch.ones(2, 2)
    # In the gallery camera 1 saw the query's own person, and somebody else only camera 2.
    assert retrieve_by_camera(one, np.array([5]), np.array([1]), two, np.array([5, 6]), np.array([1, 2])) is None


def test_an_untrained_network_is_always_the_same_and_leaves_the_generator_alone():
    before = torch.get_rng_state()
    first, second = untrained("resnet_demo").state_dict(), untrained("resnet_demo").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(before, torch.get_rng_state())


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "tiny"
    render_market(root, size="tiny", images_per_camera=1, image_size=(64, 32), progress=False)
    return root


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    """A run of one epoch on the images."""
    pipeline, out = PIPELINES["apnet"], tmp_path_factory.mktemp("runs") / "run"
    quick = ["--config=demo", f"--data.root={images}", "--title=one epoch", "--attention.preset=none", "--device=cpu"]
    quick += ["--data.image_size=[32, 16]", "--optimizer.epochs=1", "--optimizer.milestones=[]"]
    quick += ["--sampler.ids=4", "--sampler.images=2"]
    result = pipeline.train(load_config(pipeline.config, quick, recipes=pipeline.recipes), out)
    return out, result


def test_the_command_prints_every_feature_and_scores_a_run_as_training_did(images, trained, capsys):
    folder, result = trained
    assert main(["data", "difficulty", str(images), "--run", str(folder), "--json", "--device", "cpu"]) == 0
    printed = json.loads(capsys.readouterr().out)
    rows = {row["feature"]: row for row in printed["rows"]}
    assert list(rows) == [*FEATURES, "resnet_demo, trained on rendered plaza: one epoch"]
    assert printed["data"]["rendered"] is True
    own = rows["resnet_demo, trained on rendered plaza: one epoch"]
    assert own["mAP"] == pytest.approx(result["final"]["mAP"])
    assert own["rank1"] == pytest.approx(result["final"]["rank1"])
    assert own["interval"] == pytest.approx(result["final"]["interval"])
    assert rows["chance"]["mAP"] == pytest.approx(result["chance"])
    assert rows["colour histogram"]["camera_mAP"] > 1.2 * rows["chance"]["camera_mAP"]


def test_runs_and_their_weights_are_told_apart(images, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(difficulty, "UNTRAINED", {})
    folder, result = trained
    other = shutil.copytree(folder, tmp_path / "other")
    result = json.loads((other / "result.json").read_text())
    result["data"]["fingerprint"] = "of other images"
    (other / "result.json").write_text(json.dumps(result))
    runs = [folder, folder / "best.safetensors", other / "best.safetensors"]
    rows = measure_difficulty(read(images), runs, device=torch.device("cpu"))
    here = f"resnet_demo, trained on rendered plaza ({read(images).fingerprint()}): one epoch (run)"
    assert [row.feature for row in rows[-3:]] == [
        here,
        f"{here}, best, chosen on this test set",
        "resnet_demo, trained on rendered plaza (of other images): one epoch (other), best, chosen on its own test set",
    ]


def test_the_table_has_dashes_where_there_is_nothing_to_say(images, monkeypatch):
    monkeypatch.setattr(difficulty, "UNTRAINED", {"resnet_demo": (32, 16)})
    data = replace(read(images), cameras_known=False)
    rows = measure_difficulty(data, device=torch.device("cpu"))
    assert all(row.camera_mAP is None and row.camera_rank1 is None for row in rows)
    lines = format_difficulty(rows).splitlines()
    assert lines[0].split("  ")[0] == "feature"
    assert lines[2].split() == ["chance", f"{100 * rows[0].mAP:.1f}", "-", "-", "-"]
    assert f"{100 * rows[1].mAP:.1f} [{100 * rows[1].interval[0]:.1f}, " in lines[3]


def test_queries_and_gallery_of_two_cameras_that_share_none_are_scored_by_person_alone(images, tmp_path, capsys):
    data, lines = read(images), ["image,id,camera,split"]
    for part, camera in (("query", 0), ("gallery", 1)):
        listed = data.part(part)
        lines += [f"{path},{person},{camera},{part}" for path, person in zip(listed.paths, listed.ids, strict=True)]
    (tmp_path / "mine.csv").write_text("\n".join(lines), encoding="utf-8")
    assert main(["data", "difficulty", str(tmp_path / "mine.csv"), "--device", "cpu"]) == 0
    table = capsys.readouterr().out.splitlines()[4:]
    assert [line.split("  ")[0] for line in table] == FEATURES
    assert all(line.split()[-2:] == ["-", "-"] for line in table)
    assert not any(line.split()[-3] == "-" for line in table[1:])


def test_a_folder_that_is_no_run_is_refused_before_anything_is_measured(images, tmp_path, capsys):
    assert main(["data", "difficulty", str(images), "--run", str(tmp_path / "none")]) == 2
    captured = capsys.readouterr()
    assert says(captured.err, "there is no", str(tmp_path / "none"))
    assert not captured.out


def test_wrong_workers_and_a_missing_gallery_are_refused(images, capsys):
    assert main(["data", "difficulty", str(images), "--workers", "-1"]) == 2
    assert says(capsys.readouterr().err, "--workers ", "0, got -1")
    data = read(images)
    with pytest.raises(UserError, match=r"data difficulty: .*query and gallery"):
        measure_difficulty(replace(data, gallery=data.gallery.where(np.zeros(len(data.gallery), dtype=bool))))


@pytest.mark.slow
@pytest.mark.parametrize("domain", ["plaza", "mall"])
def test_the_rendered_pedestrians_are_calibrated(domain, tmp_path):
    """Trained well above colours, colours and untrained networks above chance, and cameras a temptation to both."""
    root = tmp_path / domain
    render_market(root, size="small", domain=domain, progress=False)
    pipeline = PIPELINES["apnet"]
    arguments = ["--config=demo", f"--data.root={root}", "--title=demo", "--attention.preset=none", "--device=cpu"]
    pipeline.train(load_config(pipeline.config, arguments, recipes=pipeline.recipes), tmp_path / "run")
    chance, *features = measure_difficulty(read(root), [tmp_path / "run"], device=torch.device("cpu"))
    *simple, network = features
    assert max(row.mAP for row in simple) < 0.85 * network.mAP
    assert 10 * chance.mAP < network.mAP < 0.8
    assert all(row.camera_mAP > 1.3 * chance.camera_mAP for row in simple)
    assert network.camera_mAP < min(row.camera_mAP for row in simple)
