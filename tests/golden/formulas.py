"""Tensors from a formula, so that no generator's stream is among what golden values depend on."""

import math

import torch
from torch import Tensor, nn


def wave(*shape: int, number: int = 0) -> Tensor:
    """Return a float64 tensor of sines of the squared index, between -1 and 1; another one for every `number`.

    The square keeps a matrix of them from having rank 2, as sines of the index have.
    """
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(index * index * (0.37 + 0.013 * number) + index * 0.7 + 1.3 * number).reshape(shape)


@torch.no_grad()
def fill(module: nn.Module) -> nn.Module:
    """Put every parameter and statistic in double precision and give it its own wave, and return the module.

    Matrices and kernels are scaled to keep a signal's size; norms are near 1, variances positive, biases small.
    """
    module.double()
    for number, (name, value) in enumerate(module.state_dict().items(), start=1):
        if not value.is_floating_point():
            continue
        values = wave(*value.shape, number=number)
        if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
            value.copy_(1 + 0.3 * values)
        elif value.ndim < 2:
            value.copy_(0.2 + 0.1 * values)  # a ReLU behind it is neither dead nor always open
        else:
            value.copy_(values * 2 * (value.shape[0] / value.numel()) ** 0.5)
    return module


def sketch(values: Tensor) -> list[float]:
    """Return three numbers that a change of any value changes: the length, and two products with waves."""
    flat = values.detach().double().flatten()
    return [float(flat.norm()), *(float(flat @ wave(len(flat), number=number)) for number in (101, 102))]
