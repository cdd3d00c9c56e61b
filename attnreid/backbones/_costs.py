"""What a module costs: its parameters, and the multiply-adds of one image."""

from functools import partial

import torch
from torch import nn

from attnreid import counting
from attnreid.backbones._measuring import stand_in


def count_parameters(module: nn.Module) -> int:
    """Return how many numbers the module can learn."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_multiply_adds(module: nn.Module, *shape: int) -> int | None:
    """Return the multiply-adds of a forward pass in eval mode on one input `(*shape)`; None if it cannot run.

    Convolutions, linear maps and matrix products count, a multiplication with its addition as one. Pooling,
    batch norms, activations and gating, which are a few passes over a map, do not.
    """
    for meta in (True, False):
        try:
            double = stand_in(module, meta=meta, bypass=False)
            like = next((tensor for tensor in double.parameters() if tensor.is_floating_point()), torch.empty(0))
            x = torch.zeros((1, *shape), dtype=like.dtype, device="meta" if meta else like.device)
            with torch.no_grad():
                return counting.count_multiply_adds(partial(double, x))
        except Exception:
            continue  # some modules run only off the meta device
    return None
