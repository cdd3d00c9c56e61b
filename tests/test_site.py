"""The documentation site: what is made for it from data, without building it; and, slowly, the built site."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from docs.made import choices, errors, examples, links, papers
from tests.chromium import chromium, needs_chromium
from tests.conftest import script

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


# Error sentences


def test_sentences_are_read_from_the_raise_statements():
    known = {each.text: each for each in errors.sentences()}
    sentence = known["AttentionPyramid: order must be 'coarse_to_fine' or 'fine_to_coarse', got …: choose one"]
    assert (sentence.kind, sentence.module) == ("ValueError", "attnreid.pyramid.module")
    assert known["config: optimizer.epochs must be at least 1, got …"].kind == "UserError"
    assert len(known) > 400


def test_a_raised_sentence_is_one_of_the_index():
    from attnreid import AttentionPyramid

    with pytest.raises(ValueError, match="level") as raised:
        AttentionPyramid(6, "se", levels=3)
    patterns = [re.escape(each.text).replace("…", ".*") for each in errors.sentences()]
    assert any(re.fullmatch(pattern, str(raised.value), re.DOTALL) for pattern in patterns)


def test_every_way_out_is_of_a_sentence_and_of_no_two():
    known = errors.sentences()
    parts = [way.part for way in errors.ways_out()]
    assert len(parts) >= 20
    assert len({errors.whole(part, known) for part in parts}) == len(parts)
    for way in errors.ways_out():
        for target in re.findall(r"\]\(([^)#]+)", way.do):
            assert (DOCS / target).exists(), target
        assert way.why.endswith(".")


def test_a_way_out_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must stand in a sentence that is raised, got 'no such words'; correct it"):
        errors.whole("no such words", errors.sentences())


# Which attention


@pytest.fixture(scope="module")
def listed():
    with choices.COSTS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_costs_are_what_the_formulas_give(listed):
    """SE after the four stages of a ResNet: two matrices of C by max(1, C / 16), once an image, at any size."""
    found = {(row["backbone"], row["input_size"], row["attention"]): row for row in listed}
    for backbone, widths in (("ResNet-18", (64, 128, 256, 512)), ("ResNet-50", (256, 512, 1024, 2048))):
        wanted = sum(2 * width * (width // 16) for width in widths)
        for size in ("256x128", "384x192"):
            row = found[backbone, size, "SE"]
            assert int(row["parameters"]) == int(row["multiply_adds"]) == wanted
            assert row["sites"] == "4"
    # The smallest map: 1/16 of the image, since the last stride is 1.
    assert found["ResNet-50", "256x128", "RGA-S"]["smallest_map"] == "16x8"
    assert found["ResNet-50", "384x192", "RGA-S"]["smallest_map"] == "24x12"


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["ResNet-18", "MobileNetV2", "Swin-T"])
def test_costs_are_what_is_counted_today(listed, backbone):
    costs = script("costs")
    today = [vars(cost) for cost in costs.counted([backbone], [(256, 128)])]
    kept = [row for row in listed if (row["backbone"], row["input_size"]) == (backbone, "256x128")]
    assert [{name: str(value) for name, value in cost.items()} for cost in today] == kept


@pytest.mark.slow  # attaches every row of it
def test_every_attention_of_the_table_is_known_and_every_row_is_there(listed):
    costs = script("costs")
    rows = choices.rows()
    assert len(rows) == len(listed) > 60
    assert {row[0] for row in rows} == set(costs.BACKBONES)
    assert {row[2] for row in rows} == {*costs.STAGED, *costs.PLACED}
    assert set(choices.ROWS) < {*costs.STAGED, *costs.PLACED}
    assert all(len(row) == len(choices.HEADINGS) for row in rows)


def test_times_are_the_benchmarks(listed):
    page = choices.BENCHMARKS.read_text(encoding="utf-8")
    row = r"\| ResNet-50 \+ MLA folded, inference +\| 8x3x256x128 +\| plain ResNet-50 +\| ([\d.]+)"
    ratio = re.search(row, page)[1]
    assert choices.measured("ResNet-50", "256x128", "multi-level (MLA)").startswith(f"{ratio} of")
    alone = [
        float(re.search(rf"\| rga_s +\| 8x{shape} +\| [\d.]+ +\| ([\d.]+)", page)[1])
        for shape in ("256x96x48", "512x48x24", "1024x24x12", "2048x24x12")
    ]
    assert choices.measured("ResNet-50", "384x192", "RGA-S") == f"{sum(alone) / 8:.2g} ms an image, the layers alone"
    assert choices.measured("ResNet-18", "256x128", "SE") == "not measured"
    times, ms = re.search(r"\| rga_s +\| 8x256x64x32 +\| ([\d.]+) +\| ([\d.]+)", page).groups()
    assert choices.layer_times("rga_s")[0][:2] == ["8x256x64x32", f"{ms} ms ({times} × bound)"]
    with pytest.raises(ValueError, match="must have rows of 'none', got none"):
        choices.layer_times("none")


def test_evidence_is_the_mean_of_the_ledgers_ranks():
    means = []
    for row in ("APNet-C_2", "APNet_0"):
        found = {}
        for line in papers.read_lines():
            entry, cell = line.entry, line.entry.cell
            of_row = (cell["row"], cell["dataset"]) == (row, "Market-1501") and entry.scores is not None
            if of_row and entry.selection == "last" and not entry.held_out:
                found.setdefault(line.entry.seed, line.ranks().ranked.average_precision().mean())
        means.append(100 * np.mean(list(found.values())))
    said = re.findall(r"(\d+\.\d) \[", choices.evidence("SE pyramid, 2 levels"))
    assert said == [f"{mean:.1f}" for mean in means]
    assert choices.evidence("split attention") == "not run"


# The papers


@pytest.mark.parametrize("paper", ["apnet", "mla"])
def test_every_claim_of_a_paper_is_on_its_page(paper):
    with papers.LISTED.open(encoding="utf-8", newline="") as file:
        claims = [row for row in csv.DictReader(file) if row["paper"] == paper]
    page = papers.annotated(paper)
    rows = [line for line in page.splitlines() if re.match(r"\| .* ((higher|lower) than|like) ", line)]
    assert len(rows) == len(claims)
    assert page.startswith(f"{len(claims)} comparisons: ")
    decided = [each for each in papers.verdicts() if each.decision in ("reproduced", "contradicted")]
    assert decided
    for verdict in decided:
        if verdict.claim.paper == paper:
            assert f"{verdict.estimate.difference:+.1f} [" in page


# Links and examples


def test_links_out_of_the_docs_become_names_or_pages():
    def fit(text):
        return links.fitted(text, DOCS / "layers")

    assert fit("[the ledger](../results/ledger)") == "the ledger (`docs/results/ledger`)"
    assert fit("[claims.csv](../results/claims.csv)") == "[claims.csv](../results/claims.csv)"
    assert fit("[README](../../README.md)") == "[README](../index.md)"
    assert fit("[gates](../gates.md#x)") == "[gates](../gates.md#x)"
    assert fit("[there](https://example.org)") == "[there](https://example.org)"
    assert fit("![picture](../images/gates/se.webp)") == "![picture](../images/gates/se.webp)"


def test_names_are_found_in_code():
    code = "import attnreid\nfrom attnreid import attach as put\nattnreid.fold(m)\nimport reference_pipelines.data\n"
    assert examples.names_used(code) == {"attnreid.attach", "attnreid.fold"}
    assert "start" in examples.pages_using()["attnreid.find_sites"]
    assert examples.example_lines("attnreid.plan_pyramid")[1] == (
        "*Used in:* :doc:`The attention pyramid </layers/pyramid>`"
    )
    assert examples.example_lines("attnreid.nothing") == []


def test_every_public_name_is_in_the_reference():
    shown = []
    for page in (DOCS / "api").glob("*.md"):
        for package, chosen in re.findall(r"^:::\{made\} public (\S+)(.*)$", page.read_text(), re.MULTILINE):
            names = chosen.split() or __import__(package, fromlist=["__all__"]).__all__
            shown += [f"{package}.{name}" for name in names]
    assert sorted(shown) == sorted(
        f"{package}.{name}" for package in examples.PUBLIC for name in __import__(package, fromlist=["x"]).__all__
    )


def test_every_page_is_in_one_list_of_contents():
    listed = []
    pages = [page for page in DOCS.rglob("*.md") if "ledger" not in page.relative_to(DOCS).parts[:-1]]
    for page in pages:
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
            names = [line for line in block.splitlines() if line and not line.startswith(":")]
            listed += [(page.parent / f"{name.rpartition('<')[2].rstrip('>')}.md").resolve() for name in names]
    assert sorted(listed) == sorted(page for page in pages if page != DOCS / "index.md")


def test_the_pictures_are_small():
    pictures = sorted((DOCS / "images" / "gates").iterdir())
    assert len(pictures) == 10
    assert sum(picture.stat().st_size for picture in pictures) < 350_000


# The built site


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    pytest.importorskip("sphinx", reason="the site is built by the extra docs")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(out / "trees"), "docs"]
    built = subprocess.run([*command, str(out / "html")], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return out / "html"


# What a page fetches by itself: not links, which people follow.
FETCHED = re.compile(
    r"""(?:<(?:script|img|iframe|source|video|link)\b[^>]*?\b(?:src|href)=|@import |url\()["']?(https?:|//)"""
)


@pytest.mark.slow
def test_the_site_names_nothing_to_fetch_from_elsewhere(site):
    for path in site.rglob("*"):
        if path.suffix in (".html", ".css"):
            assert not FETCHED.search(path.read_text(encoding="utf-8")), path
    assert FETCHED.search('<script src="https://cdn.example/x.js">')
    assert FETCHED.search("src: url(//fonts.example/x.woff)")


@pytest.mark.slow
def test_the_site_has_a_search_and_formulas_and_no_gap(site):
    assert "searchindex.js" in (site / "search.html").read_text(encoding="utf-8")
    assert "the nearest is" in (site / "errors.html").read_text(encoding="utf-8")
    assert "<math" in (site / "layers" / "head.html").read_text(encoding="utf-8")
    assert (site / "which_attention.html").read_text(encoding="utf-8").count("<tr") > 60
    assert sum(path.stat().st_size for path in site.rglob("*")) < 40_000_000


PAGES = ("index", "start", "which_attention", "errors", "layers/pyramid", "papers/apnet", "api/layers", "api/index")
PAGES += ("migration", "data", "datasets", "command_line", "report", "playground", "results/protocol_kit")
BROKEN = "[...document.images].filter((image) => !image.naturalWidth).map((image) => image.src)"
# Pictures further down are loaded once they are scrolled to.
ALL = """Promise.all([...document.images].map((image) => { image.loading = "eager"; return image.decode(); }))
  .catch(() => 0)"""
FILTERED = """(() => {
  const [list] = document.querySelectorAll(".filterable select");
  list.value = "ResNet-18"; list.dispatchEvent(new Event("input"));
  return [...document.querySelectorAll(".filterable tbody tr")].filter((row) => !row.hidden)
    .map((row) => row.cells[0].textContent);
})()"""


@pytest.mark.slow
@needs_chromium
def test_the_site_in_a_browser(site):
    """No request leaves it, nothing is written to the console, images load, pages fit 390 pixels, filters filter."""
    with chromium() as browser:
        for page in PAGES:
            for width in (390, 1280):
                browser.open(site / f"{page}.html", width=width)
                browser.evaluate(ALL)
                assert browser.evaluate("document.documentElement.scrollWidth") <= width, (page, width)
                assert browser.evaluate(BROKEN) == [], page
                assert browser.complaints() == [], page
                asked = browser.requests()
                assert len(asked) > 5, page
                assert all(url.startswith(site.as_uri()) for url in asked), (page, asked)
                if page == "which_attention":
                    assert set(browser.evaluate(FILTERED)) == {"ResNet-18"}
        browser.open(site / "search.html")
        browser.open(f"{(site / 'search.html').as_uri()}?q=identity_init")
        browser.wait_for("document.querySelectorAll('#search-results li').length > 2")
