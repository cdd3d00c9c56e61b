"""Names in either Unicode form, and names that are no Unicode at all."""

import json
import os
import sys
import unicodedata
from itertools import product

import pytest

from reference_pipelines.commands.cli import main
from reference_pipelines.data import read
from reference_pipelines.data.layouts.scanning import Finder
from reference_pipelines.data.names import composed, printable
from reference_pipelines.data.verification import format_verification, verify
from reference_pipelines.errors import UserError
from tests.conftest import says
from tests.data import miniatures

FORMS = ("NFC", "NFD")
ADA, BO = "Ädä Ångström", "Bô"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems keep one form of names")


def spelt(text, form):
    return unicodedata.normalize(form, text)


def test_names_are_compared_composed():
    assert composed(spelt(ADA, "NFD")) == ADA == composed(ADA)
    assert composed("plain") == "plain"


@pytest.mark.parametrize(("of_table", "on_disk"), [*product(FORMS, FORMS)])
def test_a_table_names_files_in_either_form(tmp_path, of_table, on_disk):
    folder = tmp_path / spelt("Bilder é", on_disk) / "ñ"  # not all parts of a path are of one form
    lines = ["image,id,camera,split"]
    for number, person in enumerate((ADA, BO)):
        image = miniatures.draw(folder / f"{spelt(person, on_disk)}.jpg")
        place = spelt(str(image.relative_to(tmp_path)), of_table)
        lines.append(f"{place},{spelt(person, of_table)},{number},train")
    (tmp_path / "own.csv").write_text("\n".join(lines), encoding="utf-8")
    data = read(tmp_path / "own.csv")
    assert [path.is_file() for path in data.train.paths] == [True, True]
    assert {data.id_name(person) for person in data.train.ids.tolist()} == {ADA, BO}
    assert verify(tmp_path / "own.csv").fingerprint == data.fingerprint()


def test_an_id_in_two_forms_is_one_person(tmp_path):
    lines = ["image,id,split"]
    for number, form in enumerate((*FORMS, *FORMS)):
        miniatures.draw(tmp_path / f"{number}.jpg")
        lines.append(f"{number}.jpg,{spelt(ADA if number < 2 else BO, form)},train")
    (tmp_path / "own.csv").write_text("\n".join(lines), encoding="utf-8")
    assert read(tmp_path / "own.csv").train.ids.tolist() == [2, 2, 1, 1]
    for form in FORMS:
        miniatures.draw(tmp_path / "train" / spelt(ADA, form) / f"c1_{form}.jpg")
    assert read(tmp_path).train.ids.tolist() == [1, 1]


def test_an_image_in_two_forms_is_one_image(tmp_path):
    miniatures.draw(tmp_path / "é.jpg")
    lines = ["image,id,split", *(f"{spelt('é', form)}.jpg,x,train" for form in FORMS)]
    (tmp_path / "own.csv").write_text("\n".join(lines), encoding="utf-8")
    (finding,) = (each for each in verify(tmp_path / "own.csv").findings if each.kind == "rows")
    assert says(finding.items[0], "train already", "line 2")


def test_a_copy_in_the_other_form_is_the_same_data_in_the_same_order(tmp_path):
    digests = set()
    for form in FORMS:
        root = tmp_path / form
        for part, (person, camera) in product(("train", "query", "gallery"), ((ADA, 1), (BO, 2), ("Z", 3))):
            for number in (camera, camera + 1):
                path = root / part / spelt(person, form) / spelt(f"é_c{number}_x.jpg", form)
                miniatures.draw(path).write_bytes(f"{part}{person}{number}".encode())
        data = read(root)
        digests.add(data.fingerprint())
        assert [data.id_name(person) for person in data.train.ids.tolist()] == ["Bô"] * 2 + ["Z"] * 2 + [ADA] * 2
    assert len(digests) == 1


def test_a_root_is_found_in_either_form(tmp_path):
    root = miniatures.own_folders(tmp_path / spelt("é", "NFD"))
    assert read(tmp_path / "é" / root.name).root == root


def test_a_list_of_msmt17_names_files_in_either_form(tmp_path):
    root = miniatures.msmt17(tmp_path, 1)
    path = sorted((root / "test" / "0000").iterdir())[1]
    path.rename(path.with_stem(spelt(f"{path.stem}é", "NFD")))
    text = (root / "list_query.txt").read_text()
    (root / "list_query.txt").write_text(text.replace(path.stem, f"{path.stem}é"), encoding="utf-8")
    assert len(read(root).query) == 45


def test_a_name_that_is_nowhere_is_left_as_it_is(tmp_path):
    assert Finder().find(tmp_path / "é" / "è.jpg") == tmp_path / "é" / "è.jpg"


# Names that are no UTF-8, as older systems and archives leave them.

LATIN = os.fsdecode(b"caf\xe9")


def latin(tmp_path):
    (tmp_path / LATIN).mkdir()
    root = tmp_path / "root"
    root.symlink_to(tmp_path / LATIN)
    for part, number in product(("train", "query", "gallery"), (1, 2)):
        miniatures.draw(root / part / LATIN / f"{LATIN}_c{number}_1.jpg")
        miniatures.draw(root / part / "b" / f"c{number}_1.jpg")
    (root / "train" / LATIN / f"{LATIN}.heic").write_bytes(b"x")
    miniatures.draw(root / LATIN / "x.jpg")
    (root / "query" / LATIN / f"{LATIN}_c1_1.jpg").write_bytes(b"")
    return root


def test_names_that_are_no_utf8_are_printable():
    assert printable(f"{LATIN} é") == r"caf\xe9 é"
    assert printable("plain") == "plain"
    assert printable("half \ud800, é") == r"half \ud800, é"


def test_names_that_are_no_utf8_are_read_and_told(tmp_path, capsys):
    root = latin(tmp_path)
    data = read(root)
    assert len(data.fingerprint()) == 16
    assert data.id_name(2) == r"caf\xe9"
    described = data.describe()
    assert described["name"] == r"caf\xe9"
    assert r"passed over: 1 .heic file, 1 thing beside the parts (caf\xe9)" in described["summary"]
    result = verify(root)
    texts = (json.dumps(described), format_verification(result), json.dumps(result.to_plain()), str(data))
    for text in (*texts, *map(str, json.loads(texts[2])["passed_over"])):
        text.encode()
    assert r"query/caf\xe9/caf\xe9_c1_1.jpg" in texts[1]
    for option in ((), ("--json",)):
        assert main(("data", "verify", str(root), "--workers", "0", *option)) == 1
        assert r"caf\xe9" in capsys.readouterr().out.replace(r"\\", "\\")


def test_a_root_that_is_no_utf8_is_refused_since_a_config_has_to_hold_it(tmp_path, capsys):
    root = latin(tmp_path).resolve()
    with pytest.raises(UserError, match=r"path .*/caf\\xe9 .*UTF-8"):
        read(root)
    assert main(("data", "verify", str(root), "--workers", "0")) == 1
    assert r"caf\xe9 (folders) at " in capsys.readouterr().out
    assert json.loads(json.dumps(verify(root).to_plain()))["root"].endswith(r"caf\xe9")


def test_the_fingerprint_of_a_name_that_is_no_utf8_follows_the_name(tmp_path):
    root = latin(tmp_path)
    before = read(root).fingerprint()
    path = root / "train" / LATIN / f"{LATIN}_c1_1.jpg"
    path.rename(path.with_name(os.fsdecode(b"caf\xe8_c1_1.jpg")))
    assert read(root).fingerprint() != before
