"""From what a module returns to the map `(N, C, H, W)` that attention takes, and back.

| layout | what the module returns | the map is |
|---|---|---|
| NCHW | `(N, C, H, W)` | what it returns |
| NHWC | `(N, H, W, C)` | a view of it |
| tokens | `(N, prefix + H*W, C)`, row by row | a view of the tokens behind the prefix |

The map is a view in every layout, in channels_last order in the last two. What goes back is a view too where the
attention keeps the order of its input, as gates do; only tokens in front are joined again, which copies.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from attnreid._tracing import is_recording, leaf, makes_graph, rearrange
from attnreid.backbones._site import Layout, Site
from attnreid.layers._resizing import resize_attention


class MapAdapter(nn.Module):
    """Hands an attention the map in what its host returns, and puts the attended map back in its place.

    Prefix tokens and other outputs pass as they are. What is given back has the shape and the memory order of what
    came, since the host's own code may take views of it.

    Args:
        layer: the attention.
        layout: how the map lies in the tensor.
        grid: (rows, columns) of the tokens; None in other layouts.
        prefix: how many tokens stand before those of the map.
        output: index or key of the tensor; None where it is alone.
    """

    def __init__(
        self,
        layer: nn.Module,
        layout: Layout,
        grid: tuple[int, int] | None = None,
        prefix: int = 0,
        output: int | str | None = None,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.layout = layout
        self.grid = grid
        self.prefix = prefix
        self.output = output

    def forward(self, returned: Any) -> Any:
        """Return what the host returned, its map attended."""
        if self.output is None:
            return self._attend(returned)
        return _exchanged(returned, self.output, self._attend(returned[self.output]))

    def _attend(self, given: Tensor) -> Tensor:
        attended: Tensor
        if self.layout == "tokens":
            assert self.grid is not None  # for the type checker: tokens have a grid
            any_number = bool(getattr(self.layer, "reads_average", False))
            attended = self.layer(_map_of_tokens(given, self.grid, self.prefix, any_number))
            patches = rearrange(attended, "n c h w -> n (h w) c")
            return torch.cat([given[:, : self.prefix], patches], 1) if self.prefix else _laid_as(given, patches)
        nhwc = self.layout == "NHWC"
        attended = self.layer(given.permute(0, 3, 1, 2) if nhwc else given)
        return _laid_as(given, attended.permute(0, 2, 3, 1)) if nhwc else attended

    def resize(self, size: tuple[int, int]) -> "MapAdapter":
        """Return a copy for maps of another size."""
        layer = resize_attention(self.layer, size)
        return MapAdapter(layer, self.layout, size if self.layout == "tokens" else None, self.prefix, self.output)

    def extra_repr(self) -> str:
        """Name the layout, and what else there is to say."""
        said = {"grid": self.grid, "prefix": self.prefix or None, "output": self.output}
        return ", ".join([self.layout, *(f"{name}={value!r}" for name, value in said.items() if value is not None)])


def adapted(layer: nn.Module, site: Site) -> nn.Module:
    """Return the attention for what the module at `site` returns: the layer itself where that is one NCHW map."""
    if site.layout in ("NCHW", None) and site.output is None:
        return layer
    return MapAdapter(layer, site.layout or "NCHW", site.grid, site.prefix, site.output)


def on_maps(attention: nn.Module) -> nn.Module:
    """Return the part of an attention that takes and gives maps `(N, C, H, W)`."""
    return attention.layer if isinstance(attention, MapAdapter) else attention


def shape_at(site: Site) -> tuple[int, ...]:
    """Return the shape of one image's tensor at `site`, as its module returns it."""
    channels, (height, width) = site.channels or 0, site.size or (0, 0)
    if site.layout == "tokens":
        return site.prefix + height * width, channels
    return (height, width, channels) if site.layout == "NHWC" else (channels, height, width)


@leaf
def _map_of_tokens(given: Tensor, grid: tuple[int, int], prefix: int, any_number: bool) -> Tensor:
    """Return the tokens behind the prefix as a map; refuse another number of them than the grid has.

    With `any_number`, for attention that reads their average alone, another number stands in one column.
    """
    if not is_recording():
        expected = prefix + grid[0] * grid[1]
        # A graph is to serve every number, so that it must not compare theirs with the grid's.
        if any_number and given.ndim == 3 and (makes_graph() or given.shape[1] != expected):
            return rearrange(given[:, prefix:], "n (h w) c -> n c h w", h=given.shape[1] - prefix, w=1)
        if given.ndim != 3 or given.shape[1] != expected:
            raise ValueError(
                f"attnreid: the tokens must be (N, {expected}, C), {f'{prefix} and then ' if prefix else ''}"
                f"{grid[0]}x{grid[1]} (height x width), got {tuple(given.shape)}: call attachment.resize(input_size) "
                "for images of another size, or feed the size that the attention was attached for"
            )
    return rearrange(given[:, prefix:], "n (h w) c -> n c h w", h=grid[0], w=grid[1])


@leaf
def _laid_as(given: Tensor, result: Tensor) -> Tensor:
    """Return the result in the memory order of `given`: as it is where it has that order, else a copy."""
    if given.is_contiguous():
        return result.contiguous()
    if given.ndim == 4 and given.permute(0, 3, 1, 2).is_contiguous():
        return result.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    return result


@leaf
def _exchanged(returned: Any, output: int | str, item: Tensor) -> Any:
    """Return a copy of a tuple, list or mapping with this item in the place of one of its own."""
    if isinstance(returned, tuple):
        items = [*returned]
        items[int(output)] = item
        return type(returned)(*items) if hasattr(returned, "_fields") else type(returned)(items)
    changed = copy.copy(returned)
    changed[output] = item
    return changed
