"""The command line: where attention can stand in a model, and what a paper's attention costs there.

A mistake of the user's is answered in one sentence on stderr, with exit status 2 and nothing on stdout;
anything else is a bug and shows itself.
"""

import argparse
import dataclasses
import inspect
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from torch import nn

import attnreid
from attnreid import _command_line as given
from attnreid._command_line import Refused
from attnreid.backbones import Attachment, Site, attach_apnet, attach_mla, attach_se, find_sites, set_last_stride
from attnreid.backbones._costs import count_multiply_adds, count_parameters
from attnreid.backbones.sites import InputSize
from attnreid.registry import closest

_PROGRAM = "python -m attnreid"
_DEPTH = 2
_INPUT_SIZE = ("256", "128")
_PRESETS: dict[str, Callable[..., Attachment]] = {"apnet": attach_apnet, "mla": attach_mla, "se": attach_se}
_PRESET_OPTIONS = ("attention", "levels", "radix", "variant", "blocks", "heads", "memory", "reduction")

_DESCRIPTION = """\
Look at a model before attention goes into it. A model is named as MODULE:CALLABLE: a function or
class of torchvision or any other package, or your own (models:build is build() in models.py of this
folder). Where it can be, it is built without memory for its weights; none are downloaded."""

_EXAMPLES = f"""\
examples:
  {_PROGRAM} sites torchvision.models:resnet50 --input-size 256 128
  {_PROGRAM} cost torchvision.models:resnet50 --preset apnet --levels 2"""

_SITES = """\
List the modules of a model that give a map, by the names that attnreid.attach takes: the kind of
module, the channels and size of the map, and, where attention cannot stand there, why."""

_SITES_EXAMPLES = f"""\
examples:
  {_PROGRAM} sites torchvision.models:resnet50 --input-size 256 128
  {_PROGRAM} sites torchvision.models:inception_v3 --option aux_logits=False --all
  {_PROGRAM} sites models:build --json"""

_COST = """\
Put a paper's attention into a model and print where it stands, with the parameters and
multiply-adds that it adds, and those of the whole model without and with it."""

_COST_EXAMPLES = f"""\
examples:
  {_PROGRAM} cost torchvision.models:resnet50 --preset apnet --levels 2 --last-stride 1
  {_PROGRAM} cost torchvision.models:resnet50 --preset apnet --attention rga_s --levels 1,2
  {_PROGRAM} cost torchvision.models:resnet50 --preset mla --levels pixel,head --blocks last
  {_PROGRAM} cost torchvision.models:resnet50 --preset se --reduction 8"""

_COUNTED = """\
Counted for one image in eval mode: convolutions, linear maps and matrix products, a multiplication
with its addition as one; not pooling, batch norms, activations and gating."""


def main(arguments: Sequence[str]) -> int:
    """Run one command and return the exit status: 0, 2 for a mistake, 130 for Ctrl-C, 141 for a reader that left.

    Args:
        arguments: what follows the program's name on the command line.
    """
    try:
        try:
            print(_answer(arguments))
        except SystemExit as end:  # --help and --version have said what they say
            return int(end.code or 0)
        finally:
            sys.stdout.flush()
    except Refused as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # As `| head` does. What is left to write goes nowhere, or the interpreter would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


# What can be typed


class _Parser(argparse.ArgumentParser):
    """Refuses as everything else here does: in one sentence."""

    def error(self, message: str) -> NoReturn:
        raise Refused(f"{message}; see {self.prog} --help")


def _answer(arguments: Sequence[str]) -> str:
    chosen, rest = _build_parser().parse_known_args(arguments)
    if rest:
        known = re.findall(r"^ +(--[a-z-]+)", chosen.text(), flags=re.MULTILINE)
        advice = f"has no option {rest[0]}: {closest(rest[0].partition('=')[0], known)}"
        if not rest[0].startswith("-"):
            advice = f"takes one MODULE:CALLABLE, got {rest[0]!r} too; see {_PROGRAM} {chosen.command} --help"
        raise Refused(f"{chosen.command} {advice}")
    answer: str = chosen.answer(chosen)
    return answer


def _build_parser() -> _Parser:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog=_PROGRAM, description=_DESCRIPTION, epilog=_EXAMPLES, formatter_class=as_written)
    parser.add_argument("--version", action="version", version=f"attnreid {attnreid.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _fill_sites(
        commands.add_parser(
            "sites",
            usage=f"{_PROGRAM} sites MODULE:CALLABLE [options]",
            help="where attention can stand in a model",
            description=_SITES,
            epilog=_SITES_EXAMPLES,
            formatter_class=as_written,
        )
    )
    _fill_cost(
        commands.add_parser(
            "cost",
            usage=f"{_PROGRAM} cost MODULE:CALLABLE --preset PRESET [options]",
            help="what a paper's attention costs in a model",
            description=_COST,
            epilog=_COST_EXAMPLES,
            formatter_class=as_written,
        )
    )
    return parser


def _fill_sites(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    deep = parser.add_mutually_exclusive_group()
    deep.add_argument("--all", action="store_true", help="list every site, however deep")
    deep.add_argument(
        "--depth",
        type=int,
        metavar="N",
        help=f"list names of up to N dotted parts; layer4.2 has 2 (default: {_DEPTH})",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list, with how often each module is called")
    parser.set_defaults(answer=_sites, text=parser.format_help)


def _fill_cost(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument(
        "--preset",
        required=True,
        choices=list(_PRESETS),
        help="apnet: pyramids after the four stages of a ResNet, DenseNet or Inception-V3; mla: multi-level attention "
        "for the 3x3 convolutions of a ResNet's last stage; se: a gate in every block of a ResNet",
    )
    parser.add_argument(
        "--last-stride",
        type=int,
        choices=(1, 2),
        help="first set the stride of a ResNet's last stage; both papers have 1 (default: as it is in the model)",
    )
    group = parser.add_argument_group("options of the presets")
    group.add_argument(
        "--attention",
        metavar="NAME",
        help="apnet: se, rga_s or another registered name, or MODULE:CALLABLE for a layer of yours; with commas one "
        f"for each level (default: {_default('apnet', 'attention')})",
    )
    group.add_argument(
        "--levels",
        help=f"apnet: how many, or with commas the parts of each, such as 1,2,4 (default: {_default('apnet', 'levels')}"
        f"); mla: which of pixel, head and domain, with commas (default: {_default('mla', 'levels')})",
    )
    for option, preset, what in (
        ("radix", "apnet", "into how many parts a level splits those of the one before"),
        ("heads", "mla", "heads of the head level"),
        ("memory", "mla", "slots of the domain level's memory"),
        ("reduction", "se", "a gate's hidden width is its channels divided by this"),
    ):
        text = f"{preset}: {what} (default: {_default(preset, option)})"
        group.add_argument(f"--{option}", type=int, metavar="N", help=text)
    for option, preset, choices, what in (
        ("variant", "apnet", ("paper", "released"), "as the paper or its authors' code has it"),
        ("blocks", "mla", ("all", "last"), "which blocks of the last stage"),
    ):
        text = f"{preset}: {what} (default: {_default(preset, option)})"
        group.add_argument(f"--{option}", choices=choices, help=text)
    parser.set_defaults(answer=_cost, text=parser.format_help)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", nargs="?", metavar="MODULE:CALLABLE", help="what returns the model when it is called")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument for the callable: a Python literal, such as aux_logits=False, or else a text; repeatable",
    )
    parser.add_argument(
        "--input-size",
        nargs="+",
        default=list(_INPUT_SIZE),
        metavar="N",
        help=f"height and width, or channels, height and width (default: {' '.join(_INPUT_SIZE)})",
    )


def _default(preset: str, option: str) -> Any:
    default = inspect.signature(_PRESETS[preset]).parameters[option].default
    return ",".join(default) if isinstance(default, tuple) else default


# The commands


def _model(chosen: argparse.Namespace) -> tuple[str, nn.Module, InputSize]:
    """Build what is chosen; return its name, too, and the input size."""
    target, sides = chosen.target, list(chosen.input_size)
    if target is None and ":" in sides[-1]:  # argparse gives what follows --input-size to it
        target = sides.pop()
    if target is None:
        raise Refused(
            f"{chosen.command} must be given the model as MODULE:CALLABLE, such as torchvision.models:resnet50; "
            f"see {_PROGRAM} {chosen.command} --help"
        )
    size = given.input_size(sides)
    return target, given.build_model(target, given.call_options(chosen.option), size), size


def _sites(chosen: argparse.Namespace) -> str:
    depth = _DEPTH if chosen.depth is None else chosen.depth
    if depth < 1:
        raise Refused(f"--depth must be at least 1, got {depth}; --all lists every site")
    target, model, size = _model(chosen)
    with _library():
        found = find_sites(model, size)
    listed = [site for site in found if chosen.all or _depth(site) <= depth]
    if chosen.json:
        return json.dumps([dataclasses.asdict(site) for site in listed], indent=2)
    return "\n".join([_title(target, size), "", *(_sites_table(listed) if listed else []), _summary(listed, found)])


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
    rows = [("name", "kind", "channels", "map size", "refused because")]
    for site in sites:
        channels = "" if site.channels is None else str(site.channels)
        size = "" if site.size is None else f"{site.size[0]} x {site.size[1]}"
        rows.append((site.name, site.kind, channels, size, site.refusal or ""))
    lines = _table(rows, "<<>><")
    if not sys.stdout.isatty():
        return [*lines, ""]  # one line for each site, for grep and the like
    width = shutil.get_terminal_size().columns
    indent = " " * min(len(lines[0]) - len(rows[0][-1]), width // 2)
    return [*(textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False) for line in lines), ""]


def _cost(chosen: argparse.Namespace) -> str:
    preset, options = _PRESETS[chosen.preset], _preset_options(chosen)
    target, model, size = _model(chosen)
    notes: list[str] = []
    if "input_size" in inspect.signature(preset).parameters:
        options["input_size"] = size
    else:
        notes = [f"The map sizes are of a 64 x 64 input, where {preset.__name__} looks; the costs are the same.", ""]
    with _library():
        if chosen.last_stride is not None:
            set_last_stride(model, chosen.last_stride)
        before = _costs(model, size)
        attachment = preset(model, **options)
        table, after = str(attachment), _costs(model, size)
    rows = [
        ("whole model", "parameters", "multiply-adds"),
        ("without", *map(_number, before)),
        ("with", *map(_number, after)),
        ("change", *map(_percent, before, after)),
    ]
    return "\n".join([_title(target, size), "", table, "", *notes, *_table(rows, "<>>"), "", _COUNTED])


def _preset_options(chosen: argparse.Namespace) -> dict[str, Any]:
    options = {name: getattr(chosen, name) for name in _PRESET_OPTIONS if getattr(chosen, name) is not None}
    known = inspect.signature(_PRESETS[chosen.preset]).parameters
    for name in options:
        if name not in known:
            own = ", ".join(f"--{option}" for option in _PRESET_OPTIONS if option in known)
            raise Refused(f"the preset {chosen.preset} has no --{name}; its options are {own}")
    if "levels" in options:
        options["levels"] = (given.words if chosen.preset == "mla" else given.apnet_levels)(options["levels"])
    if "attention" in options:
        options["attention"] = given.attention(options["attention"])
    return options


def _costs(model: nn.Module, size: InputSize) -> tuple[int, int | None]:
    return count_parameters(model), count_multiply_adds(model, *given.with_channels(size))


@contextmanager
def _library() -> Iterator[None]:
    """Make what the library refuses a mistake of the user's."""
    try:
        with given.quiet():
            yield
    except (TypeError, ValueError, RuntimeError) as error:  # torch answers what does not fit with a RuntimeError
        raise Refused(given.one_line(error)) from error


# How it looks


def _title(target: str, size: InputSize) -> str:
    return f"{target}, input {' x '.join(map(str, given.with_channels(size)))}"


def _table(rows: Sequence[Sequence[str]], align: str) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True)).rstrip()
        for row in rows
    ]


def _number(cost: int | None) -> str:
    return "?" if cost is None else f"{cost:,}"


def _percent(before: int | None, after: int | None) -> str:
    return "?" if not before or after is None else f"{(after - before) / before:+.2%}"


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # timm would fetch weights from there
    sys.exit(main(sys.argv[1:]))
