"""What all gates have in common: a map in (0, 1) that the layer multiplies its input with."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from attnreid._recording import record
from attnreid.layers._checks import check_map
from attnreid.layers._pooling import pool_beside

SplitDim = Literal["channels", "height"]


class GateLayer(nn.Module):
    """Multiplies the map by the gate that a subclass computes, and names that gate to whoever records.

    A subclass with a `split_dim` takes `parts=n` and handles its parts itself. A subclass with `pooled =
    True` promises that its gate depends on the average-pooled map alone: `gate(x) == gate(pool(x))`. One that
    sets `norm` has a batch norm after the multiplication.
    """

    name: ClassVar[str]
    split_dim: ClassVar[SplitDim | None] = None
    pooled: ClassVar[bool] = False
    channels: int

    def __init__(self) -> None:
        super().__init__()
        self.norm: nn.BatchNorm2d | None = None

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate of the map `x`, of a shape that broadcasts to it; records nothing."""
        raise NotImplementedError

    def apply_gate(self, x: Tensor, gate: Tensor) -> Tensor:
        """Return the gated map, normed where the layer has a norm."""
        if self.norm is None:
            return x * gate
        if self.training:
            y: Tensor = self.norm(x * gate)
            return y
        factor, offset = self.affine(gate)
        assert offset is not None  # for the type checker: there is a norm
        return torch.addcmul(offset, x, factor)  # one pass over the map instead of two

    def affine(self, gate: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return factor and offset of the eval form, `x * factor + offset`; None for no offset."""
        norm = self.norm
        if norm is None:
            return gate, None
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        offset = -norm.running_mean * scale
        # The norm may be of a wider type than the map, as it is under autocast.
        shape = (1, -1, 1, 1)
        return gate * scale.view(shape).to(gate.dtype), offset.view(shape).to(gate.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated map."""
        seen = x
        if self.pooled:
            check_map(type(self).__name__, x, self.channels)
            x, seen = pool_beside(x)
        gate = self.gate(seen)
        record(self, self.name, gate)
        return self.apply_gate(x, gate)
