"""The released layouts as the tables in tests/released_layouts have them, and random weights in them."""

import csv
import math
from pathlib import Path

import torch
from torch import Tensor

TABLES = Path(__file__).parents[1] / "released_layouts"
APNET = ("apnet_level0", "apnet_level1", "apnet_level2")
RGA = ("rga_s", "rga_c", "rga_sc")
KINDS = {"rga_s": ("spatial",), "rga_c": ("channel",), "rga_sc": ("spatial", "channel")}


def shapes(layout: str, classes: int = 751) -> dict[str, tuple[int, ...]]:
    """Every key and shape of a released file; RGA's tables hold the backbone only."""
    with (TABLES / f"{layout}.csv").open() as file:
        table = {
            row["key"]: () if row["shape"] == "scalar" else tuple(map(int, row["shape"].split("x")))
            for row in csv.DictReader(file)
        }
    if layout in APNET:
        return {**table, "classifier.weight": (classes, 2048)}
    neck = {f"feat_bn.{key}": (2048,) for key in ("weight", "bias", "running_mean", "running_var")}
    backbone = {f"backbone.{key}": shape for key, shape in table.items()}
    return {**backbone, **neck, "feat_bn.num_batches_tracked": (), "cls.weight": (classes, 2048)}


def blank(layout: str) -> dict[str, Tensor]:
    """A state dict of the layout without memory behind its zeros."""
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes(layout).items()}


def draw(layout: str, seed: int = 0) -> dict[str, Tensor]:
    """Random float64 weights that keep a map's scale through the network, and gates away from 0, 1/2 and 1."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for key, shape in shapes(layout, classes=5).items():
        if key.startswith("base."):
            continue
        tensors[key] = _draw(key, shape, generator)
    for key in shapes(layout):
        if key.startswith("base."):  # the same tensor under another name
            part, rest = key.removeprefix("base.").split(".", 1)
            stage = {"conv1": "base_1.0", "bn1": "base_1.1"}.get(part, f"base_{int(part[-1]) + 1}.0")
            tensors[key] = tensors[f"{stage}.{rest}"]
    return tensors


def _draw(key: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    name = key.rpartition(".")[2]
    if name == "num_batches_tracked":
        return torch.tensor(7)
    if key.endswith("bottleneck2.bias"):
        return torch.zeros(shape, dtype=torch.float64)
    if name == "running_var" or (name == "weight" and len(shape) == 1):
        return torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    if len(shape) == 1:
        return noise * 0.2 + (1.0 if ".W_" in key and key.endswith(".1.bias") else 0.0)  # the two hidden units live
    scale = 0.03 if ".gg_" in key else 1.0  # an affinity is a sum of many products
    return noise * math.prod(shape[1:]) ** -0.5 * scale
