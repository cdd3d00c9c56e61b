"""Cameras in file names of the user's own: the usual tokens are read, what looks like one and is not is a choice."""

import numpy as np
import pytest

from reference_pipelines.data import read
from reference_pipelines.data.layouts.cameras import camera_like, camera_of
from reference_pipelines.data.verification import verify
from reference_pipelines.errors import UserError
from tests.conftest import says
from tests.data import miniatures


@pytest.mark.parametrize(
    ("name", "camera"),
    [
        ("c1_frame.jpg", 1),
        ("C1_frame.jpg", 1),
        ("c01_frame.jpg", 1),
        ("0001_c1s1_000151_01.jpg", 1),
        ("0001_c12s3.jpg", 12),
        ("cam1_frame.jpg", 1),
        ("cam01_frame.jpg", 1),
        ("CAM_07-frame.png", 7),
        ("0001-cam-2-17.webp", 2),
        ("camera1.jpg", 1),
        ("camera_1_x.jpg", 1),
        ("x.Camera 03.y.jpg", 3),
        ("x_c104.JPG", 104),
        ("c1-0.jpg", 1),
        ("c0.jpg", 0),
        ("c2_c2_1.jpg", 2),
        ("c2_c3_1.jpg", None),
        ("c3f9a1.jpg", None),
        ("rec1_0.jpg", None),
        ("camel_1.jpg", None),
        ("webcam1.jpg", None),
        ("c_1.jpg", None),
        ("cam1frame5.jpg", None),
        (f"c{'9' * 19}_0.jpg", None),
        ("0001.c1", None),  # that is the ending
    ],
)
def test_the_camera_of_a_name(name, camera):
    assert camera_of(name) == camera


def names_of(*tokens, count=6):
    return [f"{token}_{i:02d}.jpg" for i in range(count) for token in tokens]


@pytest.mark.parametrize("token", ["webcam3", "cam1frame", "camA", "x-cam_b", "p0001c3f", "0001c12", f"c{'9' * 19}"])
def test_what_looks_like_a_camera(token):
    assert set(camera_like(names_of(token))) == set(names_of(token))


@pytest.mark.parametrize("token", ["camel", "camila", "c_1", "abc1", "frame1", "campus", "macro1"])
def test_what_does_not_look_like_a_camera(token):
    assert camera_like(names_of(token)) == {}


@pytest.mark.parametrize("digits", [6, 8, 32])
def test_random_letters_and_digits_are_no_cameras(digits):
    rng = np.random.default_rng(0)
    names = ["".join(rng.choice(list("0123456789abcdef"), digits)) + ".jpg" for _ in range(500)]
    assert camera_like(names) == {}


def folders(root, *names):
    for part, people in (("train", ("ada", "bo")), ("query", ("cy",)), ("gallery", ("cy",))):
        for person in people:
            for name in names:
                miniatures.draw(root / part / person / f"{name.format(person=person, part=part)}.jpg")
    return root


@pytest.mark.parametrize("form", ["cam{0:02d}_frame", "camera_{0}-x", "{{person}}.C{0}", "c{0}s1_7"])
def test_usual_tokens_give_the_cameras_of_folders(tmp_path, form):
    data = read(folders(tmp_path, *(form.format(camera) for camera in (1, 2))))
    assert data.cameras_known
    assert data.train.cameras.tolist() == [1, 2, 1, 2]
    assert data.match_counts().tolist() == [1, 1]


def test_a_choice_is_asked_for_where_most_names_hold_a_camera_that_is_not_read(tmp_path):
    root = folders(tmp_path, "frontcam1", "frontcam2", "portrait")
    with pytest.raises(UserError, match="8 of 12 .*train/ada/frontcam1.jpg .cam1.") as caught:
        read(root)
    assert says(str(caught.value), "folders_no_cameras with --data.layout (train) or --layout")
    assert ("error", "cameras") in {(each.severity, each.kind) for each in verify(root).findings}
    data = read(root, "folders_no_cameras")
    assert (data.layout, data.cameras_known, len(data.train)) == ("folders_no_cameras", False, 6)
    assert data.describe()["name"].endswith(", no cameras")


def test_a_few_names_with_something_like_a_camera_are_let_pass(tmp_path):
    assert not read(folders(tmp_path, "frontcam1", "portrait", "b")).cameras_known


def test_a_choice_is_asked_for_where_only_some_names_give_a_camera(tmp_path):
    root = folders(tmp_path, "c1_x", "c2_x", "cam3x")
    with pytest.raises(UserError, match="4 of 12 .*train/ada/cam3x.jpg .cam3.") as caught:
        read(root)
    assert "folders_no_cameras" in str(caught.value)
    assert not read(root, "folders_no_cameras").cameras_known


def test_cameras_may_be_left_out_of_folders_that_have_them(tmp_path):
    assert not read(miniatures.own_folders(tmp_path), "folders_no_cameras").cameras_known


@pytest.mark.parametrize("word", ["c", "cam", "Camera_", "CAM-"])
def test_three_folders_may_spell_the_camera_out(tmp_path, word):
    root = miniatures.three_folders(
        tmp_path / "ours", lambda i, c, f: f"{i}_{word}{c:02d}_{f}.jpg", train=(5, 6), test=(7, 8), cameras=(1, 2, 30)
    )
    data = read(root)
    assert data.layout == "three_folders"
    assert set(data.gallery.cameras) == {1, 2, 30}
