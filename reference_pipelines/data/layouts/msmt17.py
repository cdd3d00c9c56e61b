"""MSMT17 as it was released: a folder a person below train/ and test/ (v2: mask_train_v2/, mask_test_v2/), four lists.

A list's line is `0000/0000_000_01_0303morning_0008_0.jpg 0`: the path below train/ or test/ and the person. The name
says person, index, camera, date with time of day, frame and box. Ids of train and test both start at 0 and are
different people. Version 2 has the faces masked; scores differ by points, so the layout's name says which it is.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from reference_pipelines.data.layouts.published import PUBLISHED
from reference_pipelines.data.layouts.reading import (
    LAYOUT_OPTION,
    NUMBER,
    Problem,
    Reading,
    counted,
    is_image,
    make_list,
    named,
    separate_ids,
)
from reference_pipelines.data.records import ImageList, ReidData
from reference_pipelines.errors import UserError

VERSIONS = {"msmt17_v1": ("train", "test"), "msmt17_v2": ("mask_train_v2", "mask_test_v2")}
LIST_TRAIN_ALONE = "_list_train"  # the training images that APNet's released code uses: without list_val
LAYOUTS = (*VERSIONS, *(version + LIST_TRAIN_ALONE for version in VERSIONS))
LISTS = ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt")

_LINE = re.compile(rf"^(\S.*?)\s+({NUMBER})$")
_NAME = re.compile(rf"^({NUMBER})_({NUMBER})_({NUMBER})_[^/]*\.(?:jpe?g|png)$", re.IGNORECASE)


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
    files = {name: _files_below(base / name) for name in VERSIONS[version]}
    train, test = VERSIONS[version]
    below = dict(zip(LISTS, (train, train, test, test), strict=True))
    lists = {}
    for name, folder in below.items():
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
    unlisted = tuple(
        base / folder / place
        for folder in files
        for place in sorted(files[folder])
        if base / folder / place not in listed
    )
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
    return Reading(data, tuple(problems), unlisted)


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


def _files_below(folder: Path) -> set[str]:
    """Return the files below a folder, by their paths in it; one walk is faster than a look at every listed file."""
    files: set[str] = set()
    for place, _, names in os.walk(folder):
        below = os.path.relpath(place, folder).replace(os.sep, "/")
        files.update(name if below == "." else f"{below}/{name}" for name in names)
    return files


def _read_list(path: Path, folder: Path, files: set[str]) -> _List:
    """Read one list; a line that is wrong is left out and told."""
    faults: dict[str, list[str]] = {}
    paths, ids, cameras = [], [], []
    seen: set[str] = set()
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        match = _LINE.match(line.strip())
        name = _NAME.match(Path(match[1]).name) if match else None
        if match is None or name is None:
            faults.setdefault("lists", []).append(f"{where}: {line.strip()}")
            continue
        place, person = match[1], int(match[2])
        if int(name[1]) != person or _folder_id(place) not in (None, person):
            faults.setdefault("contradiction", []).append(f"{where}: {line.strip()}")
        elif place not in files or not is_image(Path(place)):
            faults.setdefault("missing files", []).append(f"{where}: {folder.name}/{place}")
        elif place in seen:
            faults.setdefault("repeated", []).append(f"{where}: {place}")
        else:
            seen.add(place)
            paths.append(folder / place)
            ids.append(person)
            cameras.append(int(name[3]))
    problems = [_line_problem(path, kind, where) for kind, where in faults.items()]
    if not paths and not problems:
        problems.append(Problem("empty part", f"{path} must list images, it lists none; unpack the data set again"))
    return _List(make_list(paths, ids, cameras), tuple(problems))


def _folder_id(place: str) -> int | None:
    folder = Path(place).parent.name
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
