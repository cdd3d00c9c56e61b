"""Fabricated run folders as `train` and `evaluate` leave them, and pages read back."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image, ImageDraw

from reference_pipelines.ranks.files import write_ranks
from reference_pipelines.reporting.report import write_report
from tests.ledger.support import drawn

QUERIES, LENGTH, EPOCHS = 3, 10, 4


class Page(HTMLParser):
    """A page as a list of (tag, attributes), its table cells, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self.words, self.open = [], [], [], []
        self.tables = {}  # by label: rows of cells
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.rows = self.tables.setdefault(dict(attrs).get("aria-label"), [])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.cells.append("")
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.open.pop()
            self.rows[-1].append(self.cells[-1])

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


def draw_images(root):
    """Write queries and gallery images of as many people, one camera each."""
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


def evaluation(mean=0.2, tested="b", fingerprint="f2", digest="d1", **changes):
    return {
        "title": "APNet-C2",
        "trained_on": {"name": "market1501", "fingerprint": "f1"},
        "tested_on": {"name": tested, "fingerprint": fingerprint},
        "flip": True,
        "reranked": False,
        "chance": 0.01,
        "scores": {**score(mean), "rank5": 0.6, "rank10": 0.7, "rank20": 0.8, "mINP": 0.05, "mAP_market": 0.3},
        "weights": {"name": "model", "digest": digest},
        **changes,
    }


def add_evaluation(run, name, numbers):
    (run / "evaluations").mkdir(exist_ok=True)
    (run / "evaluations" / f"{name}.json").write_text(json.dumps(numbers))


def reported(folders, out, **options):
    return Page(write_report(folders, out, **options).read_text(encoding="utf-8"))


def enrich(folder, seed=0):
    """Add to a run what training keeps of late: ranks, camera pairs, who is on each image, the worst, a map."""
    rng = np.random.default_rng(seed)
    result = json.loads((folder / "result.json").read_text())
    result["ranks"] = write_ranks(folder / "ranks.npz", drawn(seed))
    pairs = [(1, 2, 4, 0.75), (2, 1, 5, 0.2), (2, 3, 3, 1.0)]
    result["final"]["camera_pairs"] = [
        {"query_camera": a, "gallery_camera": b, "queries": n, "mAP": 0.3, "rank1": rank1} for a, b, n, rank1 in pairs
    ]
    (folder / "result.json").write_text(json.dumps(result))
    document = json.loads((folder / "examples.json").read_text())
    for place, shown in enumerate(document["lists"]):
        shown |= {"person": f"{place + 1:04d}", "camera": 1}
        for number, entry in enumerate(shown["ranked"]):
            entry |= {"person": f"{number:04d}" if number else None, "camera": 2}
    document["worst"] = document["lists"][:2]
    points = [
        {
            "at": rng.normal(person, 0.2, 2).round(4).tolist(),
            "person": f"{person:04d}",
            "camera": 1 + place % 3,
            "query": place == 0,
            "image": f"{person}_{place}.jpg",
        }
        for person in range(1, 8)
        for place in range(5)
    ]
    document["embedding"] = {"shares": [0.5, 0.25], "people": 9, "points": points}
    (folder / "examples.json").write_text(json.dumps(document))
    return folder


def open_set():
    """Return what `evaluate --open-set` writes."""
    point = {"rate": 0.01, "threshold": 0.71, "fnmr": 0.25, "fnmr_interval": [0.2, 0.3], "reason": ""}
    none = {"rate": 0.0001, "threshold": None, "fnmr": None, "fnmr_interval": None, "reason": "too few people"}
    roc = [[0.9, 0.001, 0.8], [0.8, 0.01, 0.4], [0.7, 0.1, 0.1]]
    found = {"rate": 0.1, "threshold": 0.6, "tpir": 0.5, "tpir_interval": [0.4, 0.6], "reason": ""}
    verification = {"people": 8, "images": 40, "genuine": 90, "impostors": 700, "points": [point, none], "roc": roc}
    held = {"rate": 0.01, "threshold": 0.7, "expected": [0.005, 0.02], "fmr": 0.03, "fmr_interval": [0.01, 0.05]}
    return {
        "verification": verification,
        "identification": {"points": [found], "mated": 11, "non_mated": 7, "people": [5, 3], "gallery": 40},
        "calibration": {
            "points": [{**held, "fnmr": 0.3, "fnmr_interval": [0.2, 0.4]}],
            **{"data": "lobby", "fingerprint": "f7", "drift": "it looks unlike"},
        },
    }


def check_policy(text, *, scripts):
    """Check that a page's policy lets its own style sheet, its script if it has one, and embedded images, and no more.

    What the policy does not name falls to default-src.
    """
    tags = Page(text).tags
    (policy,) = [a["content"] for tag, a in tags if a.get("http-equiv") == "Content-Security-Policy"]
    found = dict(part.split(" ", 1) for part in policy.split("; "))
    allowed = {"default-src": "'none'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'"}
    for tag in ("style", "script")[: 1 + scripts]:
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        allowed[f"{tag}-src"] = f"'sha256-{digest}'"
    assert found == allowed
    # A style attribute would be refused, and an event's script with it.
    assert not [a for _, a in tags if "style" in a or any(name.startswith("on") for name in a)]
