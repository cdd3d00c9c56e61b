"""The average of a map for a gate that multiplies this same map, with a backward pass that reads it less often."""

from typing import Any

import torch
from torch import Tensor


def pool_beside(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the map `(N, C, H, W)` itself and its averages `(N, C, 1, 1)`; use the returned map from here on.

    The mathematics is `x, x.mean((2, 3))`. The gradients of the two meet in one pass over the map, where
    autograd would write the averages' gradient out as a map and add the two.
    """
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and x.requires_grad):
        return x, x.mean(dim=(2, 3), keepdim=True)  # a compiler fuses the passes itself
    beside: tuple[Tensor, Tensor] = _PoolBeside.apply(x)
    return beside


class _PoolBeside(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.view_as(x), x.mean(dim=(2, 3), keepdim=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.positions = inputs[0].shape[2] * inputs[0].shape[3]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        of_map, of_averages = gradients
        joined: Tensor = of_map + of_averages / ctx.positions
        return joined

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> tuple[Tensor, Tensor]:
        return tangents[0].view_as(tangents[0]), tangents[0].mean(dim=(2, 3), keepdim=True)
