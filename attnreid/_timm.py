"""timm's attention layers by name, "timm:cbam": timm is imported when such a name is asked for, and not before."""

import functools
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import nn

from attnreid.text import closest

PREFIX = "timm:"


@functools.cache
def timm_attention(name: str) -> Callable[..., nn.Module]:
    """Return what builds timm's layer of this name, a callable `(channels, **options)` with the layer's own options.

    The option `feat_size`, where the layer has it, is called `size` as everywhere here.

    Raises:
        ImportError: timm is not installed.
        ValueError: timm has no such layer; the message names the closest. Or, when it is called, the layer refuses
            the channels or an option.
    """
    try:
        get_attn: Any = import_module("timm.layers").get_attn
    except ImportError as error:
        raise ImportError(
            f"attention: {name!r} is a layer of timm, and timm is not installed: pip install timm"
        ) from error
    known = sorted(
        PREFIX + word for word in get_attn.__code__.co_consts if isinstance(word, str) and word.isidentifier()
    )
    if name not in known:
        raise ValueError(f"attention: the name must be a layer of timm, got {name!r}: {closest(name, known)}")
    layer = get_attn(name.removeprefix(PREFIX))
    parameters = list(inspect.signature(layer).parameters.values())
    sized = any(parameter.name == "feat_size" for parameter in parameters)

    def build(channels: int, **options: Any) -> nn.Module:
        if sized and "size" in options:
            options["feat_size"] = options.pop("size")
        try:
            built: nn.Module = layer(channels, **options)
        except Exception as error:
            raise ValueError(
                f"attention: {name!r} must be built by timm for {channels} channels; it failed with: {error}; choose "
                "other options or another layer"
            ) from error
        return built

    build.__name__ = build.__qualname__ = name
    renamed = {parameters[0].name: "channels", "feat_size": "size"}
    own = [
        parameter.replace(name=renamed.get(parameter.name, parameter.name))
        for parameter in parameters
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    build.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
    return build
