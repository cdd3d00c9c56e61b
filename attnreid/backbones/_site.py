"""What is known of one place in a model."""

from dataclasses import dataclass
from typing import Literal

Layout = Literal["NCHW", "NHWC", "tokens"]


@dataclass(frozen=True)
class Site:
    """A place in a model where attention can stand.

    Args:
        name: the module's dotted name.
        kind: the name of its class.
        channels: channels of the map that it gives; None where it gives no single map.
        size: height and width of that map at the measured input size; of tokens, their grid.
        calls: how often one forward pass calls it.
        refusal: why attention cannot stand here, in words; None where it can.
        layout: how the map lies in what the module returns: "NCHW", "NHWC", or "tokens" `(N, prefix + H*W, C)`, row
            by row. None where that is not known.
        prefix: how many tokens (class, distillation, registers) stand before those of the map.
        output: index or key of the map where the module returns several things; None where it returns the map alone.
    """

    name: str
    kind: str
    channels: int | None
    size: tuple[int, int] | None
    calls: int
    refusal: str | None = None
    layout: Layout | None = "NCHW"
    prefix: int = 0
    output: int | str | None = None

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the tokens; None in other layouts."""
        return self.size if self.layout == "tokens" else None
