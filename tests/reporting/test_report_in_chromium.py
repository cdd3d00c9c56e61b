"""The report as a browser shows it: silent, without a request, readable on a phone and in the dark, by keyboard."""

import json
from types import SimpleNamespace

import pytest
from PIL import Image

from reference_pipelines.explaining.pictures import LEGEND, Sheet, SiteRow, Tile, as_page
from reference_pipelines.reporting.report import write_report
from reference_pipelines.reporting.search_page import render_search
from tests.chromium import chromium, needs_chromium
from tests.reporting.support import add_evaluation, draw_images, enrich, evaluation, make_run, open_set

pytestmark = needs_chromium

HOSTILE = "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'>\"'></title></script>&"

# Every text that is seen, its colour over what lies behind it.
CONTRAST = """
(() => {
  for (const each of document.querySelectorAll("details")) each.open = true;
  for (const each of document.querySelectorAll(".tip")) { each.hidden = false; each.textContent = "tip"; }
  const parse = (text) => {
    const parts = text.match(/[\\d.]+/g).map(Number);
    return { rgb: parts.slice(0, 3), alpha: parts.length > 3 ? parts[3] : 1 };
  };
  const light = (rgb) => rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    const layers = [];
    for (let each = element; each; each = each.parentElement) {
      const { rgb, alpha } = parse(getComputedStyle(each).backgroundColor);
      layers.push([rgb, alpha]);
      if (alpha === 1) break;
    }
    return layers.reverse().reduce((below, [rgb, alpha]) => rgb.map((c, i) => alpha * c + (1 - alpha) * below[i]),
      [255, 255, 255]);
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || element.closest("script, style, title, .store")) continue;
    if (!element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const drawn = element instanceof SVGElement;
    const ink = parse(drawn ? style.fill : style.color);
    const [a, b] = [light(ink.rgb), light(behind(element))].sort((x, y) => y - x);
    const svg = element.closest("svg");
    const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    found.push({ text: node.data.trim().slice(0, 40), ratio: (a + 0.05) / (b + 0.05),
      size: parseFloat(style.fontSize) * scale, chart: Boolean(svg), alpha: ink.alpha });
  }
  return found;
})()
"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    images = draw_images(root / "data")
    long = "APNet-S2 with a title that is as long as those of runs of which many keys were changed"
    made = [
        enrich(make_run(root / "c2", images, title="APNet-C2", kind="channels", seed=2), 1),
        enrich(make_run(root / "s2", images, title=long, kind="spatial", seed=3), 0),
        enrich(make_run(root / "mla", images, "mla", title="MLA", kind="mla", seed=1), 2),
    ]
    add_evaluation(made[0], "a", evaluation(open_set=open_set(), remarks=["a remark"]))
    add_evaluation(made[0], "b", evaluation(tested="a_data_set_with_a_long_name.csv", fingerprint="f9"))
    return made


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory):
    return write_report(runs, tmp_path_factory.mktemp("page") / "report.html", title="A title")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_is_silent_asks_for_nothing_and_is_readable(browser, report, width, dark):
    browser.open(report, width=width, dark=dark)
    assert browser.requests() == [report.absolute().as_uri()]
    texts = browser.evaluate(CONTRAST)
    assert len(texts) > 300
    faint = [each for each in texts if each["ratio"] < 4.5 or each["alpha"] < 1]
    assert not faint
    assert not [each for each in texts if each["size"] < 11]
    assert sum(each["chart"] for each in texts) > 50
    wide = browser.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]")
    assert max(wide) == width, "the page scrolls sideways"
    outside = """[...document.querySelectorAll("main *")].filter((e) => !e.closest(".scroll, svg, .tip")
        && e.getClientRects().length && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML)"""
    assert browser.evaluate(outside) == []
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [1280, 390])
def test_every_score_is_seen_without_scrolling_sideways(browser, report, width):
    browser.open(report, width=width)
    cut = """[...document.querySelectorAll("table.sortable td, table.sortable th")].filter((cell) =>
        cell.getBoundingClientRect().right > cell.closest(".scroll").getBoundingClientRect().right + 1
        || cell.scrollWidth > cell.clientWidth + 1).map((cell) => cell.textContent)"""
    browser.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
    assert browser.evaluate(cut) == []


def test_the_dark_page_is_dark(browser, report):
    ground = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    browser.open(report, dark=True)
    assert browser.evaluate(ground) < 60
    browser.open(report)
    assert browser.evaluate(ground) > 240


def test_every_image_loads(browser, report):
    browser.open(report)
    script = """Promise.all([...document.querySelectorAll("img, image")].map(async (each) => {
        const image = new Image();
        image.src = each.getAttribute("src") ?? each.getAttribute("href");
        await image.decode();
        return image.naturalWidth;
    }))"""
    widths = browser.evaluate(script)
    assert len(widths) > 30
    assert min(widths) > 0
    shown = """[...document.querySelectorAll(".thumb use")].map((use) => document.querySelector(
        use.getAttribute("href")).localName + use.getBoundingClientRect().width)"""
    browser.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
    thumbs = browser.evaluate(shown)
    assert len(thumbs) > 90
    assert not [each for each in thumbs if not each.startswith("symbol") or float(each[6:]) < 30]


@pytest.mark.slow
def test_the_page_of_a_search_has_its_style_and_pictures_and_runs_nothing(browser, tmp_path):
    paths = sorted(draw_images(tmp_path / "data").rglob("*.jpg"))[:2]
    ranked = [{"rank": 1, "path": str(paths[1]), "similarity": 0.5, "id": HOSTILE, "camera": 1}]
    found = {"model": HOSTILE, "gallery": HOSTILE, "images": 2, "engine": "exact"}
    found["queries"] = [{"query": str(paths[0]), "ranked": ranked}]
    page = tmp_path / "found.html"
    page.write_text(render_search(found))
    browser.open(page)
    assert browser.evaluate("[...document.images].map((image) => image.naturalWidth > 0)") == [True, True]
    assert browser.evaluate("getComputedStyle(document.querySelector('.query img')).outlineStyle") == "solid"
    assert (browser.requests(), browser.complaints()) == ([page.absolute().as_uri()], [])
    assert browser.evaluate("window.ran ?? null") is None
    # What a policy is for: markup that came in all the same.
    browser.evaluate(f"document.body.insertAdjacentHTML('beforeend', {json.dumps(HOSTILE)})")
    browser.evaluate("new Promise((resolve) => setTimeout(resolve, 100))")
    assert browser.evaluate("window.ran ?? null") is None
    assert any("Content Security Policy" in said for said in browser.complaints())


@pytest.mark.slow
def test_the_page_of_an_explanation_has_its_colours(browser, tmp_path):
    picture = Image.new("RGB", (8, 16))
    sheet = Sheet(
        tmp_path / "a.jpg", "person 1", picture, None, None, (SiteRow("layer4", (Tile("a", ("b",), picture),)),)
    )
    page = tmp_path / "index.html"
    page.write_text(as_page(SimpleNamespace(title="A network"), [sheet]))
    browser.open(page)
    shown = browser.evaluate(
        "[...document.querySelectorAll('.legend i')].map((i) => getComputedStyle(i).backgroundImage)"
    )
    assert all(each.startswith("linear-gradient(90deg, rgb(") for each in shown)
    assert len({*shown}) == len(LEGEND)
    assert browser.evaluate("[...document.images].map((image) => image.naturalWidth)") == [8, 8]
    assert (browser.requests(), browser.complaints()) == ([page.absolute().as_uri()], [])


def rows(browser, column, label="APNet: supervised"):
    return browser.evaluate(
        f"""[...document.querySelector('table[aria-label="{label}"]').tBodies[0].rows].map(
            (row) => row.cells[{column}].firstElementChild?.textContent ?? row.cells[{column}].textContent)"""
    )


def click(browser, column, label="APNet: supervised"):
    head = f"""document.querySelector('table[aria-label="{label}"]').tHead.rows[0].cells[{column}]"""
    browser.evaluate(f"{head}.querySelector('button').click()")
    return browser.evaluate(f"{head}.getAttribute('aria-sort')")


def test_tables_are_sorted_by_clicks_numbers_as_numbers(browser, report, runs):
    browser.open(report)
    scores = [json.loads((run / "result.json").read_text())["final"]["mAP"] for run in runs[:2]]
    given = [f"{100 * each:.1f}" for each in scores]
    assert rows(browser, 1) == given
    assert click(browser, 1) == "descending"
    assert rows(browser, 1) == sorted(given, key=float, reverse=True) != given
    assert click(browser, 1) == "ascending"
    assert rows(browser, 1) == sorted(given, key=float)
    assert click(browser, 0) == "ascending"
    names = rows(browser, 0)
    assert names == sorted(names)
    pairs = "Differences, paired by query"
    click(browser, 2, pairs)
    differences = [float(each) for each in rows(browser, 2, pairs)]
    assert differences == sorted(differences, reverse=True)
    assert {each > 0 for each in differences} == {True, False}  # text would order the signs otherwise
    fnmr = "One person or two: false non-matches"
    for _ in range(2):  # what has no value stays last
        click(browser, 2, fnmr)
        assert rows(browser, 2, fnmr) == ["25.0", "-"]


def test_a_table_is_sorted_from_the_keyboard(browser, report):
    browser.open(report)
    before = rows(browser, 1)
    browser.evaluate("""document.querySelector('table[aria-label="APNet: supervised"] th.number button').focus()""")
    browser.press("Enter", text="\r")
    assert rows(browser, 1) == before[::-1]


def tip(browser, name):
    return browser.evaluate(
        f"(() => {{ const tip = document.querySelector('#{name}').parentElement.querySelector('.tip');"
        " return tip.hidden ? null : tip.innerText; })()"
    )


def test_a_hover_over_a_curve_shows_the_values_there(browser, report, runs):
    browser.open(report)
    assert tip(browser, "run0-mAP") is None
    box = browser.evaluate(
        """(() => { const chart = document.querySelector('#run0-mAP');
            chart.scrollIntoView({ behavior: "instant", block: "center" });
            const box = chart.getBoundingClientRect(); return [box.left, box.top, box.width, box.height]; })()"""
    )
    left, top, width, height = box
    browser.point_at(left + 0.96 * width, top + height / 2)
    titles = [json.loads((run / "result.json").read_text())["title"] for run in runs[:2]]
    assert tip(browser, "run0-mAP").split("\n") == ["epoch 4", *(f"{title}: 40" for title in titles)]
    browser.point_at(left + 0.1 * width, top + height / 2)
    assert tip(browser, "run0-mAP").startswith("epoch 0")
    browser.point_at(2, 2)
    assert tip(browser, "run0-mAP") is None


def test_arrow_keys_step_through_a_chart(browser, report):
    browser.open(report)
    browser.evaluate("document.querySelector('#run0-loss').parentElement.focus()")
    seen = []
    for key in ("ArrowRight", "ArrowRight", "End", "ArrowRight", "Home", "Escape"):
        browser.press(key)
        seen.append(tip(browser, "run0-loss"))
    assert [each and each.split("\n")[0] for each in seen] == [
        *("epoch 1", "epoch 2", "epoch 4", "epoch 4", "epoch 1", None)
    ]
    browser.evaluate("document.querySelector('#run0-map-person').parentElement.focus()")
    browser.press("ArrowRight")
    assert tip(browser, "run0-map-person").startswith("person 000")


def test_a_script_in_a_title_or_a_name_does_not_run(browser, tmp_path):
    images = draw_images(tmp_path / "data <script>window.ran = 3<")
    run = enrich(make_run(tmp_path / "run", images, title=HOSTILE))
    path = run / "examples.json"
    document = json.loads(path.read_text())
    document["lists"][0]["person"] = document["embedding"]["points"][0]["person"] = HOSTILE
    path.write_text(json.dumps(document))
    add_evaluation(run, "a", evaluation(tested=HOSTILE, title=HOSTILE, remarks=[HOSTILE], open_set=open_set()))
    page = write_report([run], tmp_path / "report.html", title=HOSTILE)
    browser.open(page)
    assert browser.evaluate("window.ran ?? null") is None
    assert browser.evaluate("document.querySelector('h1').textContent") == HOSTILE
    assert browser.evaluate("document.querySelectorAll('script').length") == 1
    assert browser.evaluate("document.querySelectorAll('img[src=x]').length") == 0
    assert browser.complaints() == []


def test_what_slipped_into_the_page_would_be_stopped_by_its_policy(browser, report, tmp_path):
    planted = (
        "<script>window.ran = 1</script><img src='https://example.org/x.png' onerror='window.ran = 2'>"
        "<script src='data:text/javascript,window.ran = 3'></script><div id=d style='color: rgb(1, 2, 3)'>x</div>"
    )
    text = report.read_text(encoding="utf-8").replace("<main>", f"<main>{planted}")
    page = tmp_path / "planted.html"
    page.write_text(text, encoding="utf-8")
    browser.open(page)
    assert browser.evaluate("window.ran ?? null") is None
    assert browser.evaluate("getComputedStyle(document.querySelector('#d')).color") != "rgb(1, 2, 3)"
    refused = [said for said in browser.complaints() if "Content Security Policy" in said]
    assert len(refused) >= 4
    # The same things do happen in a page without the policy, so that the test can see them.
    open_page = tmp_path / "open.html"
    start = text.index("<meta http-equiv")
    open_page.write_text(text[:start] + text[text.index(">", start) + 1 :], encoding="utf-8")
    browser.open(open_page)
    assert browser.evaluate("window.ran ?? null") is not None
