"""The header: what was attached to the saved model, as JSON; whatever else stands in a file is refused."""

import json
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from attnreid.backbones import attachments
from attnreid.backbones._recipes import Recipe

FORMAT = 1


@dataclass(frozen=True)
class Described:
    """One attachment: how to make it again, and the maps that it was made for.

    Args:
        recipe: `Attachment.recipe`; None where the call could not be written down.
        sites: the map's (channels, height, width) at every site.
    """

    recipe: Recipe | None
    sites: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Header:
    """What a file says of its model.

    Args:
        written_by: the version of attnreid.
        attachments: in the order of attaching.
        versions: torch's `_version` of every module, for those that migrate their weights.
    """

    written_by: str
    attachments: tuple[Described, ...] = ()
    versions: dict[str, int] = field(default_factory=dict)


def describe_model(model: nn.Module) -> tuple[Described, ...]:
    """Describe all that is attached to `model`."""
    return tuple(
        Described(one.recipe, {site.name: (site.channels or 0, *(site.size or ())) for site in one.sites})
        for one in attachments(model)
    )


def attention_difference(file: tuple[Described, ...], model: tuple[Described, ...]) -> str | None:
    """Name the first difference of what a file and a model carry; a call without a recipe is known by its maps."""
    if len(file) != len(model):
        return f"attachments: {len(file)} in the file and {len(model)} on the model"
    for number, (saved, carried) in enumerate(zip(file, model, strict=True), start=1):
        found = None
        if saved.recipe is not None and carried.recipe is not None:
            calls = [{key: recipe[key] for key in ("on", "call")} for recipe in (saved.recipe, carried.recipe)]
            found = _first_difference("", *calls)
            found = found or _first_difference("option ", saved.recipe["options"], carried.recipe["options"])
        found = found or _first_difference("map (channels, height, width) at ", saved.sites, carried.sites)
        if found:
            return f"for attachment {number} the {found}"
    return None


def _first_difference(kind: str, saved: dict[str, Any], carried: dict[str, Any]) -> str | None:
    for key in {**saved, **carried}:
        one, other = (repr(side[key]) if key in side else "not there" for side in (saved, carried))
        if one != other:
            return f"{kind}{key!r}, which is {one} in the file and {other} on the model"
    return None


def to_json(header: Header) -> str:
    """Return the header as it stands in the file."""
    listed = [{"recipe": one.recipe, "sites": one.sites} for one in header.attachments]
    content = {
        "format": FORMAT,
        "attnreid": header.written_by,
        "attachments": listed,
        "versions": header.versions,
    }
    return json.dumps(content, allow_nan=False)


def from_json(who: str, text: str) -> Header:
    """Read a header; `who` names the file, too.

    Raises:
        ValueError: it is of another format or none.
    """
    try:
        content: Any = json.loads(text)
        form = content["format"]
        if form == FORMAT:
            return Header(
                _typed(content["attnreid"], str),
                tuple(map(_described, _typed(content["attachments"], list))),
                {name: _typed(version, int) for name, version in _typed(content["versions"], dict).items()},
            )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{who} must have a header of format {FORMAT}, got one that does not read "
            f"({type(error).__name__}: {error}); save it again."
        ) from error
    raise ValueError(
        f"{who} must have a header of format {FORMAT}, got format {form!r}; use the attnreid that wrote it."
    )


def _described(content: Any) -> Described:
    recipe, sites = content["recipe"], _typed(content["sites"], dict)
    if recipe is not None:
        recipe = {key: _typed(recipe[key], kind) for key, kind in (("on", str), ("call", str), ("options", dict))}
    return Described(
        recipe,
        {name: tuple(_typed(side, int) for side in _typed(shape, list)) for name, shape in sites.items()},
    )


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r:.60} is no {kind.__name__}")
    return value
