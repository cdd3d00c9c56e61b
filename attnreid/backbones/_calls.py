"""An `attach` call written down as plain data, so that a checkpoint can hold it and the call be made again.

It is `{"name": ..., "options": {...}}` of what JSON knows. An attention is written as its registered
name, as `{"name": ..., "options": ...}` where a `functools.partial` chose options, or as `{"pyramid": options}`
for `AttentionPyramid`; a class or function that is not registered cannot be written down. Where layers were resized,
`"made_for"` has the (height, width) that each of them was made for.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from attnreid._timm import PREFIX
from attnreid.pyramid import AttentionPyramid
from attnreid.registry import find_attention, list_attention

Call = dict[str, Any]
Size = tuple[int, int]

MADE_FOR = "made_for"


class _NotPlainError(Exception):
    """Something in the call is no plain data."""


def describe_call(name: str, **options: Any) -> Call | None:
    """Return a call of `name` with these options; None where one of them is not plain data."""
    try:
        return {"name": name, "options": _options(options)}
    except _NotPlainError:
        return None


def with_sizes(call: Call | None, made_for: Mapping[str, Size | None], now: Mapping[str, Size | None]) -> Call | None:
    """Return a call with the sizes that its layers were made for, where those are others than their maps' now."""
    if call is None:
        return None
    others = {name: list(size) for name, size in made_for.items() if size is not None and size != now[name]}
    plain = {key: value for key, value in call.items() if key != MADE_FOR}
    return {**plain, MADE_FOR: others} if others else plain


def _options(options: dict[str, Any]) -> dict[str, Any]:
    return {name: (_attention if name == "attention" else _plain)(value) for name, value in options.items()}


def _attention(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return [_attention(each) for each in value]
    builder, options = value, {}
    if isinstance(value, partial):
        if value.args:
            raise _NotPlainError
        builder, options = value.func, value.keywords
    if builder is AttentionPyramid:
        return {"pyramid": _options(options)}
    own = getattr(builder, "__name__", "")
    for name in [*list_attention(), *([own] if own.startswith(PREFIX) else [])]:
        if find_attention(name) is builder:
            return {"name": name, "options": _plain(options)} if options else name
    raise _NotPlainError


def _plain(value: Any) -> Any:
    """Return a copy in which tuples are lists, as JSON gives them back."""
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float and math.isfinite(value):  # JSON has no infinity and no NaN
        return value
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    if isinstance(value, dict) and all(type(key) is str for key in value):
        return {key: _plain(part) for key, part in value.items()}
    raise _NotPlainError
