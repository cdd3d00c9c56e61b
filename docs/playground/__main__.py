"""The command: python -m docs.playground --out DIR. A user's mistake ends in one sentence and exit status 2."""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from attnreid.files import write_text
from docs.playground import network, page, runtime
from docs.playground.people import choose, load_pixels
from reference_pipelines import Embedder, load
from reference_pipelines.data import read
from reference_pipelines.errors import UserError
from reference_pipelines.retrieval import chance_level
from reference_pipelines.runs.provenance import code_digest

MANIFEST = "playground.json"
NPM = Path("build") / "npm"
_BATCH = 64


def main(arguments: Sequence[str], training: network.Training | None = None) -> int:
    """Build the page and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m docs.playground",
        description="Train a small attended network and write a page in which it runs; a minute or two on one core.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the page's folder, index.html in it")
    parser.add_argument("--home", default="", metavar="URL", help="what the page's heading links back to")
    parser.add_argument(
        "--runtime", type=Path, metavar="FILE", help="onnxruntime-web as npm packs it; fetched if left out"
    )
    options = parser.parse_args(arguments)
    try:
        build(options.out, training or network.Training(), home=options.home, archive=options.runtime)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def build(out: Path, training: network.Training, *, home: str = "", archive: Path | None = None) -> None:
    """Train the network and write the page, or leave the page that an earlier call wrote from the same sources.

    Args:
        out: the page's folder; new, or one that this function made.
        training: how the network is trained.
        home: URL that the page links back to.
        archive: onnxruntime-web's, where npm is not to be asked.

    Raises:
        UserError: `out` holds something else, the runtime is not to be had, or the training failed.
    """
    began = time.perf_counter()
    made_from = {"sources": sources_digest(), "training": vars(training), "home": home, "runtime": runtime.INTEGRITY}
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST).is_file())):
        raise UserError(f"playground: {out} holds something that is not a playground; name a new folder with --out")
    if (out / MANIFEST).is_file() and json.loads((out / MANIFEST).read_text(encoding="utf-8")) == made_from:
        print(f"{out / 'index.html'}: as it was, from the same sources")
        return
    ort = runtime.fetch(NPM, archive)  # before the training, which takes longest
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
            draft = Path(folder) / "page"
            draft.mkdir()
            _write(draft, Path(folder), training, ort, home)
            write_text(draft / MANIFEST, json.dumps(made_from, indent=1) + "\n")
            if out.exists():
                shutil.rmtree(out)
            draft.rename(out)
    except OSError as error:
        raise UserError(f"playground: cannot write {out} ({error.strerror}); choose another --out") from None
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"{out / 'index.html'}: {size / 1e6:.1f} MB, {time.perf_counter() - began:.0f} s")


def sources_digest() -> str:
    """Return a digest of everything that the page is made from, but for the runtime."""
    digest = hashlib.sha256(code_digest().encode())
    for source in sorted(Path(__file__).parent.rglob("*")):
        if source.is_file() and source.suffix in (".py", ".html", ".css", ".js"):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _write(draft: Path, work: Path, training: network.Training, ort: runtime.Runtime, home: str) -> None:
    """Train in `work`, and write the page's files into `draft`."""
    torch.set_num_threads(1)  # so that a machine's cores do not change a number
    images, run = network.train(work, training)
    embedder = load(run, device="cpu")
    data = read(images)
    features = [_features(embedder, load_pixels(each.paths)) for each in (data.query, data.gallery)]
    people = choose(images, *features)
    content, distance = network.checked_file(embedder, np.concatenate([people.queries.pixels, people.gallery.pixels]))
    found, gallery = (network.by_torch(embedder, each.pixels) for each in (people.queries, people.gallery))
    shots = []
    for query, rows, words in page.shots_to_take(people):
        pixels = page.covered(people.queries.pixels[query], rows)
        shots.append(page.Shot(query, rows, words, network.by_torch(embedder, pixels[None])))
    chance = chance_level(data.query.ids, data.query.cameras, data.gallery.ids, data.gallery.cameras)
    about = page.about_html(
        people,
        parameters=sum(weight.numel() for weight in embedder.model.backbone.parameters()),
        epochs=training.epochs,
        trained_on=training.people,
        chance=chance,
    )
    html = page.page_of(people, found, gallery[network.FEATURES], shots, about)
    link = f'<p><a href="{home}">← attnreid</a></p>\n' if home else ""
    write_text(draft / "index.html", html.replace("{home}", link))
    write_text(draft / "data.js", page.data_script(page.data_of(people, found, gallery, shots)))
    write_text(draft / "model.js", runtime.as_data_script("PLAYGROUND_MODEL", content))
    write_text(draft / "wasm.js", runtime.as_data_script("PLAYGROUND_WASM", ort.binary))
    write_text(draft / "ort.js", ort.script)
    for name in ("app.js", "style.css", "onnxruntime-web.LICENSE.txt"):
        shutil.copyfile(page.SOURCES / name, draft / name)
    print(f"the exported network is within {distance:.1g} of torch's")


def _features(embedder: Embedder, pixels: np.ndarray) -> np.ndarray:
    batches = [pixels[start : start + _BATCH] for start in range(0, len(pixels), _BATCH)]
    return np.concatenate([network.by_torch(embedder, batch)[network.FEATURES] for batch in batches])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
