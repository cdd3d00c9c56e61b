"""From maps of one size to maps of another: how a layer is copied, and what becomes of weights over positions.

A layer that depends on the size says itself how it becomes one for another size, by `resize(size)`. Layers made of
layers ask those inside by `resize_attention`.
"""

import copy
import inspect
from typing import TypeVar

import torch
from torch import Tensor, nn

from attnreid.layers._pooling import widened
from attnreid.registry import BUILT_FOR_SIZE

Size = tuple[int, int]
Module = TypeVar("Module", bound=nn.Module)


def resize_attention(layer: nn.Module, size: Size) -> nn.Module:
    """Return a copy of any attention for maps of another size; an equal one where no size matters.

    The copy's modules are in the modes of the layer's.

    Raises:
        TypeError: its `resize` returns no module.
        ValueError: the layer depends on the size and has no `resize`, refuses the size, or returns itself, or a
            layer with other keys.
    """
    who = type(layer).__name__
    resize = getattr(layer, "resize", None)
    if callable(resize):
        resized = _checked(who, layer, resize(size))
    else:
        check_sizeless(layer)
        resized = copy.deepcopy(layer)
    modules = dict(resized.named_modules())
    for name, module in layer.named_modules():
        if name in modules:
            modules[name].training = module.training
    return resized


def check_sizeless(layer: nn.Module) -> None:
    """Refuse a layer that was built for a map's size and does not say how it becomes one for another."""
    who = type(layer).__name__
    fixed = getattr(layer, "size", None) is not None or BUILT_FOR_SIZE in vars(layer)
    if fixed or "size" in inspect.signature(type(layer)).parameters:
        raise ValueError(
            f"{who}: a layer that is built for the map's size must have resize(size), got one without: have it return "
            "a copy for maps of that size, or build the layer for them"
        )


def _checked(who: str, layer: nn.Module, resized: object) -> nn.Module:
    if not isinstance(resized, nn.Module):
        raise TypeError(f"{who}: resize(size) must return a module, got {resized!r:.60}: return a copy")
    if {id(module) for module in layer.modules()} & {id(module) for module in resized.modules()}:
        raise ValueError(f"{who}: resize(size) must return a copy, got the layer itself: copy.deepcopy it first")
    wrong = sorted(layer.state_dict().keys() ^ resized.state_dict().keys())
    if wrong:
        raise ValueError(
            f"{who}: resize(size) must keep the names in the state dict, got another set, first {wrong[0]!r}: return a "
            "layer of the same parts"
        )
    return resized


def copy_with(module: Module, *replaced: tuple[object, object]) -> Module:
    """Return a deep copy of a module with new parts, (old, new), in the place of its own parameters or modules."""
    return copy.deepcopy(module, {id(old): new for old, new in replaced})


def plain_parameter(who: str, module: nn.Module, name: str) -> nn.Parameter:
    """Return a module's parameter; refuse one that something else stands for."""
    parameter = module._parameters.get(name)
    if parameter is None:
        raise ValueError(
            f"{who}: weights that are resized must be plain parameters, got {name!r} with parametrizations: remove "
            "them with torch.nn.utils.parametrize.remove_parametrizations first"
        )
    return parameter


def averaging(old: int, new: int) -> Tensor:
    """Return the matrix `(old, new)` that takes `new` numbers along an axis to `old`, each an average of those near it.

    It is bilinear resizing along one axis, antialiased where that makes fewer numbers, as in `F.interpolate`: a
    triangle around the old position, as wide as the larger of the two steps. Each row sums to 1.
    """
    step = new / old
    places = (torch.arange(old, dtype=torch.float64) + 0.5) * step
    distances = (torch.arange(new, dtype=torch.float64) + 0.5 - places[:, None]).abs()
    weights = (1 - distances / max(step, 1.0)).clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True)


def resize_over_positions(weight: Tensor, old: Size, new: Size) -> Tensor:
    """Return weights `(..., n * H * W)` of the positions of a map for another size, `(..., n * H' * W')`.

    What they sum up on a map of the new size is what `weight` sums up on that map, averaged to the old size:
    `w' = w D` with D the `averaging` of both axes. So they are w interpolated, and scaled by about old over new
    positions, and each sums to what it did.
    """
    if old == new:
        return weight.detach().clone()
    wide = weight.detach().to(widened(weight.dtype))
    rows, columns = (averaging(*lengths).to(wide) for lengths in zip(old, new, strict=True))
    resized = rows.mT @ wide.view(*wide.shape[:-1], -1, *old) @ columns
    return resized.flatten(-3).to(weight.dtype)
