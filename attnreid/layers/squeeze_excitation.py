"""Squeeze-and-excitation: every channel is weighed by what all channels' averages say.

From "Squeeze-and-Excitation Networks" (Hu et al.), and the channel attention of "Person Re-identification via
Attention Pyramid" (APNet), Eq. 5. With parts, the channels are split and each part sees its own averages
only.
"""

import torch
from torch import Tensor, nn

from attnreid._tracing import rearrange
from attnreid.layers._checks import check_count, check_dtype, check_factory, check_multiple, describe
from attnreid.layers.gate import PooledGate
from attnreid.registry import register_attention

REDUCTION = 16


def squeeze_excitation_gate(pooled: Tensor, reduce: Tensor, expand: Tensor) -> Tensor:
    """Return `sigmoid(W2 ReLU(W1 pooled))` of every part: APNet's Eq. 5 on the pooled vector, `(N, C)` to
    `(N, C)`.

    reduce is W1, `(parts, hidden, C/parts)`, expand is W2, `(parts, C/parts, hidden)`; all parts go together.
    """
    parts = rearrange(pooled, "n (parts c) -> parts n c", parts=reduce.shape[0])
    hidden = (parts @ reduce.transpose(1, 2)).relu()
    gate = (hidden @ expand.transpose(1, 2)).sigmoid()
    return rearrange(gate, "parts n c -> n (parts c)")


@register_attention("se")
class SqueezeExcitation(PooledGate):
    """Multiplies each channel by a weight in (0, 1) computed from the averages of all channels, or of its
    part.

    APNet's Eq. 5 as it stands. As in both papers' code there is no bias. Where APNet is silent: reduction 16,
    never fewer than one hidden unit a part (a pyramid of radix 32 at 256 channels would otherwise have none).
    APNet's released code instead has 8 hidden units at every stage: `hidden=8`. Initialised as torch's linear
    layers are, uniform within 1/sqrt(inputs), part by part. (Behind a ReLU the averages are all positive, so that
    a hidden unit may be off for all images from the start; with very few units all of them may be, and the gate
    is then 1/2 for good.)

    Args:
        channels: the channels C of the map, a multiple of `parts`.
        reduction: the hidden width of a part is `max(1, C / parts / reduction)`, rounded down.
        hidden: the hidden width of a part itself, in place of `reduction`.
        parts: split the channels into this many equal parts with separate weights.
        device: where the parameters are made.
        dtype: the parameters' type.

    Shape:
        Input and output `(N, C, H, W)`; gate `(N, C, 1, 1)`, in (0, 1).

    Raises:
        TypeError: if an option is of the wrong type or the input is not floating point.
        ValueError: if an option is out of range, both `reduction` and `hidden` are given, `parts` does not
            divide the channels, or the input is not a map with C channels and at least one position.

    Example:
        >>> attention = SqueezeExcitation(64, parts=2)
        >>> attention.gate(torch.randn(2, 64, 16, 8)).shape
        torch.Size([2, 64, 1, 1])
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = REDUCTION,
        hidden: int | None = None,
        parts: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels)
        who = "SqueezeExcitation"
        check_count(who, "reduction", reduction)
        check_count(who, "parts", parts)
        check_factory(who, device, dtype)
        check_multiple(who, f"channels, split into {parts} parts,", channels, parts)
        if hidden is not None:
            check_count(who, "hidden", hidden)
            if reduction != REDUCTION:
                raise ValueError(
                    f"{who}: hidden takes reduction's place, got reduction={reduction} and hidden={hidden}: pass one"
                )
        self.reduction = reduction
        self.hidden = hidden
        self.parts = parts
        width = max(1, channels // parts // reduction) if hidden is None else hidden
        self.reduce = nn.Parameter(torch.empty(parts, width, channels // parts, device=device, dtype=dtype))
        self.expand = nn.Parameter(torch.empty(parts, channels // parts, width, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw both layers of every part uniformly within 1/sqrt(inputs)."""
        for weight in (self.reduce, self.expand):
            bound = weight.shape[2] ** -0.5
            nn.init.uniform_(weight, -bound, bound)

    def gate_of(self, pooled: Tensor) -> Tensor:
        """Return the weight of every channel, `(N, C)`, from the average-pooled map `(N, C)`."""
        reduce = self.reduce
        return squeeze_excitation_gate(check_dtype("SqueezeExcitation", pooled, reduce), reduce, self.expand)

    def extra_repr(self) -> str:
        """Return the channels and the options that were changed."""
        return describe(
            self.channels,
            reduction=(self.reduction, REDUCTION),
            hidden=(self.hidden, None),
            parts=(self.parts, 1),
        )
