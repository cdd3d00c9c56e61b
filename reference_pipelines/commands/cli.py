"""The commands. A user's mistake ends in one sentence and exit status 2; anything else is a bug and shows itself."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from reference_pipelines.commands.arguments import is_option, refuse_unknown
from reference_pipelines.errors import Stopped, UserError

_TRAINING = ("train", "resume")  # these take a config's keys, and run as many processes
_REPEATABLE = ("--run",)
_DESCRIPTION = "The two papers of attnreid as programs: APNet (supervised) and MLA (unsupervised)."


def main(arguments: Sequence[str]) -> int:
    """Run one command and return the exit status: 2 for a mistake, 130 for Ctrl-C, 141 for a reader that left."""
    try:
        return _run_in_words(arguments)
    except BrokenPipeError:
        if _is_read(sys.stdout):  # it was another pipe, of a worker's
            raise
        # As `| head` does. What is left to write goes nowhere, or the interpreter would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _is_read(stream: TextIO) -> bool:
    try:
        stream.flush()
    except BrokenPipeError:
        return False
    return True


def _run_in_words(arguments: Sequence[str]) -> int:
    """Run one command, and say what ends it early in a sentence."""
    # Of several processes that torchrun started the first one speaks.
    speaks = os.environ.get("RANK", "0") == "0"
    try:
        try:
            status = _run(arguments)
        except SystemExit as end:  # --help and --print_config have said what they say
            status = int(end.code or 0)
        sys.stdout.flush()
    except UserError as error:
        sys.stdout.flush()
        if speaks:
            print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("attnreid", "reference_pipelines"):
            raise
        print(f"error: the package {error.name} is missing; pip install 'attnreid[pipelines]'", file=sys.stderr)
        return 2
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return stop.status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status


def _run(arguments: Sequence[str]) -> int:
    parser, parsers = build_parser()
    command = " ".join(arguments[: 2 if "data" in arguments[:1] else 1])
    asks = bool({"-h", "--help"} & set(arguments))
    trains = command in _TRAINING and not (command == "resume" and asks)
    if not trains:
        if is_option(command) and not asks:
            raise UserError(f"the command must come first, got {command}; see {parser.prog} --help")
        if command in parsers:
            _check_options(command, arguments, parsers)
        options, rest = parser.parse_known_args(arguments)
        if rest:
            raise UserError(f"{command}: {rest[0]!r} is one word too many; see {parser.prog} {command} --help")
        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise UserError(f"{command}: only train and resume run as many processes; start it without torchrun")
    # Imported late, so that --help and a mistyped command answer at once.
    from reference_pipelines.commands import running as commands

    if trains:
        (commands.train if command == "train" else commands.resume)(arguments[1:])
        return 0
    runs: dict[str, Callable[[argparse.Namespace], int | None]] = {
        "demo": commands.demo,
        "evaluate": commands.evaluate,
        "report": commands.report,
        "data render": commands.data_render,
        "data verify": commands.data_verify,
        "data difficulty": commands.data_difficulty,
    }
    return runs[command](options) or 0


def _check_options(command: str, arguments: Sequence[str], parsers: Mapping[str, "_Parser"]) -> None:
    """Refuse unknown options by the known ones, and, as argparse keeps the last one silently, an option given twice."""
    known = {name: list(parser._option_string_actions) for name, parser in parsers.items()}
    given = [word.partition("=")[0] for word in arguments if is_option(word) and word != "--"]
    for name in given:
        owners = [other for other, names in known.items() if name in names]
        if owners and command not in owners:
            raise UserError(f"{command}: there is no option {name}; it is one of {', '.join(owners)}")
    refuse_unknown(command, given, known[command])
    names = [f"--{name.removeprefix('--').removeprefix('no-')}" for name in given]
    for name in names:
        if names.count(name) > 1 and name not in _REPEATABLE:
            raise UserError(f"{command}: {name} must be given once, it is given twice; leave one of them out")


class _Parser(argparse.ArgumentParser):
    """Refuses as everything else here does: in one sentence, and no abbreviated option."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (\S+): must", r"\1 must", message)
        raise UserError(f"{message}; see {self.prog} --help")


def _text(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _path(text: str) -> Path:
    return Path(_text(text))


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]+", text):
            raise argparse.ArgumentTypeError(f"must be a whole number, got {text}")
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return int(text)

    return number


def _program() -> str:
    """Return what this program was started as."""
    script = "attnreid-pipelines"
    return script if Path(sys.argv[0]).stem == script else "python -m reference_pipelines"


def build_parser() -> tuple[_Parser, dict[str, _Parser]]:
    """Return the parser of every command, and each one's; `train` and `resume` leave their words to their config."""
    parser = _Parser(prog=_program(), description=_DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="both papers small, on rendered pedestrians, with a report")
    demo.add_argument("--out", type=_path, default=Path("runs/demo"), help="folder of the runs and the report")

    commands.add_parser("train", help="train and evaluate one recipe", add_help=False)
    resume = commands.add_parser(
        "resume",
        help="go on with a run from its last checkpoint",
        description="Go on with a run; keys that do not change results may be given anew, e.g. --data.workers 8.",
        usage="%(prog)s [-h] RUN_DIR [--any.key VALUE]",
    )
    resume.add_argument("run", type=_path, metavar="RUN_DIR", help="folder of a run that was interrupted")
    evaluate = commands.add_parser("evaluate", help="test a trained network on any data set, without training")
    evaluate.add_argument("checkpoint", type=_path, metavar="RUN_DIR", help="run folder, or a weights file in it")
    evaluate.add_argument("--data", type=_text, metavar="DIR", help="data set to test on; the run's own when left out")
    evaluate.add_argument("--layout", type=_text, help="name of its layout; found by content when left out")
    evaluate.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        help="add the mirrored image's features; as trained if left out",
    )
    evaluate.add_argument("--rerank", action="store_true", help="re-rank by k-reciprocal encoding")
    evaluate.add_argument(
        "--camera-pairs", action="store_true", help="print mAP by the query's and the match's camera too"
    )
    evaluate.add_argument(
        "--single-shot",
        type=_at_least(0),
        default=0,
        metavar="DRAWS",
        help="add CUHK03's CMC with one gallery image a person, drawn so often; published code draws 10 or 100",
    )
    evaluate.add_argument(
        "--workers",
        type=_at_least(0),
        help="processes that decode images; 0 decodes in the main one; as trained if left out",
    )
    evaluate.add_argument("--batch-size", type=_at_least(1), help="images a batch; as trained if left out")
    evaluate.add_argument("--skip-corrupt", action="store_true", help="leave out images that do not decode")
    evaluate.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    evaluate.add_argument("--out", type=_path, help="JSON file; among the run's evaluations when left out")

    report = commands.add_parser("report", help="one HTML file about finished runs")
    report.add_argument("runs", type=_path, nargs="+", metavar="RUN_DIR", help="run folders")
    report.add_argument("--out", type=_path, default=Path("report.html"), help="the HTML file")

    data = commands.add_parser("data", help="make data, or look at it")
    kinds = data.add_subparsers(dest="kind", required=True, metavar="KIND")
    render = kinds.add_parser("render", help="render pedestrians in the Market-1501 layout")
    render.add_argument("root", type=_path, metavar="DIR", help="folder to write")
    render.add_argument("--size", default="tiny", help="tiny, small or market")
    render.add_argument("--domain", default="plaza", help="plaza or mall")
    render.add_argument("--occluded", action="store_true", help="hide part of the person in every query")
    render.add_argument("--image-size", type=_at_least(1), nargs=2, default=(128, 64), metavar=("HEIGHT", "WIDTH"))
    render.add_argument("--seed", type=_at_least(0), default=0, help="another one gives other people and cameras")
    render.add_argument(
        "--workers",
        type=_at_least(0),
        help="processes that draw; 0 draws in the main one; chosen by cores and images when left out",
    )

    verify = kinds.add_parser(
        "verify",
        help="what a data set is, and what is wrong with it",
        description="Says which data set and version it is, whether it is whole, and what is wrong with it. "
        "Exit status 1 if training or evaluation on it would be wrong.",
    )
    verify.add_argument("root", type=_path, metavar="DIR", help="the data set's folder, or a CSV file")
    verify.add_argument("--layout", type=_text, help="name of its layout; found by content when left out")
    verify.add_argument("--json", action="store_true", help="print everything as JSON instead of tables")
    verify.add_argument(
        "--workers",
        type=_at_least(0),
        help="processes that decode images; 0 decodes in the main one; all cores when left out",
    )

    difficulty = kinds.add_parser(
        "difficulty",
        help="how hard a data set is: chance, colours, untrained and trained networks",
        description="Scores chance, two colour histograms, two untrained networks and the runs given, by person and, "
        "as a warning, by camera: how well the same features find other people's images from the query's camera.",
    )
    difficulty.add_argument("root", type=_path, metavar="DIR", help="the data set's folder, or a CSV file")
    difficulty.add_argument("--layout", type=_text, help="name of its layout; found by content when left out")
    difficulty.add_argument(
        "--run", type=_path, action="append", default=[], dest="runs", metavar="RUN", help="a run folder; repeatable"
    )
    difficulty.add_argument("--json", action="store_true", help="print the rows as JSON instead of a table")
    difficulty.add_argument(
        "--workers",
        type=_at_least(0),
        default=0,
        help="processes that decode images; 0 decodes in the main one (default)",
    )
    difficulty.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    named = {"demo": demo, "evaluate": evaluate, "report": report}
    return parser, {**named, "data render": render, "data verify": verify, "data difficulty": difficulty}
