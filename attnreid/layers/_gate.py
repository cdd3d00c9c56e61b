"""What all gates have in common: a map in (0, 1) that the layer multiplies its input with."""

from typing import ClassVar, Literal

from torch import Tensor, nn

from attnreid._recording import record

SplitDim = Literal["channels", "height"]


class GateLayer(nn.Module):
    """Multiplies the map by the gate that a subclass computes, and names that gate to whoever records.

    A subclass with a `split_dim` takes `parts=n` and handles its parts itself. A subclass with `pooled =
    True` promises that its gate depends on the average-pooled map alone: `gate(x) == gate(pool(x))`.
    """

    name: ClassVar[str]
    split_dim: ClassVar[SplitDim | None] = None
    pooled: ClassVar[bool] = False

    def gate(self, x: Tensor) -> Tensor:
        """Return the gate of the map `x`, of a shape that broadcasts to it; records nothing."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated map."""
        gate = self.gate(x)
        record(self, self.name, gate)
        return x * gate
