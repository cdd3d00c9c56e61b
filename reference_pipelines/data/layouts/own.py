"""The user's own data as folders: a folder a person below train/, query/ and gallery/, or without these.

People may have any names; below train/, query/ and gallery/ `0` and `-1`, spelt so, are distractors and junk as in
Market-1501. Cameras stand in the files' names or are folders in each person's; they may be left out, of all images or
of none. Where the people are not split they are split by the reader.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reference_pipelines.data.layouts.cameras import camera_like, camera_of, folder_camera, tracklet_of
from reference_pipelines.data.layouts.reading import (
    LAYOUT_OPTION,
    Problem,
    Reading,
    counted,
    distractor_problems,
    make_list,
    named,
    number_names,
    people_problems,
    special_problems,
)
from reference_pipelines.data.layouts.scanning import (
    PassedOver,
    all_below,
    beside,
    is_image,
    is_litter,
    look_into,
    passed_over,
    subfolders,
)
from reference_pipelines.data.names import composed
from reference_pipelines.data.records import JUNK, PARTS, UNKNOWN, Part, ReidData

_WITHOUT_CAMERAS = {"folders": "folders_no_cameras", "people": "people_no_cameras"}
SPLIT_LAYOUTS = ("folders", "folders_no_cameras")
PEOPLE_LAYOUTS = ("people", "people_no_cameras")
LAYOUTS = (*SPLIT_LAYOUTS, *PEOPLE_LAYOUTS)
NO_CAMERAS = (
    "each image file counts as a camera of its own: a ranking leaves out nothing but the query's very own file, "
    "sampling prefers no camera, and purity by camera says nothing"
)
_TOKENS = "c1, c01, c1s1, cam1 or camera_1 by itself"
_SHOWN = 3


@dataclass(frozen=True)
class Image:
    """One image as a folder or a table gives it.

    Args:
        path: the file.
        person: a name in composed form; empty where it is not known who it is.
        camera: its number, if there is one.
        part: None where nobody has split the people.
        where: how a message names it.
        tracklet: a name in composed form; empty where it is in none.
    """

    path: Path
    person: str
    camera: int | None
    part: Part | None
    where: str
    tracklet: str = ""


def looks_like(base: Path) -> bool:
    """Return whether a folder holds one folder a part."""
    return any((base / name).is_dir() for name in PARTS)


def looks_like_people(base: Path) -> bool:
    """Return whether a folder holds no images and at least two folders with images, directly or one deeper."""
    found = look_into(base)
    if any(is_image(name) for name in found.files):
        return False
    return sum(_holds_images(folder) for folder in subfolders(base)) >= 2


def _holds_images(folder: Path) -> bool:
    return any(is_image(name) for place in (folder, *subfolders(folder)) for name in _files(place))


def _files(folder: Path) -> list[str]:
    try:
        return look_into(folder).files
    except OSError:
        return []


@dataclass
class _Part:
    """What lies in one part's folder."""

    images: list[Image]
    astray: list[Path]  # images beside the people's folders
    special: list[Path]  # images by name that are no files
    passed_over: list[PassedOver]
    vanished: list[str]


def read(base: Path, layout: str | None) -> Reading:
    """Read train/PERSON/*.jpg and query/PERSON/*.jpg with gallery/PERSON/*.jpg, or PERSON/*.jpg.

    A person's images may lie in a folder a camera: PERSON/CAMERA/*.jpg.

    Args:
        base: the folder that holds them.
        layout: one of `LAYOUTS`, or None for what the folder looks like, with cameras.
    """
    layout = layout or ("folders" if looks_like(base) else "people")
    with_cameras = layout in _WITHOUT_CAMERAS
    split = layout in SPLIT_LAYOUTS
    places: dict[Part | None, Path] = {part: base / part for part in PARTS if (base / part).is_dir()}
    if not split:
        places = {None: base}
    cameras = _camera_folders(places.values()) if with_cameras else {}
    parts = {part: _read_part(folder, base, part, with_cameras, cameras) for part, folder in places.items()}
    images = [image for part in parts.values() for image in part.images]
    astray = [path for part in parts.values() for path in part.astray]
    problems = special_problems(base, [path for part in parts.values() for path in part.special])
    if astray:
        wanted = "train/PERSON/*.jpg, query/PERSON/*.jpg and gallery/PERSON/*.jpg" if split else "PERSON/*.jpg"
        text = (
            f"{base} must hold its images as {wanted}, "
            f"{counted(len(astray), 'lies', 'lie')} beside: {named([path.relative_to(base) for path in astray])}; "
            f"move {'it' if len(astray) == 1 else 'them'}"
        )
        problems.append(Problem("names", text, tuple(str(path) for path in astray)))
    for part, found in parts.items():
        if not found.images and not problems:
            text = (
                f"{places[part]} must hold one folder a person with images (.jpg, .png and others), found none; "
                "is it unpacked completely?"
            )
            problems.append(Problem("empty part", text))
    if with_cameras:
        problems += _camera_problems(base, images, _WITHOUT_CAMERAS[layout])
    notes = (f"cameras are the folders in each person's: {named(list(cameras))}",) if cameras else ()
    reading = assemble(base, layout, images, problems, notes, nobody=split)
    strays = [each for part in parts.values() for each in part.passed_over]
    vanished = [f"{part or 'folder'}: {person}" for part, found in parts.items() for person in found.vanished]
    others = beside(base, PARTS) if split else ()
    return reading._replace(passed_over=(*strays, *others), vanished=tuple(vanished))


def _camera_folders(places: Iterable[Path]) -> dict[str, int]:
    """Return the names of folders in people's folders that are cameras, each with its number.

    A name is a camera's if it says so (cam1, c2) or is a number, or, where no image lies beside such folders, if at
    least two people have it.
    """
    counts: Counter[str] = Counter()
    beside = False
    for place in places:
        for person in subfolders(place):
            beside = beside or any(map(is_image, _files(person)))
            counts.update(folder.name for folder in subfolders(person) if any(map(is_image, _files(folder))))
    said = {name: folder_camera(name) for name in counts}
    names = sorted(name for name, count in counts.items() if (count > 1 and not beside) or said[name] is not None)
    numbers = [said[name] for name in names]
    if None in numbers or len(set(numbers)) < len(numbers):
        return {name: number for number, name in enumerate(names, start=1)}
    return {name: number for name, number in zip(names, numbers, strict=True) if number is not None}


def _read_part(folder: Path, base: Path, part: Part | None, with_cameras: bool, cameras: Mapping[str, int]) -> _Part:
    people = look_into(folder)
    astray, others = ([name for name in people.files if is_image(name) == wanted] for wanted in (True, False))
    result = _Part(
        images=[],
        astray=[folder / name for name in astray],
        special=[folder / name for name in people.special if is_image(name)],
        passed_over=[
            *passed_over(folder, others, "file"),
            *passed_over(folder, (name for name in people.special if not is_image(name)), "special"),
        ],
        vanished=[],
    )
    there: dict[str, bool] = {}
    for name in people.folders:
        if is_litter(name):
            continue
        taken = _read_person(folder / name, base, part, with_cameras, cameras, result)
        person = composed(name)
        there[person] = there.get(person, False) or taken
    result.vanished += [person for person, taken in there.items() if not taken and person not in ("0", "-1")]
    return result


def _read_person(
    folder: Path, base: Path, part: Part | None, with_cameras: bool, cameras: Mapping[str, int], result: _Part
) -> bool:
    """Read one person's folder into `result`; returns False if it holds something and no image was taken."""
    person = composed(folder.name)
    deeper = [place for place in subfolders(folder) if place.name in cameras]
    found = look_into(folder)
    taken = 0
    strays: list[PassedOver] = []
    whole = True
    for place in (folder, *deeper):
        listing = found if place == folder else look_into(place)
        names = [name for name in listing.files if is_image(name)]
        for name in names:
            camera = cameras.get(place.name) if place != folder else camera_of(name) if with_cameras else None
            where = place.relative_to(base) / name
            result.images.append(Image(place / name, person, camera, part, where.as_posix(), tracklet_of(name)))
        special = [name for name in listing.special if is_image(name)]
        result.special += [place / name for name in special]
        taken += len(names) + len(special)
        inside = [name for name in listing.folders if place != folder or name not in cameras]
        whole = whole and not inside and len(names) == len(listing.files) and len(special) == len(listing.special)
        strays += [
            *passed_over(place, (name for name in listing.files if not is_image(name)), "file"),
            *passed_over(place, (name for name in listing.special if not is_image(name)), "special"),
            *(each for name in inside if not is_litter(name) for each in all_below(place / name, base)),
        ]
    if whole:
        if not taken:
            result.passed_over.append(PassedOver(folder, "empty"))
        return True
    result.passed_over += strays
    return taken > 0 or all(each.kind == "litter" for each in strays)


def _camera_problems(base: Path, images: Sequence[Image], otherwise: str) -> list[Problem]:
    """Stop where only some names give a camera, or where none does and most hold something like one."""
    without = [image for image in images if image.camera is None]
    names = {image.where: image.path.name for image in without}
    like = camera_like(list(names.values()))
    if len(without) < len(images):
        shown = [f"{where} ({like[name]})" if name in like else where for where, name in names.items()]
        text = f"{counted(len(without), f'of {len(images):,} has', f'of {len(images):,} have')} none: {named(shown)}"
    else:
        shown = [f"{where} ({like[name]})" for where, name in names.items() if name in like]
        text = f"{len(shown):,} of {len(images):,} have something else: {named(shown)}"
        if len(shown) * 2 <= len(images):
            return []
    if not without:
        return []
    advice = f"rename them, or read the set without cameras, {otherwise} with {LAYOUT_OPTION}"
    rule = f"file names in {base} must all give one camera, {_TOKENS}, or none"
    return [Problem("cameras", f"{rule}; {text}; {advice}", tuple(shown))]


def assemble(
    root: Path,
    layout: str,
    images: Sequence[Image],
    problems: Sequence[Problem],
    notes: tuple[str, ...],
    *,
    nobody: bool = True,
) -> Reading:
    """Number the people and, where there are none, the cameras; check what concerns the parts together.

    Args:
        root: the data set's.
        layout: what it is.
        images: as they were found; all of them have a part, or none has.
        problems: so far.
        notes: so far.
        nobody: whether the names 0 and -1 are distractors and junk, and no people.
    """
    problems = list(problems)
    ids = number_names((image.person for image in images), nobody=nobody)
    known = any(image.camera is not None for image in images) or not images
    cameras = _own_cameras(images) if not known else [image.camera or 0 for image in images]
    tracklets = _number_tracklets(images)
    parts = {}
    for part in PARTS:
        chosen = [i for i, image in enumerate(images) if (image.part or "train") == part]
        parts[part] = make_list(
            [images[i].path for i in chosen],
            [ids[images[i].person] for i in chosen],
            [cameras[i] for i in chosen],
            None if tracklets is None else [tracklets[i] for i in chosen],
        )
    if bool(len(parts["query"])) != bool(len(parts["gallery"])) and not problems:
        there, missing = ("query", "gallery") if len(parts["query"]) else ("gallery", "query")
        text = f"{root} must have query and gallery images or neither, it has {there} and no {missing}; add them"
        problems.append(Problem("half extracted", text))
    problems += people_problems(root, parts["train"], parts["query"], parts["gallery"])
    problems += distractor_problems(root, parts["train"], "number people from 1, or name them otherwise")
    junk = parts["gallery"].ids == JUNK
    trained = (parts["train"].ids > 0) | (parts["train"].ids == UNKNOWN)
    data = ReidData(
        root=root,
        layout=layout,
        train=parts["train"].where(trained),
        left_out=int((~trained).sum()),
        query=parts["query"],
        gallery=parts["gallery"].where(~junk),
        junk=int(junk.sum()),
        rendered=False,
        cameras_known=known,
        id_names={number: name for name, number in ids.items() if number > 0},
        title=root.resolve().name,
        notes=notes if known else (*notes, NO_CAMERAS),
    )
    return Reading(data, tuple(problems), unsplit=any(image.part is None and image.person for image in images))


def _number_tracklets(images: Sequence[Image]) -> list[int] | None:
    """Return a number for each tracklet of a person and camera in a part, and for each image that is in none."""
    if not any(image.tracklet for image in images):
        return None
    keys = [
        (i,) if not each.tracklet else (each.part, each.person, each.camera, each.tracklet)
        for i, each in enumerate(images)
    ]
    numbers: dict[tuple[object, ...], int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def _own_cameras(images: Iterable[Image]) -> list[int]:
    """Return a number for each different file, so that only a file itself is of the same camera."""
    files = [os.path.realpath(image.path) for image in images]
    numbers: list[int] = (np.unique(files, return_inverse=True)[1] + 1).tolist()
    return numbers
