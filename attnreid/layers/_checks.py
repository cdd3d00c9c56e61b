"""The refusals that all layers share: each says who complains, what must hold, what it got and what to do."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attnreid._tracing import is_recording, leaf

_MOST = 2**31  # no tensor has as many channels, parts or positions
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # torch computes in no other floating point


def check_count(who: str, name: str, value: object, *, least: int = 1) -> None:
    """Refuse anything but an int that is at least `least`, and below 2**31."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(
            f"{who}: {name} must be an int, got {value!r} of type {type(value).__name__}: pass a whole number"
        )
    if value < least:
        raise ValueError(f"{who}: {name} must be at least {least}, got {value}: pass a larger number")
    if value >= _MOST:
        raise ValueError(f"{who}: {name} must be below 2**31, got {value}: pass a smaller number")


def check_factory(who: str, device: object, dtype: object) -> None:
    """Refuse a device that torch does not know, and any dtype that layers do not compute in; None is the default one.

    Whether there is such a device, torch says.
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype in _DTYPES):
        raise TypeError(
            f"{who}: dtype must be a floating-point dtype, got {dtype!r}: pass one of {', '.join(map(str, _DTYPES))}, "
            "or leave it out"
        )
    if device is None or isinstance(device, torch.device | int):
        return
    if not isinstance(device, str):
        raise TypeError(f"{who}: device must be a torch.device or a name, got {device!r}: pass one such as 'cpu'")
    try:
        torch.device(device)
    except RuntimeError:
        raise ValueError(
            f"{who}: device must be one that torch knows, got {device!r}: pass one such as 'cpu'"
        ) from None


def check_flag(who: str, name: str, value: object) -> None:
    """Refuse anything but True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{who}: {name} must be a bool, got {value!r}: pass True or False")


def check_size(who: str, size: object, *, name: str = "size") -> tuple[int, int]:
    """Refuse anything but two positive ints, and return them as (height, width)."""
    if not isinstance(size, Sequence) or isinstance(size, str) or len(size) != 2:
        raise TypeError(f"{who}: {name} must be (height, width), got {size!r}: pass the map's, e.g. (16, 8)")
    height, width = size
    check_count(who, f"the height in {name}", height)
    check_count(who, f"the width in {name}", width)
    return height, width


def check_multiple(who: str, what: str, value: int, divisor: int, *, step: int | None = None) -> None:
    """Refuse what `divisor` does not divide, naming the nearest multiples of `step` (default: `divisor`)."""
    if value % divisor:
        step = step or divisor
        below = value // step * step
        nearest = f"{below} or {below + step}" if below else f"{step}"
        raise ValueError(f"{who}: {what} must be a multiple of {divisor}, got {value}: the nearest is {nearest}")


@leaf
def check_map(who: str, x: Tensor, channels: int, size: tuple[int, int] | None = None) -> Tensor:
    """Return the map, refusing all but a floating-point (N, channels, H, W), of this size where one is given.

    There may be no image in it. It is handed through, so that a graph made of the code keeps the check.
    """
    if is_recording():
        return x  # its sizes are recorded there, and a comparison would be an answer for all maps
    shape = tuple(x.shape)
    if x.ndim != 4:
        raise ValueError(
            f"{who}: the input must have 4 dimensions (N, C, H, W), got shape {shape}: "
            "reshape it, or add the batch dimension with x.unsqueeze(0)"
        )
    if x.dtype not in _DTYPES:
        raise TypeError(f"{who}: the input must be floating point, got {x.dtype}: convert it with x.float()")
    if x.shape[1] != channels:
        raise ValueError(
            f"{who}: the input must have {channels} channels, got {x.shape[1]} (shape {shape}): "
            "build the layer for the channels of this map"
        )
    if size is not None and tuple(x.shape[2:]) != size:
        raise ValueError(
            f"{who}: the map must be {size[0]}x{size[1]} (height x width), got {x.shape[2]}x{x.shape[3]}: "
            f"feed that size, or adapt the layer to this one, with attachment.resize(input_size) where it was "
            f"attached and layer.resize({tuple(x.shape[2:])}) elsewhere, or build it for this one"
        )
    if x.shape[2] == 0 or x.shape[3] == 0:
        raise ValueError(f"{who}: the map must have a height and a width, got shape {shape}: feed larger images")
    return x


@leaf
def check_dtype(who: str, x: Tensor, weight: Tensor | None, *, name: str = "the input") -> Tensor:
    """Return the map, or what was made of it, refusing another floating-point type than that of the layer's weights.

    Autocast makes them one where it is on, but for float64. No weight, or one that is quantised, is not asked.
    """
    if weight is None or x.dtype == weight.dtype or weight.dtype not in _DTYPES:
        return x
    if torch.is_autocast_enabled(x.device.type) and torch.float64 not in (x.dtype, weight.dtype):
        return x
    raise TypeError(
        f"{who}: {name} must be of the weights' dtype, {weight.dtype}, got {x.dtype}: convert it with "
        f".to({weight.dtype}), or the layer with .to({x.dtype}), or run them under torch.autocast"
    )


@leaf
def check_statistics(who: str, values: int, norms: Sequence[nn.Module]) -> None:
    """Refuse a single value a channel where one of these is a batch norm in train mode: it has no variance.

    No value at all passes, as it does through a batch norm, which keeps its statistics then.
    """
    if is_recording():
        return
    if values == 1 and any(isinstance(norm, _BatchNorm) and norm.training for norm in norms):
        raise ValueError(
            f"{who}: in train mode its batch norm must see at least 2 values a channel, got 1: "
            "pass at least 2 images, or call eval() first"
        )


def describe(channels: int, **options: tuple[object, object]) -> str:
    """Return the text for `extra_repr`: the channels, then every option (value, default) that was changed."""
    changed = [f"{name}={value!r}" for name, (value, default) in options.items() if value != default]
    return ", ".join([str(channels), *changed])
