"""Where attention can stand in a model, and where not and why; looking changes nothing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, TypeGuard

import torch
from torch import Tensor, nn

from attnreid.backbones._measuring import Observation, Seen, observe, stand_in
from attnreid.backbones._site import Site as Site  # part of this module's interface
from attnreid.backbones._surgery import CHILD, mark_of
from attnreid.backbones._wrapping import check_plain
from attnreid.layers._probe import Probe
from attnreid.text import nearest

Layout = Literal["NCHW"]
InputSize = tuple[int, int] | tuple[int, int, int]


def find_sites(
    model: nn.Module,
    input_size: InputSize | None = None,
    *,
    example_inputs: Sequence[Tensor] | None = None,
    layout: Layout | None = None,
) -> list[Site]:
    """List the modules of `model` that give a map, with the map's measured channels and size.

    The model is not run and not changed: a copy of it on the meta device is, in eval mode, on a batch of 2. A
    model that cannot run there is measured on a real copy. A second pass with a taller input tells by the
    axis that grew whether a map is (N, C, H, W).

    Args:
        model: any module.
        input_size: (height, width) of an input with 3 channels, or (channels, height, width).
        example_inputs: what forward takes, instead of `input_size`, where that is not one image batch.
        layout: "NCHW" states that the maps are (N, C, H, W) where the taller input cannot show it.

    Returns:
        One `Site` for every module that returns a map, or something with a map in it, in the order of
        `model.named_modules()`. Where attention cannot stand, `refusal` says why.

    Raises:
        ValueError: the model does not run on this input, cannot be copied, is scripted or traced, or is wrapped for
            training on many processes.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
        >>> [(site.name, site.channels, site.size) for site in find_sites(model, (64, 32))]
        [('0', 8, (32, 16)), ('1', 8, (32, 16))]
    """
    survey = look("find_sites", model, input_size, example_inputs, layout)
    return [site for name, site in survey.sites.items() if survey.seen[name].holds_map]


@dataclass(frozen=True)
class Survey:
    """What one look at a model found.

    Args:
        sites: every module but the model itself, what is inside its attention, and probes, by name.
        seen: what each of them did.
        inputs: what the model was run on.
        double: the copy of the model that was run, whose attention passes every map.
        meta: whether it ran on the meta device.
    """

    sites: dict[str, Site]
    seen: dict[str, Seen]
    inputs: tuple[Tensor, ...]
    double: nn.Module
    meta: bool


def look(
    who: str,
    model: nn.Module,
    input_size: InputSize | None,
    example_inputs: Sequence[Tensor] | None = None,
    layout: Layout | None = None,
) -> Survey:
    """Measure every module of `model`; `who` is named in what is raised. For the rest see `find_sites`."""
    if layout not in (None, "NCHW"):
        raise ValueError(f"{who}: layout must be 'NCHW' or None, got {layout!r}; attention takes (N, C, H, W) only.")
    check_plain(who, model)
    inputs = _inputs(who, model, input_size, example_inputs)
    try:
        meta = True
        double = stand_in(model, meta=True, bypass=True)
        first = _run(double, inputs, meta=True)
        if first.error is not None:
            meta = False
            double = stand_in(model, meta=False, bypass=True)
            first = _run(double, inputs, meta=False)
    except ValueError as error:
        raise ValueError(f"{who}: {error}") from error
    if first.error is not None:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
        raise ValueError(
            f"{who}: the model must run on an input of shape {shapes}; it failed with: {first.error}; "
            "pass another input_size, or example_inputs=(tensors, ...) where forward takes something else."
        ) from first.error
    taller = _run(double, tuple(_taller(tensor) for tensor in inputs), meta=meta)
    sites = _sites(model, first, taller, layout)
    return Survey(sites, first.seen, inputs, double, meta)


def check_runs(model: nn.Module, survey: Survey) -> Observation:
    """Run a copy of `model`, with the attention that it now carries, on what the survey ran it on."""
    if survey.meta:
        observed = _run(stand_in(model, meta=True, bypass=False), survey.inputs, meta=True)
        if observed.error is None:
            return observed
    return _run(stand_in(model, meta=False, bypass=False), survey.inputs, meta=False)


def measure_heights(survey: Survey, height: int, names: Sequence[str]) -> list[int] | None:
    """Return the heights of these sites' maps for an input of another height; None where it does not run."""
    _, channels, _, width = survey.inputs[0].shape
    image = torch.zeros((2, channels, height, width), dtype=survey.inputs[0].dtype)
    observed = _run(survey.double, (image,), meta=survey.meta)
    given = [observed.seen[name].given for name in names]
    return None if observed.error else [shape[2] if shape is not None else 0 for shape in given]


def select(who: str, model: nn.Module, survey: Survey, at: str | Sequence[str]) -> list[Site]:
    """Return the sites that names or patterns mean, in the model's order, each once.

    Raises:
        ValueError: a name or pattern matches nothing, or a site among them cannot take attention.
    """
    patterns = [at] if isinstance(at, str) else list(at)
    if not patterns:
        raise ValueError(
            f"{who}: at must hold at least one name or pattern, got none; find_sites(model, ...) lists names."
        )
    chosen: set[str] = set()
    for pattern in patterns:
        found = [name for name in survey.sites if _matches(name.split("."), pattern.split("."))]
        if not found:
            raise ValueError(f"{who}: {_unknown(pattern, model, list(survey.sites))}")
        chosen.update(found)
    sites = [site for name, site in survey.sites.items() if name in chosen]
    for site in sites:
        if site.refusal is not None:
            raise ValueError(f"{who}: {site.name!r} ({site.kind}) cannot take attention: {site.refusal}.")
    return sites


def _unknown(pattern: str, model: nn.Module, names: list[str]) -> str:
    if any(sign in pattern for sign in "*?["):
        example = ", ".join(repr(name) for name in names[:6])
        return (
            f"the pattern {pattern!r} must match a module of {type(model).__name__} and matches none; "
            f"it has {example}, …"
        )
    close = nearest(pattern, names, cutoff=0.4)
    hint = f"did you mean {' or '.join(repr(name) for name in close)}" if close else "find_sites(model, ...) lists them"
    return f"{pattern!r} must be a module of {type(model).__name__} and is not; {hint}?"


def _matches(name: Sequence[str], pattern: Sequence[str]) -> bool:
    """Match segment by segment; a `**` stands for any number of segments, none included."""
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(_matches(name[skipped:], pattern[1:]) for skipped in range(len(name) + 1))
    return bool(name) and fnmatchcase(name[0], pattern[0]) and _matches(name[1:], pattern[1:])


def _inputs(
    who: str, model: nn.Module, input_size: InputSize | None, example_inputs: Sequence[Tensor] | None
) -> tuple[Tensor, ...]:
    if (input_size is None) == (example_inputs is None):
        raise ValueError(
            f"{who}: pass either input_size=(height, width) or example_inputs=(tensors, ...), and not both."
        )
    if example_inputs is not None:
        return tuple(example_inputs)
    if input_size is None or not is_input_size(input_size):
        raise ValueError(
            f"{who}: input_size must be (height, width) or (channels, height, width) of positive integers, "
            f"got {input_size!r}."
        )
    shape = (2, *input_size) if len(input_size) == 3 else (2, 3, *input_size)
    like = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), torch.empty(0))
    return (torch.zeros(shape, dtype=like.dtype, device=like.device),)


def is_input_size(value: object) -> TypeGuard[InputSize]:
    """Whether a value is (height, width) or (channels, height, width)."""
    return (
        isinstance(value, tuple | list)
        and len(value) in (2, 3)
        and all(isinstance(part, int) and part > 0 for part in value)
    )


def _run(double: nn.Module, inputs: Sequence[Tensor], *, meta: bool) -> Observation:
    return observe(double, [tensor.to("meta") if meta else tensor.clone() for tensor in inputs])


def _taller(tensor: Tensor) -> Tensor:
    """Repeat images downwards: a whole number of times, for windows, and enough to show at any stride."""
    if tensor.ndim != 4 or 0 in tensor.shape:
        return tensor
    return tensor.repeat(1, 1, 2 + 64 // tensor.shape[2], 1)


def _sites(model: nn.Module, first: Observation, taller: Observation, layout: Layout | None) -> dict[str, Site]:
    homes: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        homes.setdefault(id(module), []).append(name)
    sites = {}
    for name, module in _outside_attention(model):
        seen, grown = first.seen[name], taller.seen[name].given
        others = [home for home in homes[id(module)] if home != name]
        axes = _height_axis(seen.given, grown)
        refusal = "it already carries attention; remove() that first" if mark_of(module) else None
        refusal = refusal or _refusal(seen, others, axes, layout)
        channels, size = _channels_and_size(seen.given, axes)
        sites[name] = Site(name, _kind(module), channels, size, seen.calls, refusal)
    return sites


def _outside_attention(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for child_name, child in module._modules.items():
        if child is not None and not isinstance(child, Probe) and not (child_name == CHILD and mark_of(module)):
            yield prefix + child_name, child
            yield from _outside_attention(child, f"{prefix}{child_name}.")


def _kind(module: nn.Module) -> str:
    return str(getattr(type(module), "attended_class", type(module)).__name__)


def _height_axis(given: tuple[int, ...] | None, grown: tuple[int, ...] | None) -> int | None:
    if given is None or grown is None or len(given) != 4 or len(grown) != 4:
        return None
    axes = [axis for axis in (1, 2, 3) if grown[axis] > given[axis]]
    return axes[0] if len(axes) == 1 else None


def _channels_and_size(
    given: tuple[int, ...] | None, height_axis: int | None
) -> tuple[int | None, tuple[int, int] | None]:
    if given is None or len(given) != 4:
        return None, None
    if height_axis == 1:
        return given[3], (given[1], given[2])
    return given[1], (given[2], given[3])


def _refusal(seen: Seen, others: list[str], height_axis: int | None, layout: Layout | None) -> str | None:
    if others:
        return (
            f"the same module also stands at {others[0]!r}, where the attention would run too; "
            "give each place its own module"
        )
    if seen.calls == 0:
        return "forward never calls it; choose a module that runs"
    if seen.calls > 1:
        return (
            f"forward calls it {seen.calls} times, and the attention would run each time; "
            "choose a module that runs once, such as the block around it"
        )
    if seen.given is None:
        return f"it returns a {seen.returned} and not one map; choose a module inside or around it"
    if len(seen.given) != 4:
        return f"it returns a tensor of shape {seen.given} and not a map (N, C, H, W)"
    if not seen.floating:
        return "it returns a map of integers, and attention needs floating-point numbers"
    if height_axis == 1:
        return "its map is (N, H, W, C), and attention takes (N, C, H, W); choose a module whose map is"
    if height_axis != 2 and layout is None:
        _, channels, height, width = seen.given
        return (
            f"a taller input does not show which axis of its map, of shape {seen.given}, is the height; pass "
            f'layout="NCHW" only if it has {channels} channels, a height of {height} and a width of {width}'
        )
    return None
