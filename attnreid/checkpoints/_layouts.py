"""The state dicts of the released networks: every key with its shape, as plain data, and what it is called here.

APNet's `Baseline` is a ResNet-50 cut into `base_1` (the stem) to `base_5` (the last stage), with attention after
each; RGA's model has its attention inside `backbone`, after the four stages. Here, attention stands under
`<site>.attention.levels.*`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from attnreid.checkpoints._tensors import misfits, name_difference

Shapes = dict[str, tuple[int, ...]]

CHANNELS = (64, 256, 512, 1024, 2048)  # after the stem and the four stages
APNET_SITES = ("maxpool", "layer1", "layer2", "layer3", "layer4")
RGA_SITES = APNET_SITES[1:]
_CUT = {"conv1": "base_1.0", "bn1": "base_1.1", **{f"layer{stage}": f"base_{stage + 1}.0" for stage in (1, 2, 3, 4)}}
_SE_HIDDEN = 8
_LEAST_HIDDEN = 32
_RATIO = 8
COUNTER = "num_batches_tracked"
_NORM = ("weight", "bias", "running_mean", "running_var")


def resnet50_shapes() -> Shapes:
    """Return the keys of a ResNet-50 without its last linear layer."""
    shapes: Shapes = {"conv1.weight": (64, 3, 7, 7), **_norm_shapes("bn1", 64)}
    inputs = 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            for number, shape in enumerate(((width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)), 1):
                shapes[f"{name}.conv{number}.weight"] = shape
                shapes |= _norm_shapes(f"{name}.bn{number}", shape[0])
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * width, inputs, 1, 1)
                shapes |= _norm_shapes(f"{name}.downsample.1", 4 * width)
            inputs = 4 * width
    return shapes


def layout_difference(given: Mapping[str, Tensor], shapes: Shapes) -> str:
    """Name what of `given` is not as `shapes` has it; empty where all is. Old files have no counters."""
    like = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    missing = [key for key in shapes if key not in given and not key.endswith(COUNTER)]
    return name_difference(missing, [key for key in given if key not in shapes], misfits(given, like, dtypes=False))


def _norm_shapes(name: str, width: int) -> Shapes:
    return {**{f"{name}.{key}": (width,) for key in _NORM}, f"{name}.{COUNTER}": ()}


# APNet


def apnet_shapes(levels: int, classes: int) -> Shapes:
    """Return the keys of APNet's `Baseline` without the aliases under `base.`."""
    shapes = {apnet_key(key): shape for key, shape in resnet50_shapes().items()}
    for number, channels in enumerate(CHANNELS, start=1):
        if levels >= 1:
            shapes[f"att{number}.fc.0.weight"] = (_SE_HIDDEN, channels)
            shapes[f"att{number}.fc.2.weight"] = (channels, _SE_HIDDEN)
        if levels >= 2:
            hidden, split = max(channels * 2 // 4, _LEAST_HIDDEN), f"att_s{number}"
            shapes |= {f"{split}.fc1.weight": (hidden, channels // 2, 1, 1), f"{split}.fc1.bias": (hidden,)}
            shapes |= _norm_shapes(f"{split}.bn1", hidden)
            shapes |= {f"{split}.fc2.weight": (channels, hidden, 1, 1), f"{split}.fc2.bias": (channels,)}
            shapes |= _norm_shapes(f"BN{number}.bottleneck2", channels)
    return {**shapes, **_norm_shapes("bottleneck", 2048), "classifier.weight": (classes, 2048)}


def apnet_key(key: str) -> str:
    """Return the name in APNet's cut backbone for a ResNet's name."""
    part, rest = key.split(".", 1)
    return f"{_CUT[part]}.{rest}"


def convert_apnet(given: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    """Return the backbone with its attention under the names here, from tensors that fit `apnet_shapes`."""
    tensors = {key: given[apnet_key(key)] for key in resnet50_shapes()}
    for number, site in enumerate(APNET_SITES, start=1):
        own = f"{site}.attention.levels"
        if levels >= 1:
            tensors[f"{own}.0.reduce"] = given[f"att{number}.fc.0.weight"][None]
            tensors[f"{own}.0.expand"] = given[f"att{number}.fc.2.weight"][None]
        if levels >= 2:
            for theirs, ours in (("fc1", "reduce.0"), ("fc2", "expand")):
                tensors[f"{own}.1.{ours}.weight"] = given[f"att_s{number}.{theirs}.weight"].flatten(1)
                tensors[f"{own}.1.{ours}.bias"] = given[f"att_s{number}.{theirs}.bias"]
            for key in (*_NORM, COUNTER):
                tensors[f"{own}.1.reduce.1.{key}"] = given[f"att_s{number}.bn1.{key}"]
                if key != "bias":  # all zeros there, and none here
                    tensors[f"{own}.1.norm.{key}"] = given[f"BN{number}.bottleneck2.{key}"]
    return tensors


# RGA


def rga_shapes(kinds: tuple[str, ...], positions: tuple[int, ...], classes: int) -> Shapes:
    """Return the keys of RGA's model.

    Args:
        kinds: which of "spatial" and "channel" it has.
        positions: the map's positions after each of the four stages.
        classes: rows of its classifier.
    """
    shapes = {f"backbone.{key}": shape for key, shape in resnet50_shapes().items()}
    for number, (channels, count) in enumerate(zip(CHANNELS[1:], positions, strict=True), start=1):
        for kind in kinds:
            features, nodes = (channels, count) if kind == "spatial" else (count, channels)
            width, relations = features // _RATIO, nodes // _RATIO
            hidden = (1 + relations) // _RATIO
            convs = {
                "gx": ((0, features, width),),
                "theta": ((0, features, width),),
                "phi": ((0, features, width),),
                "gg": ((0, 2 * nodes, relations),),
                "W": ((0, 1 + relations, hidden), (3, hidden, 1)),
            }
            for part, listed in convs.items():
                for index, inputs, outputs in listed:
                    name = f"backbone.rga_att{number}.{part}_{kind}"
                    shapes[f"{name}.{index}.weight"] = (outputs, inputs, 1, 1)
                    shapes |= _norm_shapes(f"{name}.{index + 1}", outputs)
    return {**shapes, **_norm_shapes("feat_bn", 2048), "cls.weight": (classes, 2048)}


def convert_rga(given: Mapping[str, Tensor], kinds: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the backbone with its attention under the names here, from tensors that fit `rga_shapes`."""
    tensors = {key: given[f"backbone.{key}"] for key in resnet50_shapes()}
    for number, site in enumerate(RGA_SITES, start=1):
        for level, kind in enumerate(kinds):
            linears = {
                "embed": (("theta", 0), ("phi", 0), ("gx", 0)),  # one linear map here, since they share their input
                "joint": (("gg", 0),),
                "hidden": (("W", 0),),
                "score": (("W", 3),),
            }
            for ours, theirs in linears.items():
                convs = [f"backbone.rga_att{number}.{part}_{kind}.{index}" for part, index in theirs]
                norms = [f"backbone.rga_att{number}.{part}_{kind}.{index + 1}" for part, index in theirs]
                own = f"{site}.attention.levels.{level}.{ours}"
                tensors[f"{own}.weight"] = torch.cat([given[f"{conv}.weight"] for conv in convs]).flatten(1)[None]
                for key in _NORM:
                    tensors[f"{own}.norm.{key}"] = torch.cat([given[f"{norm}.{key}"] for norm in norms])
                tensors[f"{own}.norm.{COUNTER}"] = given[f"{norms[0]}.{COUNTER}"]
    return tensors
