"""Pyramids at the ends of a model's stages: which these are, and what to say where a pyramid does not suit them."""

import math
from collections.abc import Sequence
from functools import partial

from torch import nn

from attnreid.backbones._calls import Call
from attnreid.backbones._stages import Stage, parts_of, stage_ends
from attnreid.backbones._wrapping import check_plain
from attnreid.backbones.attach import Attachment, EscapesError, Place, put_in
from attnreid.backbones.families import family_of
from attnreid.backbones.sites import InputSize, Site, Survey, look, measure_heights, select
from attnreid.pyramid import AttentionPyramid

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
    survey = look(who, model, input_size)
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


def _stages_of(who: str, model: nn.Module, survey: Survey) -> list[Stage]:
    family, parts = family_of(model), parts_of(model, survey)
    if family is not None:
        return [Stage(part, (part.name,)) for name in family.stages for part in parts if part.name == name]
    stages = stage_ends(parts)
    if not stages:
        raise ValueError(
            f"{who}: the model must have modules that give a map, got {type(model).__name__} without any; "
            "find_sites(model, ...) says of each module why it gives none."
        )
    return stages


def _chosen(who: str, found: Sequence[Stage], stages: Sequence[int] | None) -> list[Stage]:
    numbers = range(1, len(found) + 1)
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
    every = radix ** max(0, levels - 1) if isinstance(levels, int) else math.lcm(*levels)
    try:
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
