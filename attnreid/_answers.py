"""What the commands answer: the sites of a model, and what a paper's attention costs in it."""

import dataclasses
import inspect
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from attnreid import _models as given
from attnreid._options import CostOptions, ModelOptions, SitesOptions
from attnreid.backbones import (
    Attachment,
    Site,
    attach_apnet,
    attach_mla,
    attach_pyramid,
    attach_se,
    find_sites,
    set_last_stride,
)
from attnreid.backbones._costs import count_multiply_adds, count_parameters
from attnreid.backbones.sites import InputSize
from attnreid.command_line import UserError
from attnreid.text import format_table

_DEPTH = 2
_PRESETS: dict[str, Callable[..., Attachment]] = {
    "apnet": attach_apnet,
    "pyramid": attach_pyramid,
    "mla": attach_mla,
    "se": attach_se,
}
_PRESET_OPTIONS = (
    "attention",
    "levels",
    "radix",
    "order",
    "stages",
    "variant",
    "blocks",
    "heads",
    "memory",
    "reduction",
)

_COUNTED = """\
Counted for one image in eval mode: convolutions, linear maps and matrix products, a multiplication
with its addition as one; not pooling, batch norms, activations and gating."""


def sites(options: SitesOptions) -> None:
    """Print where attention can stand in a model."""
    if options.all and options.depth is not None:
        raise UserError("sites: --all lists every site, however deep; leave it out, or --depth")
    depth = options.depth or _DEPTH
    model, size = _build(options)
    with _library():
        found = find_sites(model, size)
    listed = [site for site in found if options.all or _depth(site) <= depth]
    if options.json:
        said = [dataclasses.replace(site, refusal=site.refusal and given.as_typed(site.refusal)) for site in listed]
        print(json.dumps([dataclasses.asdict(site) for site in said], indent=2))
        return
    table = _sites_table(listed) if listed else []
    print("\n".join([_title(options.target, size), "", *table, _summary(listed, found)]))


def _build(options: ModelOptions) -> tuple[nn.Module, InputSize]:
    """Return the model that is named, and the size of its input."""
    size = given.input_size(options.input_size)
    return given.build_model(options.target, given.call_options(options.option), size), size


def _summary(listed: Sequence[Site], found: Sequence[Site]) -> str:
    if not found:
        return "No module in it gives a map."
    text = f"{len(listed)} of {len(found)} sites"
    if listed:
        text += f", {sum(site.refusal is not None for site in listed) or 'none'} of them refused"
    if len(listed) < len(found):
        deeper = min(_depth(site) for site in found if site not in listed)
        text += f"; {len(found) - len(listed)} deeper ones: --depth {deeper} lists more, --all lists all"
    return f"{text}."


def _depth(site: Site) -> int:
    return site.name.count(".") + 1


def _sites_table(sites: Sequence[Site]) -> list[str]:
    rows = [("name", "kind", "layout", "channels", "map size", "refused because")]
    for site in sites:
        channels = "" if site.channels is None else str(site.channels)
        size = "" if site.size is None else f"{site.size[0]} x {site.size[1]}"
        layout = f"{site.layout or ''}{f' after {site.prefix}' if site.prefix else ''}"
        rows.append((site.name, site.kind, layout, channels, size, given.as_typed(site.refusal or "")))
    lines = format_table(rows, "<<<>><")
    if not sys.stdout.isatty():
        return [*lines, ""]  # one line for each site, for grep and the like
    width = shutil.get_terminal_size().columns
    indent = " " * min(len(lines[0]) - len(rows[0][-1]), width // 2)
    return [*(textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False) for line in lines), ""]


def cost(options: CostOptions) -> None:
    """Print what a paper's attention costs in a model."""
    preset, given_to = _PRESETS[options.preset], _preset_options(options)
    model, size = _build(options)
    notes: list[str] = []
    if "input_size" in inspect.signature(preset).parameters:
        given_to["input_size"] = size
    else:
        notes = [f"The map sizes are of a 64 x 64 input, where {preset.__name__} looks; the costs are the same.", ""]
    with _library():
        if options.last_stride is not None:
            set_last_stride(model, options.last_stride)
        before = _costs(model, size)
        attachment = preset(model, **given_to)
        table, after = str(attachment), _costs(model, size)
    if options.json:
        sites = [dataclasses.asdict(site) for site in attachment.sites]
        named = {
            name: dict(zip(("parameters", "multiply_adds"), costs, strict=True))
            for name, costs in (("without", before), ("with", after))
        }
        print(json.dumps({"model": options.target, "preset": options.preset, "sites": sites, **named}, indent=2))
        return
    rows = [
        ("whole model", "parameters", "multiply-adds"),
        ("without", *map(_number, before)),
        ("with", *map(_number, after)),
        ("change", *map(_percent, before, after)),
    ]
    print("\n".join([_title(options.target, size), "", table, "", *notes, *format_table(rows, "<>>"), "", _COUNTED]))


def _preset_options(options: CostOptions) -> dict[str, Any]:
    chosen = {name: getattr(options, name) for name in _PRESET_OPTIONS if getattr(options, name) is not None}
    known = inspect.signature(_PRESETS[options.preset]).parameters
    for name in chosen:
        if name not in known:
            own = ", ".join(f"--{option}" for option in _PRESET_OPTIONS if option in known)
            raise UserError(f"cost: the preset {options.preset} has no --{name}; its options are {own}")
    if "levels" in chosen:
        read = given.words if options.preset == "mla" else given.apnet_levels
        chosen["levels"] = read(",".join(chosen["levels"]))
    if "attention" in chosen:
        chosen["attention"] = given.attention(",".join(chosen["attention"]))
    for name, value in chosen.items():
        if value in ((), []):
            raise UserError(f"cost: --{name} must not be empty; leave it out for its default")
    return chosen


def _costs(model: nn.Module, size: InputSize) -> tuple[int, int | None]:
    return count_parameters(model), count_multiply_adds(model, *given.with_channels(size))


@contextmanager
def _library() -> Iterator[None]:
    """Make what the library refuses a mistake of the user's."""
    try:
        with given.quiet():
            yield
    except (TypeError, ValueError, RuntimeError) as error:  # torch answers what does not fit with a RuntimeError
        raise UserError(given.as_typed(given.one_line(error))) from error


def _title(target: str, size: InputSize) -> str:
    return f"{target}, input {' x '.join(map(str, given.with_channels(size)))}"


def _number(cost: int | None) -> str:
    return "?" if cost is None else f"{cost:,}"


def _percent(before: int | None, after: int | None) -> str:
    return "?" if not before or after is None else f"{(after - before) / before:+.2%}"
