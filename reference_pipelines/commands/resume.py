"""`resume`: a run from its last checkpoint; the words are its folder and the config's keys, in any order."""

from collections.abc import Sequence
from pathlib import Path

from attnreid.command_line import Option, refuse_unknown, separate
from reference_pipelines.commands import train
from reference_pipelines.errors import UserError

_HELP = """\
usage: resume RUN_DIR [--tensorboard] [--any.key VALUE]

Go on with a run; keys that do not change results may be given anew, e.g. --data.workers 8.

  RUN_DIR        folder of a run that was interrupted
  --tensorboard  show the run in TensorBoard too: RUN_DIR/tensorboard, all of its epochs

examples:
  python -m reference_pipelines resume runs/c2
  python -m reference_pipelines resume runs/c2 --data.workers 8"""


def listed_options() -> list[Option]:
    """Return what may be typed."""
    run = Option("RUN_DIR", "run", Path, help="folder of a run that was interrupted")
    return [run, train.TENSORBOARD, *train.all_keys()]


def run(arguments: Sequence[str]) -> None:
    """Go on with a run."""
    if {"-h", "--help"} & {*arguments}:
        print(_HELP)
        return
    tensorboard = train.TENSORBOARD.name in arguments
    arguments = [word for word in arguments if word != train.TENSORBOARD.name]
    counts = train.all_word_counts()
    words = separate("resume", arguments, counts, ends=lambda word: Path(word).is_dir())
    refuse_unknown("resume", words.options, counts)
    if not words.bare:
        raise UserError("resume: which run? name its folder")
    if "--config" in words.options:
        raise UserError("resume: a run goes on with its own config; leave --config out, and give the keys that change")
    # Only here is it worth the time that torch takes to import.
    from reference_pipelines.commands.running import resume

    resume(words.bare[0], arguments, tensorboard=tensorboard)
