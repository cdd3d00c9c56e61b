"""What a layout's reader hands back, and what all readers share."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reference_pipelines.data.layouts.scanning import PassedOver, what_is
from reference_pipelines.data.records import DISTRACTOR, JUNK, UNKNOWN, ImageList, ReidData

_NAMED = 3  # examples in a sentence

# How messages name what the commands call otherwise than each other.
ROOT_OPTION = "--data.root (train), --data (evaluate) or DIR"
LAYOUT_OPTION = "--data.layout (train) or --layout"

NUMBER = r"\d{1,18}"  # a number that fits into 64 bits


class Problem(NamedTuple):
    """Why a data set cannot be used as it lies there.

    Args:
        kind: a word or two, the same for the same kind of fault.
        text: a sentence without its full stop: what must hold, what was found, what to do.
        examples: all files or lines concerned.
    """

    kind: str
    text: str
    examples: tuple[str, ...] = ()


class Reading(NamedTuple):
    """A data set as far as it could be read.

    Args:
        data: what was read.
        problems: what is wrong with it; `read` refuses a data set that has one.
        passed_over: what lies in its folders and was not taken.
        vanished: "part: person" for each person of whom a part has nothing but what was passed over.
        unsplit: whether all images are in train because nobody has split the people.
    """

    data: ReidData
    problems: tuple[Problem, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()
    vanished: tuple[str, ...] = ()
    unsplit: bool = False


def special_problems(root: Path, special: Sequence[Path]) -> list[Problem]:
    """Return which images are no files, and what they are."""
    if not special:
        return []
    found = tuple(f"{path.relative_to(root)} ({what_is(path)})" for path in special)
    text = (
        f"images of {root} must be files, {counted(len(found), 'is', 'are')} not: {named(found)}; put the "
        f"{'image there or remove it' if len(found) == 1 else 'images there or remove them'}"
    )
    return [Problem("no file", text, found)]


def make_list(
    paths: Sequence[Path], ids: Sequence[int], cameras: Sequence[int], tracklets: Sequence[int] | None = None
) -> ImageList:
    """Return the image list of N paths, ids, cameras and, if there are any, tracklets."""
    return ImageList(
        tuple(paths),
        np.array(ids, dtype=np.int64),
        np.array(cameras, dtype=np.int64),
        None if tracklets is None else np.array(tracklets, dtype=np.int64),
    )


def number_names(names: Iterable[str], *, nobody: bool = True) -> dict[str, int]:
    """Return a number from 1 on for each different name, in the names' order; no name is somebody not known.

    Args:
        names: of people.
        nobody: whether the names 0 and -1, and only these spellings, keep their meaning: distractor and junk.
    """
    special = {"": UNKNOWN, **({"0": DISTRACTOR, "-1": JUNK} if nobody else {})}
    people = sorted(set(names) - set(special))
    return {**special, **{name: number for number, name in enumerate(people, start=1)}}


def named(items: Sequence[object], most: int = _NAMED) -> str:
    """Return the first `most` items for a sentence, with how many there are besides."""
    shown = ", ".join(str(item) for item in items[:most])
    return f"{shown} and {len(items) - most:,} more" if len(items) > most else shown


def counted(count: int, one: str, many: str) -> str:
    """Return a count with the verb, or noun and verb, that goes with it."""
    return f"{count:,} {one if count == 1 else many}"


def separate_ids(train: ImageList, *tests: ImageList) -> tuple[list[ImageList], dict[int, str]]:
    """Number MSMT17's people from 1 on, those of train and of test apart: both are counted from 0, and 0 is a person.

    Returns:
        The lists with new ids, and the number that each new id stands for.
    """
    parts = [(0, train), *((1, test) for test in tests)]
    keys = sorted({(space, person) for space, part in parts for person in part.ids.tolist()})
    numbers = {key: number for number, key in enumerate(keys, start=1)}
    renumbered = [
        make_list(part.paths, [numbers[space, person] for person in part.ids.tolist()], part.cameras.tolist())
        for space, part in parts
    ]
    return renumbered, {number: f"{person:04d}" for (_, person), number in numbers.items()}


def people_problems(root: Path, train: ImageList, query: ImageList, gallery: ImageList) -> list[Problem]:
    """Return what is wrong with the parts as they were found: junk and distractors where people are needed."""
    problems = []
    for name, part in (("train", train), ("gallery", gallery)):
        if len(part) and np.isin(part.ids, (DISTRACTOR, JUNK)).all():
            text = (
                f"the {name} part of {root} must hold images of people, found only junk and distractors "
                "(ids -1 and 0); is this the right folder?"
            )
            problems.append(Problem("no people", text))
    nobody = tuple(str(path) for path in query.where(query.ids <= 0).paths)
    if nobody:
        text = (
            f"queries of {root} must be images of people, {counted(len(nobody), 'is', 'are')} junk or distractors "
            f"(ids -1 and 0): {named(nobody)}; remove {'it' if len(nobody) == 1 else 'them'}"
        )
        problems.append(Problem("no people", text, nobody))
    return problems


def distractor_problems(root: Path, train: ImageList, advice: str) -> list[Problem]:
    """Return whether someone is numbered 0 in train, who would be left out: a person in sets of the user's own."""
    nobody = tuple(str(path) for path in train.where(train.ids == 0).paths)
    if not nobody:
        return []
    text = (
        f"images of the train part of {root} must be of people, {counted(len(nobody), 'has', 'have')} the id 0 of "
        f"distractors: {named(nobody)}; {advice}"
    )
    return [Problem("id 0", text, nobody)]
