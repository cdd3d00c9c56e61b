"""Domain-level attention: every pixel is compared with a memory that is learnt over the whole data set.

From "Multi-Level Attention for Unsupervised Person Re-Identification" (MLA), section 3.3. The memory holds
what all pedestrians of a domain share, so that an image's own odd background weighs less.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnreid.layers._checks import check_count, check_dtype, check_factory, check_map, check_size, describe
from attnreid.layers._folding import Foldable, like
from attnreid.layers._probe import HidesProbes, Probe, probed
from attnreid.layers._resizing import Size, copy_with
from attnreid.registry import register_attention


def normalise_twice(logits: Tensor) -> Tensor:
    """Return external attention's double normalisation of `(N, slots, H, W)`: each pixel's slots sum to 1.

    It is a softmax over the positions, then a division by the sum over the slots. If a pixel's softmax
    underflows in every slot the literal form is 0/0; the equal form `softmax over slots of log(softmax over
    positions)` is not.
    """
    log_share = F.log_softmax(logits.flatten(2), dim=2)
    return log_share.softmax(dim=1).view_as(logits)


def domain_memory_map(x: Tensor, query: Tensor | None, key: Tensor) -> Tensor:
    """Return how much each pixel resembles each memory slot, MLA's Eq. 4-5: `(N, slots, H, W)`.

    Both convs are linear with nothing between them, so `fold` makes them one: then query is None.
    """
    return normalise_twice(_in_each_image(key, x) if query is None else F.conv2d(F.conv2d(x, query), key))


def _in_each_image(weight: Tensor, x: Tensor) -> Tensor:
    """Return the 1x1 conv of a map as a product of matrices an image.

    On the CPU it saves the conv's copies of the map, a quarter of the folded layer's time. Backward would make a
    gradient of the weight for every image: it is for what is folded.
    """
    product = torch.bmm(weight.flatten(1).expand(x.shape[0], -1, -1), x.flatten(2))
    return product.view(x.shape[0], weight.shape[0], *x.shape[2:])


@register_attention("domain")
class DomainLevelAttention(HidesProbes, Foldable):
    """Adds to each pixel a mix of learnt memory vectors, weighed by how much the pixel resembles each slot.

    MLA's Eq. 4-6, `x + v_D(norm(softmax(k_D(q(x)))))`; the norm is computed by the identity of
    `normalise_twice`. Where the paper is silent: the softmax runs over positions and the extra normalisation
    over the memory slots, as in external attention, which the paper cites; 64 slots, that work's number; q
    has no bias (it would have no gradient). `value` starts as the transpose of `key`, a copy that trains
    apart. q and key start as torch's convs do.

    Args:
        channels: the channels C of the map.
        memory: how many slots c_k the memory has.
        device: where the parameters are made.
        dtype: the parameters' type.

    Shape:
        Input and output `(N, C, H, W)`; `memory_map` `(N, memory, H, W)`, in (0, 1), a pixel's slots sum to
        1.

    Raises:
        TypeError: if an option is of the wrong type or the input is not floating point.
        ValueError: if an option is out of range, or the input is not a map with C channels and at least one position.

    Example:
        >>> attention = DomainLevelAttention(64, memory=16)
        >>> attention.memory_map(torch.randn(2, 64, 16, 8)).shape
        torch.Size([2, 16, 16, 8])
    """

    def __init__(
        self,
        channels: int,
        *,
        memory: int = 64,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_count("DomainLevelAttention", "channels", channels)
        check_factory("DomainLevelAttention", device, dtype)
        check_count("DomainLevelAttention", "memory", memory)
        self.channels = channels
        self.memory = memory
        self.probe = Probe()  # the memory map passes it
        # The weights of three 1x1 convs, held bare: reset_parameters ties two of them together at the start.
        self.query: nn.Parameter | None = nn.Parameter(
            torch.empty(channels, channels, 1, 1, device=device, dtype=dtype)
        )
        self.key = nn.Parameter(torch.empty(memory, channels, 1, 1, device=device, dtype=dtype))
        self.value = nn.Parameter(torch.empty(channels, memory, 1, 1, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw query and key as torch does, within 1/sqrt(C), and copy key's transpose to value."""
        bound = self.channels**-0.5
        for weight in (self.query, self.key):
            if weight is not None:
                nn.init.uniform_(weight, -bound, bound)
        with torch.no_grad():
            self.value.copy_(self.key.transpose(0, 1))

    def memory_map(self, x: Tensor) -> Tensor:
        """Return how much each pixel resembles each memory slot, `(N, memory, H, W)`; it passes no probe."""
        x = check_map("DomainLevelAttention", x, self.channels)
        query, key = self.query, self.key
        return domain_memory_map(check_dtype("DomainLevelAttention", x, key), query, key)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map plus what the memory recalls for it."""
        memory_map = probed(self.probe, self.memory_map(x))
        return x + (_in_each_image(self.value, memory_map) if self.folded else F.conv2d(memory_map, self.value))

    def fold_(self) -> None:
        """Take query and key together into one conv from C channels to the memory's slots."""
        assert self.query is not None  # for the type checker: a layer is folded once
        self.key = like(self.key, torch.einsum("kc...,ci...->ki...", self.key, self.query))
        self.query = None
        self.folded = True

    def resize(self, size: Size) -> "DomainLevelAttention":
        """Return an equal copy: any size suits."""
        check_size("DomainLevelAttention", size)
        return copy_with(self)

    def extra_repr(self) -> str:
        """Return the channels and the options that were changed."""
        return describe(self.channels, memory=(self.memory, 64))
