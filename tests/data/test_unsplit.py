"""Sets of one's own that nobody has split or labelled: read, split by people, joined, their tracklets pooled."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from reference_pipelines.config.sections import DataConfig, EvaluationConfig, PeopleSplit
from reference_pipelines.data import read
from reference_pipelines.data.joining import join
from reference_pipelines.data.layouts import examine
from reference_pipelines.data.records import UNKNOWN, ImageList
from reference_pipelines.data.tracklets import Tracklets, one_a_tracklet
from reference_pipelines.data.verification import verify
from reference_pipelines.errors import UserError
from reference_pipelines.evaluation.evaluator import Evaluator
from reference_pipelines.runs.remarks import of_people
from tests.conftest import says
from tests.data import miniatures

PEOPLE = ("0", "1", "ada", "bo")


def people(root, name):
    """Draw three images of each of four people, two from camera 1 and one from camera 2; `name` says where."""
    for person in PEOPLE:
        for number, camera in enumerate((1, 1, 2)):
            miniatures.draw(root / name.format(person=person, camera=camera, number=number))
    return root


def table(path, header, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def images(folder, count):
    return [miniatures.draw(folder / f"{number}.jpg").name for number in range(count)]


@pytest.mark.parametrize(
    "name", ["{person}/c{camera}_{number}.jpg", "{person}/cam{camera}/{number}.jpg", "{person}/{camera}/{number}.png"]
)
def test_people_in_folders_are_split_by_people(tmp_path, name):
    data = read(people(tmp_path / "mine", name))
    assert data.layout == "people"
    assert set(data.train.people()) | set(data.gallery.people()) == {1, 2, 3, 4}  # "0" is a person here
    assert {data.id_name(person) for person in range(1, 5)} == set(PEOPLE)
    assert not set(data.train.ids) & set(data.gallery.ids)
    assert set(data.query.ids) == set(data.gallery.ids)
    assert len(data.train) == len(data.gallery) == 6  # all images of two people
    assert sorted(data.query.cameras) == [1, 1, 2, 2]  # one a person and camera
    assert set(data.query.paths) < set(data.gallery.paths)
    assert (data.match_counts() > 0).all()
    assert says(str(data), "split by people: 2 of 4", "seed 0")
    assert verify(data.root).findings == ()


def test_cameras_may_be_folders_of_any_name_that_people_share(tmp_path):
    root = tmp_path / "mine"
    for person, places in (("ada", ("door", "yard")), ("bo", ("door", "yard", "roof"))):
        for place in places:
            miniatures.draw(root / person / place / "x.jpg")
    reading = examine(root)
    assert says(str(reading.data), "cameras", "door, yard")
    assert [path.name for path in (each.path for each in reading.passed_over)] == ["x.jpg"]  # roof's: nobody shares it


def test_cameras_may_be_folders_below_the_parts_too(tmp_path):
    for part in ("train", "query", "gallery"):
        for camera in (1, 2):
            miniatures.draw(tmp_path / "mine" / part / "ada" / f"cam{camera}" / "0.jpg")
    data = read(tmp_path / "mine")
    assert (data.layout, set(data.train.cameras), len(data.query)) == ("folders", {1, 2}, 2)


def test_people_without_cameras(tmp_path):
    data = read(people(tmp_path / "mine", "{person}/{number}.jpg"))
    assert not data.cameras_known
    assert len(data.query) == len(data.gallery) == 6
    assert data.match_counts().tolist() == [2] * 6
    named = people(tmp_path / "named", "{person}/c{camera}_{number}.jpg")
    assert not read(named, "people_no_cameras").cameras_known


def test_the_split_is_seeded_and_its_share_is_chosen(tmp_path):
    root = tmp_path / "mine"
    for person in range(20):
        for camera in (1, 2):
            miniatures.draw(root / f"p{person}" / f"c{camera}_0.jpg")
    drawn = {seed: tuple(read(root, split=PeopleSplit(0.3, seed)).query.people()) for seed in range(5)}
    assert {len(chosen) for chosen in drawn.values()} == {6}
    assert len(set(drawn.values())) > 1
    assert tuple(read(root, split=PeopleSplit(0.3, 3)).query.people()) == drawn[3]
    whole = read(root, split=PeopleSplit(0))
    assert (len(whole.train), whole.tested) == (40, False)
    assert says(str(whole), "not split", "data.test_people", "no scores")


def test_two_people_are_left_to_train_on_and_who_was_seen_once_too(tmp_path):
    root = tmp_path / "mine"
    for person in range(4):
        for camera in (1, 2) if person else (1,):
            miniatures.draw(root / f"p{person}" / f"c{camera}_0.jpg")
    data = read(root, split=PeopleSplit(0.99, 0))
    assert len(data.query.people()) == 2
    assert data.id_name(int(data.train.ids.min())) == "p0"
    few = read(people(tmp_path / "two", "{person}/c{camera}_{number}.jpg"), split=PeopleSplit(0.99, 0))
    assert len(few.train.people()) == 2


def test_photographs_without_labels(tmp_path):
    root = tmp_path / "crops"
    names = images(root, 3) + images(root / "monday", 2)
    data = read(root)
    assert (data.layout, len(data.train), data.tested) == ("photographs", len(names), False)
    assert (data.train.ids == UNKNOWN).all()
    assert not len(data.train.people())
    assert says(str(data), "5 images of nobody known", "nobody is labelled")
    assert not data.cameras_known
    findings = {finding.kind: finding.severity for finding in verify(root).findings}
    assert findings == {"no labels": "note", "parts": "note"}


def test_cameras_of_photographs(tmp_path):
    for camera in (1, 4):
        images(tmp_path / "folders" / f"cam{camera}" / "monday", 2)
    assert sorted(read(tmp_path / "folders").train.cameras) == [1, 1, 4, 4]
    for camera in (2, 3):
        miniatures.draw(tmp_path / "names" / f"x_c{camera}_1.jpg")
    assert sorted(read(tmp_path / "names").train.cameras) == [2, 3]
    miniatures.draw(tmp_path / "names" / "other.jpg")
    some = read(tmp_path / "names")
    assert not some.cameras_known
    assert says(str(some), "only some names give a camera")


def test_a_layout_is_taken_as_said(tmp_path):
    root = people(tmp_path / "mine", "{person}/c{camera}_{number}.jpg")
    data = read(root, "photographs")
    assert (len(data.train), set(data.train.ids)) == (12, {UNKNOWN})
    assert read(miniatures.market1501(tmp_path), "photographs").layout == "photographs"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="images, .*none"):
        read(tmp_path / "empty", "photographs")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    with pytest.raises(UserError, match="a folder a person.*images, found"):
        read(tmp_path / "texts")


def test_a_folder_with_a_table_is_not_taken_for_photographs(tmp_path):
    images(tmp_path / "mine", 2)
    (tmp_path / "mine" / "list.csv").write_text("image,id\n")
    with pytest.raises(UserError, match="read its CSV file.*list.csv"):
        read(tmp_path / "mine")


def test_veris_folders(tmp_path):
    root = miniatures.market1501(tmp_path)
    for ours, theirs in (("bounding_box_train", "train"), ("query", "query"), ("bounding_box_test", "test")):
        (root / ours).rename(root / f"image_{theirs}")
    data = read(root)
    assert data.layout == "three_folders"
    assert (len(data.train), len(data.query), data.junk) == (36, 12, 1)
    assert says(str(data), "VeRi")
    (root / "image_query").rename(root / "elsewhere")
    with pytest.raises(UserError, match="image_train, image_query, image_test, image_query missing"):
        read(root)


def test_names_like_those_of_mars_say_camera_and_tracklet(tmp_path):
    for part in ("train", "query", "gallery"):
        for person in (1, 2):
            for camera in (1, 2):
                for frame in (1, 2):
                    name = f"{person:04d}C{camera}T0001F{frame:03d}.jpg"
                    miniatures.draw(tmp_path / "mars" / part / f"{person:04d}" / name)
    data = read(tmp_path / "mars")
    assert sorted(set(data.query.cameras)) == [1, 2]
    assert len(Tracklets(data.query).first) == 4  # one a person and camera, of two frames each
    assert len(data.query) == 8


def test_a_table_needs_images_alone(tmp_path):
    names = images(tmp_path, 4)
    data = read(table(tmp_path / "a.csv", ["image"], [[name] for name in names]))
    assert (len(data.train), set(data.train.ids), data.tested) == (4, {UNKNOWN}, False)
    assert says(str(data), "no column id", "nobody is labelled")


def test_a_table_without_a_split_is_split_by_people_and_the_unknown_are_trained_on(tmp_path):
    rows = [
        [name, f"p{number // 4}" if number % 4 else "", 1 + number % 2]
        for number, name in enumerate(images(tmp_path, 16))
    ]
    data = read(table(tmp_path / "a.csv", ["image", "id", "camera"], rows))
    assert len(data.query.people()) == 2
    assert (data.train.ids == UNKNOWN).sum() == 4
    assert len(data.train.people()) == 2
    assert says(str(data), "train 10 images of 2 ids and 4 of nobody known")


def test_an_empty_id_is_unknown_in_train_alone(tmp_path):
    names = images(tmp_path, 4)
    rows = [[names[0], "", 1, "train"], [names[1], "x", 1, "query"], [names[2], "x", 2, "gallery"]]
    data = read(table(tmp_path / "a.csv", ["image", "id", "camera", "split"], rows))
    assert data.train.ids.tolist() == [UNKNOWN]
    rows.append([names[3], "", 1, "gallery"])
    with pytest.raises(UserError, match="line 5: the id is missing.*train.*gallery"):
        read(table(tmp_path / "a.csv", ["image", "id", "camera", "split"], rows))


def test_joined_sets_keep_people_and_cameras_apart(tmp_path):
    one, other = read(miniatures.market1501(tmp_path / "a")), read(miniatures.own_folders(tmp_path / "b"))
    test = read(miniatures.dukemtmc(tmp_path / "c"))
    joined = join([one, other])
    assert len(joined.train) == len(one.train) + len(other.train)
    assert len(joined.train.people()) == len(one.train.people()) + len(other.train.people())
    cameras = [np.unique(joined.train.cameras[: len(one.train)]), np.unique(joined.train.cameras[len(one.train) :])]
    assert not set(cameras[0]) & set(cameras[1])
    for data, start in ((one, 0), (other, len(one.train))):
        of = slice(start, start + len(data.train))
        assert joined.train.paths[of] == data.train.paths
        assert np.unique(joined.train.ids[of] - data.train.ids).size == 1
    assert joined.query.paths == one.query.paths  # the first that has both
    assert "mine: ada" in joined.id_names.values()
    tested = join([one, other], test)
    assert tested.query.paths == test.query.paths
    assert not set(tested.train.ids) & set(tested.query.ids)
    assert says(str(tested), str(one.root), str(other.root), "tested on", str(test.root))
    assert len({each.fingerprint() for each in (one, joined, tested, join([other, one]))}) == 4
    assert join([one]) is one


def test_a_set_that_trains_and_tests_keeps_its_people(tmp_path):
    own, other = read(miniatures.market1501(tmp_path)), read(miniatures.own_folders(tmp_path))
    own.query.ids[0] = own.train.ids[0]  # somebody is on both sides
    joined = join([other, own], own)
    assert set(joined.train.people()) & set(joined.query.people())
    assert of_people(joined)
    assert not of_people(join([other], own))


def test_what_is_trained_on_and_what_is_tested_on_are_told_apart(tmp_path):
    one, other = read(miniatures.market1501(tmp_path)), read(miniatures.own_folders(tmp_path))
    both, tested = join([one, other]), join([one], other)
    assert both.fingerprint() != tested.fingerprint()
    assert (len(tested.train), tested.query.paths) == (len(one.train), other.query.paths)
    no_cameras = read(miniatures.own_csv(tmp_path, cameras=False))
    assert join([one], no_cameras).train_cameras_known
    assert not join([one, no_cameras]).train_cameras_known


def literally_pooled(features, numbers):
    """Pool by a loop over the tracklets."""
    pooled, seen = [], []
    for number in numbers:
        if number not in seen:
            seen.append(number)
            total = sum(feature for feature, other in zip(features, numbers, strict=True) if other == number)
            pooled.append(total / np.linalg.norm(total))
    return np.array(pooled)


def test_tracklets_are_pooled_in_the_images_order(tmp_path):
    rows = [
        [name, "x", 1, "train", "ba"[number % 2] if number < 6 else ""]
        for number, name in enumerate(images(tmp_path, 9))
    ]
    data = read(table(tmp_path / "a.csv", ["image", "id", "camera", "split", "tracklet"], rows))
    features = torch.nn.functional.normalize(torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator()), dim=1)
    tracklets = Tracklets(data.train)
    names = [0, 1, 0, 1, 0, 1, 6, 7, 8]
    assert torch.allclose(tracklets.pool(features), torch.as_tensor(literally_pooled(features.numpy(), names)))
    assert tracklets.first.tolist() == [0, 1, 6, 7, 8]
    assert tracklets.spread(np.arange(5)).tolist() == [0, 1, 0, 1, 0, 1, 2, 3, 4]


def test_a_tracklet_is_of_one_person_and_camera(tmp_path):
    rows = [[name, "xy"[number // 2], 1 + number % 2, "train", "t1"] for number, name in enumerate(images(tmp_path, 4))]
    data = read(table(tmp_path / "a.csv", ["image", "id", "camera", "split", "tracklet"], rows))
    assert len(Tracklets(data.train).first) == 4


def test_tracklets_are_scored_as_one_image_each(tmp_path):
    rows = []
    for number, name in enumerate(images(tmp_path, 24)):
        person, camera, part = number % 4, 1 + number // 4 % 2, "query" if number < 8 else "gallery"
        rows.append([name, f"p{person}", camera, part, f"t{number // 8}"])
    data = read(table(tmp_path / "a.csv", ["image", "id", "camera", "split", "tracklet"], rows))
    config = DataConfig("x", image_size=(16, 8), workers=0)
    evaluator = Evaluator(data, config, EvaluationConfig(flip=False), torch.device("cpu"))
    assert (len(evaluator.data.query), len(evaluator.data.gallery)) == (8, 16)
    rows = [[*row[:4], f"t{i % 8}"] for i, row in enumerate(rows)]
    data = read(table(tmp_path / "b.csv", ["image", "id", "camera", "split", "tracklet"], rows))
    evaluator = Evaluator(data, config, EvaluationConfig(flip=False), torch.device("cpu"))
    assert (len(evaluator.data.query), len(evaluator.data.gallery)) == (8, 8)

    class Means(torch.nn.Module):
        def forward(self, pixels):
            return type("Embedding", (), {"features": pixels.mean(dim=(2, 3))})

    query, gallery = evaluator.features(Means())
    assert (len(query), len(gallery)) == (8, 8)
    alone = Evaluator(
        read(table(tmp_path / "c.csv", ["image", "id", "camera", "split"], [row[:4] for row in rows])),
        config,
        EvaluationConfig(flip=False),
        torch.device("cpu"),
    )
    apart = alone.features(Means())[1].numpy()
    assert np.allclose(gallery.numpy(), literally_pooled(apart, [f"{row[4]}" for row in rows[8:]]), atol=1e-6)
    assert evaluator.score(query, gallery).queries.size == 8


def test_the_tracklets_are_part_of_the_fingerprint(tmp_path):
    names = images(tmp_path, 3)
    prints = [
        read(table(tmp_path / "a.csv", ["image", "tracklet"], zip(names, tracklets, strict=True))).fingerprint()
        for tracklets in (["", "", ""], ["a", "a", ""], ["", "a", "a"])
    ]
    assert len(set(prints)) == 3


def test_tracklets_named_after_mars_are_of_a_person_also_where_nobody_is_labelled(tmp_path):
    for person in (1, 2):
        for frame in (1, 2):
            miniatures.draw(tmp_path / "crops" / f"{person:04d}C1T0001F{frame:03d}.jpg")
    assert len(Tracklets(read(tmp_path / "crops").train).first) == 2


def test_tracklets_of_any_numbers_keep_the_images_order():
    numbers = np.array([5, 2, 5, 0])
    some = ImageList(tuple(map(Path, "abcd")), np.ones(4, int), np.ones(4, int), numbers)
    tracklets = Tracklets(some)
    assert (tracklets.first.tolist(), tracklets.of_image.tolist()) == ([0, 1, 3], [0, 1, 0, 2])
    features = torch.eye(4, dtype=torch.float64)
    assert torch.allclose(tracklets.pool(features), torch.as_tensor(literally_pooled(np.eye(4), numbers.tolist())))
    assert [path.name for path in one_a_tracklet(some).paths] == ["a", "b", "d"]
