"""What the words of an option mean, by the type of its field."""

import re
import reprlib
from math import isnan
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_SINGULAR = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}
_PLURAL = {int: "whole numbers", float: "numbers", str: "texts", Path: "paths"}
_EXAMPLE = {2: "64 32", 3: "0 0 0"}


def convert(kind: Any, value: Any) -> Any:
    """Return `value`, the words of an option or what YAML or JSON holds, as a `kind`.

    Args:
        kind: bool, int, float, str, Path, a Literal of texts or numbers, a tuple of these, or one of them or None.
        value: a text, a number, a truth, None, or a list of them. A list of words may have brackets, commas and
            quotes or none, but for one of texts or paths, which are taken as they are; [] is none of them.

    Raises:
        ValueError: it is none.
    """
    parts = get_args(kind)
    if get_origin(kind) is tuple:
        value = [] if value in ("[]", ["[]"]) else value
        as_they_are = parts[0] in (str, Path)
        each = [value] if as_they_are and isinstance(value, str) else _items(value, as_they_are)
        kinds = parts[:1] * len(each) if Ellipsis in parts else parts
        return tuple(convert(*pair) for pair in zip(kinds, each, strict=True))
    if type(None) in parts:
        (kind,) = (part for part in parts if part is not type(None))
        return None if value in (None, "null") else convert(kind, value)
    if get_origin(kind) is Literal and isinstance(value, str | int) and not isinstance(value, bool):
        found = [part for part in parts if str(part) == str(value)]
        if found:
            return found[0]
    if kind is bool and isinstance(value, str):
        value = _TRUTHS.get(value.lower())
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]+", value):
        return int(value)
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool) and "_" not in str(value):
        return _number(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if type(value) is not kind:
        raise ValueError(f"{reprlib.repr(value)} must be {describe(kind)}")
    return value


def _number(value: float | str) -> float:
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{value!r:.30} is too large a number") from None
    if isnan(number):
        raise ValueError(f"{value!r} is not a number")
    return number


def _items(value: Any, as_they_are: bool) -> list[Any]:
    """Return the items of a list; words may have brackets, commas and quotes, unless they are taken as they are."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"{reprlib.repr(value)} is no list")
    if as_they_are or not all(isinstance(item, str) for item in value):
        return list(value)
    items = re.sub(r"^\[|\]$", "", ",".join(value).strip()).split(",")
    return [item.strip(" '\"") for item in items if item.strip()]


def describe(kind: Any) -> str:
    """Say what values a type has, as what follows "must be"."""
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if get_origin(kind) is tuple and Ellipsis not in parts:
        return f"{len(parts)} {_PLURAL[parts[0]]}, such as {_EXAMPLE[len(parts)]}"
    if get_origin(kind) is tuple:
        inner = _PLURAL.get(parts[0]) or f"any of {', '.join(map(str, get_args(parts[0])))}"
        return f"{inner}, with spaces between them, or [] for none"
    if parts:
        return " or ".join("null" if part is type(None) else describe(part) for part in parts)
    return _SINGULAR[kind]
