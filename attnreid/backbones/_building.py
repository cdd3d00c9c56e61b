"""One fresh layer for one site: made, checked on a map of the site's shape, and ready to be put in."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from attnreid.backbones._loading import guard_loading
from attnreid.backbones._measuring import observe, stand_in
from attnreid.backbones._site import Site
from attnreid.backbones.layouts import adapted
from attnreid.blend import IdentityBlend
from attnreid.registry import Attention, build_attention, find_builder, takes_option


def build_layer(who: str, attention: Attention, site: Site, like: Tensor, identity_init: bool) -> nn.Module:
    """Build the attention for `site`, with the device and dtype of `like`, and check that it keeps the shape.

    Raises:
        TypeError: `attention` is not a name, a class or another callable, or does not return a module.
        ValueError: the layer refuses the site's channels or size, fails on a map of it, or changes its shape.
    """
    builder = find_builder(who, attention)
    assert site.channels is not None  # for the type checker: a site without a map was refused before
    blends_itself = takes_option(builder, "identity_init")
    options: dict[str, Any] = {"identity_init": True} if identity_init and blends_itself else {}
    try:
        layer = build_attention(who, builder, site.channels, size=site.size, **options)
    except ValueError as error:
        raise ValueError(f"{who}: no attention for {_describe(site)}: {error}") from error
    _check_shape(who, layer, site)
    if identity_init and not blends_itself:
        layer = IdentityBlend(layer)
    layer = adapted(layer, site).to(device=like.device, dtype=like.dtype)
    guard_loading(layer)
    return layer


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
