"""The playground: its parts by themselves, and the whole page in a browser."""

import base64
import gzip
import hashlib
import io
import json
import shutil
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from docs.playground import network, page, runtime
from docs.playground.__main__ import MANIFEST, NPM, build, main
from docs.playground.people import MATES, QUERIES, choose, load_pixels
from reference_pipelines.errors import UserError
from reference_pipelines.rendering import render_market
from tests.chromium import chromium, needs_chromium

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model():
    """The network with gates that differ from image to image, in a shell like the pipelines'."""
    from reference_pipelines.models import ReidModel

    torch.manual_seed(0)
    backbone = network.attended()
    backbone.fc = torch.nn.Identity()
    made = ReidModel(backbone, network.WIDTHS[-1])
    made.train()
    with torch.no_grad():
        for _ in range(2):
            made(torch.randn(8, 3, *network.SIZE))
        for stage in network.SPATIAL:
            for level in network.pyramid_of(backbone, stage).levels:
                level.score.norm.weight.fill_(30)
    return made.eval()


def test_what_is_exported_says_what_the_network_says(model):
    import copy

    from attnreid import record_attention
    from reference_pipelines.config.sections import IMAGENET

    pixels = torch.randint(0, 256, (3, *network.SIZE, 3), dtype=torch.uint8, generator=torch.manual_seed(1))
    mean, std = torch.tensor(IMAGENET).view(2, 3, 1, 1)
    with torch.no_grad(), record_attention(model.backbone) as gates:
        features = model((pixels.permute(0, 3, 1, 2) / 255 - mean) / std).features
        found = network.Explained(copy.deepcopy(model), IMAGENET).eval()(pixels)
    wanted = [torch.nn.functional.normalize(features), *(gate for levels in gates.values() for gate in levels.values())]
    assert [tuple(each.shape) for each in found] == [tuple(each.shape) for each in wanted]
    assert len(found) == len(network.output_names()) == 1 + len(network.STAGES) * network.LEVELS
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=0)
    assert all(float(gate.std()) > 1e-3 for gate in wanted[1:])  # gates that are all alike would agree by chance


def test_spatial_gates_start_open_and_differ_by_position():
    fresh = network.attended()
    for stage in network.SPATIAL:
        for level in network.pyramid_of(fresh, stage).levels:
            gate = level.gate(torch.randn(4, level.channels, *level.size))
            assert 0.7 < gate.mean() < 0.9
            assert gate.std() > 0.01


MODULE = "var a={x:import.meta.url};export{b as Tensor,a as default,c as env};\n//# sourceMappingURL=x.map"


def test_a_module_becomes_a_plain_script():
    script = runtime.as_plain_script(MODULE)
    assert "export" not in script
    assert "import" not in script
    assert "document.baseURI" in script
    assert script.rstrip().endswith("globalThis.ort = a;\n})();")


@pytest.mark.parametrize(
    "module",
    [
        "var a=1;export{a as b};",  # no default
        "var a=1;",  # no exports
        "import x from './x.mjs';export{x as default};",
    ],
)
def test_other_modules_are_refused(module):
    with pytest.raises(ValueError, match="one bundle that ends in its exports"):
        runtime.as_plain_script(module)


def test_bytes_come_back_from_a_script():
    content = bytes(range(256)) * 3
    text = runtime.as_data_script("NAME", content)
    name, _, value = text.removesuffix(";\n").partition(" = ")
    assert name == 'globalThis["NAME"]'
    assert gzip.decompress(base64.b64decode(json.loads(value))) == content
    assert text == runtime.as_data_script("NAME", content)  # no date in it


def archive_of(module, binary):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as files:
        for name, content in ((runtime._SCRIPT, module), (runtime._BINARY, binary)):
            about = tarfile.TarInfo(name)
            about.size = len(content)
            files.addfile(about, io.BytesIO(content))
    return file.getvalue()


def test_the_runtime_is_taken_from_its_archive_and_no_other(tmp_path, monkeypatch):
    archive = tmp_path / "runtime.tgz"
    archive.write_bytes(archive_of(MODULE.encode(), b"\0asm"))
    with pytest.raises(UserError, match="with the digest sha512-.*, got sha512-"):
        runtime.fetch(tmp_path, archive)
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    monkeypatch.setattr(runtime, "INTEGRITY", f"sha512-{digest}")
    found = runtime.fetch(tmp_path, archive)
    assert found.binary == b"\0asm"
    assert found.script == runtime.as_plain_script(MODULE)
    with pytest.raises(UserError, match="--runtime must be onnxruntime-web .* got no file"):
        runtime.fetch(tmp_path, tmp_path / "nowhere.tgz")


def test_without_npm_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="comes by npm, which is not installed; install Node.js, or .* --runtime FILE"):
        runtime.fetch(tmp_path / "npm")


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("dear")
    assert main(["--out", str(tmp_path)]) == 2
    assert "holds something that is not a playground" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["letter.txt"]


def test_whom_the_page_shows(tmp_path):
    root = tmp_path / "people"
    counts = {"train_ids": 1, "test_ids": 10, "cameras": 4, "images_per_camera": 1, "distractors": 0, "junk": 0}
    render_market(root, **counts, image_size=(32, 16), workers=0, progress=False)
    from reference_pipelines.data import read

    data = read(root)
    axis = {person: i for i, person in enumerate(data.query.people())}
    queries, gallery = (np.eye(len(axis))[[axis[i] for i in each.ids]] for each in (data.query, data.gallery))
    gallery *= 1 + np.arange(len(gallery))[:, None] / 1000  # of a person's images the last is the most alike
    wrong = data.query.people()[0]
    queries[data.query.ids == wrong] = np.roll(queries[data.query.ids == wrong], 1, axis=1)
    people = choose(root, queries, gallery)
    assert 0 < len(people.queries.ids) <= QUERIES
    assert wrong not in people.queries.ids  # it is not ranked right
    assert sorted(set(people.queries.ids)) == people.queries.ids.tolist()
    assert set(people.gallery.ids) == set(data.gallery.ids)
    for person, camera in zip(people.queries.ids, people.queries.cameras, strict=True):
        mates = people.gallery.cameras[people.gallery.ids == person]
        assert len(mates) == MATES
        assert camera not in mates
        allowed = np.flatnonzero((data.gallery.ids == person) & (data.gallery.cameras != camera))
        best = load_pixels([data.gallery.paths[allowed[-1]]])[0]  # without which another person could come first
        assert any((pixels == best).all() for pixels in people.gallery.pixels[people.gallery.ids == person])
    assert people.mean_average_precision < 1
    assert people.queries.pixels.shape[1:] == (32, 16, 3)


def test_rows_are_covered_and_the_rest_is_as_it_was():
    pixels = np.random.default_rng(0).integers(0, 256, (*network.SIZE, 3), dtype=np.uint8)
    made = page.covered(pixels, (10, 20))
    assert (made[10:20] == page.FILL).all()
    assert (made[:10] == pixels[:10]).all()
    assert (made[20:] == pixels[20:]).all()
    assert (page.covered(pixels, None) == pixels).all()


def test_the_page_lets_nothing_in_and_asks_for_its_own_files_only():
    source = (page.SOURCES / "index.html").read_text()
    policy = source.partition('Content-Security-Policy" content="')[2].partition('"')[0]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"  # so that connect-src is none, too
    assert rules["script-src"] == "'self' 'wasm-unsafe-eval'"
    assert rules["style-src"] == "'self'"
    program = (page.SOURCES / "app.js").read_text()
    for text in (source, program, (page.SOURCES / "style.css").read_text()):
        assert "http:" not in text
        assert "https:" not in text
    assert "style=" not in source
    assert "onclick" not in source


# The whole page, in a browser.


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The page as `make playground` builds it."""
    archive = ROOT / NPM / f"{runtime.PACKAGE}-{runtime.VERSION}.tgz"
    if shutil.which("npm") is None and not archive.is_file():
        pytest.skip("npm is not installed, and nobody has fetched onnxruntime-web before")
    out = tmp_path_factory.mktemp("playground") / "page"
    try:
        runtime.fetch(ROOT / NPM)
    except UserError as error:
        if "npm must give" not in str(error):
            raise
        pytest.skip(f"npm does not reach its registry: {error}")
    build(out, network.Training(), archive=archive)
    return out


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address(built):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(built)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    with chromium() as tab:
        yield tab


STATE = "document.documentElement.dataset.state"
SIMILARITIES = "document.documentElement.dataset.similarities"
BOX = "JSON.stringify(document.getElementById('person').getBoundingClientRect())"
CAPTIONS = "[...document.querySelectorAll('.gates figcaption')].map((each) => each.textContent).join()"
FILES = {"index.html", "style.css", "data.js", "model.js", "wasm.js", "ort.js", "app.js"}


def live(tab, url, **window):
    tab.open(url, **window)
    assert tab.wait_for(STATE) == "live", tab.evaluate("document.getElementById('state').textContent")


def spots(tab, *shares):
    """Return points on the person's picture, by their share of its width and height."""
    box = json.loads(tab.evaluate(BOX))
    return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in shares]


def text(tab, name):
    return tab.evaluate(f"document.getElementById('{name}').textContent")


def changed(tab, before):
    return tab.wait_for(f"{SIMILARITIES} !== {json.dumps(before)} && {SIMILARITIES}")


@pytest.mark.slow
@needs_chromium
class TestInABrowser:
    def test_the_same_sources_are_not_built_twice(self, built, capsys):
        before = (built / "index.html").stat().st_mtime_ns
        build(built, network.Training(), archive=ROOT / NPM / f"{runtime.PACKAGE}-{runtime.VERSION}.tgz")
        assert "as it was" in capsys.readouterr().out
        assert (built / "index.html").stat().st_mtime_ns == before
        assert json.loads((built / MANIFEST).read_text())["runtime"] == runtime.INTEGRITY
        assert not [each for each in built.parent.iterdir() if each != built]  # no draft is left

    def test_it_runs_without_a_complaint_or_a_request_elsewhere(self, browser, address):
        live(browser, address)
        assert browser.complaints() == []
        asked = [url.removeprefix(address) or "index.html" for url in browser.requests()]
        assert sorted(asked) == sorted(FILES)

    def test_its_features_are_torchs(self, browser, address):
        live(browser, address)
        assert 0 < float(browser.evaluate("document.documentElement.dataset.parity")) < 1e-4
        assert "differ from torch's by at most" in text(browser, "parity")

    def test_covering_changes_the_ranking_and_undoing_brings_it_back(self, browser, address):
        live(browser, address)
        clean = browser.evaluate(SIMILARITIES)
        gates = browser.evaluate(CAPTIONS)
        browser.drag(*spots(browser, (0.5, 0.3), (0.5, 0.5), (0.6, 0.7)))
        drawn = changed(browser, clean)
        browser.wait_for("parseFloat(document.getElementById('covered').textContent) > 3")
        assert browser.evaluate(CAPTIONS) != gates
        browser.evaluate("document.querySelector('[data-part=\"1\"]').click()")
        changed(browser, drawn)
        assert float(text(browser, "itself")) < 1
        browser.evaluate("document.getElementById('clear').click()")
        browser.wait_for(f"{SIMILARITIES} === {json.dumps(clean)}")
        browser.evaluate("document.getElementById('undo').click()")
        changed(browser, clean)

    def test_what_is_shown_of_a_third_is_what_torch_says(self, browser, address, built):
        live(browser, address)
        clean = browser.evaluate(SIMILARITIES)
        browser.evaluate("document.querySelector('[data-part=\"2\"]').click()")
        found = json.loads(changed(browser, clean))
        data = json.loads((built / "data.js").read_text().removeprefix("globalThis.PLAYGROUND = ").removesuffix(";\n"))
        check = next(each for each in data["checks"] if each["query"] == 0 and each["rows"] == list(page.THIRDS[2]))
        features = [np.frombuffer(base64.b64decode(each["features"]), np.float32) for each in (check, *data["gallery"])]
        wanted = np.sort(np.stack(features[1:]) @ features[0])[::-1][: len(found)]
        np.testing.assert_allclose(found, wanted, atol=1e-4)

    def test_keys_do_what_the_mouse_does(self, browser, address):
        live(browser, address)
        clean = browser.evaluate(SIMILARITIES)
        for _ in range(30):
            if browser.evaluate("document.activeElement.id") == "person":
                break
            browser.press("Tab")
        assert browser.evaluate("document.activeElement.id") == "person"
        assert browser.evaluate("getComputedStyle(document.getElementById('brush')).visibility") == "visible"
        browser.press("ArrowUp")
        browser.press(" ", text=" ")
        changed(browser, clean)
        browser.press("Delete")
        browser.wait_for(f"{SIMILARITIES} === {json.dumps(clean)}")

    def test_another_person_starts_uncovered(self, browser, address):
        live(browser, address)
        browser.evaluate("document.querySelector('[data-part=\"0\"]').click()")
        browser.wait_for("document.getElementById('covered').textContent !== '0 %'")
        several = browser.evaluate("document.querySelectorAll('#queries input').length")
        assert several == QUERIES
        browser.evaluate(f"document.querySelectorAll('#queries input')[{several - 1}].click()")
        browser.wait_for("document.getElementById('covered').textContent === '0 %'")

    @pytest.mark.parametrize("dark", [False, True])
    def test_a_phone_has_no_sideways_scrolling_and_fingers_draw(self, browser, address, dark):
        live(browser, address, width=390, height=844, phone=True, dark=dark)
        assert browser.evaluate("document.documentElement.scrollWidth") == 390
        assert json.loads(browser.evaluate(DISTORTED)) == []
        ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
        clean = browser.evaluate(SIMILARITIES)
        browser.evaluate("document.getElementById('person').scrollIntoView({block: 'center'})")
        browser.drag(*spots(browser, (0.5, 0.3), (0.5, 0.4), (0.5, 0.6)), touch=True)
        changed(browser, clean)
        assert browser.complaints() == []

    @pytest.mark.parametrize("dark", [False, True])
    def test_words_stand_out_from_their_ground(self, browser, address, dark):
        live(browser, address, dark=dark)
        assert json.loads(browser.evaluate(FAINT)) == []

    def test_it_needs_no_server(self, browser, built):
        live(browser, (built / "index.html").as_uri())
        assert browser.complaints() == []
        assert all(url.startswith(built.as_uri()) for url in browser.requests())

    @pytest.mark.parametrize(
        ("trouble", "said"),
        [
            ("delete globalThis.WebAssembly", "has no WebAssembly"),
            ("WebAssembly.instantiate = async () => { throw Error('out of memory'); }", "out of memory"),
        ],
    )
    def test_where_the_network_does_not_run_it_says_so_and_shows_pictures(self, address, trouble, said):
        with chromium() as tab:
            tab.call("Page.addScriptToEvaluateOnNewDocument", source=trouble)
            tab.open(address)
            assert tab.wait_for(STATE) == "pictures"
            assert said in text(tab, "state")
            assert tab.evaluate("document.getElementById('live').hidden")
            assert tab.evaluate("document.getElementById('pictures').open")
            tab.wait_for("[...document.querySelectorAll('#pictures img')].every((each) => each.naturalWidth > 0)")
            assert tab.evaluate("document.querySelectorAll('#pictures img').length") >= 60
            assert json.loads(tab.evaluate(DISTORTED)) == []


# Pictures that are shown wider or narrower than they are; the frames around them take 6 pixels.
DISTORTED = """
JSON.stringify([...document.querySelectorAll("img")].filter((each) => each.clientWidth).filter((each) => {
  const share = each.clientWidth / each.clientHeight / (each.naturalWidth / each.naturalHeight);
  return share < 0.85 || share > 1.15;
}).map((each) => each.outerHTML.slice(-80)))
"""

# Texts whose contrast with what is behind them is below WCAG's 4.5.
FAINT = """
(() => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((each) => each.nodeType === 3 && each.textContent.trim());
    if (!own || !element.getClientRects().length || element.className === "unseen") continue;
    let behind = element;
    while (behind && (parts(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
    const colours = [getComputedStyle(element).color, getComputedStyle(behind ?? document.body).backgroundColor];
    const [high, low] = colours.map((each) => light(parts(each))).sort((a, b) => b - a);
    if ((high + 0.05) / (low + 0.05) < 4.5) faint.push(element.outerHTML.slice(0, 120));
  }
  return JSON.stringify(faint);
})()
"""
