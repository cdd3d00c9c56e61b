"""MSMT17 as it was released: a folder a person below train/ and test/ (v2: mask_train_v2/, mask_test_v2/), four lists.

A list's line is `0000/0000_000_01_0303morning_0008_0.jpg 0`: the path below train/ or test/ and the person. The name
says person, index, camera, date with time of day, frame and box. Ids of train and test both start at 0 and are
different people. Version 2 has the faces masked; scores differ by points, so the layout's name says which it is.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from attnreid.files import read_text
from reference_pipelines.data.layouts.published import PUBLISHED
from reference_pipelines.data.layouts.reading import (
    LAYOUT_OPTION,
    NUMBER,
    Problem,
    Reading,
    counted,
    make_list,
    named,
    separate_ids,
)
from reference_pipelines.data.layouts.scanning import PassedOver, all_below, beside, is_image, what_is
from reference_pipelines.data.names import composed
from reference_pipelines.data.records import ImageList, ReidData
from reference_pipelines.errors import UserError

VERSIONS = {"msmt17_v1": ("train", "test"), "msmt17_v2": ("mask_train_v2", "mask_test_v2")}
LIST_TRAIN_ALONE = "_list_train"  # the training images that APNet's released code uses: without list_val
LAYOUTS = (*VERSIONS, *(version + LIST_TRAIN_ALONE for version in VERSIONS))
LISTS = ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt")

_LINE = re.compile(rf"^(\S.*?)\s+({NUMBER})$")
_NAME = re.compile(rf"^({NUMBER})_({NUMBER})_({NUMBER})_[^/]*$")


@dataclass(frozen=True)
class _List:
    """One list file as far as it could be read."""

    images: ImageList
    problems: tuple[Problem, ...]


def looks_like(base: Path) -> bool:
    """Return whether a folder has this layout, or a part of it."""
    if any((base / name).is_file() for name in LISTS) or any((base / name).is_dir() for name in VERSIONS["msmt17_v2"]):
        return True
    return (base / "test").is_dir() and not (base / "query").is_dir() and not (base / "gallery").is_dir()


def read(base: Path, layout: str | None) -> Reading:
    """Read a folder of this layout.

    Args:
        base: the folder that holds the lists.
        layout: the version and the training lists; found by the folders when None, with both training lists.

    Raises:
        UserError: it holds both versions and none is chosen, or another version than `layout`.
    """
    found = [version for version, folders in VERSIONS.items() if any((base / name).is_dir() for name in folders)]
    asked = layout.removesuffix(LIST_TRAIN_ALONE) if layout else None
    if asked and found and asked not in found:
        raise UserError(
            f"data: {base} is not {layout}: it holds {' and '.join(VERSIONS[found[0]])}, which is {found[0]}; "
            "leave the layout out or choose that one"
        )
    if not asked and len(found) == 2:
        raise UserError(
            f"data: {base} holds both versions of MSMT17; choose msmt17_v1 or msmt17_v2 with {LAYOUT_OPTION}"
        )
    version = asked or (found[0] if found else "msmt17_v1")
    return _read_version(base, version, layout or version)


def _read_version(base: Path, version: str, layout: str) -> Reading:
    problems = _missing(base, version)
    below = {name: list(all_below(base / name, base / name)) for name in VERSIONS[version] if (base / name).is_dir()}
    train, test = VERSIONS[version]
    files = {name: _by_place(base / name, below.get(name, [])) for name in VERSIONS[version]}
    lists = {}
    for name, folder in zip(LISTS, (train, train, test, test), strict=True):
        if (base / name).is_file():
            lists[name] = _read_list(base / name, base / folder, files[folder])
            problems += lists[name].problems
    images = {name: found.images for name, found in lists.items()}
    nothing = make_list([], [], [])
    train_lists = [images.get(name, nothing) for name in LISTS[:2]]
    if layout.endswith(LIST_TRAIN_ALONE):
        train_lists.pop()
    (train_images, query, gallery), id_names = separate_ids(
        _joined(train_lists), images.get("list_query.txt", nothing), images.get("list_gallery.txt", nothing)
    )
    listed = {path for part in images.values() for path in part.paths}
    strays = [
        each._replace(kind="unlisted") if each.kind == "deep" else each
        for found in below.values()
        for each in found
        if each.path not in listed
    ]
    strays += beside(base, (name for folders in VERSIONS.values() for name in folders))
    data = ReidData(
        root=base,
        layout=layout,
        train=train_images,
        query=query,
        gallery=gallery,
        junk=0,
        rendered=False,
        id_names=id_names,
        title=PUBLISHED[layout].title,
    )
    return Reading(data, tuple(problems), tuple(strays))


def _missing(base: Path, version: str) -> list[Problem]:
    folders = [f"{name}/" for name in VERSIONS[version] if not (base / name).is_dir()]
    missing = [*folders, *(name for name in LISTS if not (base / name).is_file())]
    if not missing:
        return []
    wanted = ", ".join([*(f"{name}/" for name in VERSIONS[version]), *LISTS])
    text = (
        f"{base} must hold {wanted} ({PUBLISHED[version].title}), {' and '.join(missing)} missing; unpack it "
        "completely (data of your own goes to train/, query/ and gallery/)"
    )
    return [Problem("half extracted", text)]


def _by_place(folder: Path, found: list[PassedOver]) -> dict[str, Path]:
    """Return the files below a folder by their paths in it; one walk is faster than a look at every listed file."""
    start = len(str(folder)) + 1
    return {composed(str(path)[start:]).replace(os.sep, "/"): path for path, kind in found if kind == "deep"}


def _read_list(path: Path, folder: Path, files: Mapping[str, Path]) -> _List:
    """Read one list; a line that is wrong is left out and told."""
    faults: dict[str, list[str]] = {}
    paths, ids, cameras = [], [], []
    seen: set[str] = set()
    text = read_text(path, errors="surrogateescape").removeprefix("\ufeff")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        match = _LINE.match(line.strip())
        folders, _, file = match[1].rpartition("/") if match else ("", "", "")
        name = _NAME.match(file) if is_image(file) else None
        if match is None or name is None:
            faults.setdefault("lists", []).append(f"{where}: {line.strip()}")
            continue
        place, person = composed(match[1]), int(match[2])
        if int(name[1]) != person or _folder_id(folders) not in (None, person):
            faults.setdefault("contradiction", []).append(f"{where}: {line.strip()}")
        elif place not in files:
            there = folder / match[1]
            what = f" ({what_is(there)})" if os.path.lexists(there) else ""
            faults.setdefault("missing files", []).append(f"{where}: {folder.name}/{place}{what}")
        elif place in seen:
            faults.setdefault("repeated", []).append(f"{where}: {place}")
        else:
            seen.add(place)
            paths.append(files[place])
            ids.append(person)
            cameras.append(int(name[3]))
    problems = [_line_problem(path, kind, where) for kind, where in faults.items()]
    if not paths and not problems:
        problems.append(Problem("empty part", f"{path} must list images, it lists none; unpack the data set again"))
    return _List(make_list(paths, ids, cameras), tuple(problems))


def _folder_id(folders: str) -> int | None:
    folder = folders.rpartition("/")[2]
    return int(folder) if re.fullmatch(NUMBER, folder) else None


def _line_problem(path: Path, kind: str, where: list[str]) -> Problem:
    rules = {
        "lists": (
            "must have lines like '0000/0000_000_01_0303morning_0008_0.jpg 0'",
            ("does not parse", "do not parse"),
            "is the file damaged?",
        ),
        "contradiction": (
            "must give each image the person that its name says",
            ("contradicts the name", "contradict the name"),
            "take the list of the same release",
        ),
        "missing files": (
            "must list images that are there",
            ("names a file that is missing", "name files that are missing"),
            "unpack the data set completely",
        ),
        "repeated": (
            "must list each image once",
            ("repeats an image", "repeat an image"),
            "take the list of the release",
        ),
    }
    rule, found, advice = rules[kind]
    text = f"{path} {rule}, {counted(len(where), *found)}: {named(where)}; {advice}"
    return Problem(kind, text, tuple(where))


def _joined(lists: list[ImageList]) -> ImageList:
    return make_list(
        [path for each in lists for path in each.paths],
        [person for each in lists for person in each.ids.tolist()],
        [camera for each in lists for camera in each.cameras.tolist()],
    )
