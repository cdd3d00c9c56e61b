"""Where attention can stand in a model, and where not and why; looking changes nothing."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeGuard, get_args

import torch
from torch import Tensor, nn

from attnreid.backbones._arranging import Arrangement, Evidence, Reading, Stated, own_patches
from attnreid.backbones._measuring import Observation, Seen, observe, stand_in
from attnreid.backbones._probing import ANYHOW, ask, real_stand_in, unread_among
from attnreid.backbones._site import Layout as Layout  # part of this module's interface, as is Site
from attnreid.backbones._site import Site as Site
from attnreid.backbones._surgery import CHILD, mark_of
from attnreid.backbones._wrapping import check_plain
from attnreid.layers._checks import check_count, check_size
from attnreid.layers._probe import Probe
from attnreid.text import nearest

InputSize = tuple[int, int] | tuple[int, int, int]

_NOTHING = Stated()
_MOST_GRIDS = 8  # that are tried: a network has as many as it has sizes of map, and a few come by chance
_HEIGHT_AXIS = {"NCHW": 2, "NHWC": 1}


def find_sites(
    model: nn.Module,
    input_size: InputSize | None = None,
    *,
    example_inputs: Sequence[Tensor] | None = None,
    layout: Layout | None = None,
    grid: tuple[int, int] | None = None,
    prefix: int | None = None,
    output: int | str | None = None,
) -> list[Site]:
    """List the modules of `model` that give a map or tokens, with the map's measured layout, channels and size.

    The model is not run and not changed: a copy of it on the meta device is, in eval mode, on a batch of 2. A
    model that cannot run there is measured on a real copy. A second pass with a taller input tells by the
    axis that grew whether a map is (N, C, H, W) or (N, H, W, C). Where it does not tell, and for tokens, a real copy
    runs on images that differ in one patch each: the grid and the order of the tokens are those that answer
    where the patches are.

    Args:
        model: any module.
        input_size: (height, width) of an input with 3 channels, or (channels, height, width).
        example_inputs: what forward takes, instead of `input_size`, where that is not one image batch.
        layout: "NCHW", "NHWC" or "tokens" states how the maps lie, where looking cannot tell.
        grid: (rows, columns) states how the tokens of the map lie, row by row.
        prefix: states how many tokens stand in front of them.
        output: index or key of the map in modules that return several things.

    Returns:
        One `Site` for every module that returns a map or tokens, or something with such in it, in the order of
        `model.named_modules()`. Where attention cannot stand, `refusal` says why.

    Raises:
        TypeError: a statement is of the wrong type.
        ValueError: the model does not run on this input, cannot be copied, is scripted or traced, or is wrapped for
            training on many processes; or a statement is no possible one.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
        >>> [(site.name, site.channels, site.size) for site in find_sites(model, (64, 32))]
        [('0', 8, (32, 16)), ('1', 8, (32, 16))]
    """
    stated = check_stated("find_sites", layout, grid, prefix, output)
    survey = look("find_sites", model, input_size, example_inputs, stated)
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
    stated: Stated = _NOTHING,
) -> Survey:
    """Measure every module of `model`; `who` is named in what is raised. For the rest see `find_sites`."""
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
    sites = _sites(model, first, taller, inputs, stated)
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
    axes = [_HEIGHT_AXIS.get(survey.sites[name].layout or "NCHW") for name in names]
    if observed.error or None in axes:
        return None
    given = [observed.seen[name].chosen(survey.sites[name].output).given for name in names]
    return [shape[axis or 0] if shape is not None else 0 for shape, axis in zip(given, axes, strict=True)]


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


def check_stated(
    who: str,
    layout: Layout | None,
    grid: tuple[int, int] | None,
    prefix: int | None,
    output: int | str | None,
) -> Stated:
    """Return what the caller states of the sites, refusing what none can have."""
    if layout not in (None, *get_args(Layout)):
        raise ValueError(
            f"{who}: layout must be 'NCHW', 'NHWC', 'tokens' or None, got {layout!r}; leave it out to have it seen."
        )
    if grid is not None:
        check_size(who, grid, name="grid")
    if prefix is not None:
        check_count(who, "prefix", prefix, least=0)
    if layout in ("NCHW", "NHWC") and (grid is not None or prefix is not None):
        raise ValueError(f"{who}: grid and prefix must be left out with layout={layout!r}; they are of tokens.")
    if output is not None and (not isinstance(output, int | str) or isinstance(output, bool)):
        raise TypeError(f"{who}: output must be an index or a key, got {output!r}: pass e.g. 0, or 'last_hidden_state'")
    return Stated(layout, None if grid is None else (grid[0], grid[1]), prefix, output)


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
        if not isinstance(example_inputs, Sequence) or not all(isinstance(each, Tensor) for each in example_inputs):
            found = type(example_inputs).__name__
            raise TypeError(
                f"{who}: example_inputs must be a sequence of tensors, got {found}; pass what forward takes, (images,)."
            )
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


def _sites(
    model: nn.Module, first: Observation, taller: Observation, inputs: Sequence[Tensor], stated: Stated
) -> dict[str, Site]:
    homes: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        homes.setdefault(id(module), []).append(name)
    image = inputs[0] if inputs and inputs[0].ndim == 4 else None
    readings, outputs = {}, {}
    for name, _ in _outside_attention(model):
        outputs[name] = stated.output if first.seen[name].given is None else None
        readings[name] = Reading(
            first.seen[name].chosen(outputs[name]),
            taller.seen[name].chosen(outputs[name]).given,
            batch=None if image is None else image.shape[0],
            image=None if image is None else (image.shape[2], image.shape[3]),
            reached=taller.error is None,
        )
    evidence = _ask(model, inputs, readings, stated) if any(each.is_open for each in readings.values()) else {}
    sites = {}
    for name, module in _outside_attention(model):
        others = [home for home in homes[id(module)] if home != name]
        arranged, unclear = readings[name].arrangement(evidence.get(name), stated)
        refusal = "it already carries attention; remove() that first" if mark_of(module) else None
        refusal = refusal or _refusal(first.seen[name], others, outputs[name]) or unclear
        sites[name] = _site(name, _kind(module), readings[name].seen, arranged, outputs[name], refusal)
    return sites


def _ask(
    model: nn.Module, inputs: Sequence[Tensor], readings: Mapping[str, Reading], stated: Stated
) -> dict[str, Evidence]:
    """Return what a real copy of the model answers to changed patches; nothing where it cannot be asked."""
    if len(inputs) != 1:
        return {}
    double, shape = real_stand_in(model), _image_shape(inputs[0])
    rough = ask(double, shape, stated.output, ANYHOW)
    found = Counter(
        size
        for name, reading in readings.items()
        if name in rough
        for size in {candidate.size for candidate in reading.candidates(rough[name], stated)}
    )
    # As wide for its height as the image is: others come by chance.
    likely = sorted(found, key=lambda grid: (abs(grid[0] * shape[2] - grid[1] * shape[1]) > shape[1], -found[grid]))
    grids = likely[:_MOST_GRIDS]
    exact = {grid: ask(double, shape, stated.output, own_patches(grid)) for grid in grids}
    return {
        name: Evidence(answers, {grid: exact[grid][name] for grid in grids if name in exact[grid]})
        for name, answers in rough.items()
    }


def _image_shape(images: Tensor) -> tuple[int, int, int]:
    _, channels, height, width = images.shape
    return channels, height, width


def unread(model: nn.Module, survey: Survey, sites: Sequence[Site]) -> list[Site]:
    """Return the sites behind a prefix whose maps the model does not read any more: it reads the prefix alone."""
    behind_a_prefix = [site for site in sites if site.prefix]
    if not behind_a_prefix or len(survey.inputs) != 1 or survey.inputs[0].ndim != 4:
        return []
    return unread_among(real_stand_in(model), _image_shape(survey.inputs[0]), behind_a_prefix)


def _site(
    name: str, kind: str, seen: Seen, arranged: Arrangement | None, output: int | str | None, refusal: str | None
) -> Site:
    if arranged is not None:
        return Site(
            name, kind, arranged.channels, arranged.size, seen.calls, refusal, arranged.layout, arranged.prefix, output
        )
    channels, size = None, None
    if seen.given is not None and len(seen.given) == 4:
        channels, size = seen.given[1], (seen.given[2], seen.given[3])
    return Site(name, kind, channels, size, seen.calls, refusal, layout=None, output=output)


def _outside_attention(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for child_name, child in module._modules.items():
        if child is not None and not isinstance(child, Probe) and not (child_name == CHILD and mark_of(module)):
            yield prefix + child_name, child
            yield from _outside_attention(child, f"{prefix}{child_name}.")


def _kind(module: nn.Module) -> str:
    return str(getattr(type(module), "attended_class", type(module)).__name__)


def _refusal(seen: Seen, others: list[str], output: int | str | None) -> str | None:
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
    chosen = seen.chosen(output)
    if chosen.given is None:
        return _no_tensor(seen, output)
    if len(chosen.given) not in (3, 4):
        return f"it returns a tensor of shape {chosen.given} and not a map (N, C, H, W)"
    if not chosen.floating:
        return "it returns a map of integers, and attention needs floating-point numbers"
    return None


def _no_tensor(seen: Seen, output: int | str | None) -> str:
    items = ", ".join(f"output={name!r} for the one of shape {item.given}" for name, item in seen.items.items())
    if output is None:
        advice = f"pass {items}" if items else "choose a module inside or around it"
        return f"it returns a {seen.returned} and not one map; {advice}"
    return (
        f"it returns a {seen.returned} without a tensor at {output!r}; {f'pass {items}' if items else 'choose another'}"
    )
