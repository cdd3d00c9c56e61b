"""The formulas as they are written, in their best plain form, with the weights of our layers."""

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnreid import (
    AttentionPyramid,
    HeadLevelAttention,
    RelationAwareChannelAttention,
    RelationAwareSpatialAttention,
    SplitAttention,
    SqueezeExcitation,
)

RelationAware = TypeVar("RelationAware", RelationAwareSpatialAttention, RelationAwareChannelAttention)


def literal_rga_s(layer: RelationAwareSpatialAttention, x: Tensor) -> Tensor:
    """Return RGA-S of the whole map: the P x P affinity, its rows and columns stacked, one 1x1 conv."""
    embedded = F.conv1d(x.flatten(2), layer.embed.weight[0, :, :, None])
    return x * _relation_scores(layer, embedded).view_as(x[:, :1])


def literal_rga_c(layer: RelationAwareChannelAttention, x: Tensor) -> Tensor:
    """Return RGA-C of the whole map: the same with the channels as nodes and the C x C affinity."""
    # A matrix product takes the transposed map as it is; a conv would copy it.
    embedded = layer.embed.weight[0] @ x.flatten(2).transpose(1, 2)
    return x * _relation_scores(layer, embedded).view(*x.shape[:2], 1, 1)


def _relation_scores(layer: RelationAware, embedded: Tensor) -> Tensor:
    """Return the gates `(N, 1, P)` of P nodes, from theta, phi and psi before their norm, `(N, 3d, P)`.

    theta, phi and psi are one joined linear map here too, so that only the relations differ.
    """

    def linear(which: nn.Module, y: Tensor) -> Tensor:
        normed: Tensor = which.norm(F.conv1d(y, which.weight[0, :, :, None]))  # type: ignore[index, operator]
        return normed

    assert layer.embed.norm is not None  # only a folded layer has none
    theta, phi, psi = layer.embed.norm(embedded).relu_().chunk(3, dim=1)
    affinity = theta.transpose(1, 2) @ phi  # (N, P, P)
    relations = torch.cat([affinity.transpose(1, 2), affinity], dim=1)  # (N, 2P, P)
    joint = linear(layer.joint, relations).relu_()
    features = torch.cat([psi.mean(dim=1, keepdim=True), joint], dim=1)
    return linear(layer.score, linear(layer.hidden, features).relu_()).sigmoid()


def part_by_part(layer: RelationAwareSpatialAttention) -> nn.Module:
    """Return one layer of its own for each part of the height, with the layer's weights."""
    return _PartByPart(layer)


class _PartByPart(nn.Module):
    def __init__(self, layer: RelationAwareSpatialAttention) -> None:
        super().__init__()
        height, width = layer.size
        weight = layer.embed.weight
        states = layer.state_dict()
        self.parts = nn.ModuleList()
        for index in range(layer.parts):
            part = RelationAwareSpatialAttention(
                layer.channels,
                size=(height // layer.parts, width),
                reduction=layer.reduction,
                device=weight.device,
                dtype=weight.dtype,
            )
            own = {key: value.chunk(layer.parts)[index] if value.ndim else value for key, value in states.items()}
            part.load_state_dict(own)
            self.parts.append(part)

    def forward(self, x: Tensor) -> Tensor:
        strips = x.chunk(len(self.parts), dim=2)
        return torch.cat([part(strip) for part, strip in zip(self.parts, strips, strict=True)], dim=2)


def level_by_level(pyramid: AttentionPyramid, x: Tensor) -> Tensor:
    """Return APNet's Eq. 1-3 as written: each level's gate computed from the map before it and multiplied with it."""
    for level in pyramid.levels:
        assert isinstance(level, SqueezeExcitation)
        x = x * level.gate(x)
    return x


def literal_split(layer: SplitAttention, x: Tensor) -> Tensor:
    """Return split attention: the parts summed, the sum pooled, the map gated, then its norm as a pass of its own."""
    batch, channels, height, width = x.shape
    parts = x.view(batch, layer.parts, channels // layer.parts, height, width)
    pooled = parts.sum(dim=1).mean(dim=(2, 3))
    shares = layer.expand(layer.reduce(pooled)).view(batch, layer.parts, -1).softmax(dim=1)
    gated = (parts * shares[..., None, None]).view(x.shape)
    normed: Tensor = gated if layer.norm is None else layer.norm(gated)
    return normed


def released_level_by_level(pyramid: AttentionPyramid, x: Tensor) -> Tensor:
    """Return the released code's pyramid as written: split attention and its norm, then SE."""
    se, split = pyramid.levels
    assert isinstance(se, SqueezeExcitation)
    assert isinstance(split, SplitAttention)
    x = literal_split(split, x)
    return x * se.gate(x)


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
