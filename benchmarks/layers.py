"""The layers against the formulas as they are written, with the same weights, and against timm's SE."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnreid import AttentionPyramid, HeadLevelAttention, RelationAwareSpatialAttention, SqueezeExcitation
from benchmarks.timing import Case, Contest, Skipped, training_step

Size = tuple[int, int]


def literal_relation_aware(layer: RelationAwareSpatialAttention, x: Tensor) -> Tensor:
    """Return RGA-S of the whole map as written: the P x P affinity, its rows and columns stacked, one 1x1 conv.

    theta, phi and psi are one joined conv here too, so that only the relations differ.
    """
    theta, phi, psi = layer.embed(x).flatten(2).chunk(3, dim=1)
    affinity = theta.transpose(1, 2) @ phi  # (N, P, P)
    relations = torch.cat([affinity.transpose(1, 2), affinity], dim=1)  # (N, 2P, P)
    joint = layer.joint_norm(F.conv1d(relations, layer.joint[0, :, :, None]))
    score: Tensor = layer.score(torch.cat([psi.mean(dim=1, keepdim=True), joint], dim=1))
    return x * score.sigmoid().view_as(x[:, :1])


def level_by_level(pyramid: AttentionPyramid, x: Tensor) -> Tensor:
    """Return the map after all levels, each level's gate computed from the map before it and multiplied with it."""
    for level in pyramid.levels:
        x = level(x)
    return x


def literal_head(layer: HeadLevelAttention, x: Tensor) -> Tensor:
    """Return `softmax(q k^T + q pos^T) v` as written, both P x P maps in memory, for a layer of scale 1.

    The channels stay where the conv leaves them, so that nothing is copied but what the formula needs.
    """
    per_head = (layer.heads, layer.channels // layer.heads, -1)
    q, k, v = (part.reshape(x.shape[0], *per_head) for part in layer.qkv(x).chunk(3, dim=1))
    position = (layer.position_height + layer.position_width).view(per_head)
    queries = q.transpose(2, 3)
    shares = (queries @ k + queries @ position).softmax(dim=3)  # (N, heads, P, P)
    attended: Tensor = v @ shares.transpose(2, 3)
    return attended.reshape(x.shape)


def relation_aware_contest(device: torch.device, *, channels: int, size: Size, batch: int) -> Contest:
    """Build RGA-S against its literal formula."""
    torch.manual_seed(0)
    layer = RelationAwareSpatialAttention(channels, size=size, device=device)
    return _same_weights(layer, partial(literal_relation_aware, layer), channels, size, batch, device)


def pyramid_contest(device: torch.device, *, channels: int, size: Size, batch: int) -> Contest:
    """Build the pyramid of three levels against the same levels one after the other."""
    torch.manual_seed(0)
    pyramid = AttentionPyramid(channels, "se", levels=3, device=device)
    return _same_weights(pyramid, partial(level_by_level, pyramid), channels, size, batch, device)


def head_contest(device: torch.device, *, channels: int, size: Size, batch: int) -> Contest:
    """Build head-level attention against its literal formula."""
    torch.manual_seed(0)
    layer = HeadLevelAttention(channels, size=size, device=device)
    return _same_weights(layer, partial(literal_head, layer), channels, size, batch, device)


def timm_contest(device: torch.device, *, channels: int, size: Size, batch: int) -> Contest:
    """Build the pyramid of three levels against one SEModule of timm; the note says what differs."""
    try:
        timm, timm_layers = import_module("timm"), import_module("timm.layers")
    except ModuleNotFoundError as error:
        raise Skipped(f"timm cannot be imported, {error.name} is not installed; pip install timm") from None
    torch.manual_seed(0)
    pyramid = AttentionPyramid(channels, "se", levels=3, device=device)
    peer = timm_layers.SEModule(channels).to(device).train()
    x, cotangent = _input(channels, size, batch, device)
    levels = [cast(SqueezeExcitation, level) for level in pyramid.levels]
    widths = " + ".join(f"{level.parts} x {level.reduce.shape[1]}" for level in levels)
    return Contest(
        ours=training_step(pyramid.train(), x, list(pyramid.parameters()), cotangent),
        theirs=training_step(peer, x, list(peer.parameters()), cotangent),
        compared=False,
        note=f"other layers: ours 3 levels of {widths} hidden units, no bias; "
        f"timm {timm.__version__} one of {peer.fc1.out_channels} (C/16 rounded to 8s), with bias",
    )


def _input(channels: int, size: Size, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a random map and the gradient of its output."""
    x, cotangent = torch.randn(2, batch, channels, *size).to(device)
    return x.requires_grad_(), cotangent


def _same_weights(
    layer: nn.Module,
    other: Callable[[Tensor], Tensor],
    channels: int,
    size: Size,
    batch: int,
    device: torch.device,
) -> Contest:
    x, cotangent = _input(channels, size, batch, device)
    parameters = list(layer.train().parameters())
    return Contest(
        ours=training_step(layer, x, parameters, cotangent),
        theirs=training_step(other, x, parameters, cotangent),
    )


def _case(
    name: str, layer: str, against: str, build: Callable[..., Contest], channels: int, size: Size, batch: int
) -> Case:
    what = f"{layer}, {channels} channels, {size[0]}x{size[1]}, batch {batch}"
    return Case(name, what, against, partial(build, channels=channels, size=size, batch=batch))


_PYRAMID = 'AttentionPyramid("se", levels=3)'
_HEAD, _HEAD_AGAINST = "HeadLevelAttention", "softmax(q k^T + q pos^T) v as written"

CASES = (
    _case(
        "rga_s",
        "RelationAwareSpatialAttention",
        "the formula as written, with the P x P affinity",
        relation_aware_contest,
        256,
        (64, 32),
        4,
    ),
    _case("pyramid", _PYRAMID, "the same levels one after the other", pyramid_contest, 256, (64, 32), 16),
    _case("pyramid_timm", _PYRAMID, "timm's SEModule, once", timm_contest, 256, (64, 32), 16),
    _case("head_16x8", _HEAD, _HEAD_AGAINST, head_contest, 512, (16, 8), 16),
    _case("head_32x16", _HEAD, _HEAD_AGAINST, head_contest, 512, (32, 16), 16),
)
"""The rows of this file, forward and backward in train mode, float32."""
