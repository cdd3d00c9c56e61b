"""The header: what was attached to the saved model, and the caller's description, as JSON; all else is refused."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from torch import nn

from attnreid.backbones import attachments
from attnreid.backbones._calls import MADE_FOR, Call
from attnreid.files import parse_json

Value = TypeVar("Value")

FORMAT = 2
_FIRST_FORMAT = 1  # without description, and with other names for a call


@dataclass(frozen=True)
class Described:
    """One attachment: how to make it again, and the maps that it was made for.

    Args:
        call: `Attachment.call`; None where it could not be written down.
        sites: the map's (channels, height, width) at every site.
    """

    call: Call | None
    sites: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Header:
    """What a file says of its model.

    Args:
        written_by: the version of attnreid.
        attachments: in the order of attaching.
        versions: torch's `_version` of every module, for those that migrate their weights.
        description: the caller's; None for none.
    """

    written_by: str
    attachments: tuple[Described, ...] = ()
    versions: dict[str, int] = field(default_factory=dict)
    description: dict[str, Any] | None = None


def describe_model(model: nn.Module) -> tuple[Described, ...]:
    """Describe all that is attached to `model`."""
    return tuple(
        Described(one.call, {site.name: (site.channels or 0, *(site.size or ())) for site in one.sites})
        for one in attachments(model)
    )


def attention_difference(
    file: tuple[Described, ...], model: tuple[Described, ...], *, sizes: bool = True
) -> str | None:
    """Name the first difference of what a file and a model carry; an unknown call goes by its maps.

    With sizes=False, input sizes and the sizes of maps do not matter. The sizes that layers were made for never do: the
    shapes of their weights tell.
    """
    if len(file) != len(model):
        return f"attachments: {len(file)} in the file and {len(model)} on the model"
    for number, pair in enumerate(zip(file, model, strict=True), start=1):
        saved, carried = pair if sizes else map(_without_sizes, pair)
        found = None
        if saved.call is not None and carried.call is not None:
            calls = [{"on": call["on"], "call": call["name"]} for call in (saved.call, carried.call)]
            found = _first_difference("", *calls)
            found = found or _first_difference("option ", saved.call["options"], carried.call["options"])
        what = "map (channels, height, width) at " if sizes else "map's channels at "
        found = found or _first_difference(what, saved.sites, carried.sites)
        if found:
            return f"for attachment {number} the {found}"
    return None


def _without_sizes(one: Described) -> Described:
    call = one.call and {**one.call, "options": {**one.call["options"], "input_size": None}}
    return Described(call, {name: shape[:1] for name, shape in one.sites.items()})


def _first_difference(kind: str, saved: dict[str, Any], carried: dict[str, Any]) -> str | None:
    for key in {**saved, **carried}:
        one, other = (repr(side[key]) if key in side else "not there" for side in (saved, carried))
        if one != other:
            return f"{kind}{key!r}, which is {one} in the file and {other} on the model"
    return None


def to_json(who: str, header: Header) -> str:
    """Return the header as it stands in the file; `who` complains.

    Raises:
        ValueError: the description is no plain data.
    """
    content = {
        "format": FORMAT,
        "attnreid": header.written_by,
        "attachments": [{"call": one.call, "sites": one.sites} for one in header.attachments],
        "versions": header.versions,
        "description": header.description,
    }
    try:
        return json.dumps(content, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{who}: the description must be what JSON holds, got: {error}; pass plain data.") from error


def from_json(who: str, text: str) -> Header:
    """Read a header; `who` names the file, too.

    Raises:
        ValueError: it is of another format or none.
    """
    try:
        content = _typed(parse_json(text), dict)
        form = content["format"]
        if form in (_FIRST_FORMAT, FORMAT):
            described = _described if form == FORMAT else _described_first
            return Header(
                _typed(content["attnreid"], str),
                tuple(map(described, _typed(content["attachments"], list))),
                {name: _typed(version, int) for name, version in _typed(content["versions"], dict).items()},
                None if content.get("description") is None else _typed(content["description"], dict),
            )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{who} must have a header of format {FORMAT}, got one that does not read "
            f"({type(error).__name__}: {error}); save it again."
        ) from error
    raise ValueError(
        f"{who} must have a header of format {FORMAT}, got format {form!r}; use the attnreid that wrote it."
    )


def header_of_part(header: Header, prefix: str) -> Header:
    """Return the header of what stands under a prefix, such as "backbone."; attention elsewhere is left out."""
    parts = []
    for one in header.attachments:
        sites = under(prefix, one.sites)
        on = None if one.call is None else relative(prefix, one.call["on"])
        if sites:
            parts.append(Described(None if one.call is None or on is None else {**one.call, "on": on}, sites))
    return replace(header, attachments=tuple(parts), versions=under(prefix, header.versions))


def under(prefix: str, named: Mapping[str, Value]) -> dict[str, Value]:
    """Return what stands under a prefix, by the names that it has there."""
    inside = {relative(prefix, name): value for name, value in named.items()}
    return {name: value for name, value in inside.items() if name is not None}


def relative(prefix: str, name: str) -> str | None:
    """Return a module's name as it is under a prefix, "" for the module itself; None for one that is elsewhere."""
    dotted = f"{name}." if name else ""
    return dotted.removeprefix(prefix).removesuffix(".") if dotted.startswith(prefix) else None


def _described(content: Any) -> Described:
    call, sites = _typed(content, dict)["call"], _typed(content["sites"], dict)
    if call is not None:
        call = _typed(call, dict)
        made_for = {name: _sides(size, 2) for name, size in _typed(call.get(MADE_FOR, {}), dict).items()}
        call = {key: _typed(call[key], kind) for key, kind in (("on", str), ("name", str), ("options", dict))}
        call |= {MADE_FOR: made_for} if made_for else {}
    return Described(call, {name: tuple(_sides(shape, 3)) for name, shape in sites.items()})


def _sides(content: Any, count: int) -> list[int]:
    sides = [_typed(side, int) for side in _typed(content, list)]
    if len(sides) != count:
        raise TypeError(f"{content!r:.60} has not {count} numbers")
    return sides


def _described_first(content: Any) -> Described:
    """Read an attachment of the first format, where the call was a "recipe" and its name the "call"."""
    call = _typed(content, dict)["recipe"]
    return _described({**content, "call": call if call is None else {**_typed(call, dict), "name": call["call"]}})


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r:.60} is no {kind.__name__}")
    return value
