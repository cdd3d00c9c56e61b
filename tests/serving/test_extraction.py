"""Stores of features: what `extract` writes, how it goes on, and what it refuses."""

import json
import os
import shutil

import numpy as np
import pytest

import reference_pipelines
from reference_pipelines.commands.cli import main
from reference_pipelines.data import read
from reference_pipelines.errors import UserError
from reference_pipelines.features import FeatureStore, is_store
from reference_pipelines.features.writing import FeatureWriter
from reference_pipelines.serving import extraction
from reference_pipelines.serving.embedder import Embedder
from reference_pipelines.serving.extraction import extract
from reference_pipelines.serving.listing import list_images
from tests.conftest import says


@pytest.fixture(scope="module")
def model(run):
    return reference_pipelines.load(run, device="cpu", batch_size=8)


def test_a_data_sets_features_ids_and_cameras(run, images, tmp_path, capsys):
    out = tmp_path / "new" / "gallery"
    words = ["extract", str(run), str(images), "--part", "gallery", "--out", str(out), "--device", "cpu"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    store, gallery = FeatureStore(out), read(images).gallery
    assert is_store(out)
    assert store.paths == gallery.paths
    np.testing.assert_array_equal(store.ids, gallery.ids)
    np.testing.assert_array_equal(store.cameras, gallery.cameras)
    expected = reference_pipelines.load(run, device="cpu").embed(list(gallery.paths)).numpy()
    np.testing.assert_array_equal(store.features, expected)
    np.testing.assert_array_equal(np.load(out / "features.npy"), expected)  # an ordinary file
    assert isinstance(store.features, np.memmap)
    assert says(printed, f"{len(gallery):,} features of {expected.shape[1]:,} numbers, with paths and ids and cameras")
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert main(words) == 0  # nothing is left to do
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_all_parts_are_in_it_each_image_once(images):
    data, listing = read(images), list_images(images)
    assert len(listing) == len(data.train) + len(data.query) + len(data.gallery)
    assert len({*listing.paths}) == len(listing)


def test_a_plain_folder_has_neither_ids_nor_cameras_and_corrupt_files_are_named(run, images, tmp_path, capsys):
    folder = tmp_path / "crops"
    (folder / "deep").mkdir(parents=True)
    for number, path in enumerate(read(images).gallery.paths[:10]):
        shutil.copy(path, folder / ("deep" if number % 2 else "") / f"{number}é.jpg")
    (folder / "3x.jpg").write_bytes(b"")
    (folder / "deep" / "notes.txt").write_text("no image")
    out = tmp_path / "out"
    assert main(["extract", str(run), str(folder), "--out", str(out), "--batch-size", "4", "--workers", "2"]) == 0
    assert says(capsys.readouterr().out, f"{folder / '3x.jpg'} (the file is empty)")
    store = FeatureStore(out)
    assert (store.ids, store.cameras) == (None, None)
    assert len(store) == 10
    assert [path.name for path in store.paths[:2]] == ["0é.jpg", "2é.jpg"]
    expected = reference_pipelines.load(run, device="cpu").embed(list(store.paths)).numpy()
    np.testing.assert_allclose(store.features, expected, atol=1e-6)  # batches of other sizes
    assert store.meta.passed_over == ((2, str(folder / "3x.jpg"), "the file is empty"),)


def killed(writer, *_):
    """Leave a writer without its last words, while it was writing."""
    writer._file.write(bytes(1 << 20))
    writer._file.close()
    writer._unlock()


@pytest.mark.parametrize("how", [KeyboardInterrupt, "kill"])
def test_it_goes_on_where_it_was_stopped(model, images, tmp_path, monkeypatch, how):
    listing = list_images(images, part="gallery")
    whole = extract(model, listing, tmp_path / "whole")
    monkeypatch.setattr(extraction, "SECONDS_BETWEEN_COMMITS", 0.0 if how == "kill" else 1e9)
    seen = []

    def embed_batch(self, pixels, real=Embedder.embed_batch):
        if len(seen) == 2 and stopping:
            raise KeyboardInterrupt
        seen.append(len(pixels))
        return real(self, pixels)

    monkeypatch.setattr(Embedder, "embed_batch", embed_batch)
    if how == "kill":
        monkeypatch.setattr(FeatureWriter, "__exit__", killed)
    stopping, out = True, tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        extract(model, listing, out)
    monkeypatch.undo()
    monkeypatch.setattr(Embedder, "embed_batch", embed_batch)
    with pytest.raises(UserError, match=rf"features: .*must be finished, 16 of its {len(listing)} images"):
        FeatureStore(out)
    stopping = False
    found = extract(model, listing, out)
    assert sum(seen) == len(listing)  # no image twice
    np.testing.assert_array_equal(found.features, whole.features)
    assert found.paths == whole.paths
    assert (out / "features.npy").read_bytes() == (tmp_path / "whole" / "features.npy").read_bytes()


def test_only_what_is_flushed_counts(model, images, tmp_path, monkeypatch):
    listing = list_images(images, part="gallery")
    said, out, real = [], tmp_path / "out", os.fsync

    def synchronise(descriptor):
        features = out / "features.npy"
        if features.exists() and os.fstat(descriptor).st_ino == features.stat().st_ino:
            said.append(json.loads((out / "meta.json").read_text())["done"])
        real(descriptor)

    monkeypatch.setattr(extraction, "SECONDS_BETWEEN_COMMITS", 0.0)
    monkeypatch.setattr("reference_pipelines.features.writing.os.fsync", synchronise)
    store = extract(model, listing, out)
    assert said[0] == 0  # the first batch was on its way to the disk, and meta.json did not name it yet
    assert store.meta.done == len(listing)


def test_another_model_other_images_and_foreign_folders_are_refused(run, model, images, tmp_path):
    listing = list_images(images, part="gallery")
    out = tmp_path / "out"
    extract(model, listing, out)
    kept = {path.name: path.read_bytes() for path in out.iterdir()}
    plain = reference_pipelines.load(run, device="cpu", flip=False)
    for other, images_of, parts in (
        (plain, listing, ("features of this network", "flip (True there, False here)")),
        (model, list_images(images, part="query"), ("features of these images",)),
    ):
        with pytest.raises(UserError) as caught:
            extract(other, images_of, out)
        assert says(str(caught.value), "extract: ", str(out), *parts)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == kept
    with pytest.raises(UserError, match=r"extract: --out must be a new folder.*holds "):
        extract(model, listing, run)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "features.npy").write_bytes(b"mine")
    with pytest.raises(UserError, match="holds features.npy"):
        extract(model, listing, mine)
    assert (mine / "features.npy").read_bytes() == b"mine"


def test_two_processes_do_not_write_in_one_folder(model, images, tmp_path, monkeypatch):
    listing = list_images(images, part="query")

    def embed_batch(self, pixels):
        with pytest.raises(UserError, match="extract: one process at a time"):
            extract(model, listing, tmp_path / "out")
        raise KeyboardInterrupt

    monkeypatch.setattr(Embedder, "embed_batch", embed_batch)
    with pytest.raises(KeyboardInterrupt):
        extract(model, listing, tmp_path / "out")


@pytest.mark.parametrize("file", ["features.npy", "table.csv", "meta.json"])
def test_a_damaged_store_is_refused(model, images, tmp_path, file):
    extract(model, list_images(images, part="query"), tmp_path / "out")
    path = tmp_path / "out" / file
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(UserError, match=f"features: .*{tmp_path / 'out'} must be"):
        FeatureStore(tmp_path / "out")


def test_refusals_of_the_command(run, images, tmp_path, capsys):
    def refused(*words):
        assert main(["extract", *map(str, words)]) == 2
        return capsys.readouterr().err

    empty = tmp_path / "empty"
    empty.mkdir()
    out = tmp_path / "out"
    assert says(refused(run, empty, "--out", out), "extract: ", str(empty), "must hold images")
    assert says(refused(tmp_path / "no", images, "--out", out), "extract: there is no", str(tmp_path / "no"))
    assert says(refused(run, tmp_path / "no", "--out", out), "data: there is no folder")
    assert says(refused(run, images), "extract: --out is missing")
    assert says(refused(run, images, "--out", out, "--part", "rest"), "--part must be", "got rest")
    assert says(refused(run, tmp_path / "no", "--part", "images", "--out", out), "extract: ", "there is none")
    assert not out.exists()
    (empty / "a.jpg").write_bytes(b"x")
    assert says(refused(run, empty, "--out", out), "extract: some image of", "none of the 1 does", "a.jpg")
