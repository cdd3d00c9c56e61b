"""Attention layers by name: one dict, filled by a decorator.

A duplicate, an unknown name and an unknown option are errors that name the closest ones: a typo never trains
with the defaults.
"""

import inspect
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

import torch
from torch import nn

from attnreid._timm import PREFIX, timm_attention
from attnreid.text import closest

AttentionBuilder = Callable[..., nn.Module]
Attention = str | AttentionBuilder
Builder = TypeVar("Builder", bound=AttentionBuilder)

BUILT_FOR_SIZE = "_attnreid_built_for_size"

_builders: dict[str, AttentionBuilder] = {}


def _registered() -> dict[str, AttentionBuilder]:
    """Return what is registered, the library's own layers among it, which register themselves when imported."""
    import_module("attnreid.layers")
    return _builders


def register_attention(name: str, *, replace: bool = False) -> Callable[[Builder], Builder]:
    """Register a layer class, or any callable `(channels, **options)` that returns a module, under `name`.

    Args:
        name: what `create_attention` and `AttentionPyramid` shall know it by.
        replace: take the name over from what has it, if anything: for a notebook whose cell runs again. What
            was built before stays as it is; what is built by that name from now on is the new one.

    Raises:
        TypeError: if the name is not a string, `replace` is not a bool, or what it decorates cannot be called.
        ValueError: if the name is empty, or taken and not to be replaced.

    Example:
        >>> from torch import nn
        >>> @register_attention("doctest_identity")
        ... def no_attention(channels):
        ...     return nn.Identity()
        >>> create_attention("doctest_identity", 64)
        Identity()
    """
    if not isinstance(name, str):
        raise TypeError(
            f"register_attention: the name must be a string, got {name!r}: write register_attention('name')"
        )
    if not name:
        raise ValueError("register_attention: the name must not be empty, got '': choose one")
    if not isinstance(replace, bool):
        raise TypeError(f"register_attention: replace must be a bool, got {replace!r}: pass True or False")

    def register(builder: Builder) -> Builder:
        if not callable(builder):
            raise TypeError(
                f"register_attention: {name!r} must be given a class or function, got {builder!r}: decorate one"
            )
        if name in _registered() and not replace:
            raise ValueError(
                f"register_attention: a name must be new, got {name!r}, which is taken: choose another, or write "
                f"register_attention({name!r}, replace=True) to take it over"
            )
        _builders[name] = builder
        return builder

    return register


def list_attention() -> list[str]:
    """Return all registered names in alphabetical order. Those of timm's layers, "timm:cbam", are not among them.

    Example:
        >>> "se" in list_attention()
        True
    """
    return sorted(_registered())


def find_attention(name: str) -> AttentionBuilder:
    """Return what is registered under `name`, or timm's layer for a name such as "timm:cbam".

    Raises:
        ImportError: it is a name of timm's, and timm is not installed.
        TypeError: it is no name.
        ValueError: there is none of this name; the message names the closest.
    """
    if not isinstance(name, str):
        raise TypeError(f"attention: the name must be a string, got {name!r}: pass one such as 'se'")
    if name.startswith(PREFIX):
        return timm_attention(name)
    if name not in _registered():
        raise ValueError(
            f"attention: the name must be a registered one, got {name!r}: {closest(name, list_attention())}"
        )
    return _builders[name]


def create_attention(name: str, channels: int, **options: Any) -> nn.Module:
    """Build the attention registered under `name` for a map with `channels` channels.

    Args:
        name: one of `list_attention()`, or "timm:" and the name of an attention layer of timm, such as "timm:eca".
        channels: the channels of the map.
        options: the layer's own keyword arguments.

    Raises:
        ValueError: if the name is unknown.
        TypeError: if it is no string, or the layer has no such option, or needs one that is not given.

    Example:
        >>> create_attention("se", 64, reduction=8)
        SqueezeExcitation(64, reduction=8)
    """
    builder = find_attention(name)
    _check_options(name, builder, options)
    return builder(channels, **options)


def option_names(builder: AttentionBuilder) -> dict[str, inspect.Parameter]:
    """Return the arguments that can be given to `builder` by keyword."""
    try:
        parameters = inspect.signature(builder).parameters
    except ValueError:  # a callable written in C may have no signature
        return {}
    positional_only = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    return {name: parameter for name, parameter in parameters.items() if parameter.kind not in positional_only}


def takes_option(builder: AttentionBuilder, name: str) -> bool:
    """Whether the signature names the option, and no partial around it has set it already."""
    chosen = builder.keywords if isinstance(builder, partial) else {}
    return name in option_names(builder) and name not in chosen


def registered_name(cls: type) -> str:
    """Return the name that a class, or else the nearest of its bases, is registered under; else the class's own."""
    for base in cls.__mro__:
        for name, builder in _registered().items():
            if builder is base:
                return name
    return cls.__name__


def find_builder(who: str, attention: object) -> AttentionBuilder:
    """Return what builds an attention: what is registered under a name, or the callable itself.

    Raises:
        TypeError: it is neither a name nor something that builds a module.
        ValueError: the name is unknown.
    """
    if isinstance(attention, str):
        return find_attention(attention)
    if isinstance(attention, nn.Module) or not callable(attention):
        got = type(attention).__name__ if isinstance(attention, nn.Module) else repr(attention)
        raise TypeError(
            f"{who}: attention must be a registered name, a layer class or a callable that builds a fresh module, "
            f"got {got}: every place needs a module of its own, so pass the class, or functools.partial(Class, "
            "option=...)"
        )
    return attention


def build_attention(
    who: str,
    builder: AttentionBuilder,
    channels: int,
    *,
    size: tuple[int, int] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> nn.Module:
    """Call a builder with those of size, device and dtype that its signature takes and no partial has set.

    A module that was given the size and cannot say how it becomes one for another is marked `BUILT_FOR_SIZE`: a
    function that built it is not there to be asked later.

    Args:
        who: named in what is raised.
        builder: a callable `(channels, **options)`.
        channels: the channels of the map.
        size: the map's (height, width), where it is known.
        device: where the module shall be; None for where it is made.
        dtype: its parameters' type; None for the one that they are made in.
        options: given to the builder in any case.

    Raises:
        TypeError: it builds something else than a module, or cannot be called so.
        ValueError: it must know the size, and none is given.
    """
    if takes_option(builder, "size"):
        if size is not None:
            options["size"] = size
        elif option_names(builder)["size"].default is inspect.Parameter.empty:
            name = getattr(builder, "__name__", "the attention")
            raise ValueError(f"{who}: {name} must know the map's size, got size=None: pass size=(H, W)")
    placed = {"device": device, "dtype": dtype}
    options.update((name, value) for name, value in placed.items() if value is not None and takes_option(builder, name))
    try:
        module = builder(channels, **options)
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
            raise  # from inside the builder
        raise TypeError(f"{who}: attention must be callable with {channels} channels, and is not: {error}") from error
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"{who}: attention must build an nn.Module for {channels} channels, got {module!r}: have it return one"
        )
    if "size" in options and not hasattr(module, "resize"):
        vars(module)[BUILT_FOR_SIZE] = True
    return module if options.keys() >= placed.keys() else module.to(device=device, dtype=dtype)


def _check_options(name: str, builder: AttentionBuilder, options: dict[str, Any]) -> None:
    known = option_names(builder)
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for option in options:
        if option not in known:
            choices = [other for other in known if other != "channels"]
            raise TypeError(f"attention {name!r}: no option {option!r}: {closest(option, choices)}")
    for option, parameter in known.items():
        needed = parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
        if needed and option not in options:
            raise TypeError(f"attention {name!r}: {option} must be given, got none: pass {option}=...")
