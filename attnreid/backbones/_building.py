"""One fresh layer for one site: made, checked on a map of the site's shape, and ready to be put in."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from attnreid.backbones._loading import guard_loading
from attnreid.backbones._measuring import observe, stand_in
from attnreid.backbones._site import Site
from attnreid.backbones.layouts import adapted
from attnreid.blend import IdentityBlend
from attnreid.layers._resizing import Size, resize_attention
from attnreid.registry import Attention, build_attention, find_builder, takes_option

_made_for: ContextVar[Mapping[str, Size] | None] = ContextVar("made_for", default=None)


@contextmanager
def building_for(sizes: Mapping[str, Size]) -> Iterator[None]:
    """Have the layers at these sites built for maps of these sizes, and resized to the ones that are there.

    So a file's layers are built whose widths are of another size than their maps, whichever call puts them in.
    """
    token = _made_for.set(sizes)
    try:
        yield
    finally:
        _made_for.reset(token)


def size_built_for(site: Site) -> Size | None:
    """Return the size of the map that the layer for a site is built for."""
    return (_made_for.get() or {}).get(site.name, site.size)


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
    made_for = size_built_for(site)
    try:
        layer = build_attention(who, builder, site.channels, size=made_for, **options)
    except ValueError as error:
        raise ValueError(f"{who}: no attention for {_describe(site)}: {error}") from error
    _check_shape(who, layer, dataclasses.replace(site, size=made_for))
    if identity_init and not blends_itself:
        layer = IdentityBlend(layer)
    layer = adapted(layer, dataclasses.replace(site, size=made_for))
    if made_for != site.size:
        layer = resize_layer(who, layer, site)
    layer.to(device=like.device, dtype=like.dtype)
    guard_loading(layer)
    return layer


def resize_layer(who: str, layer: nn.Module, site: Site) -> nn.Module:
    """Return a copy of a layer for the map of `site`, which keeps to the rule of loading as the layer does.

    Raises:
        ValueError: the layer cannot be resized, or refuses the size.
    """
    assert site.size is not None  # for the type checker: a site without a map was refused before
    try:
        resized = resize_attention(layer, site.size)
    except ValueError as error:
        raise ValueError(f"{who}: no attention for {_describe(site)}: {error}") from error
    guard_loading(resized)
    return resized


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
