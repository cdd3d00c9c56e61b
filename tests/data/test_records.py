"""What a data set says of itself, whatever its layout."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from reference_pipelines.data import ReidData, read
from reference_pipelines.data.layouts.reading import make_list
from reference_pipelines.errors import UserError
from tests.conftest import says
from tests.data import miniatures


def test_reads_ids_cameras_and_splits(market):
    data = read(market)
    assert (len(data.train), len(data.query), len(data.gallery), data.junk) == (36, 6, 19, 1)
    assert sorted(set(data.train.ids)) == [1, 2, 3, 4, 5, 6]
    assert (data.gallery.ids == 0).sum() == 1
    assert (data.gallery.ids >= 0).all()
    assert set(data.query.cameras) == {1, 2}
    for path, person, camera in zip(data.query.paths, data.query.ids, data.query.cameras, strict=True):
        assert path.name.startswith(f"{person:04d}_c{camera}s")


def test_labels_are_dense_and_follow_the_ids(market):
    train = read(market).train
    labels = train.labels()
    assert sorted(set(labels)) == list(range(6))
    assert (np.unique(train.ids)[labels] == train.ids).all()


def test_the_summary_says_what_was_taken(market):
    text = str(read(market))
    assert text.startswith(f"market1501 at {market}: train 36 images of 6 ids, query 6 images of 3 ids")
    assert "gallery 19 images of 3 ids, 2 cameras, 1 junk left out" in text
    assert says(text, "not the published counts", "train 12,936, query 3,368, gallery 15,913", "data verify")


def test_a_missing_part_is_said_and_refused_for_who_needs_it(market):
    data = dataclasses.replace(read(market), train=make_list([], [], []))
    assert ": no train, query 6 images of 3 ids" in str(data)
    assert data.require("evaluate", "query", "gallery") is data
    message = f"train: .*train, query and gallery images, market1501 at {market} .*no train; "
    with pytest.raises(UserError, match=message):
        dataclasses.replace(data, title="").require("train", "train", "query", "gallery")
    with pytest.raises(UserError, match="evaluate: .* query and gallery images, .*no query and no gallery"):
        dataclasses.replace(data, query=data.train, gallery=data.train).require("evaluate", "query", "gallery")


def test_matches_are_counted_after_the_protocol():
    data = ReidData(
        root=Path("somewhere"),
        layout="folders",
        train=make_list([], [], []),
        junk=0,
        rendered=False,
        query=make_list(["a", "b", "c", "d", "e"], [5, 5, 6, 7, 0], [1, 2, 1, 1, 1]),
        gallery=make_list(["f", "g", "h", "i", "j"], [5, 5, 5, 6, 0], [1, 1, 3, 1, 2]),
    )
    # Person 5 is seen twice by camera 1 and once by 3; 6 by the query's own camera only; 7 never; 0 is nobody.
    assert data.match_counts().tolist() == [1, 3, 0, 0, 0]


def test_the_fingerprint_changes_with_the_files(market):
    before = read(market).fingerprint()
    assert read(market).fingerprint() == before
    (market / "query" / "0007_c1s1_000099_00.jpg").unlink()
    assert read(market).fingerprint() != before


def test_the_fingerprint_moves_with_the_data_and_follows_labels(tmp_path):
    table = miniatures.own_csv(tmp_path / "here")
    before = read(table).fingerprint()
    text = table.read_text()
    table.write_text(text.replace(",bo,3,train", ",bo,2,train"))
    assert read(table).fingerprint() != before
    table.write_text(text.replace(str((tmp_path / "here").resolve()), str((tmp_path / "there").resolve())))
    (tmp_path / "here").rename(tmp_path / "there")
    assert read(tmp_path / "there" / "people" / "list.csv").fingerprint() == before


def test_the_fingerprint_takes_a_place_for_itself_however_it_is_written(tmp_path, monkeypatch):
    table = miniatures.own_csv(tmp_path)
    before = read(table).fingerprint()
    table.write_text(table.read_text().replace("pictures/train-0", "pictures/../pictures/./train-0"))
    assert read(table).fingerprint() == before
    monkeypatch.chdir(table.parent)
    assert read(table.name).fingerprint() == before


def test_rendered_images_are_called_so(market):
    assert str(read(market)).startswith("market1501 at")
    assert read(market).describe()["name"] == "Market-1501 layout"
    (market / "rendered.json").write_text("{}")
    assert str(read(market)).startswith("rendered images (market1501) at")
    miniatures.rendered_manifest(market)
    assert read(market).describe() == {
        "name": "rendered plaza",
        "layout": "market1501",
        "rendered": True,
        "summary": str(read(market)),
        "fingerprint": read(market).fingerprint(),
    }


def test_ids_are_named_as_the_data_set_names_them(tmp_path, market):
    assert read(market).id_name(7) == "0007"
    data = read(miniatures.own_csv(tmp_path))
    assert sorted(data.id_name(person) for person in data.train.people().tolist()) == ["ada", "bo"]
