"""Tensors by name: whether they fit a model, and loading them whole or not at all."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

_SHOWN = 3
_METADATA = "_metadata"  # where a state dict of torch's keeps the versions of its modules


def first_few(items: Sequence[str]) -> str:
    """Return the first few, as a list to read."""
    return ", ".join(items[:_SHOWN]) + (", …" if len(items) > _SHOWN else "")


def flat(error: Exception) -> str:
    """Return an error's text, which torch spreads over lines, as one line."""
    return " ".join(str(error).split())


def name_difference(missing: Iterable[str], unexpected: Iterable[str], unlike: Iterable[str]) -> str:
    """Say what does not fit, the first few of each kind; empty where everything does."""
    kinds = {"missing": map(repr, missing), "unexpected": map(repr, unexpected), "unlike": unlike}
    listed = {kind: list(names) for kind, names in kinds.items()}
    return ", ".join(f"{len(names)} {kind} ({first_few(names)})" for kind, names in listed.items() if names)


def misfits(given: Mapping[str, Tensor], own: Mapping[str, Tensor], *, dtypes: bool) -> list[str]:
    """Name the tensors whose shape, or dtype where `dtypes`, is another than in `own`."""
    unlike = []
    for key, like in own.items():
        if key in given and given[key].shape != like.shape:
            unlike.append(f"{key!r} is {show_shape(given[key].shape)} and must be {show_shape(like.shape)}")
        elif key in given and dtypes and given[key].dtype != like.dtype:
            unlike.append(f"{key!r} is {given[key].dtype} and must be {like.dtype}")
    return unlike


def show_shape(shape: Iterable[int]) -> str:
    """Return a shape to read, such as 64x3x7x7."""
    return "x".join(map(str, shape)) or "one number"


def load_whole(model: nn.Module, tensors: Mapping[str, Tensor], *, versions: Mapping[str, int], strict: bool) -> None:
    """Load tensors that fit; where a module still refuses them, put every weight back.

    Args:
        model: takes them over in place.
        tensors: stay as they are.
        versions: torch's `_version` of the modules that the tensors come from; the model's own where not given.
        strict: as for `load_state_dict`.
    """
    own = model.state_dict()
    before = {key: value.detach().clone() for key, value in own.items() if isinstance(value, Tensor)}
    state = OrderedDict(tensors)
    metadata = OrderedDict((name, dict(entry)) for name, entry in getattr(own, _METADATA).items())
    for name in metadata.keys() & versions.keys():
        metadata[name]["version"] = versions[name]
    setattr(state, _METADATA, metadata)
    try:
        model.load_state_dict(state, strict=strict)
    except BaseException:
        with torch.no_grad():
            for key, value in model.state_dict().items():
                if key in before:
                    value.copy_(before[key])
        raise


def versions_of(model: nn.Module) -> dict[str, int]:
    """Return torch's `_version` of every module in `model`."""
    metadata = getattr(model.state_dict(), _METADATA)
    return {name: entry["version"] for name, entry in metadata.items() if isinstance(entry.get("version"), int)}
