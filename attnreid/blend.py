"""The identity blend: attention that comes in by one learnt scalar, which starts at 0.

At 0 every finite map passes as it is, bit by bit (unless the attention itself overflows, as it may from about 1e20 in
float32); at 1 the attention is alone.
"""

import torch
from torch import Tensor, nn

from attnreid.layers._pooling import affine
from attnreid.layers._resizing import Size, copy_with, resize_attention
from attnreid.layers.gate import Gate


def blend_affine(blend: Tensor | None, x: Tensor, factor: Tensor, offset: Tensor | None) -> Tensor:
    """Return `x * factor + offset` blended in, `x * (1 + blend * (factor - 1)) + blend * offset`; None for alone."""
    if blend is None:
        return affine(x, factor, offset)
    return affine(x, 1 + blend * (factor - 1), None if offset is None else blend * offset)


def blend_map(blend: Tensor | None, x: Tensor, y: Tensor) -> Tensor:
    """Return what an attention made of `x`, blended in, `x + blend * (y - x)`; None for alone."""
    return y if blend is None else x + blend * (y - x)


class IdentityBlend(nn.Module):
    """Blends a layer in by one learnt scalar: a gate by its factor, anything else by its output.

    Args:
        layer: maps a map to a map of the same shape.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.blend = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return the blend of the map and what the layer makes of it."""
        found = self.layer.as_affine(x) if isinstance(self.layer, Gate) and self.layer.multiplies else None
        return blend_map(self.blend, x, self.layer(x)) if found is None else blend_affine(self.blend, *found)

    def resize(self, size: Size) -> "IdentityBlend":
        """Return a copy for maps of another size: the layer in it resized, the blend as it is."""
        return copy_with(self, (self.layer, resize_attention(self.layer, size)))
