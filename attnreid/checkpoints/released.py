"""Readers of the networks that APNet's and RGA's authors released: state dicts, never pickled objects.

APNet's `Baseline` ("Person Re-identification via Attention Pyramid") at levels 0, 1 and 2, and the ResNet-50 of
"Relation-Aware Global Attention for Person Re-identification" (RGA) with spatial attention, channel attention or
both. `_layouts.py` has their keys and shapes.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from attnreid.checkpoints._layouts import (
    COUNTER,
    Shapes,
    apnet_key,
    apnet_shapes,
    convert_apnet,
    convert_rga,
    layout_difference,
    resnet50_shapes,
    rga_shapes,
)
from attnreid.checkpoints.weights import read_state_dict, shared_prefix

_READ = "read_released"
_POSITIONS = (2048, 512, 128, 128)  # RGA's, at the 256x128 of its released networks


@dataclass(frozen=True, eq=False)
class ReleasedNetwork:
    """A released network, read and checked, under the names that it has in a ResNet-50 with attention.

    The tensors are those of the file, in its dtype.

    Args:
        layout: "apnet" or "rga".
        classes: rows of the classifier.
        backbone: the ResNet-50's weights and its attention's.
        neck: for `nn.BatchNorm1d(2048)`, which makes the matching feature of the pooled one.
        classifier: for `nn.Linear(2048, classes, bias=False)`.
        levels: of APNet: 0 (no attention), 1 or 2.
        spatial: whether RGA's has spatial attention.
        channel: whether RGA's has channel attention.
        positions: of RGA: how many positions the map has after each of the four stages.
        opened: the keys of the dicts that the state dict stood in.
        prefix: what was taken off all names.
    """

    layout: Literal["apnet", "rga"]
    classes: int
    backbone: dict[str, Tensor] = field(repr=False)
    neck: dict[str, Tensor] = field(repr=False)
    classifier: dict[str, Tensor] = field(repr=False)
    levels: int = 0
    spatial: bool = False
    channel: bool = False
    positions: tuple[int, ...] = ()
    opened: tuple[str, ...] = ()
    prefix: str = ""


def read_released(source: str | os.PathLike[str] | Mapping[str, Any]) -> ReleasedNetwork:
    """Read the state dict of a network released by APNet's or RGA's authors.

    `{"model": ...}` or `{"state_dict": ...}` around it is opened, and the names in front that all keys share, such as
    `module.`, `base.` or `_orig_mod.`, are taken off; the result says which. APNet's file has its backbone twice, cut
    (`base_1` to `base_5`) and whole (`base`): either will do, and both must agree. The head may have any number of
    classes. `num_batches_tracked`, which old files lack, counts from 0 then.

    Args:
        source: a file of torch.save or safetensors, or what such a file holds; see `read_weights`, which runs
            nothing in it.

    Returns:
        The tensors under the names that they have here, for `attach_released`.

    Raises:
        ImportError: the file is of safetensors, which is not installed.
        OSError: the file cannot be read.
        ValueError: the file holds more than plain data, or the state dict is of neither layout, or a key is
            missing, unknown or of another shape.

    Example:
        >>> read_released({"conv1.weight": torch.zeros(64, 3, 7, 7)})
        Traceback (most recent call last):
        ...
        ValueError: read_released: the keys must be those of APNet's Baseline (base_1.*, ...
    """
    what = "the state dict" if isinstance(source, Mapping) else str(source)
    weights = read_state_dict(_READ, source)
    prefix = shared_prefix(weights.tensors)
    given = {key.removeprefix(prefix): value for key, value in weights.tensors.items()}
    if any(key.startswith("backbone.") for key in given):
        network = _read_rga(what, given)
    elif any(key.startswith(("base_", "base.")) for key in given):
        network = _read_apnet(what, given)
    else:
        found = ", ".join(map(repr, list(weights.tensors)[:3])) or "none"
        raise ValueError(
            f"{_READ}: the keys must be those of APNet's Baseline (base_1.*, ..., classifier.weight) or of RGA's model "
            f"(backbone.*, feat_bn.*, cls.weight), got {found} in {what}; load other networks with "
            "model.load_state_dict(read_weights(...).tensors)."
        )
    return replace(network, opened=weights.opened, prefix=weights.prefix + prefix)


def _read_apnet(what: str, given: dict[str, Tensor]) -> ReleasedNetwork:
    for key in resnet50_shapes():
        alias = given.pop(f"base.{key}", None)
        if alias is not None and not torch.equal(given.setdefault(apnet_key(key), alias), alias):
            raise ValueError(
                f"{_READ}: 'base.{key}' and {apnet_key(key)!r} must be one tensor, got two different ones in {what}; "
                "drop the wrong one."
            )
    levels = (
        2 if any(key.startswith(("att_s", "BN")) for key in given) else int(any(key.startswith("att") for key in given))
    )
    classes = _rows(given, "classifier.weight")
    _check(what, f"APNet's Baseline at level {levels}", given, apnet_shapes(levels, classes))
    for key, value in given.items():
        if key.endswith("bottleneck2.bias") and value.any():
            raise ValueError(
                f"{_READ}: {key!r} must be all zeros, as APNet's code keeps it, got up to {value.abs().max():g} in "
                f"{what}; the norm after split attention has no shift here."
            )
    return ReleasedNetwork(
        "apnet",
        classes,
        convert_apnet(given, levels),
        neck={key.removeprefix("bottleneck."): value for key, value in given.items() if key.startswith("bottleneck.")},
        classifier={"weight": given["classifier.weight"]},
        levels=levels,
    )


def _read_rga(what: str, given: dict[str, Tensor]) -> ReleasedNetwork:
    kinds = tuple(kind for kind in ("spatial", "channel") if any(f"_{kind}." in key for key in given))
    if not kinds:
        raise ValueError(
            f"{_READ}: RGA's model must have spatial or channel attention (backbone.rga_att1.*), got none in {what}; "
            "load a plain ResNet-50 with model.load_state_dict(read_weights(...).tensors)."
        )
    classes = _rows(given, "cls.weight")
    # How many positions a map had, the shapes say.
    spatial = kinds[0] == "spatial"
    theirs = "backbone.rga_att{}.gg_spatial.0.weight" if spatial else "backbone.rga_att{}.theta_channel.0.weight"
    inputs = [given.get(theirs.format(number)) for number in (1, 2, 3, 4)]
    positions = tuple(
        default if conv is None or conv.ndim != 4 else conv.shape[1] // (2 if spatial else 1)
        for conv, default in zip(inputs, _POSITIONS, strict=True)
    )
    name = f"RGA's model with {' and '.join(kinds)} attention"
    _check(what, name, given, rga_shapes(kinds, positions, classes))
    return ReleasedNetwork(
        "rga",
        classes,
        convert_rga(given, kinds),
        neck={key.removeprefix("feat_bn."): value for key, value in given.items() if key.startswith("feat_bn.")},
        classifier={"weight": given["cls.weight"]},
        spatial="spatial" in kinds,
        channel="channel" in kinds,
        positions=positions,
    )


def _rows(given: Mapping[str, Tensor], key: str) -> int:
    return given[key].shape[0] if key in given and given[key].ndim else 0


def _check(what: str, layout: str, given: dict[str, Tensor], shapes: Shapes) -> None:
    """Refuse keys and shapes of another layout; fill in the counters that old files lack."""
    for key in shapes:
        if key.endswith(COUNTER):
            given.setdefault(key, torch.zeros((), dtype=torch.long))
    difference = layout_difference(given, shapes)
    if difference:
        raise ValueError(f"{_READ}: {what} must have the keys of {layout}, got {difference}; use the file as released.")
