"""From a call as a file describes it to an attachment: names are looked up; nothing else is run or imported."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from attnreid.backbones import Attachment, attach, attach_apnet, attach_mla, attach_pyramid, attach_se
from attnreid.backbones._building import building_for
from attnreid.backbones._calls import MADE_FOR, Call
from attnreid.pyramid import AttentionPyramid
from attnreid.registry import find_attention, option_names
from attnreid.text import closest

_CALLS: dict[str, Callable[..., Attachment]] = {
    "attach": attach,
    "attach_apnet": attach_apnet,
    "attach_mla": attach_mla,
    "attach_pyramid": attach_pyramid,
    "attach_se": attach_se,
}
_NOT_FROM_A_FILE = {"model", "example_inputs", "channels"}


def rebuild(model: nn.Module, call: Call) -> Attachment:
    """Make a call that a file describes (see `Attachment.call`), with layers made for the sizes that it names.

    Raises:
        ValueError: the call names what is not known here, or it refuses. The model is then as it was. The
            message says what is wrong with the call; the caller, where it stands.
    """
    name, options = call["name"], call["options"]
    if name not in _CALLS:
        raise ValueError(f"the call must be one of {', '.join(_CALLS)}, got {name!r}")
    _check_options(name, options, _CALLS[name])
    arguments = _arguments(options)
    try:
        part = model.get_submodule(call["on"])
    except AttributeError:
        raise ValueError(
            f"it stands in {call['on']!r}, which {type(model).__name__} does not have; pass the model as it was saved"
        ) from None
    made_for = {site: (height, width) for site, (height, width) in call.get(MADE_FOR, {}).items()}
    try:
        with building_for(made_for):
            return _CALLS[name](part, **arguments)
    except Exception as error:  # whatever a layer makes of options that no one checked
        said = str(error).strip().partition("\n")[0]  # torch writes where in its own code an error is from below it
        raise ValueError(f"{name} failed with: {said or type(error).__name__}") from error


def _arguments(options: dict[str, Any]) -> dict[str, Any]:
    return {name: (_attention if name == "attention" else _value)(value) for name, value in options.items()}


def _attention(value: Any) -> Any:
    """Return the builder that the file names: a registered one, or a pyramid of such."""
    if isinstance(value, str):
        return value  # which the call looks up
    if isinstance(value, list):
        return tuple(_attention(each) for each in value)
    if isinstance(value, dict) and set(value) == {"pyramid"} and isinstance(value["pyramid"], dict):
        _check_options("AttentionPyramid", value["pyramid"], AttentionPyramid)
        return partial(AttentionPyramid, **_arguments(value["pyramid"]))
    if isinstance(value, dict) and set(value) == {"name", "options"} and isinstance(value["options"], dict):
        builder = find_attention(str(value["name"]))
        _check_options(f"attention {value['name']!r}", value["options"], builder)
        return partial(builder, **{name: _value(option) for name, option in value["options"].items()})
    raise ValueError(f"an attention must be a registered name, with options or without, got {value!s:.60}")


def _value(value: Any) -> Any:
    """Return tuples for lists, as options are given."""
    if isinstance(value, list):
        return tuple(_value(part) for part in value)
    return {key: _value(part) for key, part in value.items()} if isinstance(value, dict) else value


def _check_options(what: str, options: dict[str, Any], builder: Callable[..., Any]) -> None:
    known = option_names(builder).keys() - _NOT_FROM_A_FILE
    for name in options:
        if name not in known:
            raise ValueError(f"{what} has no option {name!r}: {closest(name, sorted(known))}")
