"""The commands. A user's mistake ends in one sentence and exit status 2; anything else is a bug and shows itself."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from reference_pipelines.errors import Stopped, UserError

_TRAINING = ("train", "resume")  # these take a config's keys, and run as many processes
_DESCRIPTION = "The two papers of attnreid as programs: APNet (supervised) and MLA (unsupervised)."


def main(arguments: Sequence[str]) -> int:
    """Run one command and return the exit status."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command not in _TRAINING:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    # Of several processes that torchrun started the first one speaks.
    speaks = os.environ.get("RANK", "0") == "0"
    try:
        if options.command not in _TRAINING and os.environ.get("WORLD_SIZE", "1") != "1":
            raise UserError(
                f"{options.command}: only train and resume run as many processes; start it without torchrun"
            )
        # Imported late, so that --help and a mistyped command answer at once.
        from reference_pipelines import commands

        runs: dict[str, Callable[[argparse.Namespace], int | None]] = {
            "demo": commands.demo,
            "train": lambda chosen: commands.train(chosen, rest),
            "resume": lambda chosen: commands.resume(chosen, rest),
            "evaluate": commands.evaluate,
            "report": commands.report,
            "data render": commands.data_render,
            "data verify": commands.data_verify,
            "data difficulty": commands.data_difficulty,
        }
        status = runs[f"data {options.kind}" if options.command == "data" else options.command](options)
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
    return status or 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command; `train` leaves the recipe's keys to its config."""
    parser = argparse.ArgumentParser(prog="python -m reference_pipelines", description=_DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="both papers small, on rendered pedestrians, with a report")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the runs and the report")

    train = commands.add_parser("train", help="train and evaluate one recipe", add_help=False)
    train.add_argument("pipeline", nargs="?", choices=("apnet", "mla"))
    train.add_argument("--out", type=Path, help="run folder, new or empty")

    resume = commands.add_parser(
        "resume",
        help="go on with a run from its last checkpoint",
        description="Go on with a run; keys that do not change results may be given anew, e.g. --data.workers 8.",
        usage="%(prog)s [-h] RUN_DIR [--any.key VALUE]",
    )
    resume.add_argument("run", type=Path, metavar="RUN_DIR", help="folder of a run that was interrupted")
    evaluate = commands.add_parser("evaluate", help="test a trained network on any data set, without training")
    evaluate.add_argument("checkpoint", type=Path, help="run folder, or a weights file in it")
    evaluate.add_argument("--data", metavar="DIR", help="data set to test on; the run's own when left out")
    evaluate.add_argument("--layout", help="name of its layout; found by content when left out")
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
        type=int,
        default=0,
        metavar="DRAWS",
        help="add CUHK03's CMC with one gallery image a person, drawn so often; published code draws 10 or 100",
    )
    evaluate.add_argument("--workers", type=int, help="processes that decode images")
    evaluate.add_argument("--batch-size", type=int, help="images a batch")
    evaluate.add_argument("--skip-corrupt", action="store_true", help="leave out images that do not decode")
    evaluate.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    evaluate.add_argument("--out", type=Path, help="JSON file; among the run's evaluations when left out")

    report = commands.add_parser("report", help="one HTML file about finished runs")
    report.add_argument("runs", type=Path, nargs="+", help="run folders")
    report.add_argument("--out", type=Path, default=Path("report.html"), help="the HTML file")

    data = commands.add_parser("data", help="make data, or look at it")
    kinds = data.add_subparsers(dest="kind", required=True, metavar="KIND")
    render = kinds.add_parser("render", help="render pedestrians in the Market-1501 layout")
    render.add_argument("root", type=Path, help="folder to write")
    render.add_argument("--size", default="tiny", help="tiny, small or market")
    render.add_argument("--domain", default="plaza", help="plaza or mall")
    render.add_argument("--occluded", action="store_true", help="hide part of the person in every query")
    render.add_argument("--image-size", type=int, nargs=2, default=(128, 64), metavar=("HEIGHT", "WIDTH"))
    render.add_argument("--seed", type=int, default=0)
    render.add_argument("--workers", type=int, default=None, help="processes; chosen by cores and images when left out")

    verify = kinds.add_parser(
        "verify",
        help="what a data set is, and what is wrong with it",
        description="Says which data set and version it is, whether it is whole, and what is wrong with it. "
        "Exit status 1 if training or evaluation on it would be wrong.",
    )
    verify.add_argument("root", type=Path, metavar="DIR", help="the data set's folder, or a CSV file")
    verify.add_argument("--layout", help="name of its layout; found by content when left out")
    verify.add_argument("--json", action="store_true", help="print everything as JSON instead of tables")
    verify.add_argument("--workers", type=int, default=None, help="processes; all cores when left out")

    difficulty = kinds.add_parser(
        "difficulty",
        help="how hard a data set is: chance, colours, untrained and trained networks",
        description="Scores chance, two colour histograms, two untrained networks and the runs given, by person and, "
        "as a warning, by camera: how well the same features find other people's images from the query's camera.",
    )
    difficulty.add_argument("root", type=Path, metavar="DIR", help="the data set's folder, or a CSV file")
    difficulty.add_argument("--layout", help="name of its layout; found by content when left out")
    difficulty.add_argument(
        "--run", type=Path, action="append", default=[], dest="runs", metavar="RUN", help="a run folder; repeatable"
    )
    difficulty.add_argument("--json", action="store_true", help="print the rows as JSON instead of a table")
    difficulty.add_argument("--workers", type=int, default=0, help="processes that decode images")
    difficulty.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    return parser
