"""Where the map of a staged network gets smaller for the last time, and what to set there so that it does not.

A module halves the map for good if it takes one and gives one of half its height and width, and no map as large as the
first is given later: an attention that looks at a halved map on the side does not. The last to do so begins the last
stage. The innermost modules that halve that map, after the end of the stage before, are what is set:

| such a module | at stride 1 |
|---|---|
| a convolution that is padded evenly, a blur, a pooling with a margin | as it is |
| a convolution with an even window, such as 2x2 without padding | padded at the far side: every second place stays |
| a pooling with a window as large as its stride | a window of one place, which passes the map |
| any other, such as one that takes every second row in its forward | refused |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from attnreid.backbones._measuring import Observation
from attnreid.backbones._stages import Part, parts_of, stage_ends
from attnreid.backbones.sites import Layout, Survey

Edit = tuple[str, str, Any]  # of the module of this name, this attribute becomes this
Size = tuple[int, int]

_HEIGHT_AXIS = {"NCHW": 2, "NHWC": 1}


@dataclass(frozen=True)
class LastStage:
    """The last stage of a network with a stride.

    Args:
        end: the last module that gives its map.
        before: the last module outside of it that gives a map of the size before.
        edits: what to set for a stride of 1.
    """

    end: Part
    before: Part
    edits: tuple[Edit, ...]


def find_last_stage(who: str, model: nn.Module, survey: Survey) -> LastStage:
    """Return the last stage; `who` is named in what is raised.

    Raises:
        ValueError: no module halves the map for good, all stages have maps of one size, or what halves the map has no
            stride of 2.
    """
    parts = parts_of(model, survey)
    sizes = [stage.end.size for stage in stage_ends(parts)]
    halving = {name: halved for name in survey.sites if (halved := _halved(survey, name)) is not None}
    for_good = [name for name in halving if not _comes_back(parts, survey.seen[name].finished, halving[name][0])]
    is_isotropic = len(sizes) > 1 and len(set(sizes)) == 1
    if for_good and not is_isotropic:
        larger, smaller = halving[max(for_good, key=lambda name: survey.seen[name].finished)]
        turning = [name for name, halved in halving.items() if halved == (larger, smaller)]
        # What the last stage itself makes of the larger map is no stage before it.
        outside = [part for part in parts if part.size == larger and not _inside(part.name, turning)]
        if outside:
            before = max(outside, key=lambda part: part.finished)
            end = max((part for part in parts if part.size == smaller), key=lambda part: part.finished)
            after = [name for name in turning if survey.seen[name].finished > before.finished]
            innermost = [name for name in after if not any(_inside(other, [name]) for other in after)]
            return LastStage(end, before, tuple(e for name in innermost for e in _edits(who, survey, model, name)))
    raise ValueError(
        f"{who}: the model must have a last stage whose map is half as high and wide as that of the stage before, got "
        f"{type(model).__name__} with stages whose maps are {', '.join(map(_text, dict.fromkeys(sizes))) or 'none'}; "
        "only larger images make its last map larger."
    )


def check_last_stage(who: str, stage: LastStage, survey: Survey, after: Observation) -> None:
    """Refuse edits after which a copy does not run, has another map than the stage before, or differs before it.

    Raises:
        ValueError: the edits do that.
    """
    if after.error is not None:
        raise ValueError(
            f"{who}: the model must run with a last stride of 1; it failed with: {after.error}. Set the stride where "
            "the model is built."
        )
    size = _size(after.seen[stage.end.name].given, survey.sites[stage.end.name].layout)
    changed = [
        name
        for name, seen in survey.seen.items()
        if 0 <= seen.finished <= stage.before.finished and name in after.seen and after.seen[name].given != seen.given
    ]
    if size == stage.before.size and not changed:
        return
    what = f"changes {changed[0]!r} before it too" if changed else f"gives a map of {_text(size)}"
    raise ValueError(
        f"{who}: {stage.end.name!r} ({stage.end.kind}), the end of the last stage, must give a map of "
        f"{_text(stage.before.size)}, as {stage.before.name!r} does, got a network that {what} with a stride of 1 in "
        f"{', '.join(repr(name) for name in dict.fromkeys(name for name, _, _ in stage.edits))}; set the stride where "
        "the model is built."
    )


def _halved(survey: Survey, name: str) -> tuple[Size, Size] | None:
    """Return the size of the map that a module takes and of the one that it gives, if that is half as high and wide."""
    seen, layout = survey.seen[name], survey.sites[name].layout
    taken, given = _size(seen.taken, layout), _size(seen.given, layout)
    return (taken, given) if taken is not None and given is not None and _halves(taken, given) else None


def _comes_back(parts: Sequence[Part], finished: int, size: Size) -> bool:
    """Whether a map of this size or a larger one is given later."""
    later = [part.size for part in parts if part.size is not None and part.finished > finished]
    return any(height >= size[0] and width >= size[1] for height, width in later)


def _inside(name: str, others: Sequence[str]) -> bool:
    return any(name.startswith(f"{other}.") for other in others)


def _edits(who: str, survey: Survey, model: nn.Module, name: str) -> list[Edit]:
    """Return what to set in one module so that its map keeps its size."""
    module = model.get_submodule(name)
    stride, kernel, padding = (getattr(module, key, None) for key in ("stride", "kernel_size", "padding"))
    if _pair(stride) != (2, 2):
        raise ValueError(
            f"{who}: what makes the last map smaller must have a stride of 2 to set, got {name!r} "
            f"({survey.sites[name].kind}), which does it in its own forward (as the merging of patches does); use "
            "larger images, or a network with strided convolutions or pooling."
        )
    edits: list[Edit] = [(name, "stride", _like(stride, 1))]
    if getattr(module, "weight", None) is None:
        if _pair(kernel) == (2, 2) and _pair(padding) in (None, (0, 0)):
            edits.append((name, "kernel_size", _like(kernel, 1)))
    elif getattr(module, "padding_mode", None) == "zeros":
        margins = tuple(a * (b - 1) for a, b in zip(_sides(module.dilation), _sides(kernel), strict=True))
        # As the first places saw it, but for one more row and column at the far side.
        if any(margin % 2 for margin in margins) and _pair(padding) == (margins[0] // 2, margins[1] // 2):
            edits.append((name, "padding", "same"))
    return edits


def _halves(larger: Size, smaller: Size) -> bool:
    return all(large > small and abs(large - 2 * small) <= 1 for large, small in zip(larger, smaller, strict=True))


def _size(shape: tuple[int, ...] | None, layout: Layout | None) -> Size | None:
    """Return height and width of a map; of tokens nothing."""
    axis = _HEIGHT_AXIS.get(layout or "")
    if shape is None or len(shape) != 4 or axis is None:
        return None
    return shape[axis], shape[axis + 1]


def _sides(value: Any) -> Size:
    pair = _pair(value)
    assert pair is not None  # for the type checker: a convolution has two
    return pair


def _pair(value: Any) -> Size | None:
    if isinstance(value, int):
        return value, value
    return (value[0], value[1]) if isinstance(value, tuple | list) and len(value) == 2 else None


def _like(value: Any, side: int) -> Any:
    return side if isinstance(value, int) else (side, side)


def _text(size: Size | None) -> str:
    return "no size" if size is None else f"{size[0]}x{size[1]}"
