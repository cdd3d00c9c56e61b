"""A model and its attention in one safe file, and back onto a fresh backbone."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import attnreid
from attnreid.backbones import Attachment, attachments
from attnreid.backbones._surgery import Replacement
from attnreid.checkpoints._file import read_file, write_file
from attnreid.checkpoints._header import Described, Header, attention_difference, describe_model, from_json, to_json
from attnreid.checkpoints._rebuilding import rebuild
from attnreid.checkpoints._tensors import flat, load_whole, misfits, name_difference, versions_of
from attnreid.layers._folding import Foldable

_SAVE, _LOAD = "save_checkpoint", "load_checkpoint"


@dataclass(frozen=True)
class Difference:
    """What a file and a model did not share, where `strict=False` let it pass.

    Args:
        missing: keys that the file does not have; what is there keeps its weights.
        unexpected: keys that the model does not have; they are left out.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()


def save_checkpoint(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a model's weights, and how its attention was attached, to a safetensors file.

    Nothing in such a file can run when it is read. Its JSON header has a recipe for each attachment, so that
    `load_checkpoint` can attach it again. An attention that is no registered one has no recipe
    (`Attachment.recipe` is None) and is saved all the same; the model that loads the file must carry it. The
    file is written beside its place and then renamed: a failure leaves the old one as it was.

    Args:
        model: with attention or without; stays as it is.
        path: an old file there is replaced.

    Raises:
        ImportError: safetensors is not installed.
        OSError: the file cannot be written.
        ValueError: the state dict has something that is no tensor with data, or the model is a folded one,
            whose weights no fresh model could load.

    Example:
        >>> import tempfile
        >>> from torchvision.models import resnet18
        >>> from attnreid import attach_apnet
        >>> path = tempfile.mkdtemp() + "/apnet.safetensors"
        >>> model = resnet18()
        >>> _ = attach_apnet(model, "se", levels=2, input_size=(256, 128))
        >>> save_checkpoint(model, path)
        >>> fresh = resnet18()
        >>> load_checkpoint(fresh, path)
        Difference(missing=(), unexpected=())
        >>> torch.equal(fresh.layer4.attention.levels[1].reduce, model.layer4.attention.levels[1].reduce)
        True
    """
    for name, module in model.named_modules():
        if isinstance(module, Foldable) and module.folded:
            raise ValueError(
                f"{_SAVE}: the model must not be folded, since no fresh model has such weights, got {name!r} folded; "
                "save the model that it was folded from, and fold after loading."
            )
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    for key, value in model.state_dict().items():
        _check_storable(key, value)
        tensor = value.detach().cpu().contiguous()
        # safetensors takes no two tensors of one storage: tied weights are written twice and load as one.
        storage = tensor.untyped_storage().data_ptr()
        tensors[key] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    header = Header(attnreid.__version__, describe_model(model), versions_of(model))
    write_file(_SAVE, Path(path), tensors, to_json(header))


def load_checkpoint(model: nn.Module, path: str | os.PathLike[str], *, strict: bool = True) -> Difference:
    """Load a file of `save_checkpoint`: attach what the saved model carried, then take over its weights.

    All or nothing: keys, shapes and dtypes are compared before a weight changes, and where something does not
    fit, the attention that was attached for it is taken out again. A model that already carries attention
    must carry what the file has; the weights of a model without attention are loaded before attaching, or with
    `strict=False`. The model's `requires_grad` and train or eval mode stay.

    The file names its attention, and only names that are registered here, with options that their signatures
    have, are built; how large a layer is, is the file's word.

    Args:
        model: plain, or with the attention of the file; changed in place.
        path: what `save_checkpoint` wrote.
        strict: False lets keys be missing or unexpected, those of attention too, converts dtypes as torch does,
            and does not compare the attention that the model carries with the file's. Shapes must agree in any
            case.

    Returns:
        The keys that were missing and unexpected; both empty where strict.

    Raises:
        ImportError: safetensors is not installed.
        OSError: the file cannot be read.
        ValueError: the file is no whole one of `save_checkpoint`, or it and the model differ; the message
            names the difference. The model is then as it was.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> path = tempfile.mkdtemp() + "/small.safetensors"
        >>> save_checkpoint(nn.Linear(4, 2), path)
        >>> load_checkpoint(nn.Linear(4, 3), path)
        Traceback (most recent call last):
        ...
        ValueError: load_checkpoint: ...small.safetensors must fit Linear, got 2 unlike ('weight' is 2x4 and ...
    """
    path = Path(path)
    text, tensors = read_file(_LOAD, path)
    header = from_json(f"{_LOAD}: {path}", text)
    on_meta = [key for key, value in model.state_dict().items() if isinstance(value, Tensor) and value.is_meta]
    if on_meta:
        raise ValueError(
            f"{_LOAD}: the model's weights must have memory, got {on_meta[0]!r} on the meta device; call "
            "model.to_empty(device=...) first."
        )
    attached: list[Attachment] = []
    try:
        if header.attachments and not attachments(model):
            _attach_all(path, model, header, attached, strict)
        if header.attachments and strict:
            _check_attention(path, header.attachments, describe_model(model))
        difference = _compare_tensors(path, model, tensors, header, strict)
        try:
            load_whole(model, tensors, versions=header.versions, strict=strict)
        except RuntimeError as error:
            raise ValueError(f"{_LOAD}: {path} must load into {type(model).__name__}, got: {flat(error)}") from error
    except BaseException:
        for attachment in reversed(attached):
            attachment.remove()
        raise
    return difference


def _check_storable(key: str, value: object) -> None:
    found = None
    if not isinstance(value, Tensor):
        found = f"a {type(value).__name__}"
    elif is_lazy(value):
        found = "a lazy one without a size; run the model once"
    elif value.is_meta:
        found = "one on the meta device"
    elif value.layout != torch.strided:
        found = f"one of layout {value.layout}"
    if found:
        raise ValueError(f"{_SAVE}: the state dict must hold plain tensors with data, got {found} at {key!r}.")


def _attach_all(path: Path, model: nn.Module, header: Header, attached: list[Attachment], strict: bool) -> None:
    """Attach what the file describes to a plain model, noting each in `attached`."""
    for number, described in enumerate(header.attachments, start=1):
        if described.recipe is not None:
            try:
                attached.append(rebuild(model, described.recipe))
            except ValueError as error:
                raise ValueError(f"{_LOAD}: {path} describes attention (number {number}), but {error}") from error
        elif strict:
            raise ValueError(
                f"{_LOAD}: the model must carry attention at {', '.join(map(repr, described.sites))} before {path} is "
                "loaded, since the file has no recipe for it; attach it as it was for saving, or give its class a name "
                "by register_attention and save again."
            )


def _check_attention(path: Path, file: tuple[Described, ...], model: tuple[Described, ...]) -> None:
    difference = attention_difference(file, model)
    if difference:
        raise ValueError(
            f"{_LOAD}: the attention must be the same in {path} and on the model, got {difference}; attach what the "
            "file has, at the same input size and strides (set_last_stride), or pass a plain model and it is attached."
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
    if misfits(tensors, own, dtypes=False):
        return (
            "build the model with these sizes, or keep a layer of your own size, such as a classifier, out of it: put "
            "nn.Identity() in its place, load with strict=False, put it back"
        )
    attention = {key for attachment in attachments(model) for key in attachment.state_dict()}
    if not header.attachments and not attention.isdisjoint(missing):
        return "load it before the attention is attached (strict=False leaves the attention as it is)"
    return "build the model as it was saved (strict=False lets keys differ and converts dtypes)"
