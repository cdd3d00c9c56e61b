"""The Market-1501 reader on a miniature in its exact layout."""

import shutil

import numpy as np
import pytest

from reference_pipelines.data import read
from reference_pipelines.errors import UserError


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


@pytest.mark.parametrize("depth", ["above", "exact"])
def test_finds_the_root_by_content(market, depth):
    assert read(market.parent if depth == "above" else market).root == market


def test_foreign_files_are_passed_over(market):
    for name in ("Thumbs.db", "._0001_c1s1_000000_00.jpg", "readme.txt"):
        (market / "bounding_box_train" / name).write_bytes(b"x")
    (market.parent / "__MACOSX" / "query").mkdir(parents=True)
    assert len(read(market.parent).train) == 36


def test_two_digit_cameras_and_other_endings(market):
    for name in ("0001_c12_000451.jpg", "0001_c10s2_000451_03.JPEG"):
        shutil.copy(market / "query" / "0007_c1s1_000099_00.jpg", market / "bounding_box_train" / name)
    assert set(read(market).train.cameras) == {1, 2, 10, 12}


def test_junk_and_distractors_are_never_trained_on(market):
    for name in ("-1_c1s1_000451_03.jpg", "0000_c2s1_000451_03.jpg"):
        shutil.copy(market / "query" / "0007_c1s1_000099_00.jpg", market / "bounding_box_train" / name)
    assert sorted(set(read(market).train.ids)) == [1, 2, 3, 4, 5, 6]


def test_the_summary_says_what_was_taken(market):
    text = str(read(market))
    assert text.startswith(f"market1501 at {market}: train 36 images of 6 ids, query 6 images of 3 ids")
    assert text.endswith("2 cameras, 1 junk left out")


def test_the_fingerprint_changes_with_the_files(market):
    before = read(market).fingerprint()
    assert read(market).fingerprint() == before
    (market / "query" / "0007_c1s1_000099_00.jpg").unlink()
    assert read(market).fingerprint() != before


def test_refuses_a_missing_folder(tmp_path):
    with pytest.raises(UserError, match=r"nowhere is not a folder; give the data set's folder with --data\.root"):
        read(tmp_path / "nowhere")


def test_refuses_a_folder_of_another_layout(tmp_path):
    with pytest.raises(UserError, match="holds no data set in the Market-1501 layout"):
        read(tmp_path)


def test_refuses_an_empty_part(market):
    for path in (market / "query").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="query must hold images named like .* is the archive unpacked completely"):
        read(market)


def test_refuses_an_unknown_layout(market):
    with pytest.raises(UserError, match="layout must be"):
        read(market, layout="duke")


@pytest.mark.parametrize("folder", ["bounding_box_train", "bounding_box_test"])
def test_refuses_a_part_without_people(market, folder):
    for path in (market / folder).iterdir():
        if path.name[0] != "-":
            path.rename(path.with_name("-1" + path.name[4:-4] + f"_{path.name[:4]}.jpg"))
    with pytest.raises(UserError, match=f"{folder} must hold images of people, found only junk and distractors"):
        read(market)


def test_refuses_queries_that_nothing_matches(market):
    for folder in ("bounding_box_test", "query"):
        for path in (market / folder).iterdir():
            if "_c2s" in path.name:
                path.unlink()
    with pytest.raises(UserError, match="must have a gallery image of the same person from another camera, none has"):
        read(market)


def test_rendered_images_are_called_so(market):
    assert str(read(market)).startswith("market1501 at")
    (market / "rendered.json").write_text("{}")
    assert str(read(market)).startswith("rendered images (market1501) at")
