"""Directions of features, however short or long they are."""

import torch
from torch import Tensor
from torch.nn import functional

_LEAST = 1 - 1e-5  # squared length; rounding takes less from it
_NEAR = 1e-3  # squared length; rounding takes 1e-6 of it, a damaged number usually more


def is_unit(vectors: Tensor) -> bool:
    """Return whether every row of (N, D) has length 1, within what rounding leaves of it."""
    rounding = 8 * torch.finfo(vectors.dtype).eps
    return bool(((vectors.square().sum(dim=1) - 1).abs() <= rounding).all())


def unlike_unit(vectors: Tensor) -> Tensor:
    """Return (N,) which rows of (N, D) are neither of about length 1 nor all zeros; NaN and Inf are of no length."""
    squared = vectors.square().sum(dim=1)
    return ~((squared - 1).abs() <= _NEAR) & ~(vectors == 0).all(dim=1)


def unit_rows(vectors: Tensor) -> Tensor:
    """Return vectors (N, D) of length 1 in the directions of `vectors`; one of length 0 has none and stays.

    torch's `normalize` does it, but takes what is shorter than 1e-12 for nothing, and squares that overflow for
    infinitely long; such vectors are first divided by their largest number.

    Args:
        vectors: (N, D) finite float32 or float64.
    """
    unit = functional.normalize(vectors, dim=1)
    rows = (unit.square().sum(dim=1) < _LEAST).nonzero()[:, 0]
    if len(rows) and vectors.shape[1]:
        some = vectors[rows]
        largest = some.abs().amax(dim=1, keepdim=True)
        unit[rows] = functional.normalize(some / torch.where(largest > 0, largest, 1), dim=1)
    return unit
