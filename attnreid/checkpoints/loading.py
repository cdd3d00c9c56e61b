"""From a safe file back onto a fresh backbone: the attention first, then the weights, all or nothing."""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from attnreid.backbones import attachments
from attnreid.backbones._surgery import Replacement
from attnreid.backbones.sites import InputSize, is_input_size
from attnreid.checkpoints._adapting import adapt, at_input_size, attached_copy
from attnreid.checkpoints._file import read_file
from attnreid.checkpoints._header import (
    Described,
    Header,
    attention_difference,
    describe_model,
    from_json,
    header_of_part,
)
from attnreid.checkpoints._rebuilding import rebuild
from attnreid.checkpoints._tensors import first_few, flat, load_whole, misfits, name_difference

_LOAD, _READ = "load_checkpoint", "read_description"
_IN_A_FOLDER = "model.safetensors"


@dataclass(frozen=True)
class Difference:
    """What a file and a model did not share, where `strict=False` let it pass.

    Args:
        missing: keys that the file does not have; what is there keeps its weights.
        unexpected: keys that the model does not have; they are left out.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()


def load_checkpoint(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    strict: bool = True,
    prefix: str = "",
    resize: bool | InputSize = False,
) -> Difference:
    """Load a file of `save_checkpoint`: attach what the saved model carried, then take over its weights.

    All or nothing: keys, shapes and dtypes are compared before a weight changes, and where something does not
    fit, the attention that was attached for it is taken out again. A model that already carries attention
    must carry what the file has; the weights of a model without attention are loaded before attaching, or with
    `strict=False`. The model's `requires_grad` and train or eval mode stay.

    Attention that was saved at another input size is adapted by `resize`, as `Attachment.resize` does it: a plain model
    gets it at the input size that `resize` is, one that carries it at the size that it has (`resize=True`). That
    attention then has the widths of the file's and new parameters; its handles stay.

    The file names its attention, and only names that are registered here, with options that their signatures
    have, are built; how large a layer is, is the file's word.

    Args:
        model: plain, or with the attention of the file; changed in place.
        path: what `save_checkpoint` wrote, or a folder with such a file in it, named model.safetensors.
        strict: False lets keys be missing or unexpected, those of attention too, converts dtypes as torch does,
            and does not compare the attention that the model carries with the file's. Shapes must agree in any
            case.
        prefix: loads a part of the saved model, with the attention in it: "backbone." for its `backbone`. Everything
            else in the file is left aside.
        resize: True adapts the file's attention to the maps of the attention that the model carries; for a plain
            model it is the input size, (height, width) or (channels, height, width). The attention must be the
            file's but for the sizes then, whatever `strict` is. Without attention in the file nothing is resized.

    Returns:
        The keys that were missing and unexpected; both empty where strict.

    Raises:
        ImportError: safetensors is not installed.
        OSError: the file cannot be read.
        TypeError: `model`, `prefix` or `resize` is no such thing.
        ValueError: the file is no whole one of `save_checkpoint`, it has nothing under the prefix, or it and the
            model differ; the message names the difference. Or its attention cannot be resized. The model is then
            as it was.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> from attnreid import save_checkpoint
        >>> path = tempfile.mkdtemp() + "/small.safetensors"
        >>> save_checkpoint(nn.Linear(4, 2), path)
        >>> load_checkpoint(nn.Linear(4, 3), path)
        Traceback (most recent call last):
        ...
        ValueError: load_checkpoint: ...small.safetensors must fit Linear, got 2 unlike ('weight' is 2x4 and ...
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"{_LOAD}: the model must be an nn.Module, got {type(model).__name__}; pass the model.")
    if not isinstance(prefix, str):
        raise TypeError(f"{_LOAD}: prefix must be a string, got {prefix!r}; pass one such as 'backbone.'.")
    path, header, tensors = _read(_LOAD, path)
    if prefix:
        header, tensors = _part(path, header, tensors, prefix)
    on_meta = [key for key, value in model.state_dict().items() if isinstance(value, Tensor) and value.is_meta]
    if on_meta:
        raise ValueError(
            f"{_LOAD}: the model's weights must hold numbers, got {on_meta[0]!r} on the meta device; call "
            "model.to_empty(device=...) first."
        )
    with ExitStack() as undo:  # ends with what was done undone, unless all was
        if _check_resize(path, model, header, resize):
            header, tensors = _with_attention(path, model, header, tensors, strict, resize, undo)
        difference = _compare_tensors(path, model, tensors, header, strict)
        try:
            load_whole(model, tensors, versions=header.versions, strict=strict)
        except RuntimeError as error:
            raise ValueError(f"{_LOAD}: {path} must load into {type(model).__name__}, got: {flat(error)}") from error
        undo.pop_all()
    return difference


def read_description(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return what `save_checkpoint` was given as the description of a file; None where it was given none.

    Args:
        path: what `save_checkpoint` wrote, or a folder with such a file in it, named model.safetensors.

    Raises:
        ImportError: safetensors is not installed.
        OSError: the file cannot be read.
        ValueError: the file is no whole one of `save_checkpoint`.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> from attnreid import save_checkpoint
        >>> path = tempfile.mkdtemp() + "/small.safetensors"
        >>> save_checkpoint(nn.Linear(4, 2), path, description={"epoch": 60, "mAP": 0.85})
        >>> read_description(path)
        {'epoch': 60, 'mAP': 0.85}
    """
    return _read(_READ, path)[1].description


def _read(who: str, path: str | os.PathLike[str]) -> tuple[Path, Header, dict[str, Tensor]]:
    """Return the file itself, its header and its tensors."""
    path = Path(path)
    path = path / _IN_A_FOLDER if path.is_dir() else path
    text, tensors = read_file(who, path)
    return path, from_json(f"{who}: {path}", text), tensors


def _part(path: Path, header: Header, tensors: dict[str, Tensor], prefix: str) -> tuple[Header, dict[str, Tensor]]:
    part = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    if not part:
        tops = sorted({f"{key.partition('.')[0]}." for key in tensors if "." in key})
        raise ValueError(
            f"{_LOAD}: {path} must have weights under {prefix!r}, got them under {first_few(list(map(repr, tops)))}; "
            "choose one of them."
        )
    return header_of_part(header, prefix), part


def _check_resize(path: Path, model: nn.Module, header: Header, resize: object) -> bool:
    """Refuse a `resize` that does not suit the model and the file; return whether the file has attention."""
    if not isinstance(resize, bool) and not is_input_size(resize):
        raise TypeError(
            f"{_LOAD}: resize must be True, False or an input size (height, width), got {resize!r}; pass the size that "
            "a plain model is to have, and True for one that carries the attention."
        )
    if resize is False or not header.attachments:
        return bool(header.attachments)
    carried = [site.name for one in attachments(model) for site in one.sites]
    if carried and resize is not True:
        raise ValueError(
            f"{_LOAD}: resize must be True for a model that carries attention, whose maps say the size, got {resize} "
            f"for one with some at {first_few(list(map(repr, carried)))}; pass True, or a plain model."
        )
    if not carried and resize is True:
        raise ValueError(
            f"{_LOAD}: resize must be the input size for a plain model, got True; pass resize=(height, width), or "
            "attach the attention at that size first."
        )
    unnamed = [name for one in header.attachments if one.call is None for name in one.sites]
    if unnamed:
        raise ValueError(
            f"{_LOAD}: to be resized, the attention in {path} must have the call that attached it, got none for "
            f"{first_few(list(map(repr, unnamed)))}; load it at the size that it has, and call its attachment's resize."
        )
    return True


def _with_attention(
    path: Path,
    model: nn.Module,
    header: Header,
    tensors: dict[str, Tensor],
    strict: bool,
    resize: bool | InputSize,
    undo: ExitStack,
) -> tuple[Header, dict[str, Tensor]]:
    """Have the model carry the file's attention; return header and tensors as they are for its sizes."""
    plain = not attachments(model)
    wanted = header.attachments
    if plain:
        if not isinstance(resize, bool):
            wanted = tuple(at_input_size(one, resize) for one in wanted)
        _attach_all(path, model, wanted, undo, strict, sized=resize is False)
    if resize is False:
        if strict:
            _check_attention(path, wanted, describe_model(model), plain=plain)
        return header, tensors
    _check_attention(path, wanted, describe_model(model), plain=plain, sizes=False)
    source = model
    if not plain:
        try:
            source = attached_copy(model, header)
        except ValueError as error:
            raise ValueError(f"{_LOAD}: {path} describes attention, but {error}") from error
    return adapt(_LOAD, path, model, source, header, tensors, undo, dtypes=strict)


def _attach_all(
    path: Path, model: nn.Module, described: Sequence[Described], undo: ExitStack, strict: bool, *, sized: bool
) -> None:
    """Attach what the file describes to a plain model, noting in `undo` how each comes out."""
    for number, one in enumerate(described, start=1):
        if one.call is not None:
            try:
                undo.callback(rebuild(model, one.call).remove)
            except ValueError as error:
                said = str(error)
                if sized and error.__cause__ is not None:  # the call was made, and refused
                    said = f"{said.removesuffix('.')}, or pass resize=(height, width) to attach it at that input size"
                raise ValueError(f"{_LOAD}: {path} describes attention (number {number}), but {said}") from error
        elif strict:
            raise ValueError(
                f"{_LOAD}: the model must carry attention at {', '.join(map(repr, one.sites))} before {path} is "
                "loaded, since the file does not hold the call that attached it; attach it as it was for saving, or "
                "give its class a name by register_attention and save again."
            )


def _check_attention(
    path: Path, file: tuple[Described, ...], model: tuple[Described, ...], *, plain: bool, sizes: bool = True
) -> None:
    other = attention_difference(file, model, sizes=False)
    difference = other or (attention_difference(file, model) if sizes else None)
    if difference:
        adapted = f"pass resize={'(height, width)' if plain else 'True'} to adapt the file's to these maps, or "
        raise ValueError(
            f"{_LOAD}: the attention must be the same in {path} and on the model, got {difference}; "
            f"{'' if other else adapted}attach what the file has, at the same input size and strides "
            "(set_last_stride), or pass a plain model and it is attached."
        )


def _compare_tensors(
    path: Path, model: nn.Module, tensors: Mapping[str, Tensor], header: Header, strict: bool
) -> Difference:
    own = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    dropped = {
        f"{name}.{key}"
        for name, module in model.named_modules()
        if isinstance(module, Replacement)
        for key in module.replaced.state_dict()
    }
    missing = tuple(key for key in own if key not in tensors)
    unexpected = tuple(key for key in tensors if key not in own and key not in dropped)
    unlike = misfits(tensors, own, dtypes=strict)
    if unlike or (strict and (missing or unexpected)):
        raise ValueError(
            f"{_LOAD}: {path} must fit {type(model).__name__}, got {name_difference(missing, unexpected, unlike)}; "
            f"{_way_on(model, tensors, own, header, missing)}."
        )
    return Difference(missing, unexpected)


def _way_on(
    model: nn.Module, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], header: Header, missing: Sequence[str]
) -> str:
    unlike = {key for key, like in own.items() if key in tensors and tensors[key].shape != like.shape}
    attention = {key for attachment in attachments(model) for key in attachment.state_dict()}
    if header.attachments and unlike & attention:
        return (
            "pass resize=True for attention of the file's widths, which are those of the size that it was made for, or "
            "pass a plain model and it is attached"
        )
    if unlike:
        return (
            "build the model with these sizes, or keep a layer of your own size, such as a classifier, out of it: put "
            "nn.Identity() in its place, load with strict=False, put it back"
        )
    if not header.attachments and not attention.isdisjoint(missing):
        return "load it before the attention is attached (strict=False leaves the attention as it is)"
    return "build the model as it was saved (strict=False lets keys differ and converts dtypes)"
