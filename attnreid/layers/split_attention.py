"""Split attention: the parts of the channels compete, channel by channel, for how much of each passes.

From "ResNeSt: Split-Attention Networks" (Zhang et al.), as the released code of "Person Re-identification via
Attention Pyramid" (APNet) uses it where the paper has the channel attention of its level 2.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_linear_bn_weights

from attnreid._tracing import rearrange, reduce
from attnreid.layers._checks import (
    check_count,
    check_dtype,
    check_factory,
    check_flag,
    check_multiple,
    check_statistics,
    describe,
)
from attnreid.layers._folding import Foldable, eval_form, like, reset_norm
from attnreid.layers.gate import PooledGate
from attnreid.registry import register_attention

LEAST_HIDDEN = 32


def split_gate(scores: Tensor, parts: int) -> Tensor:
    """Return the softmax of the scores `(N, C)` over the parts that the C channels are split into.

    One part competes with none, and its softmax would be the constant 1: it gets the sigmoid instead, as in
    ResNeSt.
    """
    if parts == 1:
        return scores.sigmoid()
    return rearrange(rearrange(scores, "n (r c) -> n r c", r=parts).softmax(dim=1), "n r c -> n (r c)")


@register_attention("split")
class SplitAttention(PooledGate, Foldable):
    """Multiplies each channel by a weight in (0, 1) that it shares with its fellows in the other parts.

    The agent of APNet's released code (not in the paper): the parts' sum, global average pool, a linear map,
    BN, ReLU, a linear map back to all channels, softmax over the parts; then the gated map through a BN that
    scales but does not shift. Pooling is linear, so the parts' averages are summed instead of the parts: the
    map is read once for the gate, and the gate depends on the pooled map alone. In eval mode gate and norm
    are one multiply-add. Initialised as torch's linear layers are, as the released code leaves them.

    Args:
        channels: the channels C of the map, a multiple of `parts`.
        parts: into how many equal parts the channels are split (ResNeSt's radix); 1 has a sigmoid for a
            softmax.
        reduction: the hidden width is `max(32, C * parts / reduction)`, rounded down.
        norm: have the BN without shift behind the gate, as the released code does.
        device: where the parameters are made.
        dtype: the parameters' type.

    Shape:
        Input and output `(N, C, H, W)`; gate `(N, C, 1, 1)`, in (0, 1), whose parts sum to 1 where there are
        several.

    Raises:
        TypeError: if an option is of the wrong type or the input is not floating point.
        ValueError: if an option is out of range, `parts` does not divide the channels, or the input is not a
            map with C channels and at least one position, or a single image in train mode, whose pooled vector
            has no batch statistics.

    Example:
        >>> attention = SplitAttention(64)
        >>> attention.gate(torch.randn(2, 64, 16, 8)).shape
        torch.Size([2, 64, 1, 1])
    """

    def __init__(
        self,
        channels: int,
        *,
        parts: int = 2,
        reduction: int = 4,
        norm: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels)
        who = "SplitAttention"
        check_count(who, "parts", parts)
        check_count(who, "reduction", reduction)
        check_flag(who, "norm", norm)
        check_factory(who, device, dtype)
        check_multiple(who, f"channels, split into {parts} parts,", channels, parts)
        self.parts = parts
        self.reduction = reduction
        hidden = max(LEAST_HIDDEN, channels * parts // reduction)
        self.reduce = nn.Sequential(
            nn.Linear(channels // parts, hidden, device=device, dtype=dtype),
            nn.BatchNorm1d(hidden, device=device, dtype=dtype),
            nn.ReLU(),
        )
        self.expand = nn.Linear(hidden, channels, device=device, dtype=dtype)
        self.norm: nn.BatchNorm2d | None = None
        if norm:
            self.norm = nn.BatchNorm2d(channels, device=device, dtype=dtype)
            self.norm.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw both linear maps as torch does by default and start the batch norms anew."""
        for module in (*self.reduce, self.expand, self.norm):
            if isinstance(module, nn.Linear):
                module.reset_parameters()
            elif isinstance(module, _BatchNorm):
                reset_norm(module)

    @property
    def norm_behind(self) -> nn.BatchNorm2d | None:
        """The batch norm without shift; None where it was left out."""
        return self.norm

    def gate_of(self, pooled: Tensor) -> Tensor:
        """Return the weight of every channel, `(N, C)`, from the average-pooled map `(N, C)`."""
        check_statistics("SplitAttention", pooled.shape[0], [*self.reduce])
        # Not by attribute: a weight with a parametrization would be computed twice.
        pooled = check_dtype("SplitAttention", pooled, self.reduce[0]._parameters.get("weight"))
        summed = reduce(pooled, "n (parts c) -> n c", "sum", parts=self.parts)
        return split_gate(self.expand(self.reduce(summed)), self.parts)

    def fold_(self) -> None:
        """Take the hidden layer's batch norm into its linear map."""
        linear, norm, relu = self.reduce
        assert isinstance(linear, nn.Linear)
        weight, bias = fuse_linear_bn_weights(linear.weight, linear.bias, *eval_form("SplitAttention", norm))
        linear.weight, linear.bias = like(linear.weight, weight), like(linear.weight, bias)
        self.reduce = nn.Sequential(linear, relu)
        self.folded = True

    def extra_repr(self) -> str:
        """Return the channels and the options that were changed."""
        return describe(
            self.channels,
            parts=(self.parts, 2),
            reduction=(self.reduction, 4),
            norm=(self.norm is not None, True),
        )
