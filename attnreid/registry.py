"""Attention layers by name: one dict, filled by a decorator.

A duplicate, an unknown name and an unknown option are errors that name the closest ones: a typo never trains
with the defaults.
"""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

from torch import nn

from attnreid.text import closest

AttentionBuilder = Callable[..., nn.Module]
Builder = TypeVar("Builder", bound=AttentionBuilder)

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
    """Return all registered names in alphabetical order.

    Example:
        >>> "se" in list_attention()
        True
    """
    return sorted(_registered())


def find_attention(name: str) -> AttentionBuilder:
    """Return what is registered under `name`; a ValueError names the closest ones if nothing is."""
    if name not in _registered():
        raise ValueError(
            f"attention: the name must be a registered one, got {name!r}: {closest(name, list_attention())}"
        )
    return _builders[name]


def create_attention(name: str, channels: int, **options: Any) -> nn.Module:
    """Build the attention registered under `name` for a map with `channels` channels.

    Args:
        name: one of `list_attention()`.
        channels: the channels of the map.
        options: the layer's own keyword arguments.

    Raises:
        ValueError: if the name is unknown.
        TypeError: if the layer has no such option.

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


def _check_options(name: str, builder: AttentionBuilder, options: dict[str, Any]) -> None:
    known = option_names(builder)
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for option in options:
        if option not in known:
            choices = [other for other in known if other != "channels"]
            raise TypeError(f"attention {name!r}: no option {option!r}: {closest(option, choices)}")
