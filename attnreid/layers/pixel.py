"""Pixel-level attention: every pixel is weighed by what its 3x3 neighbourhood shows.

From "Multi-Level Attention for Unsupervised Person Re-Identification" (MLA), section 3.2. It replaces an
absolute position code: where the background looks alike in all images of a camera, a weight learnt from the
pixels says foreground or background before head-level attention compares positions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnreid.layers._checks import check_dtype, check_factory, check_flag, check_map, describe
from attnreid.layers.gate import Gate
from attnreid.registry import register_attention


def pixel_gate(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return MLA's Eq. 3 without its product: `sigmoid(conv3x3(x))`, zero padding, `(N, C or 1, H, W)`."""
    return F.conv2d(x, weight, bias, padding=1).sigmoid()


@register_attention("pixel")
class PixelLevelAttention(Gate):
    """Multiplies each pixel of each channel by a weight in (0, 1) computed from the pixel's 3x3
    neighbourhood.

    MLA's Eq. 3, `x * sigmoid(conv3x3(x))`, computed as it stands. Where the paper is silent: the conv maps C
    to C channels, since the weights replace a position code of the token's own size and the layer takes a 3x3
    C-to-C conv's place; it has a bias; it keeps torch's default initialisation, uniform within 1/sqrt(9C).

    Args:
        channels: the channels C of the map.
        shared_map: compute one map for all channels (a C-to-1 conv) instead of one for each.
        device: where the parameters are made.
        dtype: the parameters' type.

    Shape:
        Input and output `(N, C, H, W)`; gate `(N, C, H, W)`, with `shared_map` `(N, 1, H, W)`, in (0, 1).

    Raises:
        TypeError: if an option is of the wrong type or the input is not floating point.
        ValueError: if an option is out of range, or the input is not a map with C channels and at least one position.

    Example:
        >>> attention = PixelLevelAttention(64)
        >>> attention(torch.randn(2, 64, 16, 8)).shape
        torch.Size([2, 64, 16, 8])
    """

    def __init__(
        self,
        channels: int,
        *,
        shared_map: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels)
        check_flag("PixelLevelAttention", "shared_map", shared_map)
        check_factory("PixelLevelAttention", device, dtype)
        self.shared_map = shared_map
        maps = 1 if shared_map else channels
        self.conv = nn.Conv2d(channels, maps, kernel_size=3, padding=1, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the conv anew, by torch's default."""
        self.conv.reset_parameters()

    def gate(self, x: Tensor) -> Tensor:
        """Return the weights of all pixels, `(N, C, H, W)` or, with `shared_map`, `(N, 1, H, W)`."""
        x = check_map("PixelLevelAttention", x, self.channels)
        weight = self.conv.weight
        return pixel_gate(check_dtype("PixelLevelAttention", x, weight), weight, self.conv.bias)

    def extra_repr(self) -> str:
        """Return the channels and the options that were changed."""
        return describe(self.channels, shared_map=(self.shared_map, False))
