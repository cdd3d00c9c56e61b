"""`data verify` finds each planted fault and nothing in a clean data set."""

import json
import re
import shutil

import pytest

from reference_pipelines.commands.cli import main
from reference_pipelines.data import read
from reference_pipelines.data.verification import format_verification, verify
from reference_pipelines.errors import UserError
from reference_pipelines.rendering import RenderSize, render_market
from tests.conftest import says
from tests.data import miniatures
from tests.data.miniatures import COUNTS, MAKERS


def found(root, layout=None):
    """Return (severity, kind, items) of every finding, counts held to the miniatures'."""
    return [(each.severity, each.kind, each.items) for each in verify(root, layout, published=COUNTS).findings]


def kinds(root, layout=None):
    return {(severity, kind) for severity, kind, _ in found(root, layout)}


def beside_counts(root, layout=None):
    """Return the findings other than counts, which most faults change too."""
    return [each for each in found(root, layout) if each[1] != "counts"]


@pytest.mark.parametrize("layout", MAKERS)
def test_a_clean_miniature_has_no_finding(tmp_path, layout):
    root = MAKERS[layout](tmp_path)
    result = verify(root, published=COUNTS)
    assert result.findings == ()
    assert (result.layout, result.root, result.errors) == (layout, root, 0)
    counted = {part.part: part for part in result.parts}
    for part, counts in counted.items():
        assert counts.images == sum(counts.cameras.values())
        if layout in COUNTS:
            assert counts.images == counts.expected_images == getattr(COUNTS[layout], part)
            assert counts.ids == counts.expected_ids == getattr(COUNTS[layout], f"{part}_ids")
    assert counted["gallery"].junk == {"market1501": 1, "csv": 1, "folders": 1}.get(layout, 0)
    assert counted["gallery"].distractors == {"market1501": 2, "csv": 1, "folders": 1}.get(layout, 0)


@pytest.mark.parametrize("make", [miniatures.own_csv, miniatures.own_folders])
def test_a_clean_set_without_cameras_has_no_finding(tmp_path, make):
    result = verify(make(tmp_path, cameras=False))
    assert result.findings == ()
    assert {part.cameras for part in result.parts} == {None}
    assert says(result.notes[0], "each image file", "camera of its own")


def test_counts_are_held_to_the_published_part_by_part(tmp_path):
    root = miniatures.dukemtmc(tmp_path)
    (finding,) = verify(root).findings
    assert (finding.severity, finding.kind) == ("error", "counts")
    assert "not the counts of DukeMTMC-reID" in finding.text
    assert finding.items == (
        "train images: 48 of 16,522",
        "train ids: 3 of 702",
        "query images: 16 of 2,228",
        "query ids: 2 of 702",
        "gallery images: 34 of 17,661",
        "gallery ids: 4 of 1,110",
    )
    (root / "bounding_box_train" / "0001_c1_f0046182.jpg").unlink()
    assert found(root) == [("error", "counts", ("train images: 47 of 48",))]


def test_cameras_and_junk_are_counted_too(tmp_path):
    root = miniatures.market1501(tmp_path)
    (root / "bounding_box_test" / "-1_c1s1_000401_03.jpg").unlink()
    path = root / "bounding_box_train" / "0002_c1s1_000000_00.jpg"
    path.rename(path.with_name("0002_c9s1_000000_00.jpg"))
    assert found(root) == [("error", "counts", ("cameras: 7 of 6", "junk images: 0 of 1"))]
    assert "--layout three_folders" in verify(root).findings[0].text


def test_ids_of_train_and_test(tmp_path):
    root = miniatures.market1501(tmp_path)
    for path in (root / "bounding_box_train").glob("0007_*"):
        path.rename(path.with_name(path.name.replace("0007", "0003", 1)))
    assert beside_counts(root) == [("error", "shared ids", ("0003",))]


def test_ids_of_a_table_are_named_as_in_it(tmp_path):
    path = miniatures.own_csv(tmp_path)
    path.write_text(path.read_text().replace(",bo,", ",cy,"))
    assert found(path) == [("error", "shared ids", ("cy",))]


def test_an_id_of_train_that_is_only_queried_is_shared_too(tmp_path):
    path = miniatures.own_csv(tmp_path)
    miniatures.draw(path.parent / "new.jpg")
    path.write_text(path.read_text() + "new.jpg,ada,3,query\n")
    assert found(path) == [("error", "shared ids", ("ada",)), ("error", "query ids", ("ada",))]


def test_msmt17_names_its_people_apart_but_copies_are_found(tmp_path):
    root = miniatures.msmt17(tmp_path, 1)
    train = sorted((root / "train" / "0000").iterdir())[0]
    gallery = sorted((root / "test" / "0001").iterdir())[0]
    shutil.copy(train, gallery)
    ((severity, kind, items),) = found(root)
    assert (severity, kind) == ("error", "duplicates")
    assert items == (f"{train} = {gallery}",)


def test_ids_of_one_camera(tmp_path):
    root = miniatures.market1501(tmp_path)
    for folder, person in (("bounding_box_train", "0007"), ("bounding_box_test", "0003"), ("query", "0003")):
        for path in (root / folder).glob(f"{person}_*"):
            if "_c1s" not in path.name:
                path.unlink()
    lost = str(root / "query" / "0003_c1s1_000002_02.jpg")
    assert beside_counts(root) == [
        ("note", "one camera", ("0007",)),
        ("note", "one camera", ("0003",)),
        ("note", "no match", (lost,)),
    ]


def test_people_who_are_in_the_gallery_alone_need_no_second_camera(tmp_path):
    assert len(verify(miniatures.dukemtmc(tmp_path), published=COUNTS).findings) == 0  # its distractors have one each


def test_ids_of_one_image(tmp_path):
    path = miniatures.own_csv(tmp_path)
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.endswith("ada,1,train\n")))
    assert found(path) == [("note", "one image", ("ada",)), ("note", "one camera", ("ada",))]


def test_query_ids_missing_from_the_gallery(tmp_path):
    root = miniatures.market1501(tmp_path)
    for path in (root / "bounding_box_test").glob("0003_*"):
        path.unlink()
    assert beside_counts(root) == [("error", "query ids", ("0003",))]


def test_no_query_with_a_match(tmp_path):
    root = miniatures.market1501(tmp_path)
    for folder in ("bounding_box_test", "query"):
        for path in (root / folder).iterdir():
            if "_c1s" not in path.name:
                path.unlink()
    assert ("error", "no match") in kinds(root)
    assert ("note", "no match") in kinds(root)


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_do_not_decode(tmp_path, workers):
    root = miniatures.market1501(tmp_path)
    train, query, gallery = (root / folder for folder in ("bounding_box_train", "query", "bounding_box_test"))
    empty, cut, text = (sorted(folder.glob("*_c2*.jpg"))[0] for folder in (train, query, gallery))
    empty.write_bytes(b"")
    cut.write_bytes(cut.read_bytes()[:300])
    text.write_bytes(b"<html>not found</html>")
    zero, unreadable = verify(root, workers=workers, published=COUNTS).findings
    assert (zero.severity, zero.kind, zero.items) == ("error", "zero size", (str(empty),))
    assert (unreadable.severity, unreadable.kind) == ("error", "unreadable")
    assert [item.partition(" (")[0] for item in unreadable.items] == [str(cut), str(text)]


def test_two_files_of_zero_size_are_no_duplicates(tmp_path):
    root = miniatures.market1501(tmp_path)
    for path in sorted((root / "query").iterdir())[:2]:
        path.write_bytes(b"")
    assert kinds(root) == {("error", "zero size")}


@pytest.mark.parametrize(
    ("source", "target", "severity", "said"),
    [
        ("bounding_box_train/0002_c1s1_000000_00.jpg", "query/0001_c1s1_000002_02.jpg", "error", "both in train and"),
        ("query/0001_c1s1_000002_02.jpg", "query/0003_c1s1_000002_02.jpg", "error", "under two ids"),
        ("query/0001_c1s1_000002_02.jpg", "bounding_box_test/0001_c2s1_000000_00.jpg", "error", "under two cameras"),
        ("query/0001_c1s1_000002_02.jpg", "bounding_box_test/0001_c1s1_000000_00.jpg", "note", "more than once"),
        (
            "bounding_box_train/0002_c1s1_000000_00.jpg",
            "bounding_box_train/0002_c1s1_000001_01.jpg",
            "note",
            "more than once",
        ),
    ],
)
def test_copies_of_an_image(tmp_path, source, target, severity, said):
    root = miniatures.market1501(tmp_path)
    shutil.copy(root / source, root / target)
    (finding,) = verify(root, published=COUNTS).findings
    assert (finding.severity, finding.kind) == (severity, "duplicates")
    assert said in finding.text
    assert finding.items == (f"{root / source} = {root / target}",)


def test_without_cameras_a_copy_of_a_query_in_the_gallery_is_a_free_match(tmp_path):
    root = miniatures.own_folders(tmp_path, cameras=False)
    shutil.copy(root / "query" / "cy" / "000.png", root / "gallery" / "cy" / "copy.png")
    shutil.copy(root / "train" / "bo" / "002.png", root / "train" / "bo" / "copy.png")
    findings = verify(root).findings
    assert [(each.severity, each.kind) for each in findings] == [("error", "duplicates"), ("note", "duplicates")]
    assert "costs nothing" in findings[0].text


def test_one_file_in_two_parts_of_a_table_is_a_copy_too(tmp_path):
    path = miniatures.own_csv(tmp_path)
    path.write_text(path.read_text() + "pictures/train-0.jpg,ada,1,gallery\n")
    assert kinds(path) == {("error", "duplicates"), ("error", "shared ids")}


def test_what_the_readers_refuse_is_an_error_here(tmp_path, market):
    root = miniatures.msmt17(tmp_path, 2)
    lines = (root / "list_val.txt").read_text().splitlines(True)
    (root / "list_val.txt").write_text("".join(["damaged\n", lines[1].replace(".jpg 0", ".jpg 7"), *lines[2:]]))
    (root / "list_gallery.txt").unlink()
    assert {("error", kind) for kind in ("half extracted", "lists", "contradiction", "counts")} <= kinds(root)
    shutil.rmtree(market / "query")
    (market / "bounding_box_test" / "portrait.jpg").write_bytes(b"")
    assert kinds(market, "three_folders") >= {("error", "half extracted"), ("error", "names")}


def test_every_wrong_line_of_a_table_is_an_item(tmp_path):
    path = miniatures.own_csv(tmp_path)
    path.write_text(path.read_text() + "nowhere.jpg,x,1,train\na,b\n")
    ((severity, kind, items),) = found(path)
    assert (severity, kind) == ("error", "rows")
    assert [item.partition(":")[0] for item in items] == ["line 14", "line 15"]


def test_parts_that_are_left_out(tmp_path):
    root = miniatures.own_folders(tmp_path)
    shutil.rmtree(root / "train")
    assert found(root) == [("note", "parts", ())]
    root = miniatures.own_folders(tmp_path / "other")
    for part in ("query", "gallery", "train/ada"):
        shutil.rmtree(root / part)
    assert found(root) == [("error", "parts", ()), ("note", "parts", ())]


def test_a_train_part_alone_is_a_note_since_training_has_no_scores_then(tmp_path, capsys):
    root = miniatures.own_folders(tmp_path)
    for part in ("query", "gallery"):
        shutil.rmtree(root / part)
    (finding,) = verify(root).findings
    assert (finding.severity, finding.kind) == ("note", "parts")
    assert says(finding.text, "training", "scores", "--data.test")
    assert command(capsys, root, "--workers", 0)[0] == 0
    with pytest.raises(UserError, match="no query and no gallery"):
        read(root).require("train", "train", "query", "gallery")


@pytest.mark.parametrize(("names", "said"), [(["-1"], "1 train image of id 0 or -1 "), (["-1", "0000"], "2 train")])
def test_train_images_of_nobody_are_told(tmp_path, names, said):
    root = miniatures.market1501(tmp_path)
    for name in names:
        miniatures.draw(root / "bounding_box_train" / f"{name}_c2s1_000451_03.jpg")
    (finding,) = verify(root, published=COUNTS).findings
    assert (finding.severity, finding.kind) == ("note", "left out")
    assert finding.text.startswith(said)
    assert "left out; " in finding.text
    assert said in format_verification(verify(root, published=COUNTS))


def test_a_person_0_of_train_is_an_error(tmp_path, capsys):
    path = miniatures.own_csv(tmp_path)
    path.write_text(path.read_text().replace(",bo,", ",0,"))
    assert {("error", "id 0"), ("note", "left out")} <= kinds(path)
    assert command(capsys, path, "--workers", 0)[0] == 1


def test_findings_count_in_the_singular_and_the_plural(tmp_path):
    path = miniatures.own_csv(tmp_path)
    lines = path.read_text().splitlines(True)
    path.write_text("".join(line for line in lines if not line.endswith("ada,1,train\n")))
    texts = [finding.text for finding in verify(path).findings]
    assert says(texts[0], "1 id ", "one image in train; ")
    assert says(texts[1], "1 id ", "one camera only in train; ")
    kept = ("ada,1,train\n", "bo,1,train\n", "bo,2,train\n")
    path.write_text("".join(line for line in lines if not line.endswith(kept)))
    texts = [finding.text for finding in verify(path).findings]
    assert says(texts[0], "2 ids ", "one image in train; ")
    assert says(texts[1], "2 ids ", "one camera only in train; ")
    path.write_text("".join(line for line in lines if not line.endswith("di,1,gallery\n")) + _last_seen_by(2, lines))
    texts = [finding.text for finding in verify(path).findings]
    assert any(says(text, "1 of 2 queries ", "no match from another camera; ") for text in texts)


def _last_seen_by(camera, lines):
    return next(line for line in lines if line.endswith("di,1,gallery\n")).replace(",1,gallery", f",{camera},gallery")


def test_images_that_no_list_names_and_litter(tmp_path):
    root = miniatures.msmt17(tmp_path, 1)
    astray = miniatures.draw(root / "train" / "0000" / "0000_999_01_0303morning_0001_0.jpg")
    (root / "test" / "Thumbs.db").write_bytes(b"x")
    result = verify(root, published=COUNTS)
    assert set(result.passed_over) == {str(astray), str(root / "test" / "Thumbs.db")}
    assert found(root) == [("note", "passed over", (str(astray),))]
    assert found(root, "msmt17_v1_list_train") == [("note", "passed over", (str(astray),))]


SIZE = RenderSize(train_ids=3, test_ids=3, cameras=2, images_per_camera=2, distractors=2, junk=2)


def test_rendered_pedestrians_are_held_to_their_own_counts(tmp_path):
    root = tmp_path / "plaza"
    render_market(root, size=SIZE, image_size=(64, 32), progress=False)
    result = verify(root)
    assert result.findings == ()
    assert (result.name, result.expected_from) == ("rendered plaza", "rendered.json")
    for folder, chosen in (("bounding_box_train", (0, 5)), ("bounding_box_test", (0,))):
        files = sorted((root / folder).glob("0*"))
        for index in chosen:
            files[index].unlink()
    (finding,) = verify(root).findings
    assert finding.kind == "counts"
    assert finding.items == ("train images: 10 of 12", "gallery images: 13 of 14")
    assert says(finding.text, "not the counts of rendered.json")
    (root / "rendered.json").write_text("[]")
    assert says(verify(root).findings[0].text, "rendered.json", "not say what was rendered; ")


# The command.


def command(capsys, *arguments):
    status = main(("data", "verify", *map(str, arguments)))
    printed = capsys.readouterr()
    return status, printed.out, printed.err


@pytest.fixture
def plain(tmp_path):
    return miniatures.three_folders(
        tmp_path / "ours",
        lambda person, camera, frame: f"{person:04d}_c{camera}_{frame}.jpg",
        train=(5, 6),
        test=(7, 8),
        cameras=(1, 2, 30),
    )


def test_the_command_says_what_it_is_and_answers_0_or_1(capsys, plain):
    status, text, _ = command(capsys, plain, "--workers", 0)
    assert status == 0
    lines = text.splitlines()
    assert lines[0] == f"ours (three_folders) at {plain}"
    assert "part     images  ids  cameras  distractors  junk" in lines
    assert "train        12    2        3            0     0" in lines
    assert "30          4      2        4" in lines
    assert lines[-1].startswith("No error: ")
    (plain / "query" / "0007_c1_2.jpg").write_bytes(b"")
    status, text, _ = command(capsys, plain, "--workers", 0)
    assert status == 1
    assert "error  zero size: 1 image file is of zero size; " in text
    assert text.splitlines()[-1].startswith("1 error: ")


def test_the_command_shows_the_published_counts(capsys, tmp_path):
    status, text, _ = command(capsys, miniatures.market1501(tmp_path))
    assert status == 1
    assert "part     images  published  ids  published  cameras  distractors  junk" in text
    assert "gallery      26     15,913    2        750        6            2     1" in text
    assert "1 file passed over: Thumbs.db" in text


def test_json_says_the_same_to_programs(capsys, plain):
    (plain / "query" / "0007_c1_2.jpg").write_bytes(b"")
    status, text, _ = command(capsys, plain, "--json")
    result = json.loads(text)
    assert (status, result["errors"], result["layout"], result["root"]) == (1, 1, "three_folders", str(plain))
    assert result["parts"][0] == {
        "part": "train",
        "images": 12,
        "ids": 2,
        "cameras": {"1": 4, "2": 4, "30": 4},
        "distractors": 0,
        "junk": 0,
        "expected_images": None,
        "expected_ids": None,
    }
    assert result["findings"] == [
        {
            "severity": "error",
            "kind": "zero size",
            "text": "1 image file is of zero size; unpack or copy it again",
            "items": [str(plain / "query" / "0007_c1_2.jpg")],
        }
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), r"--data.root \(train\), --data \(evaluate\) or DIR"),
        ((".", "--layout", "duke"), "no layout 'duke'"),
        ((".", "--workers", "-1"), "--workers .*0, got -1"),
    ],
)
def test_a_users_mistake_is_answered_with_2(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, text, error = command(capsys, *arguments)
    assert (status, text) == (2, "")
    assert re.search(message, error)
    assert error.count("\n") == 1


def test_a_choice_to_be_made_is_asked_for(tmp_path):
    with pytest.raises(
        UserError, match=r"cuhk03_np_detected or cuhk03_np_labeled with --data.layout \(train\) or --layout"
    ):
        verify(miniatures.cuhk03_np(tmp_path))


def test_long_findings_and_many_cameras_are_cut_and_fit_the_width(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    root = miniatures.three_folders(
        tmp_path / "x", lambda i, c, f: f"{i}_c{c}_{f}.jpg", train=(5, 6), test=(7,), cameras=range(1, 36)
    )
    for path in (root / "query").iterdir():
        path.write_bytes(b"")
    text = format_verification(verify(root))
    assert says(text, "3 more cameras: --json")
    assert says(text, "       and 27 more: --json")
    wide = [line for line in text.splitlines() if len(line) > 80 and str(tmp_path) not in line]
    assert wide == []
