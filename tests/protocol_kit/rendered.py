"""Cases of a rendered set: what a deviation comes to in mAP points where images are ranked, not numbers made up.

    python -m tests.protocol_kit.rendered --out rendered.json

The recipe: `attnreid-pipelines data render --size small` (seed 0), ids and cameras by the files' names. An image's
features are the mean colours of eight strips of its middle half (24 numbers), less their mean over the gallery images
of the same camera, divided by their standard deviation there, in 64 levels from -4 to 4: whole numbers, so that every
distance is exact.
"""

import argparse
import re
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from reference_pipelines.rendering import render_market
from tests.protocol_kit import generate

STRIPS, LEVELS, END = 8, 64, 4
SIZE = "small"
COMMON = 4096
_NAME = re.compile(r"(-?\d+)_c(\d+)")


def read(folder):
    """Return (N,) ids, (N,) cameras and (N, 24) mean colours of a folder of images."""
    ids, cameras, features = [], [], []
    for path in sorted(folder.glob("*.jpg")):
        found = _NAME.match(path.name)
        ids.append(int(found[1]))
        cameras.append(int(found[2]))
        with Image.open(path) as image:
            middle = image.convert("RGB").crop((image.width // 4, 0, image.width - image.width // 4, image.height))
        features.append(np.asarray(middle.resize((1, STRIPS), Image.Resampling.BOX), dtype=np.float64).reshape(-1))
    return np.array(ids), np.array(cameras), np.array(features)


def in_levels(side, gallery):
    """Return (N, 24) whole features: standardised by camera over the gallery, in LEVELS levels."""
    levels = np.empty(side[2].shape, dtype=int)
    for camera in np.unique(side[1]):
        images = gallery[2][gallery[1] == camera]
        own = (side[2][side[1] == camera] - images.mean(axis=0)) / images.std(axis=0)
        levels[side[1] == camera] = np.floor((own + END) * LEVELS / (2 * END)).clip(0, LEVELS - 1)
    return levels


def cases(root):
    """Return the cases of a rendered set, all with what is expected of them."""
    query, gallery = read(root / "query"), read(root / "bounding_box_test")
    plain = {
        "query_ids": query[0].tolist(),
        "query_cameras": query[1].tolist(),
        "gallery_ids": gallery[0].tolist(),
        "gallery_cameras": gallery[1].tolist(),
    }
    features = {"query_features": in_levels(query, gallery), "gallery_features": in_levels(gallery, gallery)}

    def made(name, says, change=lambda features: features, dtype="float32", **labels):
        sides = {key: change(each).tolist() for key, each in features.items()}
        case = {"name": f"rendered/{name}", "says": says, "dtype": dtype, "ranks": [1, 5, 10], "metric": "euclidean"}
        case |= {**sides, **plain, **labels}
        for side in ("query_features", "gallery_features"):
            assert all(generate.as_stored(value, dtype) == value for row in case[side] for value in row)
        case["expected"] = generate.written(generate.score(case))
        return case

    gone = {who for number, who in enumerate(sorted(set(plain["query_ids"]))) if number % 10 == 0}
    left = [-1 if who in gone else who for who in plain["gallery_ids"]]
    return [
        made("pixels", "The features as they are."),
        made("coarse", "The same in four levels: many equal distances.", lambda features: features * 4 // LEVELS),
        made("float16", "The same times 8, in float16.", lambda features: features * 8, "float16"),
        made("common-part", f"The same plus {COMMON:,} everywhere.", lambda features: features + COMMON),
        made("people-gone", "Every tenth person is not in the gallery (their images are junk).", gallery_ids=left),
        made(
            "no-cameras",
            "Without cameras: every image of the person is a match.",
            query_cameras=None,
            gallery_cameras=None,
        ),
    ]


def rules(case):
    """Return what leaving a rule out does to the mAP of a case, in points, by the rule."""
    whole = Fraction(case["expected"]["mAP"])
    others = max(case["gallery_ids"]) + 1
    kept = [image for image, who in enumerate(case["gallery_ids"]) if who != generate.DISTRACTOR]
    no_distractors = {key: [case[key][image] for image in kept] for key in case if key.startswith("gallery_")}
    changed = {
        "images of the query's person and camera count as matches": {"query_cameras": None, "gallery_cameras": None},
        "junk counts as another person": {"gallery_ids": [others if who == -1 else who for who in case["gallery_ids"]]},
        "distractors are left out": no_distractors,
    }
    found = {what: generate.score({**case, **change})["mAP"] - whole for what, change in changed.items()}
    found["the trapezoids of Market-1501's code instead of the mean of precisions"] = (
        Fraction(case["expected"]["mAP_market"]) - whole
    )
    return {what: float(100 * difference) for what, difference in found.items()}


def make():
    """Render the set and return what was rendered, in a line, and its cases."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "rendered"
        said = str(render_market(root, size=SIZE))
        return said.removeprefix(f"{root}: "), cases(root)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    out = parser.parse_args().out
    said, made = make()
    out.write_text(generate.document(made), encoding="utf-8")
    print(f"written: {out}; {said}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
