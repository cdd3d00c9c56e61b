"""The user's own data as folders: a folder a person below train/, query/ and gallery/.

People may have any names; `0` and `-1`, spelt so, are distractors and junk as in Market-1501. Cameras may be left out,
of all images or of none.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reference_pipelines.data.layouts.cameras import camera_like, camera_of
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
)
from reference_pipelines.data.names import composed
from reference_pipelines.data.records import PARTS, Part, ReidData

WITHOUT_CAMERAS = "folders_no_cameras"
LAYOUTS = ("folders", WITHOUT_CAMERAS)
NO_CAMERAS = (
    "each image file counts as a camera of its own: a ranking leaves out nothing but the query's very own file, "
    "sampling prefers no camera, and purity by camera says nothing"
)
_TOKENS = "c1, c01, c1s1, cam1 or camera_1 by itself"
_SHOWN = 3


@dataclass(frozen=True)
class Image:
    """One image as a folder or a table gives it; `person` is a name in composed form."""

    path: Path
    person: str
    camera: int | None
    part: Part
    where: str  # how a message names it


def looks_like(base: Path) -> bool:
    """Return whether a folder holds one folder a part."""
    return any((base / name).is_dir() for name in PARTS)


@dataclass
class _Part:
    """What lies in one part's folder."""

    images: list[Image]
    astray: list[Path]  # images beside the people's folders
    special: list[Path]  # images by name that are no files
    passed_over: list[PassedOver]
    vanished: list[str]


def read(base: Path, layout: str | None) -> Reading:
    """Read train/PERSON/*.jpg and query/PERSON/*.jpg with gallery/PERSON/*.jpg.

    Args:
        base: the folder that holds them.
        layout: "folders", None for the same, or "folders_no_cameras".
    """
    with_cameras = layout != WITHOUT_CAMERAS
    parts = {part: _read_part(base, part, with_cameras) for part in PARTS if (base / part).is_dir()}
    images = [image for part in parts.values() for image in part.images]
    astray = [path for part in parts.values() for path in part.astray]
    problems = special_problems(base, [path for part in parts.values() for path in part.special])
    if astray:
        text = (
            f"{base} must hold its images as train/PERSON/*.jpg, query/PERSON/*.jpg and gallery/PERSON/*.jpg, "
            f"{counted(len(astray), 'lies', 'lie')} beside: {named([path.relative_to(base) for path in astray])}; "
            f"move {'it' if len(astray) == 1 else 'them'}"
        )
        problems.append(Problem("names", text, tuple(str(path) for path in astray)))
    for part, found in parts.items():
        if not found.images and not problems:
            text = (
                f"{base / part} must hold one folder a person with images (.jpg, .png and others), found none; "
                "is it unpacked completely?"
            )
            problems.append(Problem("empty part", text))
    if with_cameras:
        problems += _camera_problems(base, images)
    reading = assemble(base, layout or "folders", images, problems, ())
    strays = [each for part in parts.values() for each in part.passed_over]
    vanished = [f"{part}: {person}" for part, found in parts.items() for person in found.vanished]
    return reading._replace(passed_over=(*strays, *beside(base, PARTS)), vanished=tuple(vanished))


def _read_part(base: Path, part: Part, with_cameras: bool) -> _Part:
    folder = base / part
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
        taken = _read_person(folder / name, base, part, with_cameras, result)
        person = composed(name)
        there[person] = there.get(person, False) or taken
    result.vanished += [person for person, taken in there.items() if not taken and person not in ("0", "-1")]
    return result


def _read_person(folder: Path, base: Path, part: Part, with_cameras: bool, result: _Part) -> bool:
    """Read one person's folder into `result`; returns False if it holds something and no image was taken."""
    found = look_into(folder)
    person = composed(folder.name)
    taken = [name for name in found.files if is_image(name)]
    for name in taken:
        camera = camera_of(name) if with_cameras else None
        result.images.append(Image(folder / name, person, camera, part, f"{part}/{folder.name}/{name}"))
    special = [name for name in found.special if is_image(name)]
    result.special += [folder / name for name in special]
    if len(taken) == len(found.files) and len(special) == len(found.special) and not found.folders:
        if not taken and not special:
            result.passed_over.append(PassedOver(folder, "empty"))
        return True
    strays = [
        *passed_over(folder, (name for name in found.files if not is_image(name)), "file"),
        *passed_over(folder, (name for name in found.special if not is_image(name)), "special"),
        *(each for name in found.folders if not is_litter(name) for each in all_below(folder / name, base)),
    ]
    result.passed_over += strays
    return bool(taken or special) or all(each.kind == "litter" for each in strays)


def _camera_problems(base: Path, images: Sequence[Image]) -> list[Problem]:
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
    advice = f"rename them, or read the set without cameras, {WITHOUT_CAMERAS} with {LAYOUT_OPTION}"
    rule = f"file names in {base} must all give one camera, {_TOKENS}, or none"
    return [Problem("cameras", f"{rule}; {text}; {advice}", tuple(shown))]


def assemble(
    root: Path, layout: str, images: Sequence[Image], problems: Sequence[Problem], notes: tuple[str, ...]
) -> Reading:
    """Number the people and, where there are none, the cameras; check what concerns the parts together."""
    problems = list(problems)
    ids = number_names(image.person for image in images)
    known = any(image.camera is not None for image in images) or not images
    cameras = _own_cameras(images) if not known else [image.camera or 0 for image in images]
    parts = {}
    for part in PARTS:
        chosen = [i for i, image in enumerate(images) if image.part == part]
        parts[part] = make_list(
            [images[i].path for i in chosen], [ids[images[i].person] for i in chosen], [cameras[i] for i in chosen]
        )
    if bool(len(parts["query"])) != bool(len(parts["gallery"])) and not problems:
        there, missing = ("query", "gallery") if len(parts["query"]) else ("gallery", "query")
        text = f"{root} must have query and gallery images or neither, it has {there} and no {missing}; add them"
        problems.append(Problem("half extracted", text))
    problems += people_problems(root, parts["train"], parts["query"], parts["gallery"])
    problems += distractor_problems(root, parts["train"], "number people from 1, or name them otherwise")
    junk = parts["gallery"].ids == -1
    data = ReidData(
        root=root,
        layout=layout,
        train=parts["train"].where(parts["train"].ids > 0),
        left_out=int((parts["train"].ids <= 0).sum()),
        query=parts["query"],
        gallery=parts["gallery"].where(~junk),
        junk=int(junk.sum()),
        rendered=False,
        cameras_known=known,
        id_names={number: name for name, number in ids.items() if number > 0},
        title=root.resolve().name,
        notes=notes if known else (*notes, NO_CAMERAS),
    )
    return Reading(data, tuple(problems))


def _own_cameras(images: Iterable[Image]) -> list[int]:
    """Return a number for each different file, so that only a file itself is of the same camera."""
    files = [os.path.realpath(image.path) for image in images]
    numbers: list[int] = (np.unique(files, return_inverse=True)[1] + 1).tolist()
    return numbers
