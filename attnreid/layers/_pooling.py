"""What a gate that depends on averages needs of the map that it multiplies, with fewer passes over that map.

The functions return the map itself too. Whoever uses that one instead of the argument has the gradients of
both meet in one pass, where autograd would write each as a map of its own and add them.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnreid._tracing import is_recording


class Moments(NamedTuple):
    """Each image's mean and variance over the positions, `(N, C, 1, 1)`; None for a variance nobody needs."""

    mean: Tensor
    variance: Tensor | None
    positions: int

    def affine(self, factor: Tensor, offset: Tensor | None) -> "Moments":
        """Return the moments of `factor * map + offset`, factor and offset being the same at all positions."""
        mean = affine(self.mean, factor, offset)
        return Moments(mean, None if self.variance is None else self.variance * factor.square(), self.positions)


def affine(x: Tensor, factor: Tensor, offset: Tensor | None) -> Tensor:
    """Return `x * factor + offset` in one pass; None for no offset."""
    return x * factor if offset is None else torch.addcmul(offset, x, factor)


def pool_beside(x: Tensor, *, variance: bool = False) -> tuple[Tensor, Moments]:
    """Return the map `(N, C, H, W)` itself, to be used from here on, and its moments.

    With the variance, a map of half precision has moments of single precision, as in a batch norm.
    """
    positions = x.shape[2] * x.shape[3]
    if torch.compiler.is_compiling() or is_recording() or not (torch.is_grad_enabled() and x.requires_grad):
        if not variance:  # a compiler fuses the passes itself
            return x, Moments(x.mean(dim=(2, 3), keepdim=True), None, positions)
        wide = x.to(widened(x.dtype))
        mean = wide.mean(dim=(2, 3), keepdim=True)
        return x, Moments(mean, (wide - mean).square().mean(dim=(2, 3), keepdim=True), positions)
    if variance:
        y, mean, second = _MomentsBeside.apply(x)
        return y, Moments(mean, second, positions)
    y, mean = _MeanBeside.apply(x)
    return y, Moments(mean, None, positions)


def widened(dtype: torch.dtype) -> torch.dtype:
    """Return single precision for half precision: there, squares overflow and small variances vanish."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


class _MeanBeside(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.view_as(x), x.mean(dim=(2, 3), keepdim=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.positions = inputs[0].shape[2] * inputs[0].shape[3]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        of_map, of_mean = gradients
        joined: Tensor = of_map + of_mean / ctx.positions
        return joined

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> tuple[Tensor, Tensor]:
        return tangents[0].view_as(tangents[0]), tangents[0].mean(dim=(2, 3), keepdim=True)


class _MomentsBeside(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        wide = widened(x.dtype)
        mean = x.mean(dim=(2, 3), keepdim=True, dtype=wide)
        root = torch.linalg.vector_norm(x - mean, dim=(2, 3), keepdim=True)
        return x.view_as(x), mean, root.square() / (x.shape[2] * x.shape[3])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], output[1])
        ctx.save_for_forward(inputs[0], output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        of_map, of_mean, of_variance = gradients
        x, mean = ctx.saved_tensors
        positions = x.shape[2] * x.shape[3]
        slope = of_variance * (2 / positions)
        return torch.addcmul(of_map + (of_mean / positions - slope * mean), x, slope).to(x.dtype)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, mean = ctx.saved_tensors
        tangent = tangents[0]
        of_mean = tangent.mean(dim=(2, 3), keepdim=True)
        return tangent.view_as(tangent), of_mean, 2 * ((x - mean) * tangent).mean(dim=(2, 3), keepdim=True)
