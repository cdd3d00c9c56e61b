"""The user's own data: a CSV file that lists images, or a folder a person below train/, query/ and gallery/.

People may have any names; `0` and `-1`, spelt so, are distractors and junk as in Market-1501. Cameras may be left out,
of all images or of none.
"""

import csv
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reference_pipelines.data.layouts.reading import (
    IMAGE_ENDINGS,
    NUMBER,
    Problem,
    Reading,
    counted,
    distractor_problems,
    is_image,
    is_litter,
    make_list,
    named,
    number_names,
    people_problems,
)
from reference_pipelines.data.records import PARTS, Part, ReidData
from reference_pipelines.errors import UserError, closest

LAYOUTS = ("csv", "folders")
NO_CAMERAS = (
    "each image file counts as a camera of its own: a ranking leaves out nothing but the query's very own file, "
    "sampling prefers no camera, and purity by camera says nothing"
)

_COLUMNS = ("image", "id", "camera", "split")
_NEEDED = ("image", "id", "split")
# 0001_c3_000017.jpg, c3_17.png: a part of the name that is the letter c and a number, up to an underscore, s or dot.
# Names of random letters and digits, c3f9a1.jpg, thus give none.
_CAMERA = re.compile(rf"(?:^|_)c({NUMBER})(?=[_s.])", re.IGNORECASE)


@dataclass(frozen=True)
class _Image:
    path: Path
    person: str
    camera: int | None
    part: Part
    where: str  # how a message names it


def looks_like(base: Path) -> bool:
    """Return whether a folder holds one folder a part."""
    return any((base / name).is_dir() for name in PARTS)


def read_csv(path: Path) -> Reading:
    """Read a CSV file with the columns image, id, split and, if wanted, camera.

    Args:
        path: the file; images are named relative to its folder, or absolutely.

    Raises:
        UserError: it is no such file.
        OSError: it cannot be read.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            header = [name.strip() for name in next(rows, [])]
            _check_header(path, header)
            numbered = [(rows.line_num, row) for row in rows if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"data: {path} must be a CSV file in UTF-8, it does not parse ({error}); save it as one"
        ) from None
    images, faults = _read_rows(path, header, numbered)
    problems = []
    if faults:
        lines = counted(len(faults), "wrong line", "wrong lines")
        text = f"{path} has {lines}: {named(faults)}; correct {'it' if len(faults) == 1 else 'them'}"
        problems.append(Problem("rows", text, tuple(faults)))
    elif not images:
        problems.append(Problem("empty part", f"{path} must list images below its header, it lists none; add lines"))
    extra = [name for name in header if name not in _COLUMNS]
    notes = (f"columns passed over: {', '.join(extra)}",) if extra else ()
    return _assemble(path, "csv", images, problems, (), notes)


def _check_header(path: Path, header: Sequence[str]) -> None:
    missing = [name for name in _NEEDED if name not in header]
    if missing or len(set(header)) < len(header):
        fault = f"{' and '.join(missing)} missing" if missing else "a column comes twice"
        hint = next((hint for name in header if name not in _COLUMNS and (hint := closest(name, missing))), "")
        raise UserError(
            f"data: {path} line 1 must name the columns image,id,camera,split (camera may be left out), got "
            f"{','.join(header) or 'nothing'}: {fault}{hint}"
        )


def _read_rows(
    path: Path, header: Sequence[str], rows: Iterable[tuple[int, Sequence[str]]]
) -> tuple[list[_Image], list[str]]:
    """Return the images, and what is wrong with the other lines."""
    images: list[_Image] = []
    faults: list[str] = []
    seen: dict[tuple[str, str], str] = {}
    for number, row in rows:
        where = f"line {number}"
        if len(row) != len(header):
            faults.append(f"{where}: {len(header)} values are needed, got {len(row)}")
            continue
        values = {name: cell.strip() for name, cell in zip(header, row, strict=True)}
        file = path.parent / values["image"]
        fault = _row_fault(values, file)
        first = seen.setdefault((values["split"], values["image"]), where)
        if not fault and first != where:
            fault = f"the image {values['image']} is in {values['split']} already, by {first}"
        if fault:
            faults.append(f"{where}: {fault}")
            continue
        part = next(part for part in PARTS if part == values["split"])
        camera = values.get("camera", "")
        images.append(_Image(file, values["id"], int(camera) if camera else None, part, where))
    return images, faults


def _row_fault(values: dict[str, str], file: Path) -> str:
    camera = values.get("camera", "")
    if not values["image"]:
        return "the image is missing"
    if not values["id"]:
        return "the id is missing"
    if values["split"] not in PARTS:
        return f"split must be train, query or gallery, got {values['split']!r}"
    if camera and not (camera.isascii() and re.fullmatch(NUMBER, camera)):
        return f"camera must be a whole number from 0 on with at most 18 digits, got {camera!r}"
    if not os.path.isfile(file):  # unlike Path.is_file, also answers for a name too long or a locked folder
        return f"there is no image {file}"
    return ""


def read(base: Path, layout: str | None) -> Reading:
    """Read train/PERSON/*.jpg and query/PERSON/*.jpg with gallery/PERSON/*.jpg.

    Args:
        base: the folder that holds them.
        layout: "folders", or None for the same.
    """
    images: list[_Image] = []
    passed_over: list[Path] = []
    astray: list[Path] = []
    for part in PARTS:
        if not (base / part).is_dir():
            continue
        for person in sorted((base / part).iterdir()):
            if is_litter(person) or not person.is_dir():
                (astray if is_image(person) else passed_over).append(person)
                continue
            for path in sorted(person.iterdir()):
                if not is_image(path) or path.is_dir():
                    passed_over.append(path)
                    continue
                camera = _CAMERA.search(path.name)
                where = str(path.relative_to(base))
                images.append(_Image(path, person.name, int(camera[1]) if camera else None, part, where))
    problems = []
    if astray:
        text = (
            f"{base} must hold its images as train/PERSON/*.jpg, query/PERSON/*.jpg and gallery/PERSON/*.jpg, "
            f"{counted(len(astray), 'lies', 'lie')} beside: {named([path.relative_to(base) for path in astray])}; "
            f"move {'it' if len(astray) == 1 else 'them'}"
        )
        problems.append(Problem("names", text, tuple(str(path) for path in astray)))
    taken = {image.part for image in images}
    for part in PARTS:
        if (base / part).is_dir() and part not in taken and not astray:
            text = (
                f"{base / part} must hold one folder a person with images ({', '.join(IMAGE_ENDINGS)}), found none; "
                "is it unpacked completely?"
            )
            problems.append(Problem("empty part", text))
    return _assemble(base, "folders", images, problems, passed_over, ())


def _assemble(
    root: Path,
    layout: str,
    images: Sequence[_Image],
    problems: Sequence[Problem],
    passed_over: Sequence[Path],
    notes: tuple[str, ...],
) -> Reading:
    """Number the people and, where there are none, the cameras; check what concerns the parts together."""
    problems = list(problems)
    ids = number_names(image.person for image in images)
    without = [image for image in images if image.camera is None]
    known = len(without) < len(images) or not images
    if known and without:
        text = (
            f"{root} must give a camera for every image or for none, "
            f"{counted(len(without), f'of {len(images):,} has', f'of {len(images):,} have')} none: "
            f"{named([image.where for image in without])}; add the cameras or leave out all of them"
        )
        problems.append(Problem("cameras", text, tuple(image.where for image in without)))
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
    return Reading(data, tuple(problems), tuple(passed_over))


def _own_cameras(images: Sequence[_Image]) -> list[int]:
    """Return a number for each different file, so that only a file itself is of the same camera."""
    files = [os.path.realpath(image.path) for image in images]
    numbers: list[int] = (np.unique(files, return_inverse=True)[1] + 1).tolist()
    return numbers
