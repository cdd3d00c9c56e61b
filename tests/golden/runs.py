"""What is kept of a tiny run of a pipeline, from images and weights that a formula gives.

The network computes in double precision: what is left to differ between machines is the rounding of the images and of
the features, which are of single precision.
"""

import importlib
import json
from unittest import mock

import numpy as np
from PIL import Image
from safetensors.torch import load_file

from tests.golden.formulas import fill, sketch
from tests.training.runs import trained

SIZE = (32, 16)
LOSSES = ("loss", "hardest_positive", "hardest_negative", "silhouette")
SCORES = ("mAP", "mINP", "mAP_market", "id_nmi")
COUNTS = ("learning_rate", "clusters", "noise", "smallest", "median", "largest", "eps", "queries", "skipped")
KEPT = (*LOSSES, *SCORES, *COUNTS)
LOOKED_AT = ("conv1.weight", "neck.weight", "reduce", "qkv.weight", "query", "classifier.weight")
PEOPLE, CAMERAS, FRAMES = 6, 3, 3
CHANGES = {
    "data.image_size": f"[{SIZE[0]}, {SIZE[1]}]",
    "optimizer.learning_rate": "1.0e-3",
}


def write_images(folder):
    """Write a CSV of people who are stripes in their own colours, seen by cameras with a tint, and return it."""
    folder.mkdir(parents=True)
    rows = ["image,id,camera,split"]
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for person in range(2 * PEOPLE):
        for camera in range(CAMERAS):
            for frame in range(FRAMES):
                file = folder / f"{person}_{camera}_{frame}.png"
                phase = 1.7 * person + 0.4 * frame
                stripes = [np.sin(0.2 * (person + 1) * y + 0.3 * c * x + phase * (c + 1)) for c in range(3)]
                pixels = 128 + 80 * np.stack(stripes, axis=2) + 15 * np.sin(camera * np.arange(1, 4)) + 5 * frame
                Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8)).save(file)
                split = "train" if person < PEOPLE else "query" if frame == 0 else "gallery"
                rows.append(f"{file.name},{person + 1},{camera + 1},{split}")
    (folder / "images.csv").write_text("\n".join(rows))
    return folder / "images.csv"


def measured(pipeline, folder):
    """Train in `folder` and return what is kept of the run."""
    program = importlib.import_module(f"reference_pipelines.{pipeline}.train")
    built, before = program.build_model, {}

    def build_model(*arguments, **options):
        model = fill(built(*arguments, **options))
        before.update({name: value.clone() for name, value in model.state_dict().items()})
        model.register_forward_pre_hook(lambda module, images: (images[0].double(),))
        return model

    images = write_images(folder / "images")
    with mock.patch.object(program, "build_model", build_model):
        result = trained(pipeline, images, folder / "run", **CHANGES)
    log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    found = {f"epoch {entry['epoch']}: {key}": value for entry in log for key, value in entry.items() if key in KEPT}
    found |= {f"final: {key}": value for key, value in result["final"].items() if key in KEPT}
    after = load_file(folder / "run" / "model.safetensors")
    moved = {name: after[name] - before[name] for name in after if name.endswith(LOOKED_AT)}
    return found | {f"moved: {name}": sketch(value) for name, value in moved.items()}


def tolerance(key, kept):
    """Return by how much a number may be off; `kept` is the sketch's first.

    Weights that began off by 3e-7, five times the rounding of single precision, moved losses by up to 4e-4, swapped
    two neighbours (2e-3 of an mAP), and, where two positives are as hard as each other, changed what Adam did by 2 %.
    """
    quantity = key.partition(": ")[2]
    if key.startswith("moved"):
        return 0.05 * kept
    if quantity in LOSSES:
        return 2e-3
    return 0.01 if quantity in SCORES else 1e-9
