"""A file's attention at another size: built as it was made, filled with the file's weights, resized to other maps.

The saved model's maps are not made once more for that, so that a model that refuses their input size will do.
"""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor, nn

from attnreid.backbones import Attachment, attachments
from attnreid.backbones._building import resize_layer
from attnreid.backbones._calls import MADE_FOR
from attnreid.backbones._resizing import exchange
from attnreid.backbones._surgery import CHILD, attention_of, mark_of
from attnreid.checkpoints._header import Described, Header, relative, under
from attnreid.checkpoints._rebuilding import rebuild
from attnreid.checkpoints._tensors import flat, load_whole, misfits, name_difference


def at_input_size(described: Described, input_size: Sequence[int] | None) -> Described:
    """Return how to attach at another input size what a file describes, with layers made for the size that they were.

    None for the input size that the file has.
    """
    assert described.call is not None  # for the type checker: a file without calls was refused before
    call, prefix = described.call, f"{described.call['on']}." if described.call["on"] else ""
    own = {relative(prefix, name) or "": list(shape[1:]) for name, shape in described.sites.items()}
    options = call["options"] if input_size is None else {**call["options"], "input_size": list(input_size)}
    return dataclasses.replace(
        described, call={**call, "options": options, MADE_FOR: {**own, **call.get(MADE_FOR, {})}}
    )


def attached_copy(model: nn.Module, header: Header) -> nn.Module:
    """Return a copy of a model that carries a file's attention as it was made, at the sizes of the model's maps.

    The copy is for its attention alone: its other tensors are the model's.
    """
    double = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    for one in attachments(double):
        one.remove()
    for described, carried in zip(header.attachments, attachments(model), strict=True):
        size = None if carried.call is None else carried.call["options"]["input_size"]
        call = at_input_size(described, size).call
        assert call is not None  # for the type checker
        rebuild(double, call)
    return double


def adapt(
    who: str,
    path: Path,
    model: nn.Module,
    source: nn.Module,
    header: Header,
    tensors: dict[str, Tensor],
    undo: ExitStack,
    *,
    dtypes: bool,
) -> tuple[Header, dict[str, Tensor]]:
    """Give a model the file's attention, resized to its maps; return a header and tensors that fit it.

    Args:
        who: named in what is raised.
        path: the file.
        model: carries the same attention as the file, of other sizes.
        source: carries it with the widths that the file's has: the model itself, or `attached_copy`.
        header: the file's.
        tensors: the file's.
        undo: gets what takes it out again.
        dtypes: whether the file's dtypes must be the model's.

    Raises:
        ValueError: the file has not all weights of the attention that it describes, or others, or it cannot be
            resized.
    """
    tensors, versions = dict(tensors), dict(header.versions)
    for described, carried in zip(header.attachments, attachments(model), strict=True):
        layers = []
        for site in carried.sites:
            prefix = f"{site.name}.{CHILD}."
            pattern = attention_of(source.get_submodule(site.name))
            _, height, width = described.sites[site.name]
            saved = dataclasses.replace(site, size=(height, width))
            own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            layer = resize_layer(who, pattern, saved)
            _fill(f"{who}: {path}", layer, own, under(prefix, versions), dtypes)
            layers.append(resize_layer(who, layer, site))
            tensors.update((prefix + key, value) for key, value in layers[-1].state_dict().items())
            versions = {name: version for name, version in versions.items() if not f"{name}.".startswith(prefix)}
        undo.callback(_exchanged(model, carried, layers, described))
    return dataclasses.replace(header, versions=versions), tensors


def _exchanged(
    model: nn.Module, carried: Attachment, layers: Sequence[nn.Module], described: Described
) -> Callable[[], None]:
    hosts = [model.get_submodule(site.name) for site in carried.sites]
    sizes = [site.size or (0, 0) for site in carried.sites]
    mark = mark_of(hosts[0])
    assert mark is not None  # for the type checker: a host is marked
    made_for = (at_input_size(described, None).call or {})[MADE_FOR]
    return exchange(hosts, layers, sizes, mark.group.call and {**mark.group.call, MADE_FOR: made_for})


def _fill(who: str, layer: nn.Module, tensors: dict[str, Tensor], versions: dict[str, int], dtypes: bool) -> None:
    own = {key: value for key, value in layer.state_dict().items() if isinstance(value, Tensor)}
    missing, unexpected = [key for key in own if key not in tensors], [key for key in tensors if key not in own]
    difference = name_difference(missing, unexpected, misfits(tensors, own, dtypes=dtypes))
    if difference:
        raise ValueError(
            f"{who} must have the weights of the {type(layer).__name__} that it describes, got {difference}; save it "
            "again."
        )
    try:
        load_whole(layer, tensors, versions=versions, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{who} must load into {type(layer).__name__}, got: {flat(error)}") from error
