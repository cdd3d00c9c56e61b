"""The report's page against fabricated run folders: what it holds is what they say."""

import base64
import io
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from reference_pipelines.errors import UserError
from reference_pipelines.reporting.figures import STRONGEST_SLOTS, attention_rows
from reference_pipelines.reporting.report import find_people, write_report
from reference_pipelines.reporting.table import EVALUATION_HEADINGS, HEADINGS, table_rows
from reference_pipelines.runs.provenance import file_digest

QUERIES, LENGTH, EPOCHS = 3, 10, 4


class Page(HTMLParser):
    """A page as a list of (tag, attributes), its table cells, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self.words, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.open.pop()

    def handle_data(self, data):
        self.words.append(data)
        if self.open:
            self.cells[-1] += data

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def having(self, css_class):
        return [attrs for _, attrs in self.tags if set(css_class.split()) <= set((attrs.get("class") or "").split())]


def draw_person(path, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 160, (128, 64, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    pen.ellipse((25, 8, 39, 26), fill=(220, 180, 150))
    pen.rectangle((20, 27, 44, 72), fill=tuple(rng.integers(0, 255, 3).tolist()))
    pen.rectangle((23, 73, 41, 120), fill=tuple(rng.integers(0, 255, 3).tolist()))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=90)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    paths = [root / "query" / f"{i:04d}_c1s1_000001_00.jpg" for i in range(QUERIES)]
    paths += [root / "gallery" / f"{i:04d}_c2s1_000001_00.jpg" for i in range(20)]
    for seed, path in enumerate(paths):
        draw_person(path, seed)
    return root


def score(mean):
    low, high = mean - 0.0312, mean + 0.0287
    return {"mAP": mean, "interval": [low, high], "rank1": mean + 0.1, "queries": QUERIES, "skipped": 0}


def log_lines(pipeline, seed):
    yield {"epoch": 0, "mAP": 0.05, "rank1": 0.02, "seconds": 1.0}
    for epoch in range(1, EPOCHS + 1):
        line = {"epoch": epoch, "loss": 5.0 / epoch + seed}
        if pipeline == "mla":
            line |= {"clusters": 9, "noise": 0.1, "id_purity": 0.2 * epoch, "camera_purity": 0.9}
        if epoch % 2 == 0:
            line |= {"mAP": 0.1 * epoch, "rank1": 0.2}
        yield line | {"seconds": 2.0 * epoch}


def gates_of(kind):
    rng = np.random.default_rng(0)
    shapes = {
        "none": {},
        "channels": {"layer1/level1": (16, 1, 1), "layer1/level2": (16, 1, 1)},
        "spatial": {"layer1/level1": (1, 8, 4)},
        "mla": {"layer4.0.conv2/pixel": (16, 6, 3), "layer4.0.conv2/domain": (8, 6, 3)},
    }
    return {name: rng.uniform(0.2, 0.8, (QUERIES, *shape)).astype(np.float32) for name, shape in shapes[kind].items()}


def make_run(folder, images, pipeline="apnet", *, title="APNet-C2", kind="channels", seed=0):
    """Write a finished run's folder, with `seed` 0 ... setting its numbers, and return it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    gallery = sorted(str(path) for path in (images / "gallery").iterdir())
    queries = sorted(str(path) for path in (images / "query").iterdir())
    lists = []
    for i, query in enumerate(queries):
        shown = rng.permutation(gallery)[:LENGTH].tolist()
        ranked = [{"image": path, "match": bool(rng.random() < 0.3)} for path in shown]
        lists.append({"query": query, "average_precision": 0.1234 + 0.1 * i, "ranked": ranked})
    config = {
        "title": title,
        "data": {"root": str(images), "image_size": [96, 48]},
        "model": {"backbone": "resnet_demo"},
        "optimizer": {"epochs": EPOCHS},
        "seed": 7,
    }
    result = {
        "pipeline": pipeline,
        "title": title,
        "data": {
            "name": "market1501",
            "summary": "market1501 at somewhere: train 40 images of 4 ids",
            "fingerprint": "f1n9e2p21n7",
        },
        "weights": "none" if pipeline == "apnet" else "runs/source/model.safetensors",
        "chance": 0.0312,
        "start": score(0.05),
        "final": score(0.4 + 0.031 * seed),
        "train_seconds": 60.2,
        "seconds": 91.4,
        "hardware": "a computer",
        "command": "train apnet --out x",
        "commit": "c0mm17",
        "code": "50urce5",
        "versions": {"attnreid": "0.1.0", "torch": "2.6"},
        "config": config,
    }
    if pipeline == "mla":
        result["clustering"] = {"clusters": 31, "noise": 0.2, "id_purity": 0.478, "camera_purity": 0.8}
    (folder / "result.json").write_text(json.dumps(result))
    lines = log_lines(pipeline, seed)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "examples.json").write_text(json.dumps({"lists": lists, "attention_images": queries}))
    np.savez_compressed(folder / "attention.npz", **gates_of(kind))
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory, images):
    root = tmp_path_factory.mktemp("runs")
    return [
        make_run(root / "none", images, title="none", kind="none"),
        make_run(root / "mla", images, "mla", title="MLA", kind="mla", seed=1),
        make_run(root / "c2", images, title="APNet-C2", kind="channels", seed=2),
        make_run(root / "s2", images, title="APNet-S2", kind="spatial", seed=3),
    ]


@pytest.fixture(scope="session")
def text(tmp_path_factory, runs):
    out = tmp_path_factory.mktemp("out") / "report.html"
    assert write_report(runs, out, title="A title") == out
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def page(text):
    return Page(text)


def results_of(runs):
    return [json.loads((run / "result.json").read_text()) for run in runs]


def lists_of(runs):
    return [shown for run in runs for shown in json.loads((run / "examples.json").read_text())["lists"]]


def test_the_table_is_the_tables_cells_grouped_by_pipeline(page, runs):
    none, mla, c2, s2 = table_rows(results_of(runs))
    start = page.cells.index(HEADINGS[0])
    cells = page.cells[start : start + 6 * len(HEADINGS)]
    width = len(HEADINGS)
    assert tuple(cells[:width]) == HEADINGS
    assert cells[width].startswith("APNet: supervised")
    assert "starting weights: random" in cells[width]
    rows = cells[width + 1 :]
    assert [tuple(rows[i * width : (i + 1) * width]) for i in range(3)] == [none, c2, s2]
    assert rows[3 * width].startswith("MLA: unsupervised")
    assert "starting weights: runs/source/model.safetensors" in rows[3 * width]
    assert tuple(rows[3 * width + 1 : 4 * width + 1]) == mla


def test_what_evaluate_wrote_later_is_a_table_of_its_own(tmp_path, images, text):
    assert "Evaluated later" not in text
    run = make_run(tmp_path / "run", images)
    (run / "evaluations").mkdir()
    for name, mean in (("b", 0.222), ("a", 0.111)):
        numbers = {
            "title": "APNet-C2",
            "trained_on": {"name": "market1501"},
            "tested_on": {"name": f"dukemtmc {name}"},
            "flip": True,
            "reranked": name == "b",
            "chance": 0.01,
            "scores": {**score(mean), "rank5": 0.6, "rank10": 0.7, "rank20": 0.8, "mINP": 0.05, "mAP_market": 0.3},
            "weights": {"name": "model"},
        }
        (run / "evaluations" / f"{name}.json").write_text(json.dumps(numbers))
    page = Page(write_report([run], tmp_path / "report.html").read_text(encoding="utf-8"))
    start = page.cells.index("tested on") - 2
    width = len(EVALUATION_HEADINGS)
    assert page.cells[start : start + width] == list(EVALUATION_HEADINGS)
    assert page.cells[start + width : start + 3 * width] == [
        *("APNet-C2", "market1501", "dukemtmc a", "flip", "11.1 [8.0, 14.0]", "21.1"),
        *("60.0", "70.0", "80.0", "5.0", "30.0", "1.0"),
        *("APNet-C2", "market1501", "dukemtmc b", "flip + re-ranked", "22.2 [19.1, 25.1]", "32.2"),
        *("60.0", "70.0", "80.0", "5.0", "30.0", "1.0"),
    ]


def test_a_foreign_file_among_the_evaluations_is_refused(tmp_path, images):
    run = make_run(tmp_path / "run", images)
    (run / "evaluations").mkdir()
    (run / "evaluations" / "x.json").write_text("{}")
    with pytest.raises(UserError, match="/run .*whole run, .*KeyError"):
        write_report([run], tmp_path / "report.html")


def test_the_sections_come_in_their_order(page):
    sections = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    assert sections == ["scores", "curves", "images", "rankings", "attention", "provenance"]
    assert page.text.startswith("A title")
    assert page.text.index("What is seen") < page.text.index("What is not claimed") < page.text.index("Scores")
    assert "Data: market1501 at somewhere: train 40 images of 4 ids" in page.text


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(text, page):
    links = [attrs[name] for _, attrs in page.tags for name in ("src", "href", "xlink:href") if attrs.get(name)]
    assert len(links) > 100
    assert {link.partition(":")[0] if ":" in link else link[0] for link in links} == {"data", "#"}
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not re.search(r"@import|url\((?!#)", text)


def test_every_reference_inside_the_page_has_one_target(page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = {attrs[name] for _, attrs in page.tags for name in ("href", "xlink:href") if attrs.get(name)}
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)


def test_marks_are_the_matches_of_the_data_by_sign_and_by_class(text, page, runs):
    marks = [entry["match"] for shown in lists_of(runs) for entry in shown["ranked"]]
    assert 0 < sum(marks) < len(marks)
    hits = re.findall(r'class="hit (right|wrong)".*?<span>(\d+)</span><span>(.)</span>', text)
    assert [kind == "right" for kind, _, _ in hits] == marks
    assert [sign == "✓" for _, _, sign in hits] == marks
    assert {sign for _, _, sign in hits} == {"✓", "✗"}
    assert [int(rank) for _, rank, _ in hits] == [1 + i % LENGTH for i in range(len(marks))]


def test_each_ranked_list_shows_its_own_images_and_precision(text, runs):
    store = dict(re.findall(r'<symbol id="(image\d+)".*?href="data:image/jpeg;base64,([^"]+)"', text))
    section = text[text.index('id="rankings"') : text.index('id="attention"')]
    shown = re.findall(r'<title>([^<]+)</title><use href="#(image\d+)"', section)
    expected = [
        path for ranked in lists_of(runs) for path in (ranked["query"], *(entry["image"] for entry in ranked["ranked"]))
    ]
    assert [name for name, _ in shown] == [path.rsplit("/", 1)[1] for path in expected]
    for path, (_, key) in list(zip(expected, shown, strict=True))[:12]:
        ours = np.asarray(Image.open(io.BytesIO(base64.b64decode(store[key]))), dtype=float)
        assert np.abs(ours - np.asarray(Image.open(path), dtype=float)).mean() < 12
    assert re.findall(r"AP <b>([\d.]+)</b>", section) == ["12.3", "22.3", "32.3"] * len(runs)


def test_each_distinct_image_is_embedded_once(text, runs):
    shown = lists_of(runs)
    distinct = {path for each in shown for path in (each["query"], *(entry["image"] for entry in each["ranked"]))}
    assert text.count("data:image/jpeg") - text.count('src="data:image/jpeg') == len(distinct)


CHARTS = {"loss": EPOCHS, "mAP": 1 + EPOCHS // 2, "id_purity": EPOCHS, "camera_purity": EPOCHS}


@pytest.mark.parametrize(
    ("first", "members", "measures"),
    [("run0", ("run0", "run2", "run3"), ("loss", "mAP")), ("run1", ("run1",), tuple(CHARTS))],
)
def test_charts_hold_a_line_a_run_with_a_point_a_measured_epoch(text, first, members, measures):
    for measure in measures:
        name = f"{first}-{measure}"
        chart = ElementTree.fromstring(
            re.search(rf'<svg id="{name}".*?</svg>', text, re.S)[0].replace("<svg", '<svg xmlns:xlink="x"', 1)
        )
        for key in members:
            line = chart.find(f".//g[@id='{name}-{key}']")
            assert len(line.findall(".//use")) == CHARTS[measure], (name, key)
        lines = [group.get("id") for group in chart.iter("g") if re.fullmatch(rf"{name}-run\d+", group.get("id", ""))]
        assert lines == [f"{name}-{key}" for key in members]
        assert (chart.find(f".//g[@id='{name}-dashed']") is not None) == (measure == "mAP")
    assert ("run0-id_purity" in text) is False


def test_charts_say_their_values_and_chance(page):
    (spoken,) = [attrs["aria-label"] for _, attrs in page.tags if attrs.get("id") == "run0-mAP"]
    assert "APNet-C2: 5 at epoch 0, 40 at epoch 4" in spoken
    assert "chance 3.1" in page.text


def test_a_loss_that_is_no_number_is_left_out_of_the_curve(tmp_path, images):
    folder = make_run(tmp_path / "run", images)
    lines = (folder / "log.jsonl").read_text().replace('"loss": 1.25', '"loss": NaN')
    (folder / "log.jsonl").write_text(lines)
    text = write_report([folder], tmp_path / "r.html").read_text()
    group = re.search(r'<g id="run0-loss-run0">.*?</g>\s*</g>', text, re.S)[0]
    assert group.count("<use") == EPOCHS - 1
    assert "APNet-C2: 5 at epoch 1, 1.67 at epoch 3" in text


def test_attention_is_drawn_over_each_image_or_said_to_be_absent(text, page):
    section = text[text.index('id="attention"') : text.index('id="provenance"')]
    assert section.count('class="strip"') == 2
    assert section.count('<img src="data:image/jpeg') == QUERIES * (1 + 1 + STRONGEST_SLOTS)
    assert section.count("no maps") == 1
    assert "none no maps" in " ".join(re.sub("<[^>]+>", " ", section).split())
    for words in ("spatial gate, 8 × 4", "mean over 16 channels, 6 × 3", "memory slot", "16 channels in the order"):
        assert words in page.text


def test_maps_are_scaled_by_their_range_and_bright_where_the_gate_is_high(images):
    paths = sorted(str(path) for path in (images / "query").iterdir())
    gate = np.full((QUERIES, 1, 4, 2), 0.25)
    gate[:, :, 2:] = 0.75
    (row,) = attention_rows({"a.b/level1": gate}, paths)
    assert (row.site, row.level, row.low, row.high) == ("a.b", "level1", 0.25, 0.75)
    tile = np.asarray(Image.open(io.BytesIO(base64.b64decode(row.tiles[0].partition(",")[2]))).convert("RGB"))
    red_over_blue = tile[..., 0].astype(float) - tile[..., 2]
    assert red_over_blue[-30:].mean() > 40 > red_over_blue[:30].mean()


def test_pixel_maps_are_means_and_domain_maps_the_slots_that_vary_most():
    pixel = np.stack([np.full((2, 2), 0.2), np.full((2, 2), 0.6)])[None]
    (row,) = attention_rows({"s/pixel": pixel}, ["gone.jpg"])
    assert row.low == row.high == pytest.approx(0.4)
    domain = np.full((1, 5, 2, 2), 0.2)
    domain[0, 3, 0, 0], domain[0, 1, 0, 0] = 0.5, 0.3
    rows = attention_rows({"s/domain": domain}, ["gone.jpg"])
    assert [row.note.split(" of")[0] for row in rows[:2]] == ["memory slot 4", "memory slot 2"]
    assert len(rows) == STRONGEST_SLOTS


def test_a_strip_has_a_row_an_image_and_its_channels_in_the_order_of_their_mean():
    gate = np.array([[0.9, 0.1, 0.5], [0.7, 0.3, 0.4]])[..., None, None]
    (row,) = attention_rows({"/se": gate}, ["a.jpg", "b.jpg"])
    strip = np.asarray(Image.open(io.BytesIO(base64.b64decode(row.tiles[0].partition(",")[2]))))
    assert strip.shape == (2, 3, 3)
    assert (np.diff(strip[..., 1].astype(int), axis=1) > 0).all()


def test_people_are_joined_by_shared_images():
    def ranked(query, *matches):
        entries = [{"image": name, "match": True} for name in matches] + [{"image": "x", "match": False}]
        return {"query": query, "ranked": entries}

    lists = [ranked("q1", "a"), ranked("q2", "b"), ranked("q3", "c"), ranked("q1", "b", "d")]
    people = [(sorted(person.queries), sorted(person.gallery)) for person in find_people(lists)]
    assert people == [(["q1", "q2"], ["a", "b", "d"]), (["q3"], ["c"])]


def test_provenance_names_what_made_each_number(page, runs):
    assert page.text.count("f1n9e2p21n7") == len(runs) + 1  # and once beside the data's summary
    for words in ("train apnet --out x", "c0mm17", "50urce5", "a computer", "attnreid 0.1.0, torch 2.6"):
        assert page.text.count(words) == len(runs)
    assert page.text.count(str(runs[1])) == 1


def test_drawings_are_called_drawings_only_where_the_renderer_left_its_manifest(tmp_path, images, page):
    assert "rendered" not in page.text
    shutil.copytree(images, tmp_path / "data")
    (tmp_path / "data" / "rendered.json").write_text("{}")
    drawn = make_run(tmp_path / "drawn", tmp_path / "data")
    other = make_run(tmp_path / "other", images, "mla", title="MLA")
    text = Page(write_report([drawn], tmp_path / "r.html").read_text()).text
    assert "numbers of rendered drawings, not photographs" in text
    mixed = Page(write_report([drawn, other], tmp_path / "r.html").read_text())
    assert "in part rendered drawings" in mixed.text
    assert len(mixed.having("badge")) == 1


def test_two_runs_of_one_title_are_told_apart_by_their_folder_everywhere(tmp_path, images):
    folders = [make_run(tmp_path / name, images, kind="spatial", seed=seed) for seed, name in enumerate(("one", "two"))]
    (folders[1] / "evaluations").mkdir()
    numbers = {
        **{
            "title": "APNet-C2",
            "trained_on": {"name": "a"},
            "tested_on": {"name": "b"},
            "flip": True,
            "reranked": False,
        },
        **{"chance": 0.01, "weights": {"name": "model"}, "remarks": ["it is of one query"]},
        "scores": {**score(0.2), "rank5": 0.6, "rank10": 0.7, "rank20": 0.8, "mINP": 0.05, "mAP_market": 0.3},
    }
    (folders[1] / "evaluations" / "x.json").write_text(json.dumps(numbers))
    text = write_report(folders, tmp_path / "r.html").read_text()
    page = Page(text)
    for name, rows in (("one", 2), ("two", 3)):  # scores, provenance and, of the second, an evaluation
        assert page.cells.count(f"APNet-C2 ({name})") == rows
        assert text.count(f"<summary>APNet-C2 ({name})") == 2  # rankings and attention
        legend = re.search(r'<ul class="legend">.*?</ul>', text, re.S)[0]
        assert f"</svg>\nAPNet-C2 ({name})</li>" in legend
        assert text.count(f"<title>APNet-C2 ({name})</title>") == 2  # a line of each chart
    assert "it is of one query" in page.text


def test_what_must_be_read_with_the_scores_stands_below_them(tmp_path, images):
    folder = make_run(tmp_path / "run", images)
    result = json.loads((folder / "result.json").read_text())
    result["remarks"] = ["its mAP has not moved"]
    result["recipe"] = {"name": "demo", "title": "x", "changed": {"attention.preset": ["apnet", "none"]}}
    result["resumed"] = [{"epoch": 2, "code": "other", "processes": 1, "changed": {"data.root": ["a", "b"]}}]
    result["weights_digest"] = "d19e57"
    (folder / "result.json").write_text(json.dumps(result))
    text = write_report([folder], tmp_path / "r.html").read_text()
    assert '<ul class="notes"><li>its mAP has not moved</li></ul>' in text
    shown = Page(text).text
    assert "the recipe demo with attention.preset none" in shown
    assert "resumed after epoch 2 with other code, changed: data.root" in shown
    assert "d19e57" in shown


def test_another_image_in_an_images_place_is_not_shown(tmp_path, images):
    shutil.copytree(images, tmp_path / "data")
    folder = make_run(tmp_path / "run", tmp_path / "data", kind="spatial")
    document = json.loads((folder / "examples.json").read_text())
    shown = {entry["image"] for each in document["lists"] for entry in each["ranked"]}
    shown |= {each["query"] for each in document["lists"]}
    document["digests"] = {path: file_digest(Path(path)) for path in shown}
    (folder / "examples.json").write_text(json.dumps(document))
    assert not Page(write_report([folder], tmp_path / "r.html").read_text()).having("thumb missing")
    other = document["lists"][0]["query"]
    draw_person(Path(other), seed=99)
    boxes = Page(write_report([folder], tmp_path / "r.html").read_text()).having("thumb missing")
    assert {box["aria-label"] for box in boxes} == {f"query: {Path(other).name} (file not found or changed)"}


def test_the_result_says_whether_the_images_are_drawings_also_where_these_are_gone(tmp_path, images):
    folder = make_run(tmp_path / "run", images)
    result = json.loads((folder / "result.json").read_text())
    result["data"]["rendered"] = True
    (folder / "result.json").write_text(json.dumps(result))
    assert "numbers of rendered drawings" in Page(write_report([folder], tmp_path / "r.html").read_text()).text


def test_hostile_words_stay_words(tmp_path, images):
    hostile = '<script>alert("1")</script> $\\frac{ & "quoted" \''
    folder = make_run(tmp_path / "run", images, title=hostile)
    page = Page(write_report([folder], tmp_path / "r.html", title=hostile).read_text())
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.cells.count(hostile) == 2
    assert any(attrs.get("aria-label", "").count(hostile) for _, attrs in page.tags)


def test_an_image_that_is_gone_or_broken_leaves_a_box(tmp_path, images):
    shutil.copytree(images, tmp_path / "data")
    folder = make_run(tmp_path / "run", tmp_path / "data", kind="spatial")
    first, *_, last = lists_of([folder])[0]["ranked"]
    (tmp_path / "data/gallery" / first["image"].rsplit("/", 1)[1]).unlink()
    (tmp_path / "data/gallery" / last["image"].rsplit("/", 1)[1]).write_bytes(b"no image")
    for query in (tmp_path / "data/query").iterdir():
        query.unlink()
    page = Page(write_report([folder], tmp_path / "r.html").read_text())
    boxes = page.having("thumb missing")
    names = {box["aria-label"].partition(": ")[2] for box in boxes}
    assert {f"{entry['image'].rsplit('/', 1)[1]} (file not found or changed)" for entry in (first, last)} <= names
    assert len(names) == 2 + QUERIES
    assert len(page.having("hit")) == QUERIES * LENGTH


@pytest.mark.parametrize("name", ["result.json", "log.jsonl", "examples.json", "attention.npz"])
@pytest.mark.parametrize("harm", ["missing", "cut off"])
def test_a_folder_that_is_no_whole_run_is_refused_by_name(tmp_path, images, name, harm):
    folder = make_run(tmp_path / "run", images)
    if harm == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes((folder / name).read_bytes()[:40])
    with pytest.raises(UserError, match=re.escape(str(folder))) as caught:
        write_report([folder], tmp_path / "r.html")
    assert "\n" not in str(caught.value)
    if harm == "missing":
        assert name in str(caught.value)
    assert not (tmp_path / "r.html").exists()


def test_unfinished_foreign_and_absent_folders_are_told_apart(tmp_path, images):
    folder = make_run(tmp_path / "run", images)
    (folder / "result.json").write_text('{"title": "x"}')
    with pytest.raises(UserError, match=r"`train`, .*lacks pipeline, data, weights"):
        write_report([folder], tmp_path / "r.html")
    (folder / "result.json").unlink()
    with pytest.raises(UserError, match=r"no result\.json .*no whole checkpoint"):
        write_report([folder], tmp_path / "r.html")
    with pytest.raises(UserError, match="nowhere.*no such folder"):
        write_report([tmp_path / "nowhere"], tmp_path / "r.html")
    with pytest.raises(UserError, match="one run .*, got none"):
        write_report([], tmp_path / "r.html")


def test_a_failed_write_keeps_the_report_before_and_leaves_nothing_else(tmp_path, images, monkeypatch):
    folder = make_run(tmp_path / "run", images)
    out = tmp_path / "out" / "r.html"
    write_report([folder], out, title="before")
    before = out.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*r\.html \(No space left on device\); .*--out"):
        write_report([folder], out, title="after")
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == ["r.html"]


def test_a_folder_in_the_reports_place_is_refused(tmp_path, images):
    folder = make_run(tmp_path / "run", images)
    (tmp_path / "r.html").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        write_report([folder], tmp_path / "r.html")
    assert not list(tmp_path.glob("*.partial"))


def test_the_same_runs_give_the_same_bytes_and_stay_small(tmp_path, runs, text):
    again = write_report([*runs], tmp_path / "r.html", title="A title").read_text(encoding="utf-8")
    assert again == text
    eight = write_report([*runs, *runs], tmp_path / "eight.html")
    assert eight.stat().st_size < 2_000_000
