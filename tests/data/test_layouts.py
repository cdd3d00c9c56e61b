"""Every reader on miniatures in the exact public layouts, the wrong ones too."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from reference_pipelines.data import LAYOUTS, read
from reference_pipelines.data.layouts import PUBLISHED, find
from reference_pipelines.data.layouts.three_folders import by_counts
from reference_pipelines.errors import UserError
from reference_pipelines.rendering import render_market
from tests.conftest import says
from tests.data import miniatures
from tests.data.miniatures import COUNTS, MAKERS

TITLES = {
    "market1501": "Market-1501 layout",
    "dukemtmc": "DukeMTMC-reID layout",
    "occluded_duke": "Occluded-Duke layout",
    "cuhk03_np_detected": "CUHK03-NP layout, detected",
    "cuhk03_np_labeled": "CUHK03-NP layout, labeled",
    "personx": "PersonX layout, 6 cameras",
    "msmt17_repacked": "MSMT17 layout, repacked, version unknown",
    "msmt17_v1": "MSMT17 v1 layout",
    "msmt17_v2": "MSMT17 v2 layout",
}
"""What a set in a public layout is called that has other counts than the published ones."""


def refused(root, layout=None):
    with pytest.raises(UserError) as caught:
        read(root, layout)
    message = str(caught.value)
    assert message.startswith("data: ")
    assert "\n" not in message
    return message


def edit(path, change):
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize("layout", MAKERS)
def test_a_data_set_is_recognised_and_read_whole(tmp_path, layout):
    root = MAKERS[layout](tmp_path)
    data = read(root)
    assert (data.layout, data.root) == (layout, root)
    if layout in COUNTS:
        counts = COUNTS[layout]
        for part in ("train", "query", "gallery"):
            images = data.part(part)
            assert len(images) == getattr(counts, part)
            assert len(images.people()) == getattr(counts, f"{part}_ids")
            assert (images.ids >= (1 if part != "gallery" else 0)).all()
        assert data.junk == (counts.junk or 0)
        assert f"{counts.cameras} cameras" in str(data)
    own = {"csv": "list.csv", "folders": "mine"}
    assert data.name == (own[layout] if layout in own else TITLES[layout])
    assert data.match_counts().all()


@pytest.mark.parametrize("layout", MAKERS)
def test_a_layout_may_be_named(tmp_path, layout):
    assert read(MAKERS[layout](tmp_path), layout).layout == layout


@pytest.mark.parametrize("layout", ["market1501", "msmt17_v1", "personx", "folders"])
@pytest.mark.parametrize("nesting", [("again",), ("data", "again")])
def test_a_data_set_is_found_below_other_names(tmp_path, layout, nesting):
    outer = miniatures.nest(MAKERS[layout](tmp_path), *nesting)
    data = read(outer)
    assert (data.layout, data.root) == (layout, outer.joinpath(*nesting))


@pytest.mark.parametrize(
    ("layout", "part"),
    [("dukemtmc", "query"), ("msmt17_v2", "mask_train_v2"), ("folders", "gallery"), ("cuhk03_np_labeled", "query")],
)
def test_a_data_set_is_found_from_one_of_its_own_folders(tmp_path, layout, part):
    root = MAKERS[layout](tmp_path)
    assert read(root / part).root == root


@pytest.mark.parametrize("folder", ["bounding_box_train", "query"])
def test_litter_is_passed_over(tmp_path, folder):
    root = miniatures.dukemtmc(tmp_path)
    miniatures.litter(root, root / folder)
    (root / folder / "subfolder").mkdir()
    data = read(tmp_path)
    assert data.root == root
    assert (len(data.train), len(data.query)) == (COUNTS["dukemtmc"].train, COUNTS["dukemtmc"].query)


def test_two_digit_cameras_and_other_endings(market):
    for name in ("0001_c12_000451.jpg", "0001_C10s2_000451_03.JPEG"):
        shutil.copy(market / "query" / "0007_c1s1_000099_00.jpg", market / "bounding_box_train" / name)
    data = read(market)
    assert data.layout == "market1501"
    assert set(data.train.cameras) == {1, 2, 10, 12}


def test_junk_and_distractors_are_never_trained_on(market):
    for name in ("-1_c1s1_000451_03.jpg", "0000_c2s1_000451_03.jpg"):
        shutil.copy(market / "query" / "0007_c1s1_000099_00.jpg", market / "bounding_box_train" / name)
    data = read(market)
    assert sorted(set(data.train.ids)) == [1, 2, 3, 4, 5, 6]
    assert data.left_out == 2
    assert says(str(data), "2 train images of id 0 or -1", "left out")


def number_from_0(root):
    """Give the first person of train the id 0, in a folder or a CSV file."""
    if root.is_file():
        edit(root, lambda text: text.replace(",bo,", ",0,"))
    elif (root / "train").is_dir():
        (root / "train" / "bo").rename(root / "train" / "0")
    else:
        for path in (root / "bounding_box_train").glob("0002_*"):
            path.rename(path.with_name(path.name.replace("0002", "0000", 1)))


@pytest.mark.parametrize(
    ("made", "layout", "count", "advice"),
    [
        ("csv", None, 3, "number people from 1, or name them"),
        ("folders", None, 3, "number people from 1, or name them"),
        ("market1501", "three_folders", 12, "number people from 1"),
    ],
)
def test_refuses_a_person_0_who_would_not_be_trained_on(tmp_path, made, layout, count, advice):
    root = MAKERS[made](tmp_path)
    number_from_0(root)
    message = refused(root, layout)
    assert says(message, f"train part of {root}", f"{count} have the id 0")
    assert says(message, "; ", advice)
    assert read(MAKERS[made](tmp_path / "clean"), layout).left_out == 0


def test_any_other_set_in_the_three_folders_is_read_as_such(tmp_path):
    root = miniatures.three_folders(
        tmp_path / "ours", lambda i, c, f: f"{i}_c{c}_{f}.jpg", train=(5, 6), test=(7, 8), cameras=(1, 2, 30)
    )
    data = read(root)
    assert data.layout == "three_folders"
    assert set(data.gallery.cameras) == {1, 2, 30}
    assert says(str(data), "no public data set")
    assert read(miniatures.market1501(tmp_path), "three_folders").layout == "three_folders"


# What tells sets with the same names apart.


def test_the_published_counts_tell_duke_from_occluded_duke(tmp_path, monkeypatch):
    dukes = ("dukemtmc", "occluded_duke")
    assert by_counts(dukes, 16_522, 0, 17_661) == by_counts(dukes, 9, 2228, 17_661) == "dukemtmc"
    assert by_counts(dukes, 15_618, 0, 17_661) == by_counts(dukes, 9, 2210, 17_661) == "occluded_duke"
    assert by_counts(dukes, 9, 9, 17_661) is None  # both have this gallery
    root = miniatures.occluded_duke(tmp_path).rename(tmp_path / "renamed")
    assert says(str(read(root)), "DukeMTMC-reID and Occluded-Duke", "the former")
    assert read(root, "occluded_duke").layout == "occluded_duke"
    monkeypatch.setattr("reference_pipelines.data.layouts.three_folders.PUBLISHED", {**PUBLISHED, **COUNTS})
    assert read(root).layout == "occluded_duke"
    assert says(refused(root, "dukemtmc"), f"{root} is not dukemtmc", "occluded_duke; ")


def test_occluded_duke_is_also_told_by_its_folder_and_says_so(tmp_path):
    assert says(str(read(miniatures.occluded_duke(tmp_path))), "Occluded-Duke", "folder's name Occluded_Duke")


def test_the_halves_of_cuhk03_are_told_apart_or_asked_for(tmp_path, monkeypatch):
    root = miniatures.cuhk03_np(tmp_path)
    message = refused(root)
    assert says(message, "2 data sets", "detected (cuhk03_np_detected)", "labeled (cuhk03_np_labeled)")
    assert says(message, "cuhk03_np_detected or cuhk03_np_labeled with --data.layout (train) or --layout")
    for half in ("detected", "labeled"):
        assert read(root, f"cuhk03_np_{half}").root == read(tmp_path, f"cuhk03_np_{half}").root == root / half
    assert says(refused(root / "detected", "cuhk03_np_labeled"), "not cuhk03_np_labeled", "cuhk03_np_detected")

    renamed = (root / "labeled").rename(root / "half")
    assert says(refused(renamed), str(renamed), "neither", "name", "counts")
    assert read(renamed, "cuhk03_np_labeled").layout == "cuhk03_np_labeled"
    monkeypatch.setattr("reference_pipelines.data.layouts.three_folders.PUBLISHED", {**PUBLISHED, **COUNTS})
    assert read(renamed).layout == "cuhk03_np_labeled"


def as_jpeg(root):
    for path in root.rglob("*.png"):
        path.rename(path.with_suffix(".jpg"))


def test_cuhk03_is_known_in_other_formats_by_its_folders_or_its_counts(tmp_path, monkeypatch):
    root = miniatures.cuhk03_np(tmp_path)
    as_jpeg(root)
    assert read(root / "detected").layout == read(root, "cuhk03_np_detected").layout == "cuhk03_np_detected"
    renamed = (root / "labeled").rename(root / "half")
    assert read(renamed).layout == "three_folders"
    monkeypatch.setattr("reference_pipelines.data.layouts.three_folders.PUBLISHED", {**PUBLISHED, **COUNTS})
    assert read(renamed).layout == "cuhk03_np_labeled"


@pytest.mark.parametrize("layout", COUNTS)
def test_a_public_name_is_given_only_to_the_published_counts(tmp_path, monkeypatch, layout):
    made = layout.removesuffix("_list_train")
    root = MAKERS[made](tmp_path)
    assert " layout" in read(root, layout).name
    monkeypatch.setattr(find, "PUBLISHED", COUNTS)
    data = read(root, layout)
    assert data.name == PUBLISHED[layout].title
    assert "published counts" not in str(data)
    people = len(data.train.people())
    if made in ("msmt17_v1", "msmt17_v2"):
        edit(root / "list_train.txt", lambda text: "".join(text.splitlines(True)[:-1]))
    else:
        data.train.paths[-1].unlink()
    data = read(root, layout)
    assert len(data.train.people()) == people  # one image less, nothing else
    assert data.name == (TITLES[made] if layout in TITLES else f"{TITLES[made]}, list_train alone")
    assert "not the published counts" in str(data)


@pytest.mark.parametrize("count", ["cameras", "junk", "train_ids"])
def test_a_public_name_depends_on_people_cameras_and_junk_too(tmp_path, monkeypatch, count):
    root = miniatures.market1501(tmp_path)
    whole = COUNTS["market1501"]
    monkeypatch.setattr(find, "PUBLISHED", {"market1501": replace(whole, **{count: getattr(whole, count) + 1})})
    assert read(root).name == "Market-1501 layout"


def test_a_rendered_set_that_was_changed_says_so(tmp_path):
    render_market(tmp_path / "a", images_per_camera=1, image_size=(64, 32), workers=1, progress=False)
    assert read(tmp_path / "a").name == "rendered plaza"
    next((tmp_path / "a" / "query").iterdir()).unlink()
    data = read(tmp_path / "a")
    assert data.name == "rendered plaza, altered"
    assert "not the rendered counts, " in str(data)


def test_raw_cuhk03_is_refused_with_advice(tmp_path):
    root = miniatures.raw_cuhk03(tmp_path)
    for given in (tmp_path, root, root / "cuhk-03.mat"):
        assert says(refused(given), "raw release of CUHK03", "CUHK03-NP folders")


def test_the_versions_of_msmt17_are_told_apart(tmp_path):
    first, second = (miniatures.msmt17(tmp_path / name, version) for name, version in (("a", 1), ("b", 2)))
    message = refused(first, "msmt17_v2")
    assert says(message, f"{first} is not msmt17_v2", "train and test", "msmt17_v1")
    assert says(refused(second, "msmt17_v1_list_train"), "mask_train_v2 and mask_test_v2", "msmt17_v2")
    for name in ("mask_train_v2", "mask_test_v2"):
        shutil.copytree(second / name, first / name)
    assert says(refused(first), "both versions of MSMT17", "msmt17_v1 or msmt17_v2 with --data.layout (train)")
    assert read(first, "msmt17_v2").train.paths[0].parts[-3] == "mask_train_v2"


def test_msmt17_counts_people_of_train_and_test_apart_and_takes_the_third_field_for_the_camera(tmp_path):
    data = read(miniatures.msmt17(tmp_path, 1))
    assert sorted(set(data.train.ids)) == [1, 2, 3]
    assert sorted(set(data.query.ids)) == sorted(set(data.gallery.ids)) == [4, 5, 6]
    assert [data.id_name(person) for person in (1, 3, 4, 6)] == ["0000", "0002", "0000", "0002"]
    for images in (data.train, data.query, data.gallery):
        assert set(images.cameras) == set(range(1, 16))
        for path, camera in zip(images.paths, images.cameras, strict=True):
            assert path.name[9:11] == f"{camera:02d}"
    assert any(path.name.endswith("_ex.jpg") for path in data.train.paths)


@pytest.mark.parametrize("version", [1, 2])
def test_msmt17_trains_on_both_lists_or_on_list_train_alone(tmp_path, version):
    root = miniatures.msmt17(tmp_path, version)
    both, alone = read(root), read(root, f"msmt17_v{version}_list_train")
    assert (len(both.train), len(alone.train)) == (135, 90)
    assert set(alone.train.paths) < set(both.train.paths)
    assert alone.layout == f"msmt17_v{version}_list_train"
    assert alone.query.paths == both.query.paths
    assert alone.fingerprint() != both.fingerprint()


def test_repacked_msmt17_does_not_tell_its_version(tmp_path):
    root = miniatures.msmt17_repacked(tmp_path)
    data = read(root)
    assert says(str(data), "not tell version 1 from 2")
    assert sorted(set(data.train.ids)) == [1, 2]  # 0 is a person here, not a distractor
    assert sorted(set(data.gallery.ids)) == [3, 4]
    assert set(data.query.cameras) == set(range(1, 16))
    said = read(root, "msmt17_v2")
    assert said.layout == "msmt17_v2"
    assert says(str(said), "version", "as given")
    assert (said.train.ids == data.train.ids).all()


def test_every_layout_has_a_miniature_or_is_a_reading_of_one():
    assert set(LAYOUTS) == set(MAKERS) | set(COUNTS) | {
        *("three_folders", "folders_no_cameras", "people", "people_no_cameras", "photographs"),
    }
    assert set(PUBLISHED) == set(COUNTS)


# The published counts as printed in the papers, once more and by another hand.


def test_the_published_counts():
    market = PUBLISHED["market1501"]
    assert market.gallery == 13_115 + 2798
    assert market.gallery + (market.junk or 0) == 19_732
    assert PUBLISHED["msmt17_v1"].train == PUBLISHED["msmt17_v1_list_train"].train + 2373
    assert PUBLISHED["personx"].query == 856 * 6
    assert PUBLISHED["dukemtmc"].gallery_ids == 702 + 408


# Wrong folders.


def test_refuses_a_missing_folder_and_a_file(tmp_path):
    assert f"no folder {tmp_path / 'nowhere'}; " in refused(tmp_path / "nowhere")
    assert f"nor the folder {tmp_path / 'nor'}; " in refused(tmp_path / "nor" / "this")
    (tmp_path / "market.zip").write_bytes(b"PK")
    assert says(refused(tmp_path / "market.zip"), "market.zip", "folder or a .csv file", "another kind")
    assert says(refused(tmp_path / "market.zip", "dukemtmc"), "market.zip", "folder", "layout dukemtmc")


def test_refuses_an_empty_folder_and_one_without_a_data_set(tmp_path):
    assert says(refused(tmp_path), str(tmp_path), "data set", "empty")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "people.csv").write_text("x")
    message = refused(tmp_path)
    assert "found notes.txt, people.csv" in message
    assert says(message, "; ", str(tmp_path / "people.csv"))


def test_refuses_several_data_sets(tmp_path):
    miniatures.market1501(tmp_path)
    duke = miniatures.dukemtmc(tmp_path)
    message = refused(tmp_path)
    assert says(message, "2 data sets", "DukeMTMC-reID (dukemtmc)", "Market-1501-v15.09.15 (market1501)")
    assert read(tmp_path, "dukemtmc").root == duke


def test_refuses_an_unknown_layout_with_the_closest(market):
    message = refused(market, "duke")
    assert says(message, "no layout 'duke'; ", "dukemtmc")
    assert message.endswith(" dukemtmc or occluded_duke?")


@pytest.mark.parametrize(
    ("made", "given", "message"),
    [
        ("market1501", "dukemtmc", "is not dukemtmc.* 0002_c1s1_000000_00.jpg"),
        ("dukemtmc", "market1501", "is not market1501.* 0001_c1_f0046182.jpg"),
        ("market1501", "folders", "is not folders.* like market1501"),
        ("folders", "market1501", "is not market1501.* like folders"),
        ("msmt17_v1", "personx", "is not personx.* like msmt17_v1"),
        ("csv", "market1501", "folder .*layout market1501"),
        ("folders", "csv", "layout csv .*CSV file"),
    ],
)
def test_refuses_a_wrong_layout(tmp_path, made, given, message):
    assert re.search(message, refused(MAKERS[made](tmp_path), given))


def ours(into):
    return miniatures.three_folders(
        into / "ours", lambda i, c, f: f"{i}_c{c}_{f}.jpg", train=(5, 6), test=(7, 8), cameras=(1, 3, 16)
    )


def with_junk(into):
    root = miniatures.msmt17_repacked(into)
    miniatures.draw(root / "bounding_box_test" / "-1_c3_0000.jpg")
    return root


def rendered(into):
    root = miniatures.personx(into)
    miniatures.rendered_manifest(root)
    return root


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (ours, "personx", "cameras 3, 4, 8, 10, 11, 12, .* 1, 16 "),
        (ours, "cuhk03_np_detected", "cameras 1, 2, .* 3, 16 "),
        (ours, "cuhk03_np_labeled", "cameras 1, 2, .* 3, 16 "),
        (ours, "msmt17_repacked", "13, 14, 15, .* 16 "),
        (ours, "msmt17_v1", "13, 14, 15, .* 16 "),
        (ours, "msmt17_v2", "13, 14, 15, .* 16 "),
        (with_junk, "msmt17_repacked", "id -1, .*MSMT17 .*no junk"),
        (with_junk, "msmt17_v2", "id -1, .*MSMT17 .*no junk"),
        (rendered, "personx", "rendered.json .*rendered"),
        (rendered, "msmt17_v1", "rendered.json .*rendered"),
        (rendered, "dukemtmc", "rendered.json .*rendered"),
    ],
)
def test_refuses_a_public_sets_name_for_another_set_in_the_three_folders(tmp_path, make, given, message):
    root = make(tmp_path)
    text = refused(root, given)
    assert f"{root} is not {given}: " in text
    assert re.search(f"{message}.*; .*three_folders", text)


@pytest.mark.parametrize("layout", [None, "market1501", "three_folders"])
def test_rendered_images_are_market1501_or_three_folders(market, layout):
    miniatures.rendered_manifest(market)
    data = read(market, layout)
    assert (data.layout, data.rendered) == (layout or "market1501", True)


def test_what_msmt17_cannot_be_is_not_taken_for_it(tmp_path):
    root = with_junk(tmp_path)
    assert "junk or distractors (ids -1 and 0)" in refused(root)
    data, problems = find.examine(root)[:2]
    assert (data.layout, problems[1].kind) == ("three_folders", "id 0")


@pytest.mark.parametrize("folder", ["bounding_box_train", "query", "bounding_box_test"])
def test_refuses_a_half_extracted_market(market, folder):
    shutil.rmtree(market / folder)
    assert f"{folder} missing; " in refused(market)


@pytest.mark.parametrize("folder", ["bounding_box_train", "query", "bounding_box_test"])
def test_refuses_an_empty_part(market, folder):
    for path in (market / folder).iterdir():
        path.unlink()
    message = refused(market)
    assert says(message, folder, "0002_c1s1_000451_03.jpg", "none")
    assert "unpacked completely" in message


def test_refuses_images_whose_names_do_not_parse(market):
    for name in ("portrait.jpg", "0002-c1.PNG"):
        miniatures.draw(market / "query" / name)
    message = refused(market)
    assert says(message, "0002_c1s1_000451_03.jpg", "2 are not: 0002-c1.PNG, portrait.jpg")


def test_refuses_numbers_that_no_computer_word_holds(market):
    names = [f"{'9' * 19}_c1s1_000451_03.jpg", f"0002_c{'9' * 19}s1_000451_03.jpg"]
    for name in names:
        miniatures.draw(market / "query" / name)
    assert f"2 are not: {', '.join(sorted(names))}; " in refused(market)
    for name in names:
        (market / "query" / name).unlink()
    miniatures.draw(market / "query" / f"{'9' * 18}_c1s1_000451_03.jpg")
    assert int("9" * 18) in read(market).query.ids


def test_one_wrong_name_is_told_in_the_singular(market):
    miniatures.draw(market / "query" / "-7_c1s1_000451_03.jpg")
    assert "1 is not: -7_c1s1_000451_03.jpg; " in refused(market)


def test_refuses_what_cannot_be_looked_at_in_a_sentence(tmp_path, monkeypatch):
    assert "(File name too long); " in refused(tmp_path / ("a" * 5000))
    path = miniatures.own_csv(tmp_path)

    def locked(*arguments, **more):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("reference_pipelines.data.layouts.table.read_bytes", locked)
    assert f"cannot read {path} (Permission denied); " in refused(path)


@pytest.mark.parametrize(("folder", "part"), [("bounding_box_train", "train"), ("bounding_box_test", "gallery")])
def test_refuses_a_part_without_people(market, folder, part):
    for path in (market / folder).iterdir():
        if path.name[0] != "-":
            path.rename(path.with_name("-1" + path.name[4:-4] + f"_{path.name[:4]}.jpg"))
    assert says(refused(market), f"{part} part of {market}", "only junk and distractors")


def test_refuses_queries_of_nobody(market):
    miniatures.draw(market / "query" / "0000_c1s1_000001_00.jpg")
    assert says(refused(market), "queries of ", "1 is junk or distractors (ids -1 and 0)")


def test_refuses_queries_that_nothing_matches(market):
    for folder in ("bounding_box_test", "query"):
        for path in (market / folder).iterdir():
            if "_c2s" in path.name:
                path.unlink()
    assert says(refused(market), "gallery image of the same person from another camera", "none")


def test_several_problems_are_counted(market):
    miniatures.draw(market / "query" / "portrait.jpg")
    shutil.rmtree(market / "bounding_box_train")
    assert says(refused(market), "1 more", f"data verify {market}")


# Wrong lists of MSMT17.


def msmt17(tmp_path):
    root = miniatures.msmt17(tmp_path, 1)
    return root, root / "list_query.txt"


@pytest.mark.parametrize("missing", ["list_val.txt", "list_gallery.txt", "train", "test"])
def test_refuses_a_half_extracted_msmt17(tmp_path, missing):
    root, _ = msmt17(tmp_path)
    (shutil.rmtree if (root / missing).is_dir() else type(root).unlink)(root / missing)
    message = refused(root)
    assert says(message, "train/, test/, list_train.txt, list_val.txt, list_query.txt, list_gallery.txt", "(MSMT17 v1)")
    assert f"{missing}{'/' * ('list' not in missing)} missing; " in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(".jpg 0", ".jpg", 1), "1 .*not parse: list_query.txt line 1: 0000/0000_"),
        (lambda text: text.replace(".jpg 0", ".jpg 1", 1), "1 contradicts .*: list_query.txt line 1: "),
        (lambda text: text.replace("0000/0000_", "0000/0007_", 1), "1 contradicts .*: list_query.txt line 1: "),
        (lambda text: text.replace("0000/0000", "0001/0000", 1), "1 contradicts .*: list_query.txt line 1: "),
        (lambda text: text.replace("0000/0000_001", "0000/0000_999", 1), "1 .*missing: list_query"),
        (lambda text: text + text.splitlines()[0], "1 repeats .*: list_query.txt line 46: 0000/0000_001_01_"),
        (lambda text: "", "list_query.txt .*images, .*none"),
        (lambda text: "0000/portrait.jpg 0", "1 .*not parse: list_query.txt line 1: 0000/portrait.jpg 0"),
    ],
)
def test_refuses_lists_that_contradict_the_files(tmp_path, change, message):
    root, path = msmt17(tmp_path)
    edit(path, change)
    assert re.search(message, refused(root))


def test_empty_lines_in_a_list_do_no_harm(tmp_path):
    root, path = msmt17(tmp_path)
    edit(path, lambda text: text.replace("\n", "\r\n") + "\n\n")
    assert len(read(root).query) == 45


def test_a_mark_of_the_encoding_before_a_list_does_no_harm(tmp_path):
    root, path = msmt17(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read(root).query) == 45


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (".jpg 0", f".jpg {'9' * 19}", "1 .*not parse: list_query.txt line 1: "),
        ("_01_", f"_{'9' * 19}_", "1 .*not parse: list_query.txt line 1: "),
        ("0000/", f"{'0' * 5000}/", "1 .*missing: list_query.txt line 1: "),
        ("0000/", "²/", "1 .*missing: list_query.txt line 1: "),
    ],
)
def test_refuses_numbers_in_lists_that_are_none(tmp_path, old, new, message):
    root, path = msmt17(tmp_path)
    path.write_text(path.read_text().replace(old, new, 1), encoding="utf-8")
    assert re.search(message, refused(root))


# The user's own data.


def table(tmp_path, *lines, header="image,id,camera,split"):
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        miniatures.draw(tmp_path / name)
    path = tmp_path / "own.csv"
    path.write_text("\n".join([header, *lines]), encoding="utf-8")
    return path


def test_a_csv_says_everything(tmp_path):
    path = table(
        tmp_path,
        'a.jpg,"Ärmel, Jo",7,train',
        "",
        " b.jpg , -7 , 0 , query ",
        "c.jpg,-7,12,gallery",
        "d.jpg,0000,12,gallery",
        f"{tmp_path / 'a.jpg'},0,3,gallery",
        "b.jpg,-1,3,gallery",
    )
    data = read(path)
    assert [path.name for path in data.gallery.paths] == ["c.jpg", "d.jpg", "a.jpg"]
    # Only 0 and -1, spelt so, are distractors and junk: 0000 and -7 are people.
    assert data.gallery.ids.tolist() == [data.query.ids[0], data.gallery.people()[1], 0]
    assert data.junk == 1
    assert [data.id_name(person) for person in data.gallery.people().tolist()] == ["-7", "0000"]
    assert data.id_name(int(data.train.ids[0])) == "Ärmel, Jo"
    assert (data.train.cameras.tolist(), data.query.cameras.tolist()) == ([7], [0])
    assert data.cameras_known


def test_a_csv_of_train_images_alone_can_be_read(tmp_path):
    data = read(table(tmp_path, "a.jpg,x,1,train", "b.jpg,y,2,train"))
    assert "train 2 images of 2 ids, no query, no gallery" in str(data)


def test_other_columns_are_passed_over_and_named(tmp_path):
    data = read(table(tmp_path, "x,a.jpg,p,train", header="\ufeffcam,image,id,split"))
    assert "passed over: cam" in str(data)
    assert not data.cameras_known


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg,x,1", "line 3: 4 values .*got 3"),
        (",x,1,train", "line 3: .*image .*missing"),
        ("b.jpg,,1,query", "line 3: .*id .*missing.*train.*query"),
        ("b.jpg,x,1,test", "line 3: split .*train, query or gallery, got 'test'"),
        ("b.jpg,x,1,Training", "line 3: split .*train, query or gallery, got 'training'; .*train"),
        (".,x,1,train", "no image, .*folder"),
        ("sub/../a.jpg,x,1,train", "line 3: .*image sub/../a.jpg .*train already, .*line 2"),
        ("b.jpg,x,door,train", "line 3: camera .*whole number from 0 .*18 digits, got 'door'"),
        (f"b.jpg,x,{'9' * 23},train", "line 3: camera .*whole number from 0 .*18 digits, got '9"),
        (f"{'b' * 5000}.jpg,x,1,train", "line 3: .*no image .*bbb"),
        ("e.jpg,x,1,train", "line 3: .*no image .*e.jpg"),
        ("a.jpg,x,1,train", "line 3: .*image a.jpg .*train already, .*line 2"),
    ],
)
def test_a_wrong_line_of_a_csv_is_named(tmp_path, line, message):
    path = table(tmp_path, "a.jpg,x,1,train", line)
    (tmp_path / "sub").mkdir()
    text = refused(path)
    assert says(text, str(path), "1 wrong line: line 3: ")
    assert re.search(message, text)
    assert text.endswith("; correct it")


def test_a_csv_that_is_none(tmp_path):
    path = table(tmp_path)
    assert says(refused(path), str(path), "images below its header", "none")
    path.write_text("picture,id,split\n")
    assert says(refused(path), "line 1", "image,id,camera,split")
    assert "got picture,id,split: image missing" in refused(path)
    path.write_text("image,ids,splt\n")
    assert "id (is it 'ids'?) and split (is it 'splt'?) missing" in refused(path)
    path.write_text("image|id|split\n")
    assert "got image|id|split: image missing" in refused(path)
    path.write_text("image,id,split,ID\n")
    assert says(refused(path), "column id", "twice")
    path.write_text("")
    assert "got nothing" in refused(path)
    path.write_text('image,id,split\n"a.jpg,x,train\n')
    assert says(refused(path), str(path), "not parse")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_what_separates_the_values_is_read_from_the_header(tmp_path, separator, ending):
    lines = (
        ("\ufeffImage", "ID", "note", "Camera", '"Split"'),
        ("a.jpg", '"x; y,\tz"', "1;2;3;4;5", "1.0", "Train"),
        ("", "", "", "", ""),
        ("b.jpg", "y", '"a,b,c,d,e"', "02", "TRAIN"),
        ("c.jpg", "z", "", "3.00", " query "),
        ("d.jpg", "z", "", '"4,0"', "gallery"),
    )
    quoted = [[f'"{cell}"' if "\ufeff" not in cell and '"' not in cell else cell for cell in line] for line in lines]
    table(tmp_path)
    (tmp_path / "own.csv").write_bytes(ending.join(separator.join(line) for line in quoted).encode())
    data = read(tmp_path / "own.csv")
    assert [data.id_name(person) for person in data.train.ids.tolist()] == ["x; y,\tz", "y"]
    cameras = [part.cameras.tolist() for part in (data.train, data.query, data.gallery)]
    assert cameras == [[1, 2], [3], [4]]
    assert "passed over: note" in str(data)
    (tmp_path / "own.csv").rename(tmp_path / "own.tsv")
    assert read(tmp_path / "own.tsv").layout == "csv"


def test_ids_of_a_column_with_gaps_keep_their_meaning(tmp_path):
    path = table(
        tmp_path,
        "a.jpg,7.0,1,train",
        "b.jpg,07,1,query",
        "c.jpg,0.0,2,gallery",
        "d.jpg,-1.0,2,gallery",
        "a.jpg,07.0,2,gallery",
    )
    data = read(path)
    assert data.id_name(int(data.train.ids[0])) == "7"
    assert (data.gallery.ids == 0).sum() == data.junk == 1
    assert data.query.ids[0] in data.gallery.ids


def test_columns_that_are_not_needed_may_come_twice_or_have_no_name(tmp_path):
    path = table(tmp_path, "0,a.jpg,x,1,train,,", header=",image,id,note,split,note,")
    assert "passed over: (no name), note, note, (no name)" in str(read(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,id,split\na.jpg,Zoé,train\n".encode("cp1252"), "line 2 .*0xE9.*cp1252"),
        ("image,id,split\na.jpg,x,train\n".encode("utf-16"), "UTF-16"),
        ("image,id,split\na.jpg,x,train\n".encode("utf-16-le"), "UTF-16"),
    ],
    ids=["cp1252", "UTF-16", "UTF-16 without its mark"],
)
def test_another_encoding_is_named(tmp_path, content, message):
    path = table(tmp_path)
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"UTF-8, .*{message}") as caught:
        read(path)
    assert says(str(caught.value), "; ", '"CSV UTF-8"')


@pytest.mark.parametrize(
    ("name", "near"), [("peple.csv", "people.csv"), ("People.tsv", "people.csv"), ("markt", "market")]
)
def test_what_is_not_there_is_said_with_the_nearest_names(tmp_path, name, near):
    (tmp_path / "people.csv").write_text("image,id,split")
    (tmp_path / "market").mkdir()
    wanted = "folder" if name == "markt" else "file"
    message = refused(tmp_path / name)
    assert says(message, f"no {wanted} {tmp_path / name}; ", "--data.root", near)
    assert message.endswith(f" {near}?")


def test_cameras_are_given_for_all_images_or_for_none(tmp_path):
    path = table(tmp_path, "a.jpg,x,1,train", "b.jpg,x,,train")
    assert says(refused(path), "camera for every image or for none", "1 of 2 ", "line 3")
    root = miniatures.own_folders(tmp_path)
    (root / "query" / "cy" / "c1_000.JPEG").rename(root / "query" / "cy" / "portrait.jpg")
    message = refused(root)
    assert says(message, "1 of 12 ", "query/cy/portrait.jpg; ", "folders_no_cameras")
    assert not read(root, "folders_no_cameras").cameras_known


def test_query_and_gallery_need_each_other(tmp_path):
    assert "query and no gallery; " in refused(table(tmp_path, "a.jpg,x,1,train", "b.jpg,x,2,query"))
    root = miniatures.own_folders(tmp_path)
    shutil.rmtree(root / "query")
    assert "gallery and no query; " in refused(root)


@pytest.mark.parametrize("make", [miniatures.own_csv, miniatures.own_folders])
def test_without_cameras_nothing_of_a_person_is_dropped_and_the_rule_is_printed(tmp_path, make):
    data = read(make(tmp_path, cameras=False))
    assert not data.cameras_known
    assert "no cameras" in str(data)
    assert says(str(data), "ranking", "the query's very own file", "no camera")
    same_person = (data.query.ids[:, None] == data.gallery.ids).sum(axis=1)
    assert data.match_counts().tolist() == same_person.tolist() == [2, 1]
    cameras = np.concatenate([part.cameras for part in (data.train, data.query, data.gallery)])
    assert len(set(cameras)) == len(cameras)


def test_without_cameras_the_very_same_file_is_dropped(tmp_path):
    path = table(
        tmp_path,
        "a.jpg,x,query",
        "sub/../a.jpg,x,gallery",
        "b.jpg,x,gallery",
        "c.jpg,y,gallery",
        header="image,id,split",
    )
    (tmp_path / "sub").mkdir()
    data = read(path)
    assert data.query.cameras[0] == data.gallery.cameras[0]
    assert data.match_counts().tolist() == [1]


def test_folders_need_a_folder_a_person(tmp_path):
    root = miniatures.own_folders(tmp_path)
    miniatures.draw(root / "query" / "c1_000.jpg")
    assert says(refused(root), str(root), "train/PERSON/*.jpg")
    assert says(refused(root), "1 ", "query/c1_000.jpg; ")
    shutil.rmtree(root / "query")
    (root / "query").mkdir()
    assert says(refused(root), "query", "one folder a person", "(.jpg, .png and others)", "none")


def test_folders_take_any_names_and_cameras_of_many_digits(tmp_path):
    names = {"Jo Ärmel": "0001_c12_17.jpg", "-7": "c3s1_000.PNG", "0000": "x_c104.JPG"}
    for person, name in names.items():
        miniatures.draw(tmp_path / "train" / person / name)
    data = read(tmp_path)
    assert sorted(data.train.cameras) == [3, 12, 104]
    assert {data.id_name(person) for person in data.train.ids.tolist()} == set(names)


@pytest.mark.parametrize("name", ["test", "train", "query", "gallery"])
@pytest.mark.parametrize("between", [(), ("archive",)])
def test_a_folder_above_may_be_called_like_a_part(tmp_path, name, between):
    home = tmp_path / "home" / name
    root = miniatures.market1501(home.joinpath(*between))
    data = read(home)
    assert (data.layout, data.root) == ("market1501", root)


def test_a_parent_is_searched_only_for_a_part(tmp_path):
    miniatures.market1501(tmp_path)
    (tmp_path / "Market-1501-v15.09.15" / "other").mkdir()
    assert says(refused(tmp_path / "Market-1501-v15.09.15" / "other"), "other", "empty")
    assert find._candidates(tmp_path / "Market-1501-v15.09.15" / "other") == []
