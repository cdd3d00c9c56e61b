"""The report's page against fabricated run folders: what it holds is what they say."""

import base64
import io
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reference_pipelines.errors import UserError
from reference_pipelines.ledger.recording import record
from reference_pipelines.reporting.figures import STRONGEST_SLOTS, attention_rows
from reference_pipelines.reporting.report import find_people, write_report
from reference_pipelines.reporting.table import EVALUATION_HEADINGS
from reference_pipelines.runs.provenance import file_digest
from tests.ledger.support import finished_run
from tests.reporting.support import (
    EPOCHS,
    LENGTH,
    QUERIES,
    Page,
    add_evaluation,
    check_policy,
    draw_images,
    draw_person,
    enrich,
    evaluation,
    make_run,
    open_set,
    reported,
)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("data"))


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


def test_each_pipeline_has_a_table_of_its_runs_without_columns_that_say_nothing(page, runs):
    apnet, mla = page.tables["APNet: supervised"], page.tables["MLA: unsupervised"]
    assert apnet[0] == ["variant", "mAP", "rank-1", "mAP at start", "chance", "minutes"]
    assert mla[0] == [*apnet[0][:-1], "clusters", "purity: id", "purity: camera", "minutes"]
    none, of_mla, c2, s2 = results_of(runs)
    assert apnet[1:] == [[result["title"], *scores_of(result), "3.1", "1.5"] for result in (none, c2, s2)]
    assert mla[1:] == [[of_mla["title"], *scores_of(of_mla), "3.1", "31", "0.48", "0.80", "1.5"]]
    assert "Starting weights: random" in page.text
    assert "Starting weights: runs/source/model.safetensors" in page.text


def scores_of(result):
    final, start = result["final"], result["start"]
    cells = [f"{100 * final['mAP']:.1f}{interval(final)}", f"{100 * final['rank1']:.1f}"]
    return [*cells, f"{100 * start['mAP']:.1f}{interval(start)}"]


def interval(score):
    low, high = score["interval"]
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def test_what_evaluate_wrote_later_is_a_table_of_its_own(tmp_path, images, page):
    assert "Evaluated later" not in page.tables
    run = make_run(tmp_path / "run", images)
    add_evaluation(run, "b", evaluation(0.222, "dukemtmc b", "f3", reranked=True))
    add_evaluation(run, "a", evaluation(0.111, "dukemtmc a", "f2"))
    heads, *rows = reported([run], tmp_path / "report.html").tables["Evaluated later"]
    assert heads == [*EVALUATION_HEADINGS[:4], "mAP", *EVALUATION_HEADINGS[5:]]
    assert rows == [
        [
            *("APNet-C2", "market1501", "dukemtmc a", "flip", "11.1[8.0, 14.0]", "21.1"),
            *("60.0", "70.0", "80.0", "5.0", "30.0", "1.0"),
        ],
        [
            *("APNet-C2", "market1501", "dukemtmc b", "flip + re-ranked", "22.2[19.1, 25.1]", "32.2"),
            *("60.0", "70.0", "80.0", "5.0", "30.0", "1.0"),
        ],
    ]


def test_evaluations_on_other_files_or_of_other_weights_never_look_alike(tmp_path, images):
    run = make_run(tmp_path / "run", images)
    remarks = {"remarks": ["a remark"]}
    add_evaluation(run, "a", evaluation(tested="people.csv", fingerprint="f8", **remarks))
    add_evaluation(run, "b", evaluation(tested="people.csv", fingerprint="f9", **remarks))
    add_evaluation(run, "c", evaluation(tested="people.csv", fingerprint="f9", digest="d2", **remarks))
    page = reported([run], tmp_path / "r.html")
    rows = [row[1:4] for row in page.tables["Evaluated later"][1:]]
    assert rows == [
        ["market1501", "people.csv (f8)", "flip"],
        ["market1501", "people.csv (f9)", "flip, weights d1"],
        ["market1501", "people.csv (f9)", "flip, weights d2"],
    ]
    for words in ("people.csv (f8), flip: a remark", "people.csv (f9), flip, weights d2: a remark"):
        assert f"APNet-C2, tested on {words}" in page.text
    assert "people.csv (f9) , fingerprint f9" in page.text  # among the data, by which the two are looked up


def test_a_foreign_file_among_the_evaluations_is_refused(tmp_path, images):
    run = make_run(tmp_path / "run", images)
    (run / "evaluations").mkdir()
    (run / "evaluations" / "x.json").write_text("{}")
    with pytest.raises(UserError, match="/run .*whole run, .*x.json.title must be there"):
        write_report([run], tmp_path / "report.html")


def test_the_sections_come_in_their_order(page):
    sections = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    assert sections == ["scores", "curves", "embedding", "images", "rankings", "attention", "provenance"]
    assert page.text.startswith("A title")
    assert page.text.index("What is seen") < page.text.index("What is not claimed") < page.text.index("Scores")
    assert "Data: market1501 : market1501 at somewhere: train 40 images of 4 ids, fingerprint f1n9e2p21n7" in page.text


def test_nothing_is_loaded_from_elsewhere_and_nothing_foreign_runs(text, page):
    links = [attrs[name] for _, attrs in page.tags for name in ("src", "href", "xlink:href") if attrs.get(name)]
    assert len(links) > 100
    assert {link.partition(":")[0] if ":" in link else link[0] for link in links} == {"data", "#"}
    assert not {"iframe", "object", "form", "base"} & {tag for tag, _ in page.tags}
    assert [attrs["href"] for tag, attrs in page.tags if tag == "link"] == ["data:,"]
    assert not re.search(r"@import|url\(", text)
    check_policy(text, scripts=True)


def test_every_reference_inside_the_page_has_one_target(page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = {attrs[name] for _, attrs in page.tags for name in ("href", "xlink:href") if attrs.get(name)}
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)


def test_marks_are_the_matches_of_the_data_by_sign_and_by_class(text, page, runs):
    marks = [entry["match"] for shown in lists_of(runs) for entry in shown["ranked"]]
    assert 0 < sum(marks) < len(marks)
    hits = re.findall(r'class="crop (right|wrong)".*?<span>(\d+)</span><span>(.)</span>', text)
    assert [kind == "right" for kind, _, _ in hits] == marks
    assert [sign == "✓" for _, _, sign in hits] == marks
    assert {sign for _, _, sign in hits} == {"✓", "✗"}
    assert [int(rank) for _, rank, _ in hits] == [1 + i % LENGTH for i in range(len(marks))]


def test_each_ranked_list_shows_its_own_images_and_precision(text, runs):
    store = dict(re.findall(r'<symbol id="(image\d+)".*?href="data:image/jpeg;base64,([^"]+)"', text))
    section = text[text.index('id="rankings"') : text.index('id="attention"')]
    shown = re.findall(r'aria-label="[^"]*: ([^":]+)"><use href="#(image\d+)"', section)
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


CHARTS = {
    **{"loss": EPOCHS, "mAP": 1 + EPOCHS // 2},
    **dict.fromkeys(("clusters", "noise", "id_purity", "camera_purity"), EPOCHS),
}


@pytest.mark.parametrize(
    ("first", "members", "measures"),
    [("run0", ("run0", "run2", "run3"), ("loss", "mAP")), ("run1", ("run1",), tuple(CHARTS))],
)
def test_charts_hold_a_line_a_run_with_a_point_a_measured_epoch(text, runs, first, members, measures):
    for measure in measures:
        name = f"{first}-{measure}"
        chart = chart_of(text, name)
        for key in members:
            line = chart.find(f".//g[@id='{name}-{key}']")
            assert len(line.findall("path")) == 1 + CHARTS[measure], (name, key)
        lines = [group.get("id") for group in chart.iter("g") if re.fullmatch(rf"{name}-run\d+", group.get("id", ""))]
        assert lines == [f"{name}-{key}" for key in members]
        assert (chart.find(f".//g[@id='{name}-dashed']") is not None) == (measure == "mAP")
        shown = plot_of(text, name)["lines"]
        logged = [[json.loads(line) for line in (runs[int(key[3])] / "log.jsonl").open()] for key in members]
        for (_, _, points), log in zip(shown, logged, strict=True):
            scale = 100 if measure in ("mAP", "noise") else 1
            values = [(f"{e['epoch']}", f"{scale * e[measure]:.4g}") for e in log if measure in e]
            assert [(x, y) for _, _, x, y in points] == values
    assert ("run0-id_purity" in text) is False


def chart_of(text, name):
    return ElementTree.fromstring(re.search(rf'<svg class="chart" id="{name}".*?</svg>', text, re.S)[0])


def plot_of(text, name):
    """What a hover shows over a chart."""
    return json.loads(unescape(re.search(rf'data-plot="([^"]*)"><svg class="chart" id="{name}"', text)[1]))


@pytest.mark.parametrize("name", ["run0-mAP", "run1-loss"])
def test_a_chart_draws_its_values_where_its_ticks_say(text, name):
    ticks = {
        float(each.text): float(each.get("y")) - 4.2
        for each in chart_of(text, name).iter("text")
        if each.get("text-anchor") == "end"
    }
    low, high = min(ticks), max(ticks)
    assert (ticks[high], ticks[low]) == (pytest.approx(12, abs=0.2), pytest.approx(178, abs=0.2))
    scale = (ticks[high] - ticks[low]) / (high - low)
    for _, y, _, value in plot_of(text, name)["lines"][0][2]:
        assert y == pytest.approx(ticks[low] + scale * (float(value) - low), abs=0.3)


def test_the_held_out_curve_is_shown_where_there_is_one(tmp_path, images, text):
    assert "held out" not in text
    folder = make_run(tmp_path / "run", images)
    lines = [json.loads(line) for line in (folder / "log.jsonl").open()]
    for line in lines[::2]:
        line["held_out_mAP"] = 0.5 + line["epoch"] / 100
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = write_report([folder], tmp_path / "r.html").read_text()
    ((_, _, points),) = plot_of(text, "run0-held_out_mAP")["lines"]
    assert [(x, y) for _, _, x, y in points] == [("0", "50"), ("2", "52"), ("4", "54")]


def test_charts_say_their_values_and_chance(page):
    (spoken,) = [attrs["aria-label"] for _, attrs in page.tags if attrs.get("id") == "run0-mAP"]
    assert "APNet-C2: 5 at epoch 0, 40 at epoch 4" in spoken
    assert "chance 3.1" in page.text


def test_a_loss_that_is_no_number_is_left_out_of_the_curve(tmp_path, images):
    folder = make_run(tmp_path / "run", images)
    lines = (folder / "log.jsonl").read_text().replace('"loss": 1.25', '"loss": NaN')
    (folder / "log.jsonl").write_text(lines)
    text = write_report([folder], tmp_path / "r.html").read_text()
    assert len(chart_of(text, "run0-loss").findall(".//g[@id='run0-loss-run0']/path")) == EPOCHS
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
    add_evaluation(folders[1], "x", evaluation(remarks=["it is of one query"]))
    text = write_report(folders, tmp_path / "r.html").read_text()
    page = Page(text)
    for name, rows in (("one", 1), ("two", 2)):  # scores and, of the second, an evaluation
        assert page.cells.count(f"APNet-C2 ({name})") == rows
        assert text.count(f"<summary>APNet-C2 ({name})") == 3  # rankings, attention and what made it
        legend = re.search(r'<ul class="legend ">.*?</ul>', text, re.S)[0]
        assert f"</svg>APNet-C2 ({name})</li>" in legend
        assert text.count(f"<title>APNet-C2 ({name})</title>") == 3  # a line of each chart
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
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert page.cells.count(hostile) == 1
    assert page.words.count(hostile) > 4
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
    assert len(page.having("crop right")) + len(page.having("crop wrong")) == QUERIES * LENGTH


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


def test_person_camera_and_file_stand_under_each_crop(tmp_path, images):
    run = enrich(make_run(tmp_path / "run", images))
    text = write_report([run], tmp_path / "r.html").read_text()
    section = text[text.index('id="rankings"') : text.index('id="attention"')]
    captions = [
        re.sub("<[^>]+>", " ", each).split() for each in re.findall("<figcaption>(.*?)</figcaption>", section, re.S)
    ]
    document = json.loads((run / "examples.json").read_text())
    expected = []
    for shown in (*document["lists"], *document["worst"]):
        expected.append(["id", shown["person"], "camera", "1", Path(shown["query"]).name])
        for entry in shown["ranked"]:
            who = ["id", entry["person"]] if entry["person"] else ["distractor"]
            expected.append([*who, "camera", "2", Path(entry["image"]).name])
    assert captions == expected
    assert "The worst 2 queries" in section


def test_a_run_of_before_is_shown_without_what_it_did_not_keep(page):
    assert "The worst queries were not kept" in page.text
    assert "no map: the run has kept none" in page.text
    assert "Failures by camera" not in page.text
    assert "id 000" not in page.text


def test_failures_stand_by_the_cameras_of_query_and_match(tmp_path, images):
    page = reported([enrich(make_run(tmp_path / "run", images))], tmp_path / "r.html")
    assert page.tables[None] == [
        ["queries of", "in camera 1", "in camera 2", "in camera 3"],
        ["camera 1", "", "25 %of 4", ""],
        ["camera 2", "80 %of 5", "", "0 %of 3"],
    ]
    assert [len(page.having(f"h{degree}")) for degree in range(5)] == [1, 0, 1, 0, 1]


def test_the_map_has_each_point_at_its_place_and_says_who_it_is(tmp_path, images):
    run = enrich(make_run(tmp_path / "run", images))
    text = write_report([run], tmp_path / "r.html").read_text()
    points = json.loads((run / "examples.json").read_text())["embedding"]["points"]
    assert "7 of 9 people; the axes have 50.0 % and 25.0 % of the variance" in text
    for side in ("person", "camera"):
        dots = {words: (x, y) for x, y, words in plot_of(text, f"run0-map-{side}")["dots"]}
        assert len(dots) == len(points)
        drawn_at = [
            dots[f"person {p['person']}, camera {p['camera']}, {'query' if p['query'] else 'gallery'}: {p['image']}"]
            for p in points
        ]
        # One scale for both axes, y upwards.
        fit = [np.polyfit([p["at"][axis] for p in points], [d[axis] for d in drawn_at], 1) for axis in (0, 1)]
        assert fit[0][0] == pytest.approx(-fit[1][0], rel=0.01)
        assert fit[0][0] > 0
        colours = re.findall(r'<path class="dot s(\d)', text[text.index(f'id="run0-map-{side}"') :])[: len(points)]
        assert len(set(colours)) == (6 if side == "person" else 3)


def test_open_set_scores_are_tables_and_a_curve(tmp_path, images, text):
    assert "Open set" not in text
    run = make_run(tmp_path / "run", images)
    add_evaluation(run, "a", evaluation(open_set=open_set()))
    text = write_report([run], tmp_path / "r.html").read_text()
    page = Page(text)
    assert page.tables["One person or two: false non-matches"] == [
        ["FMR", "threshold", "FNMR", "note"],
        ["1 %", "0.7100", "25.0[20.0, 30.0]", ""],
        ["0.01 %", "-", "-", "too few people"],
    ]
    assert page.tables["Who is it, or nobody: right identifications"][1] == ["10 %", "0.6000", "50.0[40.0, 60.0]"]
    held = page.tables["The stored thresholds on these images"][1]
    assert held == ["1 %", "0.7000", "0.5 % to 2 %", "3.0[1.0, 5.0]", "30.0[20.0, 40.0]"]
    assert "Stored thresholds, of lobby: it looks unlike." in page.text
    ((_, _, points),) = plot_of(text, "roc0")["lines"]
    assert [(float(x), float(y)) for _, _, x, y in points] == [(0.1, 10), (0.01, 40), (0.001, 80)]


def test_without_images_no_pixel_of_them_is_in_the_page(tmp_path, images, monkeypatch):
    run = enrich(make_run(tmp_path / "run", images, kind="spatial"))
    shown = write_report([run], tmp_path / "with.html").read_text()
    assert "data:image/jpeg" in shown[shown.index('class="store"') :]

    def opened(*_):
        raise AssertionError("an image was opened")

    monkeypatch.setattr("reference_pipelines.reporting.figures.open_image", opened)
    text = write_report([run], tmp_path / "without.html", images=False).read_text()
    assert "data:image" not in text[text.index('class="store"') :]
    tiles = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert len(tiles) == QUERIES  # the maps, over grey
    page = Page(text)
    assert "The pixels of all images are left out" in page.text
    assert not [attrs for tag, attrs in page.tags if tag == "section" and attrs["id"] == "images"]
    assert len(page.having("crop query")) == QUERIES + 2
    grey = [np.asarray(Image.open(io.BytesIO(base64.b64decode(tile))).convert("RGB"), dtype=float) for tile in tiles]
    assert all(np.ptp(each, axis=(0, 1)).max() > 0 for each in grey)


@pytest.mark.parametrize(
    ("name", "said"),
    [("market1501", ""), ("our doors", ""), ("Market-1501", "`reproduce`"), ("CUHK03-NP, detected", "`reproduce`")],
)
def test_the_papers_are_spoken_of_only_where_their_data_are(tmp_path, images, name, said):
    folder = make_run(tmp_path / "run", images)
    result = json.loads((folder / "result.json").read_text())
    result["data"]["name"] = name
    (folder / "result.json").write_text(json.dumps(result))
    text = reported([folder], tmp_path / "r.html").text
    claim = text[text.index("What is not claimed") : text.index("Data:")]
    assert ("papers" in claim) == bool(said)
    assert said in claim
    assert "need not hold for other data, networks or seeds" in claim


def test_the_keys_that_differ_stand_side_by_side(tmp_path, images):
    runs = [make_run(tmp_path / f"run{seed}", images, title=f"row {seed}", seed=seed) for seed in range(2)]
    result = json.loads((runs[1] / "result.json").read_text())
    result["config"]["model"]["backbone"] = "resnet50"
    result["config"]["optimizer"]["milestones"] = [1, 2]
    (runs[1] / "result.json").write_text(json.dumps(result))
    page = reported(runs, tmp_path / "r.html")
    assert page.tables["Keys of the configs that differ"] == [
        ["key", "row 0", "row 1"],
        ["model.backbone", "resnet_demo", "resnet50"],
        ["optimizer.milestones", "-", "1 2"],
    ]
    assert "Keys of the configs that differ" not in reported(runs[:1], tmp_path / "one.html").tables


def test_the_ledgers_lines_of_these_weights_are_shown_and_checked(tmp_path, images):
    cell = {"paper": "apnet", "row": "APNet-C_2", "dataset": "Market-1501", "scale": "demo"}
    mine, other = (finished_run(tmp_path / name, seed) for seed, name in enumerate(("mine", "other")))
    ledger = tmp_path / "ledger"
    entries = [record(ledger, "apnet.x", source, cell=cell) for source in (other, mine)]
    run = make_run(tmp_path / "run", images)
    shutil.copy(mine / "model.safetensors", run / "model.safetensors")
    heads, row = reported([run], tmp_path / "r.html", ledger=ledger).tables["Lines of the ledger about these runs"]
    told = dict(zip(heads, row, strict=True))
    assert told["slice"] == "apnet.x, line 2"
    assert told["cell"] == "APNet-C_2 on Market-1501, demo"
    assert told["mAP"] == f"{100 * entries[1].scores['mAP']:.1f}"
    assert told["check"] == "holds"
    lines = ledger / "apnet.x.jsonl"
    lines.write_text(lines.read_text().replace('"seconds":1.5', '"seconds":2.5'))
    _, row = reported([run], tmp_path / "r.html", ledger=ledger).tables["Lines of the ledger about these runs"]
    assert "holds" not in row
    (run / "model.safetensors").write_bytes(b"others")
    assert "no line names the weights of these runs" in reported([run], tmp_path / "r.html", ledger=ledger).text
    with pytest.raises(UserError, match="--ledger must be a ledger, there is no .*nowhere"):
        write_report([run], tmp_path / "r.html", ledger=tmp_path / "nowhere")


def test_damaged_ranks_are_refused_by_name(tmp_path, images):
    run = enrich(make_run(tmp_path / "run", images))
    (run / "ranks.npz").write_bytes(b"no ranks")
    with pytest.raises(UserError, match=r"/run must hold a whole run, .*no file of ranks"):
        write_report([run], tmp_path / "r.html")
