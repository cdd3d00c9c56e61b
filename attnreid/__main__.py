"""The command line: where attention can stand in a model, and what a paper's attention costs there.

A mistake of the user's is answered in one sentence on stderr, with exit status 2 and nothing on stdout;
anything else is a bug and shows itself.
"""

import argparse
import dataclasses
import inspect
import io
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

import attnreid
from attnreid import _command_line as given
from attnreid._command_line import Refused
from attnreid.backbones import Attachment, Site, attach_apnet, attach_mla, attach_se, find_sites, set_last_stride
from attnreid.backbones._costs import count_multiply_adds, count_parameters
from attnreid.backbones.sites import InputSize
from attnreid.text import closest, format_table

_SCRIPT = "attnreid"
_DEPTH = 2
_INPUT_SIZE = ("256", "128")
_PRESETS: dict[str, Callable[..., Attachment]] = {"apnet": attach_apnet, "mla": attach_mla, "se": attach_se}
_LISTS = ("input_size", "levels", "attention")  # options that take several words
_REPEATABLE = "--option"
_PRESET_OPTIONS = ("attention", "levels", "radix", "variant", "blocks", "heads", "memory", "reduction")

_DESCRIPTION = """\
Look at a model before attention goes into it. A model is named as MODULE:CALLABLE: a function or
class of torchvision or any other package, or your own (models:build is build() in models.py of this
folder). Where it can be, it is built without memory for its weights; none are downloaded."""

_EXAMPLES = """\
examples:
  {program} sites torchvision.models:resnet50 --input-size 256 128
  {program} cost torchvision.models:resnet50 --preset apnet --levels 2"""

_SITES = """\
List the modules of a model that give a map, by the names that attnreid.attach takes: the kind of
module, the channels and size of the map, and, where attention cannot stand there, why."""

_SITES_EXAMPLES = """\
examples:
  {program} sites torchvision.models:resnet50 --input-size 256 128
  {program} sites torchvision.models:inception_v3 --option aux_logits=False --all
  {program} sites models:build --json"""

_COST = """\
Put a paper's attention into a model and print where it stands, with the parameters and
multiply-adds that it adds, and those of the whole model without and with it."""

_COST_EXAMPLES = """\
examples:
  {program} cost torchvision.models:resnet50 --preset apnet --levels 2 --last-stride 1
  {program} cost torchvision.models:resnet50 --preset apnet --attention rga_s --levels 1,2
  {program} cost torchvision.models:resnet50 --preset mla --levels pixel,head --blocks last
  {program} cost torchvision.models:resnet50 --preset se --reduction 8"""

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


def run() -> int:
    """Run what this process was started with and return its exit status."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # timm would fetch weights from there
    if not sys.flags.safe_path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does, for a model of this folder
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that lacks a character shows its code instead.
            stream.reconfigure(errors="backslashreplace")
    return main(sys.argv[1:])


# What can be typed


class _Parser(argparse.ArgumentParser):
    """Refuses as everything else here does: in one sentence."""

    def error(self, message: str) -> NoReturn:
        raise Refused(f"{message}; see {self.prog} --help")


def _answer(arguments: Sequence[str]) -> str:
    program = _program()
    parser, parsers = _build_parser(program)
    command = arguments[0] if arguments else ""
    if command in parsers:
        _check_options(f"{command} has", arguments, parsers[command])
    elif command.startswith("-"):
        _check_options(f"{program} has", arguments[:1], parser)
    chosen, rest = parser.parse_known_args(arguments)
    if rest:
        raise Refused(f"{command} takes one MODULE:CALLABLE, got {rest[0]!r} too; see {program} {command} --help")
    _find_target(chosen)
    answer: str = chosen.answer(chosen)
    return answer


def _check_options(who_has: str, arguments: Sequence[str], parser: _Parser) -> None:
    """Refuse unknown options by the known ones, and, as argparse keeps the last one silently, an option given twice."""
    words = arguments[: arguments.index("--")] if "--" in arguments else arguments
    given = [word.partition("=")[0] for word in words if word.startswith("-") and not word[1:2].isdecimal()]
    known = [name for name in parser._option_string_actions if name not in ("-h", "--help")]
    for name in given:
        if name not in (*known, "-h", "--help"):
            longer = [each for each in known if name.startswith("--") and each.startswith(name)]
            raise Refused(f"{who_has} no option {name}: {closest(longer[0] if longer else name, known)}")
        if given.count(name) > 1 and name != _REPEATABLE:
            raise Refused(f"{name} must be given once, it is given {given.count(name)} times; leave one")


def _program() -> str:
    """Return what this program was started as."""
    return _SCRIPT if Path(sys.argv[0]).stem == _SCRIPT else "python -m attnreid"


def _build_parser(program: str) -> tuple[_Parser, Mapping[str, _Parser]]:
    as_written = argparse.RawDescriptionHelpFormatter
    examples = _EXAMPLES.format(program=program)
    parser = _Parser(prog=program, description=_DESCRIPTION, epilog=examples, formatter_class=as_written)
    parser.add_argument("--version", action="version", version=f"attnreid {attnreid.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    sites = commands.add_parser(
        "sites",
        usage=f"{program} sites MODULE:CALLABLE [options]",
        help="where attention can stand in a model",
        description=_SITES,
        epilog=_SITES_EXAMPLES.format(program=program),
        formatter_class=as_written,
    )
    cost = commands.add_parser(
        "cost",
        usage=f"{program} cost MODULE:CALLABLE --preset PRESET [options]",
        help="what a paper's attention costs in a model",
        description=_COST,
        epilog=_COST_EXAMPLES.format(program=program),
        formatter_class=as_written,
    )
    _fill_sites(sites)
    _fill_cost(cost)
    return parser, {"sites": sites, "cost": cost}


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
    parser.set_defaults(answer=_sites)


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
        nargs="+",
        metavar="NAME",
        help="apnet: se, rga_s or another registered name, or MODULE:CALLABLE for a layer of yours; several are one "
        f"for each level (default: {_default('apnet', 'attention')})",
    )
    group.add_argument(
        "--levels",
        nargs="+",
        metavar="LEVEL",
        help=f"apnet: how many, or several for the parts of each, such as 1 2 4 (default: {_default('apnet', 'levels')}"
        f"); mla: which of pixel, head and domain (default: {_default('mla', 'levels')})",
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
    parser.set_defaults(answer=_cost)


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
    if chosen.target is None:
        raise Refused(
            f"{chosen.command} must be given the model as MODULE:CALLABLE, such as torchvision.models:resnet50; "
            f"see {_program()} {chosen.command} --help"
        )
    size = given.input_size(chosen.input_size)
    return chosen.target, given.build_model(chosen.target, given.call_options(chosen.option), size), size


def _find_target(chosen: argparse.Namespace) -> None:
    """Give the model's name back that argparse has taken for the last word of a list."""
    for name in _LISTS:
        words = getattr(chosen, name, None) or []
        if chosen.target is None and len(words) > 1 and ":" in words[-1]:
            chosen.target = words[-1]
            setattr(chosen, name, words[:-1])


def _sites(chosen: argparse.Namespace) -> str:
    depth = _DEPTH if chosen.depth is None else chosen.depth
    if depth < 1:
        raise Refused(f"--depth must be at least 1, got {depth}; --all lists every site")
    target, model, size = _model(chosen)
    with _library():
        found = find_sites(model, size)
    listed = [site for site in found if chosen.all or _depth(site) <= depth]
    if chosen.json:
        typed = [dataclasses.replace(site, refusal=site.refusal and given.as_typed(site.refusal)) for site in listed]
        return json.dumps([dataclasses.asdict(site) for site in typed], indent=2)
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
        rows.append((site.name, site.kind, channels, size, given.as_typed(site.refusal or "")))
    lines = format_table(rows, "<<>><")
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
    return "\n".join([_title(target, size), "", table, "", *notes, *format_table(rows, "<>>"), "", _COUNTED])


def _preset_options(chosen: argparse.Namespace) -> dict[str, Any]:
    options = {name: getattr(chosen, name) for name in _PRESET_OPTIONS if getattr(chosen, name) is not None}
    known = inspect.signature(_PRESETS[chosen.preset]).parameters
    for name in options:
        if name not in known:
            own = ", ".join(f"--{option}" for option in _PRESET_OPTIONS if option in known)
            raise Refused(f"the preset {chosen.preset} has no --{name}; its options are {own}")
    if "levels" in options:
        read = given.words if chosen.preset == "mla" else given.apnet_levels
        options["levels"] = read(",".join(options["levels"]))
    if "attention" in options:
        options["attention"] = given.attention(",".join(options["attention"]))
    for name, value in options.items():
        if value in ((), []):
            raise Refused(f"--{name} must not be empty; leave it out for its default")
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
        raise Refused(given.as_typed(given.one_line(error))) from error


# How it looks


def _title(target: str, size: InputSize) -> str:
    return f"{target}, input {' x '.join(map(str, given.with_channels(size)))}"


def _number(cost: int | None) -> str:
    return "?" if cost is None else f"{cost:,}"


def _percent(before: int | None, after: int | None) -> str:
    return "?" if not before or after is None else f"{(after - before) / before:+.2%}"


if __name__ == "__main__":
    sys.exit(run())
