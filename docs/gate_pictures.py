"""The pictures of the layers' gates on rendered people: python docs/gate_pictures.py [LAYER ...].

A narrow ResNet is trained on rendered pedestrians, and goes on for a few epochs with each attention after its first two
stages. What is drawn are the gates that it then applies to people whom it was not trained on. About ten minutes on one
idle core; what was trained stays in runs/gates and is not trained again.
"""

import io
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

import reference_pipelines
from attnreid import record_attention
from attnreid.files import write_text
from reference_pipelines.commands.cli import main as pipelines

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "images" / "gates"
RUNS = ROOT / "runs" / "gates"
SIZE = (128, 64)
PEOPLE = 3
STARTS = ("0009_c2", "0031_c3", "0040_c1")  # of the queries' names
GREY = "#848c98"  # reads on white and on black
LINES = ("#2f7ed8", "#e4572e", "#3aa655")

Gates = Mapping[str, Mapping[str, Tensor]]

# What is trained: the attention's options, for the sites layer1 and layer2.
NETWORKS: dict[str, list[str]] = {
    "se": ["--attention.layer", "se", "--attention.levels", "1"],
    "rga_s": ["--attention.layer", "rga_s", "--attention.levels", "1"],
    "rga_c": ["--attention.layer", "rga_c", "--attention.levels", "1"],
    "split": ["--attention.layer", "split", "--attention.levels", "1"],
    "multi_level": ["--attention.layer", "multi_level", "--attention.levels", "1"],
    "pyramid_c": ["--attention.layer", "se", "--attention.levels", "2"],
    "pyramid_s": ["--attention.layer", "rga_s", "--attention.levels", "2"],
}


def render() -> None:
    """Render the people, and list those that are trained on."""
    people = RUNS / "people"
    if not people.exists():
        pipelines(["data", "render", str(people), "--size", "small", "--domain", "mall", "--workers", "0"])
    files = sorted((people / "bounding_box_train").glob("*.jpg"))
    lines = [f"{file},{file.name[:4]},{file.name[6]},train\n" for file in files]
    write_text(RUNS / "train.csv", "".join(["image,id,camera,split\n", *lines]))


def train(name: str, options: list[str]) -> Path:
    """Train what is not there yet and return its run's folder."""
    out = RUNS / name
    if not (out / "result.json").exists():
        data = ["--data.root", str(RUNS / "train.csv"), "--data.test_people", "0"]
        data += ["--data.image_size", *map(str, SIZE), "--augment.pad", "8"]
        status = pipelines(["train", "apnet", "--config", "demo", "--out", str(out), *data, *options])
        if status != 0:
            raise SystemExit(f"gate pictures: the training of {name} ended with exit status {status}")
    return out


def network(name: str) -> Path:
    """Return the run with one attention, which goes on from the network without any."""
    schedule = ["--optimizer.epochs", "14", "--optimizer.milestones", "10", "13"]
    source = train("source", ["--attention.preset", "none", *schedule])
    schedule = ["--optimizer.epochs", "3", "--optimizer.milestones", "2", "--optimizer.warmup_epochs", "1"]
    sites = ["--attention.preset", "sites", "--attention.at", "layer[12]"]
    return train(name, ["--model.weights", str(source), *sites, *schedule, *NETWORKS[name]])


def look(name: str, people: list[Image.Image]) -> Gates:
    """Return the gates that the trained network applies to the people."""
    model = reference_pipelines.load(str(network(name)), device="cpu")
    with record_attention(model.model.backbone, weights=True) as gates, torch.inference_mode():
        model.model(model.preprocess(people))
    return gates


def some_people() -> list[Image.Image]:
    """Return queries of different people and cameras."""
    files = sorted((RUNS / "people" / "query").glob("*.jpg"))
    chosen = [
        next(file for file in files if file.name.startswith(start)) for start in ("0009_c2", "0031_c3", "0040_c1")
    ]
    return [Image.open(file).convert("RGB").resize(SIZE[::-1]) for file in chosen]


def panels(count: int, wide: tuple[float, ...] | None = None, height: float = 2.9) -> list[Axes]:
    """Return axes in a row, without frames."""
    widths = wide or (1.0,) * count
    figure, axes = plt.subplots(1, count, figsize=(sum(widths) * 1.32, height), width_ratios=widths, squeeze=False)
    figure.patch.set_alpha(0)
    for axis in axes[0]:
        axis.axis("off")
    return list(axes[0])


def photograph(axis: Axes, image: Image.Image, title: str = "") -> None:
    """Show an image."""
    axis.imshow(image, aspect="auto")
    axis.set_title(title, fontsize=11, color=GREY)


def overlay(axis: Axes, image: Image.Image, values: Tensor, title: str, at: tuple[int, int] | None = None) -> None:
    """Show a map over the grey image; its lowest and highest value stand below it."""
    low, high = float(values.min()), float(values.max())
    scaled = ((values - low) / max(high - low, 1e-12)).numpy()
    repeats = (2 * SIZE[0] // values.shape[0], 2 * SIZE[1] // values.shape[1])
    colour = mpl.colormaps["inferno"](0.12 + 0.88 * np.kron(scaled, np.ones(repeats)))[..., :3]
    light = np.asarray(image.convert("L").resize((2 * SIZE[1], 2 * SIZE[0])), dtype=float)[..., None] / 255
    # The person's light and dark under the colour of the map.
    axis.imshow(colour * (0.55 + 0.45 * light), aspect="auto", extent=(0, 1, 1, 0))
    if at is not None:
        height, width = values.shape
        axis.plot((at[1] + 0.5) / width, (at[0] + 0.5) / height, "o", mfc="none", mec="#28d7ff", mew=1.8, ms=8)
    axis.set_title(title, fontsize=11, color=GREY)
    below = {"ha": "center", "va": "top", "fontsize": 10, "color": GREY, "transform": axis.transAxes}
    axis.text(0.5, -0.02, f"{low:.2g} to {high:.2g}", **below)


def channel_lines(gates: Tensor, people: list[Image.Image], about: str, edge: int | None = None) -> None:
    """Draw the gate of every channel for each person, channels ordered by their mean (within the parts)."""
    axes = panels(PEOPLE + 1, (*((1.15,) * PEOPLE), 5.0))
    values = gates.flatten(1).numpy()
    for axis, image, colour in zip(axes, people, LINES, strict=False):
        photograph(axis, image)
        axis.plot([0, 1], [-0.03, -0.03], color=colour, lw=5, transform=axis.transAxes, clip_on=False)
    mean = values.mean(axis=0)
    bounds = [0, values.shape[1]] if edge is None else [0, edge, values.shape[1]]
    order = np.concatenate([lo + np.argsort(mean[lo:hi]) for lo, hi in pairwise(bounds)])
    axis = axes[-1]
    axis.axis("on")
    axis.patch.set_alpha(0)
    for person, colour in zip(values, LINES, strict=False):
        axis.plot(person[order], ".", color=colour, ms=4.5)
    if edge is not None:
        axis.axvline(edge - 0.5, color=GREY, lw=0.8, ls=":")
    axis.set_xlabel(about, fontsize=11, color=GREY)
    axis.set_ylabel("gate", fontsize=11, color=GREY)
    axis.tick_params(colors=GREY, labelsize=9)
    for side in axis.spines.values():
        side.set_color(GREY)


def draw_se(gates: Gates, people: list[Image.Image]) -> None:
    """SE's gate of each channel."""
    channel_lines(gates["layer2"]["se"], people, "channels after layer2, by their mean gate")


def draw_rga_c(gates: Gates, people: list[Image.Image]) -> None:
    """RGA-C's gate of each channel."""
    channel_lines(gates["layer2"]["rga_c"], people, "channels after layer2, by their mean gate")


def draw_split(gates: Gates, people: list[Image.Image]) -> None:
    """Split attention's gate of each channel, both parts."""
    gate = gates["layer2"]["split"]
    channel_lines(gate, people, "channels after layer2: first part | second part", edge=gate.shape[1] // 2)


def draw_pyramid_c(gates: Gates, people: list[Image.Image]) -> None:
    """The product of both levels' gates, and each."""
    level1, level2 = (gates["layer2"][name][:1] for name in ("level1", "level2"))
    axes = panels(4, (1.15, 2.4, 2.4, 2.4))
    photograph(axes[0], people[0])
    titles = ("level 1: all channels see all", "level 2: each half sees itself", "what is applied: their product")
    order = level1.flatten().argsort()
    half = len(order) // 2
    for axis, gate, title in zip(axes[1:], (level1, level2, level1 * level2), titles, strict=True):
        values = gate.flatten()
        sorted_halves = torch.cat([order[order < half], order[order >= half]])
        axis.axis("on")
        axis.patch.set_alpha(0)
        axis.bar(range(len(values)), values[sorted_halves], width=1.0, color=LINES[0])
        axis.axvline(half - 0.5, color=GREY, lw=0.8, ls=":")
        axis.set(ylim=(0, 1))
        axis.set_title(title, fontsize=11, color=GREY)
        axis.tick_params(colors=GREY, labelsize=9)
        for side in axis.spines.values():
            side.set_color(GREY)


def spatial(name: str) -> Callable[[Gates, list[Image.Image]], None]:
    """Return what draws a gate over the positions: two people, after both stages."""

    def draw(gates: Gates, people: list[Image.Image]) -> None:
        axes = panels(3 * 2)
        for index, image in enumerate(people[:2]):
            photograph(axes[3 * index], image)
            for offset, site in enumerate(("layer1", "layer2"), start=1):
                overlay(axes[3 * index + offset], image, gates[site][name][index].mean(dim=0), f"after {site}")

    return draw


def draw_pyramid_s(gates: Gates, people: list[Image.Image]) -> None:
    """Both levels' gates, and their product."""
    axes = panels(4 * 2)
    for index, image in enumerate(people[:2]):
        level1, level2 = (gates["layer1"][name][index, 0] for name in ("level1", "level2"))
        photograph(axes[4 * index], image)
        for offset, (gate, title) in enumerate(
            ((level1, "level 1"), (level2, "level 2: halves"), (level1 * level2, "their product")), start=1
        ):
            overlay(axes[4 * index + offset], image, gate, title)


def level(gates: Mapping[str, Tensor], name: str) -> Tensor:
    """Return one level's gate of a multi-level attention."""
    return next(gate for key, gate in gates.items() if key.rpartition(".")[2] == name)


def draw_pixel(gates: Gates, people: list[Image.Image]) -> None:
    """The mean over the channels, and the two channels that change most over the positions."""
    axes = panels(8)
    for index, image in enumerate(people[:2]):
        gate = level(gates["layer1"], "pixel")[index]
        most = gate.flatten(1).std(dim=1).argsort(descending=True)
        photograph(axes[4 * index], image)
        overlay(axes[4 * index + 1], image, gate.mean(dim=0), "mean channel")
        for offset, channel in enumerate(most[:2].tolist(), start=2):
            overlay(axes[4 * index + offset], image, gate[channel], f"channel {channel}")


def draw_head(gates: Gates, people: list[Image.Image]) -> None:
    """What one position of the trunk looks at, in each head."""
    axes = panels(10)
    for index, image in enumerate(people[:2]):
        weights = level(gates["layer2"], "head")[index]  # (heads, P, P)
        height, width = 16, 8
        at = (5, 4)
        photograph(axes[5 * index], image)
        for head, row in enumerate(weights[:, at[0] * width + at[1]]):
            overlay(axes[5 * index + 1 + head], image, row.reshape(height, width), f"head {head + 1}", at)


def draw_domain(gates: Gates, people: list[Image.Image]) -> None:
    """The three slots of the memory that change most over the positions."""
    axes = panels(8)
    for index, image in enumerate(people[:2]):
        slots = level(gates["layer1"], "domain")[index]
        most = slots.flatten(1).std(dim=1).argsort(descending=True)[:3].tolist()
        photograph(axes[4 * index], image)
        for offset, slot in enumerate(most, start=1):
            overlay(axes[4 * index + offset], image, slots[slot], f"slot {slot}")


def draw_multi_level(gates: Gates, people: list[Image.Image]) -> None:
    """Each level's share: the pixels' gate, where one position looks, and one slot of the memory."""
    axes = panels(8)
    at = (5, 4)
    for index, image in enumerate(people[:2]):
        found = {name.rpartition(".")[2]: gate[index] for name, gate in gates["layer2"].items()}
        slot = int(found["domain"].flatten(1).std(dim=1).argmax())
        heads = found["head"].mean(dim=0)[at[0] * 8 + at[1]].reshape(16, 8)
        photograph(axes[4 * index], image)
        overlay(axes[4 * index + 1], image, found["pixel"].mean(dim=0), "pixel, mean")
        overlay(axes[4 * index + 2], image, heads, "heads, mean", at)
        overlay(axes[4 * index + 3], image, found["domain"][slot], f"domain, slot {slot}")


DRAW: dict[str, Callable[[Gates, list[Image.Image]], None]] = {
    "se": draw_se,
    "rga_s": spatial("rga_s"),
    "rga_c": draw_rga_c,
    "split": draw_split,
    "pixel": draw_pixel,
    "head": draw_head,
    "domain": draw_domain,
    "multi_level": draw_multi_level,
    "pyramid_c": draw_pyramid_c,
    "pyramid_s": draw_pyramid_s,
}


def save(path: Path) -> None:
    """Write the figure as a small WebP file with a transparent ground."""
    figure = plt.gcf()
    figure.tight_layout(pad=0.4, w_pad=0.5)
    content = io.BytesIO()
    figure.savefig(content, dpi=92, transparent=True)
    plt.close(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(content).save(path, quality=82, method=6)
    print(f"written: {path} ({path.stat().st_size // 1024} KiB)")


def main(names: list[str]) -> int:
    """Draw the layers that are named, or all."""
    mpl.use("agg")
    render()
    people = some_people()
    for name in names or list(DRAW):
        DRAW[name](look(name if name in NETWORKS else "multi_level", people), people)
        save(OUT / f"{name}.webp")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
