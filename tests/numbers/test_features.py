"""Bad numbers in features files and float images, by everything that reads them: named, with the image, not ranked."""

import shutil

import numpy as np
import pytest
import torch

import reference_pipelines
from reference_pipelines.commands.cli import main
from reference_pipelines.errors import UserError
from reference_pipelines.features import FeatureStore, reading
from reference_pipelines.serving.calibrating import calibrate_model
from reference_pipelines.serving.extraction import extract
from reference_pipelines.serving.listing import list_images
from tests.checkpoints.forging import forge_file
from tests.conftest import says

K = ("--k1", "6", "--k2", "2", "--min-samples", "2")


@pytest.fixture(scope="module")
def model(trained_run):
    return reference_pipelines.load(trained_run, device="cpu")


@pytest.fixture(scope="module")
def stores(model, images, tmp_path_factory):
    out = tmp_path_factory.mktemp("stores")
    for part in ("gallery", "query"):
        extract(model, list_images(images, part=part), out / part)
    return out


def changed(store, out, change):
    """Copy a store, and change its features as a damaged disk, or a diverged network, would have."""
    shutil.copytree(store, out)
    features = np.lib.format.open_memmap(out / "features.npy", mode="r+")
    change(features)
    features.flush()
    return out


def put(value):
    def change(features):
        features[3, 2] = value

    return change


def longer(features):
    features[3] *= 3e38


BAD = {"nan": (put(np.nan), "NaN or Inf"), "inf": (put(np.inf), "NaN or Inf"), "huge": (put(2e38), "length 2e+38")}
BAD |= {"too long": (lambda features: features.__imul__(2), "length 2 "), "overflowing": (longer, "length 3e+38")}


@pytest.mark.parametrize(("change", "got"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("command", ["search in it", "search for it", "cluster"])
def test_damaged_features_are_refused_with_their_image(stores, tmp_path, capsys, change, got, command):
    part = "query" if command == "search for it" else "gallery"
    bad = changed(stores / part, tmp_path / "bad", change)
    words = {
        "search in it": ["search", str(stores / "query"), "--gallery", str(bad)],
        "search for it": ["search", str(bad), "--gallery", str(stores / "gallery")],
        "cluster": ["cluster", str(bad), "--out", str(tmp_path / "labels.csv"), *K],
    }[command]
    assert main(words) == 2
    shown = capsys.readouterr()
    row = 0 if got == "length 2 " else 3
    assert says(shown.err, words[0], str(bad), "length 1", got, str(FeatureStore(bad).paths[row]), "extract again")
    assert not shown.out
    assert not (tmp_path / "labels.csv").exists()


def test_a_damaged_row_far_down_is_named(stores, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_ROWS", 2)
    bad = FeatureStore(changed(stores / "gallery", tmp_path / "bad", put(np.nan)))
    with pytest.raises(UserError, match=bad.paths[3].name):
        bad.check("search")
    assert FeatureStore(stores / "gallery").check("search") == 0


def test_a_gallery_with_bad_numbers_is_not_compared_with_the_calibration(trained_run, stores, images, tmp_path, capsys):
    bad = changed(stores / "gallery", tmp_path / "bad", put(np.nan))
    run = shutil.copytree(trained_run, tmp_path / "run")
    assert main(["calibrate", str(run), "--data", str(images), "--part", "all", "--workers", "0"]) == 0
    pair = [str(path) for path in FeatureStore(bad).paths[:2]]
    assert main(["same", str(run), *pair, "--gallery", str(bad)]) == 2
    assert says(capsys.readouterr().err, "same: every feature", str(bad), "NaN or Inf")


def none_left(features):
    features[:] = 0


def one_left(features):
    features[:-1] = 0


def equal(features):
    features[:] = features[0]


@pytest.mark.parametrize(("change", "counted"), [(none_left, 29), (one_left, 28), (equal, 0)])
def test_features_without_direction_are_counted_by_cluster_and_equal_ones_are_one_cluster(
    stores, tmp_path, capsys, change, counted
):
    odd = changed(stores / "gallery", tmp_path / "odd", change)
    assert main(["cluster", str(odd), "--out", str(tmp_path / "labels.csv"), *K]) == 0
    printed = capsys.readouterr().out
    if change is equal:
        assert says(printed, "29 images, 1 clusters", "0.0% noise")
    assert says(printed, f"note: {counted} of the 29 features are all zeros") == (counted > 0)


def test_duplicates_tie_in_the_order_of_the_gallery(stores, tmp_path):
    def twice(features):
        features[10:20] = features[:10]

    double = FeatureStore(changed(stores / "gallery", tmp_path / "double", twice))
    found = reference_pipelines.search(double, double, top=2)
    np.testing.assert_array_equal(found.indices[:10], [[row, row + 10] for row in range(10)])
    np.testing.assert_array_equal(found.indices[10:20], found.indices[:10])
    assert (found.similarities[:20, 0] == found.similarities[:20, 1]).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e39], ids=["nan", "inf", "beyond single precision"])
def test_bad_numbers_in_a_float_image_are_laid_to_it_and_not_to_the_weights(model, value, monkeypatch):
    images = torch.zeros(3, 3, 32, 16, dtype=torch.float64)
    images[1, 1, 5, 5] = value
    monkeypatch.setattr(model, "batch_size", 1)  # the number is the image's among all
    for call in (model.embed, model.preprocess):
        with pytest.raises(ValueError, match="embed: image 2, a float tensor, must be of finite .*got NaN or Inf"):
            call([*images])


def test_a_float_image_that_overflows_in_the_network_is_not_laid_to_the_weights_alone(model):
    with pytest.raises(ValueError, match="got NaN or Inf for 1 of 2 images; .*weights .* or a float tensor"):
        model.embed([torch.zeros(3, 32, 16), torch.full((3, 32, 16), 3e38)])


def spoil(network):
    with torch.no_grad():
        network.neck.weight[3] = torch.nan


def test_a_network_that_has_diverged_writes_no_feature_and_no_calibration(trained_run, stores, images, tmp_path):
    run = shutil.copytree(trained_run, tmp_path / "run")
    diverged, listed = reference_pipelines.load(run, device="cpu"), list_images(images, part="query")
    spoil(diverged.model)
    said = f"extract: features .* NaN or Inf for 9 of 9 images.*the batch from .*{listed.paths[0].name} on"
    with pytest.raises(UserError, match=said):
        extract(diverged, listed, tmp_path / "features")
    assert not (tmp_path / "features" / "table.csv").exists()
    with pytest.raises(UserError, match=r"features: .*must be finished, 0 of its 9"):
        FeatureStore(tmp_path / "features")
    before = sorted(run.iterdir())
    said = r"calibrate: .* NaN or Inf for 36 of 36 images, the first is .*damaged or have"
    with pytest.raises(UserError, match=said):
        calibrate_model(diverged, images)
    assert sorted(run.iterdir()) == before
    with pytest.raises(ValueError, match="embed: features must be finite"):
        reference_pipelines.search(diverged, stores / "gallery", listed.paths[:1])


def test_evaluate_names_the_first_image_whose_features_are_bad(trained_run, images, tmp_path, capsys):
    run = shutil.copytree(trained_run, tmp_path / "run")

    def spoilt(tensors):
        tensors["neck.weight"][3] = torch.inf
        return tensors

    forge_file(run / "model.safetensors", tensors=spoilt)
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert main(["evaluate", str(run), "--data", str(images), "--workers", "0"]) == 2
    first = sorted((images / "query").iterdir())[0].name
    assert says(capsys.readouterr().err, "features are NaN or Inf for 9 of 9 images", first, "damaged or have diverged")
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
