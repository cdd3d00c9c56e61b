"""Attention at another input size: measured anew, each layer resized, and all put in place of the old, or none."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from attnreid.backbones._arranging import Stated
from attnreid.backbones._building import resize_layer
from attnreid.backbones._calls import MADE_FOR, Call, Size, with_sizes
from attnreid.backbones._classes import note_host
from attnreid.backbones._measuring import Observation, observe, stand_in
from attnreid.backbones._site import Site
from attnreid.backbones._surgery import CHILD, Group, Mark, Replacement, attention_of, mark_of
from attnreid.backbones.sites import InputSize, Survey, look

_WHO = "Attachment.resize"


def resize_attached(
    model: nn.Module,
    hosts: Mapping[str, nn.Module],
    input_size: InputSize | None,
    example_inputs: Sequence[Tensor] | None,
) -> None:
    """Resize the attention of these hosts, one attachment's, by their names in `model`; see `Attachment.resize`."""
    [output] = {_mark(host).site.output for host in hosts.values()}
    survey = look(_WHO, model, input_size, example_inputs, Stated(output=output))
    sizes = {name: _size_at(name, host, survey) for name, host in hosts.items()}
    layers = {
        name: resize_layer(_WHO, attention_of(host), dataclasses.replace(_mark(host).site, name=name, size=sizes[name]))
        for name, host in hosts.items()
    }
    _check_running(model, survey, layers)
    call = _mark(next(iter(hosts.values()))).group.call
    if call is not None:
        call = None if input_size is None else _at(call, input_size)  # tensors are no plain data
    exchange(list(hosts.values()), list(layers.values()), list(sizes.values()), call)


def exchange(
    hosts: Sequence[nn.Module], layers: Sequence[nn.Module], sizes: Sequence[Size], call: Call | None
) -> Callable[[], None]:
    """Put new layers in the place of those that the hosts of one attachment carry, for maps of new sizes.

    All or nothing. The hosts, their marks, and so the handles stay.

    Args:
        hosts: of one attachment.
        layers: one a host, resized ones of those that stand there.
        sizes: of the maps.
        call: what put this attention in, at the new input size; the sizes that layers were made for are noted here.

    Returns:
        What gives the old ones back.
    """
    before = [(host, attention_of(host), _mark(host).site, _mark(host).group) for host in hosts]
    sites = [dataclasses.replace(site, size=size) for (_, _, site, _), size in zip(before, sizes, strict=True)]
    earlier = (call or {}).get(MADE_FOR, {})
    made_for = {site.name: tuple(earlier.get(site.name, site.size or ())) for _, _, site, _ in before}
    call = with_sizes(call, made_for, {site.name: site.size for site in sites})
    group = Group(call, before[0][3].order)

    def undo() -> None:
        for host, attention, site, old in before:
            _put(host, attention, site, old)

    try:
        for host, layer, site in zip(hosts, layers, sites, strict=True):
            _put(host, layer, site, group)
    except BaseException:
        undo()
        raise
    return undo


def _put(host: nn.Module, attention: nn.Module, site: Site, group: Group) -> None:
    mark = _mark(host)
    mark.site, mark.group = site, group
    dict.__setitem__(host._modules, CHILD, attention)
    note_host(host)


def _mark(host: nn.Module) -> Mark:
    mark = mark_of(host)
    assert mark is not None  # for the type checker: a host is marked
    return mark


def _at(call: Call, input_size: InputSize) -> Call:
    # A grid that was stated is that of the old size; the new one was seen.
    stated = {"grid": None} if "grid" in call["options"] else {}
    return {**call, "options": {**call["options"], "input_size": list(input_size), **stated}}


def _size_at(name: str, host: nn.Module, survey: Survey) -> Size:
    """Return the size of the map that the attention of a host gets at the input size of the survey."""
    if name not in survey.sites:
        raise ValueError(
            f"{_WHO}: a module with attention must stand inside the model that is looked at, got {name!r}, which is "
            "that model or stands in another attention; use the handle that attachments() has for the model around it."
        )
    found, before = survey.sites[name], _mark(host).site
    channels, size = found.channels, found.size
    if isinstance(host, Replacement) and host.stride != 1:  # what it gives is pooled
        taken = survey.seen[name].taken or ()
        channels, size = (taken[1], (taken[2], taken[3])) if len(taken) == 4 else (None, None)
    if found.calls != 1 or size is None or channels != before.channels:
        raise ValueError(
            f"{_WHO}: the map at {name!r} must have {before.channels} channels and be there once at the new input "
            f"size, got {channels} channels and {found.calls} calls; use an input size at which the model runs as it "
            "did."
        )
    if (found.layout or "NCHW", found.prefix) != (before.layout or "NCHW", before.prefix):
        raise ValueError(
            f"{_WHO}: the map at {name!r} must lie as before at the new input size, {before.layout} behind "
            f"{before.prefix} tokens, got {found.layout} behind {found.prefix}; attach it anew at this input size."
        )
    return size


def _check_running(model: nn.Module, survey: Survey, layers: Mapping[str, nn.Module]) -> None:
    """Run a copy of the model with these layers, and no other attention: that may be of another size still."""
    observed = _observe(survey.double, survey, layers, meta=survey.meta)
    if observed.error is not None and survey.meta:
        observed = _observe(stand_in(model, meta=False, bypass=True), survey, layers, meta=False)
    if observed.error is not None:
        raise ValueError(
            f"{_WHO}: the model must run with the resized attention in it; it failed with: {observed.error}; attach "
            "it anew at this input size."
        ) from observed.error
    for name, layer in layers.items():
        seen = observed.seen[f"{name}.{CHILD}"]
        if seen.calls != 1 or seen.taken != seen.given:
            raise ValueError(
                f"{_WHO}: the resized {type(layer).__name__} at {name!r} must run once and keep its map's shape, got "
                f"{seen.calls} calls and {seen.taken} become {seen.given}; attach it anew at this input size."
            )


def _observe(double: nn.Module, survey: Survey, layers: Mapping[str, nn.Module], *, meta: bool) -> Observation:
    for name, layer in layers.items():
        double.get_submodule(name)._modules[CHILD] = stand_in(layer, meta=meta, bypass=False)
    return observe(double, [tensor.to("meta") if meta else tensor.clone() for tensor in survey.inputs])
