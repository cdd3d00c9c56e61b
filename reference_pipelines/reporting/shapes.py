"""What a JSON file of a run must look like, said as plain data, and the one place that is not so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LARGEST = 2**63
"""A number is smaller than that, so that it can be a float or a coordinate."""


@dataclass(frozen=True)
class Maybe:
    """A value that may be None or, in an object, left out."""

    shape: "Shape"


Shape = type | Maybe | Mapping[str, Any] | Sequence[Any]
"""`bool`, `int`, `float` (any number), `str`; `[shape]` a list; `[shape, shape]` one of two; `{key: shape}` an object
with these fields and maybe others; `{str: shape}` any object; `Maybe(shape)`."""


def check_shape(value: Any, shape: Any, where: str) -> None:
    """Check what was read from JSON.

    Args:
        value: that was read.
        shape: what it must look like.
        where: its name in the message.

    Raises:
        ValueError: it does not; says where.
    """
    if isinstance(shape, Maybe):
        if value is not None:
            check_shape(value, shape.shape, where)
    elif isinstance(shape, Mapping):
        _check(isinstance(value, dict), where, "an object", value)
        if str in shape:
            for key, each in value.items():
                check_shape(each, shape[str], f"{where}.{key}")
            return
        for key, wanted in shape.items():
            _check(key in value or isinstance(wanted, Maybe), f"{where}.{key}", "there", None)
            check_shape(value.get(key), wanted, f"{where}.{key}")
    elif isinstance(shape, list):
        _check(isinstance(value, list), where, "a list", value)
        _check(len(shape) == 1 or len(value) == len(shape), where, f"a list of {len(shape)}", value)
        for place, each in enumerate(value):
            check_shape(each, shape[0], f"{where}[{place}]")
    elif shape in (int, float):
        number = isinstance(value, int | shape) and not isinstance(value, bool)
        fits = number and (value != value or abs(value) < LARGEST or value in (float("inf"), -float("inf")))
        _check(fits, where, "a number" if shape is float else "a whole number", value)
    elif shape is str:
        _check(isinstance(value, str) and _is_text(value), where, "text", value)
    else:
        _check(isinstance(value, shape), where, f"a {shape.__name__}", value)


def _is_text(value: str) -> bool:
    """Whether it is Unicode, or a file's name that stands for bytes of another encoding."""
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _check(right: bool, where: str, wanted: str, value: Any) -> None:
    if not right:
        raise ValueError(f"{where} must be {wanted}, got {type(value).__name__}")
