"""State dicts as people have them: files of torch or safetensors, wrapped in dicts, named by torch's own wrappers."""

import itertools
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnreid.checkpoints._file import is_safetensors, read_tensors
from attnreid.files import open_file

_READ = "read_weights"
_WRAPPERS = ("model", "state_dict")
_TORCHS = ("module.", "_orig_mod.")  # of DataParallel and DistributedDataParallel, and of torch.compile


@dataclass(frozen=True, eq=False)
class Weights:
    """A state dict, and what was around it.

    Args:
        tensors: by name, in the dtype that they were saved in, on the CPU where they come from a file.
        opened: the keys of the dicts that it stood in, outermost first: "model", "state_dict".
        prefix: what was taken off all names.
    """

    tensors: dict[str, Tensor] = field(repr=False)
    opened: tuple[str, ...] = ()
    prefix: str = ""


def read_weights(source: str | os.PathLike[str] | Mapping[str, Any]) -> Weights:
    """Read a state dict from a file of torch.save or safetensors; nothing in a file is run.

    `{"model": ...}` or `{"state_dict": ...}` around it is opened, with whatever else stands there (epochs, optimisers,
    numbers of NumPy) left aside, and the `module.` and `_orig_mod.` that torch's wrappers put before all names are
    taken off.

    Args:
        source: the file, or what such a file holds. A file of torch.save is read with `weights_only=True`.

    Returns:
        The tensors, and what was opened and taken off.

    Raises:
        ImportError: the file is of safetensors, which is not installed.
        OSError: the file cannot be read.
        ValueError: the file is damaged or holds more than plain data, or there is no state dict in it, or two.

    Example:
        >>> weights = read_weights({"state_dict": {"module.fc.bias": torch.zeros(2)}, "epoch": 3})
        >>> weights.tensors
        {'fc.bias': tensor([0., 0.])}
        >>> weights.opened, weights.prefix
        (('state_dict',), 'module.')
    """
    return read_state_dict(_READ, source)


def read_state_dict(who: str, source: str | os.PathLike[str] | Mapping[str, Any]) -> Weights:
    """Do what `read_weights` does; `who` complains."""
    if isinstance(source, Mapping):
        tensors, opened = _unwrap(who, "the state dict", source)
    else:
        path = Path(source)
        content = read_tensors(who, path) if is_safetensors(path) else _unpickled(who, path)
        tensors, opened = _unwrap(who, str(path), content)
    prefix = ""
    while found := [name for name in _TORCHS if tensors and all(key.startswith(prefix + name) for key in tensors)]:
        prefix += found[0]
    return Weights({key.removeprefix(prefix): value.detach() for key, value in tensors.items()}, opened, prefix)


def shared_prefix(names: Mapping[str, Any]) -> str:
    """Return the dotted names in front that all have; empty for none."""
    parts = [name.split(".")[:-1] for name in names]
    shared = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))
    return "".join(f"{level[0]}." for level in shared)


def _unpickled(who: str, path: Path) -> object:
    try:
        # Opened here, since torch goes by a file's name before it looks into it.
        with open_file(path) as file, torch.serialization.safe_globals(_numpy_numbers()):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch reports damaged files by most kinds of error
        code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if code:
            raise ValueError(
                f"{who}: {path} must hold plain tensors only, got a pickle with {code[1]} in it, which was not run; "
                "if you trust the file, read it with torch.load(path, weights_only=False) and torch.save its state "
                "dict alone."
            ) from error
        if "TorchScript" in str(error):
            raise ValueError(
                f"{who}: {path} must be a file of torch.save or safetensors, got a TorchScript archive; if you trust "
                "the file, save the state dict of torch.jit.load(path) with torch.save."
            ) from error
        raise ValueError(
            f"{who}: {path} must be a whole file of torch.save or safetensors, got one that does not read "
            f"({type(error).__name__}); copy it again."
        ) from error


def _numpy_numbers() -> list[Any]:
    """Return what a pickled NumPy number is rebuilt by: training scripts keep their best score as one."""
    rebuild = np.float64(0).__reduce__()[0]
    homes = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")  # NumPy 1 and 2
    return [*((rebuild, home) for home in homes), np.dtype, *{type(np.dtype(kind)) for kind in "fdilq?"}]


def _unwrap(who: str, what: str, content: Any) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the state dict inside its wrappers, and their keys."""
    opened: list[str] = []
    around: list[object] = []
    while isinstance(content, Mapping) and (inside := _inside(who, what, content)):
        around.append(content)
        content = content[inside]
        opened.append(inside)
        if any(content is outer for outer in around):
            raise ValueError(
                f"{who}: {what} must hold a state dict, got a dict that contains itself at {inside!r}; pass the state "
                "dict."
            )
    if not isinstance(content, Mapping):
        raise ValueError(f"{who}: {what} must hold a state dict, got a {type(content).__name__}; pass the state dict.")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{who}: {what} must hold tensors by name (alone, or under {' or '.join(map(repr, _WRAPPERS))}), got a "
                f"{type(value).__name__} at {key!r:.60}; pass a state dict."
            )
    return dict(content), tuple(opened)


def _inside(who: str, what: str, content: Mapping[Any, Any]) -> str | None:
    """Return the wrapper's key to open: of two dicts, the one with tensors in it or a further dict."""
    inside = [key for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
    full = [key for key in inside if any(isinstance(value, Tensor | Mapping) for value in content[key].values())]
    if len(full) > 1 and content[full[0]] is not content[full[1]]:
        raise ValueError(
            f"{who}: {what} must hold one state dict, got two, at {' and '.join(map(repr, full))}; pass the one "
            "that is meant."
        )
    return next(iter(full or inside), None)
