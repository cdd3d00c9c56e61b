"""The rows of other layouts: attention on a host that gives (N, H, W, C) or tokens, against the same map as NCHW."""

from functools import partial

import torch
from torch import Tensor

from attnreid import AttentionPyramid, RelationAwareSpatialAttention
from attnreid.backbones.layouts import MapAdapter
from attnreid.backbones.sites import Layout
from attnreid.registry import Attention, build_attention, find_builder
from benchmarks.cases import Case, Peer, Problem, Shape, Variant
from benchmarks.work import training_step

SHAPES: tuple[Shape, ...] = ((192, 16, 8), (384, 16, 8), (192, 64, 32))
"""A small ViT's tokens for an image of 256x128, a larger one's, and the first stage of a Swin."""


_LAYOUTS: tuple[tuple[Layout, int], ...] = (("NHWC", 0), ("tokens", 0), ("tokens", 1))


def _laid(x: Tensor, layout: Layout, prefix: int) -> Tensor:
    """Return the map as a host of this layout gives it, behind a prefix of zeros."""
    if layout == "NCHW":
        return x
    x = x.permute(0, 2, 3, 1).contiguous()
    if layout == "NHWC":
        return x
    return torch.cat([x.new_zeros(x.shape[0], prefix, x.shape[3]), x.flatten(1, 2)], 1)


def attended_variant(
    problem: Problem, *, attention: Attention, layout: Layout, prefix: int, as_ours: tuple[Layout, int] | None = None
) -> Variant:
    """Build forward and backward pass of attention behind what hands it the map in a host's layout.

    `as_ours` are the layout and the prefix that its output is compared in.
    """
    torch.manual_seed(0)
    layer = build_attention("benchmarks", find_builder("benchmarks", attention), problem.channels, size=problem.size)
    if layout != "NCHW":
        layer = MapAdapter(layer, layout, problem.size if layout == "tokens" else None, prefix)
    layer.to(**problem.factory)
    x, cotangent = (_laid(each, layout, prefix) for each in problem.make_maps(2))
    parameters = list(layer.parameters())
    return Variant(
        training_step(layer, x, parameters, cotangent),
        as_ours=None if as_ours is None else partial(_laid, layout=as_ours[0], prefix=as_ours[1]),
        left=2 * x.nbytes + sum(parameter.nbytes for parameter in parameters),
    )


def _cases(name: str, what: str, attention: Attention) -> tuple[Case, ...]:
    variant = partial(attended_variant, attention=attention)
    return tuple(
        Case(
            f"{name}_{layout.lower()}{'_prefix' if prefix else ''}",
            f"{what} on {layout}{' behind a prefix' if prefix else ''}",
            partial(variant, layout=layout, prefix=prefix),
            (
                Peer(
                    "nchw",
                    "the same map (N, C, H, W)",
                    partial(variant, layout="NCHW", prefix=0, as_ours=(layout, prefix)),
                ),
            ),
            SHAPES,
            16,
            resizable=False,
        )
        for layout, prefix in _LAYOUTS
    )


CASES = (
    *_cases("se2", "SE pyramid, 2 levels", partial(AttentionPyramid, attention="se", levels=2)),
    *_cases("rga_s", "RGA-S", RelationAwareSpatialAttention),
)
