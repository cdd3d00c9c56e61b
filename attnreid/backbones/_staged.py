"""Pyramids at the ends of a model's stages: which these are, and what to say where a pyramid does not suit them."""

import dataclasses
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial

from torch import nn

from attnreid.backbones._arranging import Stated
from attnreid.backbones._callers import users_frame
from attnreid.backbones._calls import Call
from attnreid.backbones._measuring import Seen
from attnreid.backbones._stages import Part, Stage, around, count_weights, parts_of, stage_ends
from attnreid.backbones._wrapping import check_plain
from attnreid.backbones.attach import Attachment, EscapesError, Place, put_in
from attnreid.backbones.families import family_of
from attnreid.backbones.sites import InputSize, Site, Survey, look, measure_heights, select
from attnreid.pyramid import AttentionPyramid
from attnreid.pyramid.plan import parts_per_level

_UNSEEN = 0.25  # of all weights; heads and what folds windows or heads into its batch have less
_FARTHEST = 192  # how far from the given one an input height is looked for


def attach_to_stages(
    who: str,
    model: nn.Module,
    pyramid: partial[AttentionPyramid],
    stages: Sequence[int] | None,
    input_size: InputSize,
    identity_init: bool,
    call: Call | None,
) -> Attachment:
    """Put a pyramid at the end of each stage, or of those that are named; `who` is named in what is raised.

    Raises:
        ValueError: as `attach_pyramid` says. The model is then as it was.
    """
    check_plain(who, model)
    if isinstance(model, nn.DataParallel):
        raise ValueError(
            f"{who}: the model must be the plain one, got DataParallel: pass the model inside it, at 'module'."
        )
    survey = _look_everywhere(who, model, input_size)
    ways = [list(stage.ways) for stage in _chosen(who, _stages_of(who, model, survey), stages)]
    while True:
        names = [places[0] for places in ways]
        try:
            sites = select(who, model, survey, names)
            places = [Place(site, "after") for site in sites]
            return put_in(who, model, pyramid, places, survey, call, identity_init=identity_init)
        except EscapesError as error:
            # Its forward is an unusual one, such as a loop over its children: what ends inside it will do.
            others = ways[names.index(error.site.name)]
            if len(others) == 1:
                raise
            del others[0]
        except ValueError as error:
            heights = _heights_that_work(survey, [survey.sites[name] for name in names], pyramid)
            if heights is None:
                raise
            raise ValueError(f"{who}: {heights}") from error


def _look_everywhere(who: str, model: nn.Module, input_size: InputSize) -> Survey:
    """Look at a model, and in blocks that return several things at the map with the most channels."""
    survey = look(who, model, input_size)
    blocks: dict[int | str, list[str]] = {}
    for name, site in survey.sites.items():
        output = _main_output(survey.seen[name], len(survey.inputs[0]))
        if output is not None and site.output is None and count_weights(survey.double.get_submodule(name)) > 1:
            blocks.setdefault(output, []).append(name)
    sites = dict(survey.sites)
    for output, names in blocks.items():
        again = look(who, model, input_size, stated=Stated(output=output))
        sites.update({name: again.sites[name] for name in names})
    return dataclasses.replace(survey, sites=sites)


def _main_output(seen: Seen, images: int) -> int | str | None:
    """Return the index or key of what may be a map with the most channels, of several such the last."""
    channels = {
        output: item.given[1 if len(item.given) == 4 else 2]
        for output, item in seen.items.items()
        if item.given is not None and len(item.given) in (3, 4) and item.given[0] == images and item.floating
    }
    return max(reversed(channels), key=lambda output: channels[output], default=None)


def _stages_of(who: str, model: nn.Module, survey: Survey) -> list[Stage]:
    family, parts = family_of(model), parts_of(model, survey)
    if family is not None:
        return [Stage(part, (part.name,)) for name in family.stages for part in parts if part.name == name]
    stages = stage_ends(parts)
    if stages:
        _warn_of_unseen(who, survey, parts)
    if not stages:
        raise ValueError(
            f"{who}: the model must have modules that give a map, got {type(model).__name__} without any; "
            "find_sites(model, ...) says of each module why it gives none."
        )
    return stages


def _warn_of_unseen(who: str, survey: Survey, parts: Sequence[Part]) -> None:
    """Warn where much of the model gives maps that cannot be read: there may be stages in it."""
    known = {part.name for part in parts}
    unseen = {
        name: weights
        for name, site in survey.sites.items()
        if site.calls and known.isdisjoint(homes := [name, *around(name)])
        if any(survey.seen[home].holds_map for home in homes)
        if (weights := count_weights(survey.double.get_submodule(name), recurse=False))
    }
    share = sum(unseen.values()) / max(1, count_weights(survey.double))
    if share <= _UNSEEN:
        return
    largest: Counter[str] = Counter()
    for name, weights in unseen.items():
        largest.update({home: weights for home in [name, *around(name)] if survey.seen[home].holds_map})
    site = survey.sites[largest.most_common(1)[0][0]]
    warnings.warn(
        f"{who}: {share:.0%} of the weights are in modules whose maps cannot be read, such as {site.name!r} "
        f"({site.kind}): {site.refusal}. Stages that end there get no attention; use attach(model, ..., at=...) for "
        "them.",
        stacklevel=users_frame(),
    )


def _chosen(who: str, found: Sequence[Stage], stages: Sequence[int] | None) -> list[Stage]:
    numbers = range(1, len(found) + 1)
    if not isinstance(stages, Iterable | None):
        raise TypeError(f"{who}: stages must be numbers in a sequence, such as [3, 4], or None, got {stages!r}")
    wanted = list(numbers if stages is None else stages)
    if not wanted or not all(type(stage) is int and stage in numbers for stage in wanted):
        raise ValueError(
            f"{who}: stages must be numbers of the {len(found)} stages that the model has, from 1, got {stages!r}; "
            f"their ends are {', '.join(repr(stage.end.name) for stage in found)}."
        )
    for number in wanted:
        end = found[number - 1].end
        if not found[number - 1].ways:
            raise ValueError(
                f"{who}: attention must be able to stand at {end.name!r} ({end.kind}), the end of stage {number}, or "
                f"inside it, and cannot: {end.refusal}. Leave that stage out by stages=, or use attach(model, ..., "
                "at=...) with names that find_sites(model, ...) lists."
            )
    return [found[number - 1] for number in sorted(set(wanted))]


def _heights_that_work(survey: Survey, sites: Sequence[Site], pyramid: partial[AttentionPyramid]) -> str | None:
    """Say which input heights suit a pyramid that splits the height; None where that was not the trouble."""
    levels, radix = pyramid.keywords["levels"], pyramid.keywords["radix"]
    try:
        every = math.lcm(*parts_per_level(levels, radix))
        # A height that divides: what is refused now was refused for another reason.
        probe = pyramid(sites[0].channels or 0, size=(every, 1), device="meta")
    except (TypeError, ValueError):
        return None
    parts = math.lcm(*(level.parts for level in probe.plan if level.dim == "height"))
    heights = [(site.size or (0, 0))[0] for site in sites]
    if all(height % parts == 0 for height in heights):
        return None
    given = survey.inputs[0].shape[2]

    def works(height: int) -> bool:
        found = measure_heights(survey, height, [site.name for site in sites])
        return found is not None and all(one % parts == 0 for one in found)

    fit: list[str] = []
    for step in (32, 16, 8, 4, 2, 1):  # round heights first
        below, above = given // step * step, -(-given // step) * step
        sides = (range(below, max(0, given - _FARTHEST), -step), range(above, given + _FARTHEST, step))
        fit = [str(height) for side in sides if (height := next(filter(works, side), None)) is not None]
        if fit:
            break
    advice = f"use an input height of {' or '.join(fit)}" if fit else "use fewer levels"
    return (
        f"every stage's map must have a height that {parts} divides, since the attention splits it, got "
        f"{', '.join(map(str, heights))} at input height {given}; {advice}."
    )
