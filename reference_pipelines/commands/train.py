"""`train`: one recipe of a paper; the words are the paper, --out and the config's keys, in any order."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import yaml

from attnreid.command_line import Option, help_text, refuse_unknown, separate
from reference_pipelines.config.loading import CONFIG_OPTION, keys_of, load_config, shown_config, word_counts
from reference_pipelines.errors import UserError, closest
from reference_pipelines.pipelines import PIPELINES

_USAGE = """\
usage: python -m reference_pipelines train apnet|mla --config RECIPE
           --data.root DATA --out RUN_DIR [--KEY VALUE ...]

apnet trains with labels, mla without. Scores are taken on query and gallery.

  RECIPE   a name below, or a YAML file
  RUN_DIR  a new folder
  DATA     the folder of a public data set, found by content; train/, query/
           and gallery/ with a folder a person; a folder a person, PERSON/*.jpg
           or PERSON/CAMERA/*.jpg; for mla any folder of images; or a CSV file:

             image,id,camera,split
             images/0001.jpg,ada,1,train
             images/0002.jpg,bo,1,query
             images/0003.jpg,bo,2,gallery

           split is train, query or gallery; images are named relative to the
           file. All columns but image may be left out: without split half of
           the people are kept for query and gallery, without camera each image
           counts as a camera of its own, and mla needs no id."""
_LABELS = {"apnet": "with labels", "mla": "without labels"}
_EXAMPLES = """
imagenet is downloaded at the first use; --model.weights takes none or a file
in its place.

Examples:

  python -m reference_pipelines data verify people.csv
  python -m reference_pipelines train apnet --config demo \\
      --data.root people.csv --out runs/people
  python -m reference_pipelines train apnet --config apnet_c2_market \\
      --data.root people.csv --out runs/large

The first says what the data are and what is wrong with them, the second trains
a small network on the CPU, the third the paper's on a GPU. `train apnet --help`
and `train mla --help` list every KEY."""
_OUT = Option("--out", "out", Path, help="a new folder for the run", metavar="RUN_DIR")
_PRINT = Option("--print_config", "print_config", bool, False, "print what the run would take and end", constant=True)
TENSORBOARD = Option(
    "--tensorboard", "tensorboard", bool, False, "show the run in TensorBoard too: RUN_DIR/tensorboard", constant=True
)
_OWN: dict[str, int | None] = {each.name: each.count for each in (_OUT, _PRINT, TENSORBOARD)}


def run(arguments: Sequence[str]) -> None:
    """Train, or print what would be trained."""
    if {"-h", "--help"} & {*arguments}:
        _print_help(next((word for word in arguments if word in PIPELINES), None))
        return
    name = _find_paper(arguments)
    pipeline = PIPELINES[name]
    counts = {**_OWN, **word_counts(pipeline.config)}
    words = separate("train", arguments, counts, ends=lambda word: word == name)
    others = {other: word_counts(each.config) for other, each in PIPELINES.items() if other != name}
    refuse_unknown("train", words.options, counts, elsewhere=others)
    words.bare.remove(name)
    out, shown = words.options.pop(_OUT.name, None), words.options.pop(_PRINT.name, None)
    tensorboard = words.options.pop(TENSORBOARD.name, None) is not None
    keys = [*words.bare, *words.arguments()]
    if shown is not None:
        print(shown_config(pipeline.config, keys, prog="train", recipes=pipeline.recipes), end="")
        return
    if out is None:
        raise UserError("train: --out is missing; name a new folder for the run")
    load = partial(load_config, pipeline.config, keys, recipes=pipeline.recipes)
    if os.environ.get("WORLD_SIZE", "1") == "1":
        load()  # A wrong value is answered at once; several processes must find it together.
    # Only here is it worth the time that torch takes to import.
    from reference_pipelines.commands.running import train

    train(name, load, Path(out[0]), tensorboard=tensorboard)


def listed_options() -> list[Option]:
    """Return what may be typed, of every paper."""
    paper = Option("PAPER", "paper", Literal[*PIPELINES], help="the paper whose pipeline trains")
    return [paper, _OUT, CONFIG_OPTION, _PRINT, TENSORBOARD, *all_keys()]


def all_keys() -> list[Option]:
    """Return the keys of every paper's config, each once."""
    keys = {option.name: option for pipeline in PIPELINES.values() for option in keys_of(pipeline.config).values()}
    return [*keys.values()]


def all_word_counts() -> dict[str, int | None]:
    """Return how many words the options of every paper take: any number where papers differ."""
    counts: dict[str, int | None] = {}
    for pipeline in PIPELINES.values():
        for name, count in word_counts(pipeline.config).items():
            counts[name] = count if counts.get(name, count) == count else None
    return counts


def _find_paper(arguments: Sequence[str]) -> str:
    """Return the one word that belongs to no option, which must be a paper."""
    counts = {**_OWN, **all_word_counts()}
    words = separate("train", arguments, counts, ends=PIPELINES.__contains__)
    if not words.bare:
        refuse_unknown("train", words.options, counts)
        raise UserError(f"train: which paper? name one of {', '.join(PIPELINES)}")
    if words.bare[0] not in PIPELINES:
        hint = closest(words.bare[0], PIPELINES)
        raise UserError(f"train: the paper must be one of {', '.join(PIPELINES)}, got {words.bare[0]!r}{hint}")
    return words.bare[0]


def _print_help(name: str | None) -> None:
    if name is not None:
        schema = PIPELINES[name].config
        about = (schema.__doc__ or "").partition("\n")[0]
        print(help_text(f"train {name}", about, [_OUT, CONFIG_OPTION, _PRINT, TENSORBOARD, *keys_of(schema).values()]))
        return
    print(_USAGE)
    for paper, each in PIPELINES.items():
        print(f"\nRecipes of {paper}, {_LABELS[paper]}:\n")
        for path in sorted(each.recipes.glob("*.yaml")):
            recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
            height, width = recipe["data"]["image_size"]
            model = recipe["model"]
            print(f"  {path.stem:<20} {model['backbone']}, {height} x {width}, weights {model['weights']}")
    print(_EXAMPLES)
