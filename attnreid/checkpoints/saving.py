"""A model and its attention into one safe file."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import attnreid
from attnreid.checkpoints._file import write_file
from attnreid.checkpoints._header import Header, describe_model, to_json
from attnreid.checkpoints._tensors import versions_of
from attnreid.layers._folding import Foldable

_SAVE = "save_checkpoint"


def save_checkpoint(
    model: nn.Module, path: str | os.PathLike[str], *, description: Mapping[str, Any] | None = None
) -> None:
    """Write a model's weights, and how its attention was attached, to a safetensors file.

    Nothing in such a file can run when it is read. Its JSON header has the call of each attachment, so that
    `load_checkpoint` can attach it again. A call with an attention that is no registered one cannot be written
    down (`Attachment.call` is None) and is saved all the same; the model that loads the file must carry it.
    The header also has a SHA-256 digest of the whole file, by which a damaged one is known. The file is written
    beside its place, synchronised with the disk and then renamed: a failure leaves the old one as it was.

    Args:
        model: with attention or without; stays as it is.
        path: an old file there is replaced.
        description: what to keep with the weights, as JSON holds it (tuples become lists): how they were trained,
            for one. `read_description` gives it back.

    Raises:
        ImportError: safetensors is not installed.
        OSError: the file cannot be written.
        TypeError: the model is no module, or the description no dict.
        ValueError: the state dict has something that is no tensor with data, the model is a folded one, whose
            weights no fresh model could load, or the description is no plain data.

    Example:
        >>> import tempfile
        >>> from torchvision.models import resnet18
        >>> from attnreid import attach_apnet, load_checkpoint, read_description
        >>> path = tempfile.mkdtemp() + "/apnet.safetensors"
        >>> model = resnet18()
        >>> _ = attach_apnet(model, "se", levels=2, input_size=(256, 128))
        >>> save_checkpoint(model, path, description={"epoch": 60})
        >>> fresh = resnet18()
        >>> load_checkpoint(fresh, path)
        Difference(missing=(), unexpected=())
        >>> torch.equal(fresh.layer4.attention.levels[1].reduce, model.layer4.attention.levels[1].reduce)
        True
        >>> read_description(path)
        {'epoch': 60}
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"{_SAVE}: the model must be an nn.Module, got {type(model).__name__}; pass the model.")
    if description is not None and not isinstance(description, Mapping):
        raise TypeError(f"{_SAVE}: the description must be a dict, got {description!r:.60}; pass one of plain data.")
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
    told = None if description is None else dict(description)
    header = Header(attnreid.__version__, describe_model(model), versions_of(model), told)
    write_file(_SAVE, Path(path), tensors, to_json(_SAVE, header))


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
