"""Head-level attention: every position looks at every other, by content and by where it stands.

From "Multi-Level Attention for Unsupervised Person Re-Identification" (MLA), section 3.1 and Fig. 2: BoTNet's
self-attention on the last stage's small map. Alone it harms unsupervised training (MLA's Table 6): it is
meant to run on pixel-level attention's output, with pixel-level attention's gate on its position code.
"""

import math
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnreid._tracing import Unscriptable, is_recording, leaf, rearrange
from attnreid.layers._checks import (
    check_count,
    check_dtype,
    check_factory,
    check_map,
    check_multiple,
    check_size,
    describe,
)
from attnreid.layers._folding import like
from attnreid.layers._pooling import widened
from attnreid.layers._probe import HidesProbes, Probe, is_heard, probed
from attnreid.layers._resizing import Size, copy_with, plain_parameter
from attnreid.registry import register_attention


def head_attention(
    x: Tensor,
    qkv: Tensor,
    position: Tensor,
    *,
    heads: int,
    gate: Tensor | None = None,
    scale: float | None = 1.0,
) -> Tensor:
    """Return `softmax(scale * (q.k + q.(gate * position))) v`, every head apart, as one fused attention call.

    The identity is `q.k + q.(gate * position) = q.(k + gate * position)`: no P x P map of the P = H*W
    positions exists in memory. x is `(N, C, H, W)`, qkv the joined 1x1 conv's weight `(3C, C, 1, 1)`,
    position `(C, H, W)`.
    """
    # The fused kernels need each token's channels side by side, which is what channels_last means.
    q, k, v = F.conv2d(x.contiguous(memory_format=torch.channels_last), qkv).chunk(3, dim=1)
    k = k + _weighed(position, gate)
    q, k, v = (rearrange(t, "n (heads d) h w -> n heads (h w) d", heads=heads) for t in (q, k, v))
    attended = F.scaled_dot_product_attention(q, k, v, scale=scale)
    return rearrange(attended, "n heads (h w) d -> n (heads d) h w", h=x.shape[2])


def head_weights(
    x: Tensor,
    qkv: Tensor,
    position: Tensor,
    *,
    heads: int,
    gate: Tensor | None = None,
    scale: float | None = 1.0,
) -> Tensor:
    """Return the weights of `head_attention`, `softmax(scale * (q.k + q.(gate * position)))`, as they are written.

    Of P = H*W positions they are `(N, heads, P, P)`: row p is how much position p takes of each. The fused call never
    has them. Half precision is computed in single precision, as fused kernels sum it.
    """
    channels = x.shape[1]
    q, k = F.conv2d(x, qkv[: 2 * channels]).to(widened(x.dtype)).chunk(2, dim=1)
    position = _weighed(position, gate).to(q.dtype).expand(k.shape)
    q, k, position = (rearrange(t, "n (heads d) h w -> n heads (h w) d", heads=heads) for t in (q, k, position))
    logits = q @ k.mT + q @ position.mT
    factor = (channels // heads) ** -0.5 if scale is None else scale
    return (factor * logits).softmax(dim=3).to(x.dtype)


@leaf
def _weighed(position: Tensor, gate: Tensor | None) -> Tensor:
    return position if gate is None else gate * position


@leaf
def _check_gate(x: Tensor, gate: Tensor | None) -> Tensor | None:
    """Return pixel-level attention's gate, refusing one that is not of these maps."""
    if gate is not None and not is_recording():
        shared = (x.shape[0], 1, *x.shape[2:])
        if tuple(gate.shape) not in (tuple(x.shape), shared):
            raise ValueError(
                f"HeadLevelAttention: the gate must be {tuple(x.shape)} or {shared}, got {tuple(gate.shape)}: "
                "pass pixel-level attention's gate of the same images"
            )
        if torch.promote_types(gate.dtype, x.dtype) != x.dtype:
            check_dtype("HeadLevelAttention", gate, x, name="the gate")
    return gate


def _stretched(table: nn.Parameter, axis: int, length: int) -> nn.Parameter:
    """Return a position table, `(C, H, 1)` or `(C, 1, W)`, interpolated along its axis to another length."""
    values = table.detach().flatten(1)
    if table.shape[axis] != length:
        values = F.interpolate(values[None].to(widened(values.dtype)), size=length, mode="linear")[0].to(values.dtype)
    return like(table, values.unsqueeze(3 - axis).clone())


@register_attention("head")
class HeadLevelAttention(HidesProbes, Unscriptable):
    """Replaces each pixel by a mix of all pixels' values, weighed by content and position, in several heads.

    MLA's Fig. 2, computed by the identity of `head_attention`. q, k and v come from one joined 1x1 conv
    without bias (a bias on k has no gradient), in torch's default initialisation; the position code is the
    sum of a table over heights and one over widths, both drawn from N(0, 1). Where the paper is silent: 4
    heads, and the logits unscaled (scale 1), as in the PyTorch port of BoTNet that the wording matches. That
    port's position term is `pos.q` with the indices the other way round; the paper's text and the official
    BoTNet have `q.pos`, as here.

    Args:
        channels: the channels C of the map, a multiple of `heads`.
        size: the map's (height, width), which the position code is made for.
        heads: how many heads share the channels, d = C / heads each.
        scale: the factor on both terms of the logits; None for 1/sqrt(d).
        device: where the parameters are made.
        dtype: the parameters' type.

    Shape:
        Input and output `(N, C, H, W)`; `forward`'s gate `(N, C, H, W)` or `(N, 1, H, W)`.
        This is no gate itself: the output is new values, not the input's times a factor.

    Raises:
        TypeError: if an option is of the wrong type or the input is not floating point.
        ValueError: if an option is out of range, or the input is not a map of C channels and this
            size.

    Example:
        >>> attention = HeadLevelAttention(64, size=(16, 8))
        >>> attention(torch.randn(2, 64, 16, 8)).shape
        torch.Size([2, 64, 16, 8])
    """

    def __init__(
        self,
        channels: int,
        *,
        size: tuple[int, int],
        heads: int = 4,
        scale: float | None = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        who = "HeadLevelAttention"
        check_count(who, "channels", channels)
        check_factory(who, device, dtype)
        check_count(who, "heads", heads)
        check_multiple(who, "channels", channels, heads)
        height, width = self.size = check_size(who, size)
        if scale is not None and (isinstance(scale, bool) or not isinstance(scale, int | float)):
            raise TypeError(f"{who}: scale must be a number or None, got {scale!r}: pass None for 1/sqrt(d)")
        if scale is not None and not 0 < scale < math.inf:
            raise ValueError(f"{who}: scale must be positive and finite, got {scale}: pass None for 1/sqrt(d)")
        self.channels = channels
        self.heads = heads
        self.scale = scale
        self.probe = Probe()  # the weights pass it, where anyone listens
        self.qkv = nn.Conv2d(channels, 3 * channels, kernel_size=1, bias=False, device=device, dtype=dtype)
        self.position_height = nn.Parameter(torch.empty(channels, height, 1, device=device, dtype=dtype))
        self.position_width = nn.Parameter(torch.empty(channels, 1, width, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the conv by torch's default and the position tables from N(0, 1)."""
        self.qkv.reset_parameters()
        nn.init.normal_(self.position_height)
        nn.init.normal_(self.position_width)

    # Not `Tensor | None`: with that, older releases of torch.fx cannot pickle its graph of this layer.
    def forward(self, x: Tensor, gate: Optional[Tensor] = None) -> Tensor:  # noqa: UP045
        """Return the attended map; pixel-level attention's `gate` weighs each image's position code."""
        x = check_map("HeadLevelAttention", x, self.channels, self.size)
        gate = _check_gate(x, gate)
        if is_heard(self.probe):
            probed(self.probe, self.attention_weights(x, gate))
        position, qkv = self.position_height + self.position_width, self.qkv.weight
        x = check_dtype("HeadLevelAttention", x, qkv)
        return head_attention(x, qkv, position, heads=self.heads, gate=gate, scale=self.scale)

    def attention_weights(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """Return what `forward` mixes the values by, `(N, heads, P, P)` of P = H*W positions; a row sums to 1.

        It is computed apart, and takes the memory that `forward` avoids. A forward hook on `probe` sees it, too: it
        is computed in `forward` where there is such a hook.
        """
        x = check_map("HeadLevelAttention", x, self.channels, self.size)
        gate = _check_gate(x, gate)
        position, qkv = self.position_height + self.position_width, self.qkv.weight
        x = check_dtype("HeadLevelAttention", x, qkv)
        return head_weights(x, qkv, position, heads=self.heads, gate=gate, scale=self.scale)

    def resize(self, size: Size) -> "HeadLevelAttention":
        """Return a copy for maps of another size: position tables interpolated linearly, all else equal.

        What every position adds to a logit is read off the table between the old positions, and held at its ends. No
        output stays exactly as it was but that of a constant map, which is a mix of equal values. The tables are new
        parameters, for an optimiser; they are trained or frozen as the old ones.

        Raises:
            ValueError: the size is no size, or the tables have parametrizations.
        """
        size = check_size("HeadLevelAttention", size)
        tables = [plain_parameter("HeadLevelAttention", self, name) for name in ("position_height", "position_width")]
        stretched = [_stretched(table, axis, size[axis - 1]) for axis, table in enumerate(tables, start=1)]
        resized = copy_with(self, *zip(tables, stretched, strict=True))
        resized.size = size
        return resized

    def extra_repr(self) -> str:
        """Return the channels, the size and the options that were changed."""
        return describe(self.channels, size=(self.size, None), heads=(self.heads, 4), scale=(self.scale, 1.0))
