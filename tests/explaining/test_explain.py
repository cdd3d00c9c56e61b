"""`explain` as a user has it: on a trained run, as a function and as a command."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from reference_pipelines.commands.cli import main
from reference_pipelines.errors import UserError
from reference_pipelines.explaining import explain as module
from reference_pipelines.explaining.explain import explain
from reference_pipelines.explaining.heat_maps import BEFORE
from reference_pipelines.explaining.pictures import sheets_of
from reference_pipelines.pipelines.opening import open_run
from reference_pipelines.rendering import mask_of_file
from tests.conftest import says, write_image
from tests.reporting.support import check_policy

PLACES = [(f"layer{n}", level) for n in (1, 2, 3, 4) for level in (BEFORE, "level1", "level2")]


@pytest.fixture(scope="module")
def queries(images):
    return tuple(sorted((images / "query").glob("*.jpg"))[:3])


@pytest.fixture(scope="module")
def network(trained_run):
    return open_run(trained_run, classifier=True)


def test_images_are_explained_alike_alone_and_together(network, queries, monkeypatch):
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    found = explain(network, queries, device="cpu")
    assert found.title == network.result["title"]
    assert [(each.site, each.level) for each in found.heat] == PLACES
    assert [(each.site, each.level) for each in found.gates] == [place for place in PLACES if place[1] != BEFORE]
    assert all(each.values.shape == (3, *each.values.shape[1:]) for each in found.heat)
    alone = explain(network, queries[2:], device="cpu", gates=False)
    assert (alone.targets, alone.gates) == (found.targets[2:], ())
    for one, all_ in zip(alone.heat, found.heat, strict=True):
        np.testing.assert_allclose(one.values[0], all_.values[2], rtol=1e-3, atol=1e-5 * all_.values.max())
    for mask, path in zip(found.masks, queries, strict=True):
        np.testing.assert_array_equal(mask, mask_of_file(path))
    shares = found.on_person()
    assert list(shares) == PLACES
    known = np.stack(list(shares.values()))
    assert np.nanmin(known) >= 0
    assert np.nanmax(known) <= 1


def test_each_image_may_have_another_to_be_compared_with(network, queries, monkeypatch):
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    others = queries[1:] + queries[:1]
    found = explain(network, queries, against=others, gates=False, device="cpu")
    assert [said.partition(",")[0] for said in found.targets] == [f"similarity to {path.name}" for path in others]
    one = explain(network, queries, against=others[:1], gates=False, device="cpu")
    assert one.targets[0] == found.targets[0]
    assert {said.partition(",")[0] for said in one.targets} == {f"similarity to {others[0].name}"}
    first = sheets_of(found)[0]
    assert first.against is not None
    with pytest.raises(ValueError, match="one image or 3, got 2"):
        explain(network, queries, against=others[:2])


def test_a_network_without_a_classifier_needs_another_image(trained_run, queries):
    without = open_run(trained_run)
    with pytest.raises(UserError, match="must have a classifier.*--against"):
        explain(without, queries, device="cpu")
    assert explain(without, queries[:1], against=queries[1:2], device="cpu").targets[0].startswith("similarity to ")


class Sources(HTMLParser):
    """Everything that a page would fetch, and its pictures' descriptions."""

    def __init__(self, text):
        super().__init__()
        self.found, self.described = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        told = dict(attributes)
        self.found += [told[name] for name in ("src", "href", "srcset", "data") if name in told]
        if tag == "img":
            self.described.append(told["alt"])
        assert tag not in ("script", "link", "iframe")


def test_the_command_writes_pictures_and_a_page_that_needs_nothing_beside_it(trained_run, queries, tmp_path, capsys):
    mine = tmp_path / "b" / queries[0].name  # of the same name, and no rendered one any more
    write_image(mine, 7)
    out = tmp_path / "new" / "explained"
    words = ["explain", str(trained_run), str(queries[0]), str(mine), "--out", str(out), "--device", "cpu", "--json"]
    assert main(words) == 0, capsys.readouterr().err
    told = json.loads(capsys.readouterr().out)
    stem = queries[0].stem
    assert sorted(path.name for path in out.iterdir()) == [f"{stem}-2.png", f"{stem}.png", "index.html"]
    for name in (f"{stem}.png", f"{stem}-2.png"):
        picture = np.asarray(Image.open(out / name).convert("RGB"))
        assert picture.shape[0] > 800
        assert picture.std() > 20
    page = (out / "index.html").read_text()
    sources = Sources(page)
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources.found)
    assert len(sources.found) == 2 * (1 + len(PLACES) + 8)
    assert "url(" not in page
    assert "@import" not in page
    check_policy(page, scripts=False)
    for words in ("layer4, level 2, Grad-CAM, 2 × 1", "layer1, gate, level 1, of 64 channels"):
        assert any(words in described for described in sources.described), words
    rendered, photograph = told["images"]
    assert rendered["target"].startswith("person ")
    assert 0.05 < rendered["person_covers"] < 0.7
    assert photograph["person_covers"] is None
    assert {each["on_person"] for each in photograph["maps"]} == {None}
    assert f"{rendered['person_covers']:.0%}" in page
    shown = [each["on_person"] for each in rendered["maps"] if each["on_person"] is not None]
    assert shown
    assert all(f"{share:.0%} on the person" in page for share in shown)


def test_the_table_and_the_help_say_what_is_there(trained_run, queries, tmp_path, capsys):
    words = ["explain", str(trained_run), str(queries[0]), "--against", str(queries[1]), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert says(printed, f"{queries[0].name}: similarity to {queries[1].name}, ")
    assert re.search(r"layer4 +level2 +\d+ x \d+ +(\d+%|-)", printed)
    assert main(["explain", "--help"]) == 0
    assert says(capsys.readouterr().out, " explain runs/c2 someone.jpg --out explained")


@pytest.mark.parametrize(
    ("asked", "more", "parts"),
    [
        (["nothing.jpg"], [], ("there is no image", "nothing.jpg")),
        ([], [], ("IMAGE is missing",)),
        (["q"], ["--against", "nothing.jpg"], ("there is no image", "nothing.jpg")),
        (["q"], ["--out", "a-file"], ("--out must be a folder", "a-file")),
        (["broken.jpg"], [], ("broken.jpg",)),
        (["q"], ["--agaisnt", "x"], ("--against",)),
    ],
)
def test_mistakes_are_one_sentence_and_nothing_is_written(
    asked, more, parts, trained_run, queries, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").write_text("mine")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    names = [str(queries[0]) if name == "q" else name for name in asked]
    assert main(["explain", str(trained_run), *names, *more]) == 2
    said = capsys.readouterr().err
    assert says(said, "error: ", *parts)
    assert said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-file", "broken.jpg"]


def test_a_checkpoint_without_a_classifier_is_told_by_the_command(trained_run, queries, tmp_path, capsys, monkeypatch):
    def without(*words, classifier):
        return open_run(*words)

    monkeypatch.setattr(module, "open_run", without)
    assert main(["explain", str(trained_run), str(queries[0]), "--out", str(tmp_path / "out")]) == 2
    assert says(capsys.readouterr().err, "error: explain: the network must have a classifier", "--against")
    assert not (tmp_path / "out").exists()
