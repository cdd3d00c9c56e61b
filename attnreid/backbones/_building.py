"""One fresh layer for one site: made, checked on a map of the site's shape, and ready to be put in."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from attnreid._recording import record
from attnreid.backbones._loading import guard_loading
from attnreid.backbones._measuring import observe, stand_in
from attnreid.backbones._site import Site
from attnreid.layers._gate import GateLayer
from attnreid.registry import find_attention, option_names

Attention = str | Callable[..., nn.Module]


class IdentityBlend(nn.Module):
    """Blends a layer in by one learnt scalar that starts at 0: at first every finite map passes unchanged.

    A gate blends as `x * (1 + blend * (gate - 1))`, anything else (a gate with a norm behind it, too) as
    `x + blend * (y - x)`.

    Args:
        layer: maps a map to a map of the same shape.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.blend = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return the blend of the map and what the layer makes of it."""
        if isinstance(self.layer, GateLayer) and self.layer.norm is None:
            gate = self.layer.gate(x)
            record(self.layer, self.layer.name, gate)
            blended: Tensor = x * (1 + self.blend * (gate - 1))
        else:
            blended = x + self.blend * (self.layer(x) - x)
        return blended


def build_layer(who: str, attention: Attention, site: Site, like: Tensor, identity_init: bool) -> nn.Module:
    """Build the attention for `site`, with the device and dtype of `like`, and check that it keeps the shape.

    Raises:
        TypeError: `attention` is not a name, a class or another callable, or does not return a module.
        ValueError: the layer refuses the site's channels or size, fails on a map of it, or changes its shape.
    """
    if isinstance(attention, nn.Module) or not (isinstance(attention, str) or callable(attention)):
        raise TypeError(
            f"{who}: attention must be a registered name, a layer class or a callable (channels) that "
            f"returns a fresh layer, got {attention!r}; pass the class, or functools.partial(Class, "
            "option=...)."
        )
    builder = find_attention(attention) if isinstance(attention, str) else attention
    options: dict[str, Any] = {"size": site.size} if _takes(builder, "size") else {}
    blends_itself = _takes(builder, "identity_init")
    if identity_init and blends_itself:
        options["identity_init"] = True
    try:
        layer = builder(site.channels, **options)
    except ValueError as error:
        raise ValueError(f"{who}: no attention for {_describe(site)}: {error}") from error
    if not isinstance(layer, nn.Module):
        raise TypeError(
            f"{who}: attention must return an nn.Module for {site.channels} channels, got {layer!r}; return the layer."
        )
    _check_shape(who, layer, site)
    if identity_init and not blends_itself:
        layer = IdentityBlend(layer)
    layer.to(device=like.device, dtype=like.dtype)
    guard_loading(layer)
    return layer


def _takes(builder: Callable[..., nn.Module], option: str) -> bool:
    """Whether to pass `option`: the signature names it and the caller has not already chosen it."""
    chosen = builder.keywords if isinstance(builder, functools.partial) else {}
    return option in option_names(builder) and option not in chosen


def _check_shape(who: str, layer: nn.Module, site: Site) -> None:
    assert site.channels is not None  # for the type checker: a site without a map was refused before
    assert site.size is not None
    like = next(itertools.chain(layer.parameters(), layer.buffers()), torch.empty(0))
    x = torch.zeros((2, site.channels, *site.size), dtype=like.dtype if like.is_floating_point() else torch.float32)
    seen = observe(stand_in(layer, meta=True, bypass=False), [x.to("meta")])
    if seen.error is not None:
        seen = observe(stand_in(layer, meta=False, bypass=False), [x.to(like.device)])
    if seen.error is not None:
        raise ValueError(
            f"{who}: {type(layer).__name__} must run on the map of {_describe(site)}; it failed with: {seen.error}"
        ) from seen.error
    given = seen.seen[""].given
    if given != tuple(x.shape):
        raise ValueError(
            f"{who}: {type(layer).__name__} must return a map of the shape that it takes, {tuple(x.shape)} "
            f"at {_describe(site)}; it returned {given or seen.seen[''].returned}. Use a layer that keeps "
            "the shape."
        )


def _describe(site: Site) -> str:
    height, width = site.size or (0, 0)
    return f"{site.name!r} ({site.channels} channels, {height}x{width})"
