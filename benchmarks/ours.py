"""Our layers, built for a problem: every call with the same arguments returns the same weights."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from attnreid import (
    AttentionPyramid,
    DomainLevelAttention,
    HeadLevelAttention,
    RelationAwareChannelAttention,
    RelationAwareSpatialAttention,
    SplitAttention,
    SqueezeExcitation,
)
from benchmarks.cases import Problem, Variant
from benchmarks.work import Forward, inference, layer_step

Layer = TypeVar("Layer", bound=nn.Module)
Make = Callable[[Problem], Layer]


def seeded(build: Callable[..., Layer], *arguments: Any, **options: Any) -> Layer:
    """Build a layer from a fixed seed."""
    torch.manual_seed(0)
    return build(*arguments, **options)


def make_rga_s(problem: Problem, *, parts: int = 1) -> RelationAwareSpatialAttention:
    """Return spatial relation-aware attention for the problem's map."""
    return seeded(RelationAwareSpatialAttention, problem.channels, size=problem.size, parts=parts, **problem.factory)


def make_rga_c(problem: Problem) -> RelationAwareChannelAttention:
    """Return channel relation-aware attention for the problem's map."""
    return seeded(RelationAwareChannelAttention, problem.channels, size=problem.size, **problem.factory)


def make_pyramid(problem: Problem) -> AttentionPyramid:
    """Return the SE pyramid of three levels."""
    return seeded(AttentionPyramid, problem.channels, "se", levels=3, **problem.factory)


def make_released_pyramid(problem: Problem) -> AttentionPyramid:
    """Return the pyramid of APNet's released code: split attention with its norm, then SE of 8 hidden units."""
    agents = (partial(SqueezeExcitation, hidden=8), "split")
    return seeded(AttentionPyramid, problem.channels, agents, order="fine_to_coarse", **problem.factory)


def make_split(problem: Problem) -> SplitAttention:
    """Return split attention of two parts with its norm."""
    return seeded(SplitAttention, problem.channels, **problem.factory)


def make_head(problem: Problem, *, scale: float | None = 1.0) -> HeadLevelAttention:
    """Return head-level attention for the problem's map."""
    return seeded(HeadLevelAttention, problem.channels, size=problem.size, scale=scale, **problem.factory)


def make_domain(problem: Problem) -> DomainLevelAttention:
    """Return domain-level attention with 64 slots."""
    return seeded(DomainLevelAttention, problem.channels, **problem.factory)


def in_training(
    problem: Problem,
    make: Make[Layer],
    *,
    forward: Callable[[Layer, Tensor], Tensor] | None = None,
    change: Callable[[Layer], nn.Module] | None = None,
    note: str = "",
) -> Variant:
    """Build one forward and backward pass in train mode.

    Args:
        problem: what it is built for.
        make: builds the layer.
        forward: a formula that computes what the layer does, from its weights; None for the layer itself.
        change: returns another layer with the same weights, in the layer's place.
        note: what the row shall say.
    """
    layer = make(problem).train()
    other: nn.Module = layer if change is None else change(layer)
    run: Forward = other if forward is None else lambda x: forward(layer, x)
    return layer_step(run, list(other.parameters()), problem, note=note)


def in_inference(
    problem: Problem,
    make: Make[Layer],
    *,
    forward: Callable[[Layer, Tensor], Tensor] | None = None,
    change: Callable[[Layer], nn.Module] | None = None,
    note: str = "",
) -> Variant:
    """Build one forward pass in eval mode, without gradients; the arguments are those of `in_training`."""
    layer = make(problem)
    (x,) = problem.make_maps(1)
    with torch.no_grad():
        layer.train()(x)  # norms with statistics of their own, not the initial 0 and 1
    layer.eval()
    if change is not None:
        return Variant(inference(change(layer), x), note=note)
    return Variant(inference(layer if forward is None else lambda x: forward(layer, x), x), note=note)
