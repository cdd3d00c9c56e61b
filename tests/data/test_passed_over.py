"""Images do not vanish: every ending that is decoded is read, and what is passed over is told."""

import os
import re
import shutil
import socket
from itertools import chain

import pytest
from PIL import Image

from reference_pipelines.data import read
from reference_pipelines.data.formats import IMAGE_ENDINGS
from reference_pipelines.data.layouts.scanning import all_below, what_is
from reference_pipelines.data.verification import format_verification, verify
from reference_pipelines.errors import UserError
from tests.conftest import says
from tests.data import miniatures
from tests.data.miniatures import COUNTS

LITTER = ("Thumbs.db", ".DS_Store", "._0002_c1s1_000000_00.jpg", "desktop.ini", "readme.txt", "LICENSE")


def train_images(root):
    folder = "train" if (root / "train").is_dir() else "bounding_box_train"
    return sorted(path for path in (root / folder).rglob("*") if path.is_file())


def findings(root):
    return {(each.severity, each.kind): each for each in verify(root, published=COUNTS).findings}


def whole(root):
    data = read(root)
    return [(part.ids.tolist(), part.cameras.tolist()) for part in (data.train, data.query, data.gallery)]


@pytest.mark.parametrize("make", [miniatures.market1501, miniatures.own_folders])
@pytest.mark.parametrize("ending", sorted({*IMAGE_ENDINGS, ".WEBP", ".Jpg"}))
def test_every_ending_that_is_decoded_is_read(tmp_path, make, ending):
    root = make(tmp_path)
    before = whole(root)
    for path in train_images(root)[::3]:
        path.rename(path.with_suffix(ending))
    assert whole(root) == before
    assert "passed over" not in str(read(root))


@pytest.mark.parametrize("make", [miniatures.market1501, miniatures.own_folders])
@pytest.mark.parametrize("ending", ["", ".heic", ".jpg~"])
def test_images_without_an_ending_of_one_are_an_error_and_in_the_first_line(tmp_path, make, ending):
    root = make(tmp_path)
    images = train_images(root)
    renamed = [path.rename(path.with_suffix(ending)) for path in images[::3]]
    files = f"{ending} file" if ending else "file"
    counted = f"{len(renamed)} {files}s{'' if ending else ' without an ending'}"
    assert says(str(read(root)), f"passed over: {counted}", "data verify")
    error = findings(root)["error", "passed over"]
    assert says(error.text, f"{len(renamed)} images", f"({counted}); ")
    assert error.items == tuple(map(str, renamed))


def move_deeper(path):
    (path.parent / "more").mkdir(exist_ok=True)
    return path.rename(path.parent / "more" / path.name)


@pytest.mark.parametrize("make", [miniatures.market1501, miniatures.own_folders])
def test_images_in_a_deeper_folder_are_an_error_and_in_the_first_line(tmp_path, make):
    root = make(tmp_path)
    moved = [move_deeper(path) for path in train_images(root)[::3]]
    assert says(str(read(root)), f"passed over: {len(moved)} files in deeper folders", "data verify")
    error = findings(root)["error", "passed over"]
    assert says(error.text, f"{len(moved)} images", f"({len(moved)} files in deeper folders)")
    assert sorted(error.items) == sorted(map(str, moved))


@pytest.mark.parametrize("change", [move_deeper, lambda path: path.rename(path.with_suffix(""))])
def test_people_who_vanish_are_an_error_and_in_the_first_line(tmp_path, change):
    root = miniatures.market1501(tmp_path / "a")
    for path in chain((root / "bounding_box_train").glob("0007_*"), (root / "query").glob("0003_*")):
        change(path)
    assert findings(root)["error", "vanished"].items == ("train: 0007", "query: 0003")
    assert says(str(read(root)), "; 2 people", "data verify")

    root = miniatures.own_folders(tmp_path / "b")
    for path in list((root / "train" / "ada").iterdir()):
        change(path)
    assert findings(root)["error", "vanished"].items == ("train: ada",)
    assert says(str(read(root)), "; 1 person", "data verify")


def test_a_folder_of_people_one_folder_too_deep_is_a_person_who_vanishes(tmp_path):
    root = miniatures.own_folders(tmp_path)
    (root / "train" / "group").mkdir()
    (root / "train" / "ada").rename(root / "train" / "group" / "ada")
    assert findings(root)["error", "vanished"].items == ("train: group",)
    assert len(findings(root)["error", "passed over"].items) == 2


def test_distractors_and_junk_are_nobody_who_could_vanish(tmp_path):
    root = miniatures.own_folders(tmp_path)
    for person in ("0", "-1"):
        for path in (root / "gallery" / person).iterdir():
            path.rename(path.with_suffix(".heic"))
    assert ("error", "vanished") not in findings(root)


@pytest.mark.parametrize(
    "make", [miniatures.market1501, miniatures.own_folders, lambda into: miniatures.msmt17(into, 1)]
)
def test_litter_is_no_finding(tmp_path, make):
    root = make(tmp_path)
    folder = train_images(root)[0].parent
    for name in LITTER:
        (folder / name).write_bytes(b"\x00\x05\x16\x07")
        (root / name).write_bytes(b"\x00\x05\x16\x07")
    for place in (folder, root):
        for name in ("__MACOSX", "@eaDir", ".ipynb_checkpoints"):
            miniatures.draw(place / name / "0002_c1s1_000000_00.jpg")
    result = verify(root, published=COUNTS)
    assert result.findings == ()
    assert {os.path.basename(path) for path in result.passed_over} == set(LITTER)
    assert "passed over" not in str(read(root))


def test_a_hidden_image_is_no_litter(tmp_path):
    root = miniatures.market1501(tmp_path)
    path = train_images(root)[0]
    hidden = path.rename(path.with_name(f".{path.name}"))
    assert findings(root)["error", "passed over"].items == (str(hidden),)


def test_other_files_are_a_note_with_counts_of_their_endings(tmp_path):
    root = miniatures.market1501(tmp_path)
    names = ("a.json", "b.json", "c.mat", "d.TXT", "e.txt", "f.txt", "g.csv", "h")
    for name in names:
        (root / "query" / name).write_text("x")
    note = findings(root)["note", "passed over"]
    assert note.text == "3 .txt files, 2 .json files, 1 file without an ending, 2 other files"
    assert sorted(note.items) == [str(root / "query" / name) for name in names]
    assert says(str(read(root)), f"passed over: {note.text}", "data verify")
    assert set(findings(root)) == {("note", "passed over")}


def test_what_lies_beside_the_parts_is_a_note(tmp_path):
    for root in (miniatures.own_folders(tmp_path), miniatures.msmt17(tmp_path, 2), miniatures.dukemtmc(tmp_path)):
        miniatures.draw(root / "val" / "ada" / "c1_1.jpg")
        miniatures.draw(root / "overview.png")
        (root / "empty").mkdir()
        (root / "list.txt").write_text("x")
        note = findings(root)["note", "passed over"]
        assert note.text == "2 things beside the parts (overview.png, val)"
        assert note.items == (str(root / "overview.png"), f"{root / 'val'}/")
        assert says(str(read(root)), f"passed over: {note.text}", "data verify")


def test_the_folder_of_a_person_without_images_is_a_note(tmp_path):
    root = miniatures.own_folders(tmp_path)
    (root / "train" / "eve").mkdir()
    assert findings(root)["note", "passed over"].items == (f"{root / 'train' / 'eve'}/",)
    assert says(str(read(root)), "passed over: 1 empty folder", "data verify")


def test_the_verification_prints_it(tmp_path):
    root = miniatures.market1501(tmp_path)
    for path in (root / "bounding_box_train").glob("0007_*"):
        path.rename(path.with_suffix(""))
    text = format_verification(verify(root, published=COUNTS))
    assert re.search(r"error  vanished: 1 person .*\n       train: 0007", text)
    assert says(text, "error  passed over: 12 images", "(12 files without an ending)")
    assert text.splitlines()[-1].startswith("3 errors: ")


# What is no file.


def link_to_nothing(path):
    path.symlink_to(path.parent / "gone")


def link_to_itself(path):
    path.symlink_to(path)


def listening(path):
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's name must be short
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


SPECIAL = {
    link_to_nothing: "a link to nothing, No such file or directory",
    link_to_itself: "a link to nothing, Too many levels of symbolic links",
    os.mkfifo: "a pipe",
    listening: "a socket",
}


@pytest.mark.parametrize("make", [miniatures.market1501, miniatures.own_folders])
@pytest.mark.parametrize("special", SPECIAL)
def test_what_stands_where_an_image_should_is_named(tmp_path, make, special):
    root = make(tmp_path)
    path = train_images(root)[0]
    path.unlink()
    special(path)
    place = path.relative_to(root)
    with pytest.raises(UserError, match=f"images of {root} .*files, 1 .*: {place} ") as caught:
        read(root)
    assert f"({SPECIAL[special]}); " in str(caught.value)
    assert findings(root)["error", "no file"].items == (f"{place} ({SPECIAL[special]})",)


@pytest.mark.parametrize("special", SPECIAL)
def test_what_stands_where_a_listed_image_should_is_named(tmp_path, special):
    root = miniatures.msmt17(tmp_path / "a", 1)
    path = sorted((root / "test" / "0000").iterdir())[1]  # a query
    path.unlink()
    special(path)
    with pytest.raises(UserError, match="1 .*missing: list_query.txt line 1: ") as caught:
        read(root)
    assert f"{path.name} ({SPECIAL[special]});" in str(caught.value)

    table = miniatures.own_csv(tmp_path / "b")
    path = table.parent / "pictures" / "train-0.jpg"
    path.unlink()
    special(path)
    with pytest.raises(UserError, match=f"line 2: {path} .*no image, ") as caught:
        read(table)
    assert SPECIAL[special] in str(caught.value)


@pytest.mark.parametrize("special", SPECIAL)
def test_what_is_no_file_and_no_image_is_a_note(tmp_path, special):
    root = miniatures.market1501(tmp_path)
    special(root / "query" / "other")
    assert findings(root)["note", "passed over"].text == "1 thing that is neither file nor folder"
    assert len(read(root).query) == 12


def test_a_folder_with_the_name_of_an_image_is_a_folder(tmp_path):
    for root in (miniatures.market1501(tmp_path), miniatures.own_folders(tmp_path)):
        folder = train_images(root)[0].parent / "0007_c1s1_x.jpg"
        folder.mkdir()
        assert findings(root) == {}
        (folder / "notes.doc").write_text("x")
        assert findings(root)["note", "passed over"].text == "1 file in a deeper folder"
        shutil.copy(train_images(root)[-1], folder / "portrait.jpg")
        assert findings(root)["error", "passed over"].items == (str(folder / "portrait.jpg"),)


def test_a_root_that_is_no_folder_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    for name, wanted, what in (("pipe", "folder", "a pipe"), ("loop.csv", "file", "a link to nothing, Too many")):
        with pytest.raises(UserError, match=f"{name} .*not a {wanted}, .*{what}"):
            read(tmp_path / name)
    assert what_is(tmp_path) == "a folder"
    assert what_is(tmp_path / "null") == "No such file or directory"


# Links to folders.


def test_a_linked_person_is_read(tmp_path):
    root = miniatures.own_folders(tmp_path)
    before = whole(root)
    (root / "train" / "ada").rename(tmp_path / "elsewhere")
    (root / "train" / "ada").symlink_to(tmp_path / "elsewhere")
    assert whole(root) == before
    assert findings(root) == {}


def test_links_in_circles_end(tmp_path):
    root = miniatures.own_folders(tmp_path)
    (root / "train" / "ada" / "self").symlink_to(root / "train" / "ada")
    (root / "train" / "ada" / "up").symlink_to(tmp_path)
    outside = tmp_path / "outside"
    miniatures.draw(outside / "c9_1.jpg")
    (outside / "back").symlink_to(root)
    (outside / "again").symlink_to(outside)
    (root / "train" / "bo" / "out").symlink_to(outside)
    found = findings(root)
    assert found["error", "passed over"].items == (str(root / "train" / "bo" / "out" / "c9_1.jpg"),)
    assert len(found["note", "passed over"].items) == 4
    assert found["note", "passed over"].text == "4 folders that were not looked into"


def test_a_locked_folder_is_told(tmp_path, monkeypatch):
    root = miniatures.own_folders(tmp_path)
    (root / "train" / "ada" / "locked").mkdir()
    scandir = os.scandir

    def locked(path):
        if str(path).endswith(names[0]):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    names = ["locked"]
    monkeypatch.setattr(os, "scandir", locked)
    assert [each.kind for each in all_below(root / "train" / "ada" / "locked", root)] == ["folder"]
    assert findings(root)["note", "passed over"].items == (f"{root / 'train' / 'ada' / 'locked'}/",)
    names[0] = "ada"
    with pytest.raises(UserError, match=f"cannot read {root / 'train' / 'ada'} .Permission denied."):
        read(root)


def test_an_image_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    root = miniatures.own_folders(tmp_path)
    path, data = train_images(root)[0], read(root)
    stat, opened = os.stat, open

    def no_entry(place, *arguments, **more):
        if str(place) == str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return actual(place, *arguments, **more)

    actual = opened
    monkeypatch.setattr("builtins.open", no_entry)
    assert findings(root)["error", "unreadable"].items == (f"{path} (Permission denied)",)
    monkeypatch.setattr("builtins.open", opened)
    actual = stat
    monkeypatch.setattr(os, "stat", no_entry)
    with pytest.raises(UserError, match=f"cannot read the image {path} .Permission denied."):
        data.fingerprint()


# Unlisted images.


def test_other_formats_in_a_list_are_read(tmp_path):
    root = miniatures.msmt17(tmp_path, 1)
    path = sorted((root / "test" / "0000").iterdir())[1]
    with Image.open(path) as image:
        image.save(path.with_suffix(".WebP"))
    path.unlink()
    text = (root / "list_query.txt").read_text()
    (root / "list_query.txt").write_text(text.replace(path.name, path.with_suffix(".WebP").name))
    assert findings(root) == {}
    (root / "list_query.txt").write_text(text.replace(".jpg 0", ".txt 0", 1))
    with pytest.raises(UserError, match="1 .*not parse: list_query.txt line 1: "):
        read(root)
