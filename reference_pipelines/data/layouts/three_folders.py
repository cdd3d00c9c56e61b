"""The Market-1501 layout and its relatives: bounding_box_train, query and bounding_box_test, ids and cameras in names.

Market-1501, DukeMTMC-reID, Occluded-Duke, CUHK03-NP, PersonX, MSMT17 as some repack it, the rendered pedestrians, and
any other set in this form. They are told apart by the form of their names, their cameras and, where those agree, by
the number of images.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from attnreid.files import read_json
from reference_pipelines.data.layouts.published import PUBLISHED, Counts
from reference_pipelines.data.layouts.reading import (
    LAYOUT_OPTION,
    NUMBER,
    Problem,
    Reading,
    counted,
    distractor_problems,
    make_list,
    named,
    people_problems,
    separate_ids,
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
from reference_pipelines.data.records import PARTS, ImageList, ReidData
from reference_pipelines.errors import UserError

FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
VERI_FOLDERS = ("image_train", "image_query", "image_test")
MANIFEST = "rendered.json"  # what the renderer writes beside its images
_TRAIN, _QUERY, _TEST = FOLDERS
_RELEASED_BESIDE = ("gt_bbox", "gt_query")  # Market-1501's hand-drawn boxes, which nothing here needs

Form = Literal["market", "duke", "plain"]
_ALL: tuple[Form, ...] = ("market", "duke", "plain")

# Which forms of names each layout may have. CUHK03-NP, PersonX and repacked MSMT17 circulate with several.
FORMS: dict[str, tuple[Form, ...]] = {
    "market1501": ("market",),
    "dukemtmc": ("duke",),
    "occluded_duke": ("duke",),
    "cuhk03_np_detected": ("market", "plain"),
    "cuhk03_np_labeled": ("market", "plain"),
    "personx": ("market", "plain"),
    "msmt17_repacked": _ALL,
    "msmt17_v1": _ALL,
    "msmt17_v2": _ALL,
    "three_folders": _ALL,
}
LAYOUTS = tuple(FORMS)

_EXAMPLE = "0002_c1s1_000451_03.jpg"  # person, camera, sequence, frame, box
# Some sets have two-digit cameras and no sequence; sets of one's own may spell the camera out.
_NAME = re.compile(rf"^(-1|{NUMBER})_(?:c|cam(?:era)?[_-]?)({NUMBER})(?=\D|$)", re.IGNORECASE)
_MARKET = re.compile(r"^-?\d+_c\d+s\d", re.IGNORECASE)
_DUKE = re.compile(r"^-?\d+_c\d+_f\d", re.IGNORECASE)

_DUKES = ("dukemtmc", "occluded_duke")
_CUHK03 = ("cuhk03_np_detected", "cuhk03_np_labeled")
_HALVES = {"detected": _CUHK03[0], "labeled": _CUHK03[1], "labelled": _CUHK03[1]}
_CAMERAS = {
    "personx": {3, 4, 8, 10, 11, 12},
    **{layout: {1, 2} for layout in _CUHK03},
    **{layout: set(range(1, 16)) for layout in ("msmt17_repacked", "msmt17_v1", "msmt17_v2")},
}


@dataclass(frozen=True)
class _Folder:
    """One of the three folders as it lies there."""

    images: ImageList
    unnamed: tuple[Path, ...]  # images whose names do not parse
    special: tuple[Path, ...]  # images by name that are no files
    passed_over: tuple[PassedOver, ...]


@dataclass(frozen=True)
class _Choice:
    layout: str
    note: str = ""


def looks_like(base: Path) -> bool:
    """Return whether a folder has this layout, or a part of it."""
    if _veri(base):
        return True
    if (base / _TRAIN).is_dir() or (base / _TEST).is_dir():
        return True
    others = ("train", "test", "gallery", "list_query.txt", "mask_test_v2")
    return (base / _QUERY).is_dir() and not any((base / name).exists() for name in others)


def _veri(base: Path) -> bool:
    """Return whether the folders are called as VeRi-776 calls them."""
    return any((base / name).is_dir() for name in VERI_FOLDERS)


def read(base: Path, layout: str | None) -> Reading:
    """Read a folder of this layout.

    Args:
        base: the folder that holds the three.
        layout: which data set it is; found by its content when None.

    Raises:
        UserError: it cannot be told which data set it is, or it is not `layout`.
    """
    veri = _veri(base)
    places = dict(zip(FOLDERS, VERI_FOLDERS if veri else FOLDERS, strict=True))
    folders = {name: _read_folder(base / place, base) for name, place in places.items() if (base / place).is_dir()}
    images = {name: folders[name].images if name in folders else make_list([], [], []) for name in FOLDERS}
    found = _Choice("three_folders", "folders named like VeRi's") if veri else None
    choice = _check(base, layout, images) if layout else found or _identify(base, images)
    problems = _problems(base, folders, places)
    manifest = _manifest(base)
    id_names: dict[int, str] = {}
    if choice.layout.startswith("msmt17"):
        parts, id_names = separate_ids(*images.values())
        images = dict(zip(images, parts, strict=True))
    problems += people_problems(base, *images.values())
    if choice.layout == "three_folders":
        problems += distractor_problems(base, images[_TRAIN], "number people from 1")
    everything = images[_TEST]
    junk = everything.ids == -1
    data = ReidData(
        root=base,
        layout=choice.layout,
        train=images[_TRAIN].where(images[_TRAIN].ids > 0),
        left_out=int((images[_TRAIN].ids <= 0).sum()),
        query=images[_QUERY],
        gallery=everything.where(~junk),
        junk=int(junk.sum()),
        rendered=manifest is not None,
        id_names=id_names,
        title=_title(base, choice.layout, manifest),
        notes=(choice.note,) if choice.note else (),
    )
    strays = [each for folder in folders.values() for each in folder.passed_over]
    strays += beside(base, (*places.values(), *_RELEASED_BESIDE))
    return Reading(data, tuple(problems), tuple(strays), _vanished(folders))


def _vanished(folders: dict[str, _Folder]) -> tuple[str, ...]:
    """Return the people whom the names of what was passed over name, and no image that was taken."""
    vanished = []
    for part, name in zip(PARTS, FOLDERS, strict=True):
        if name not in folders:
            continue
        matches = (_NAME.match(each.path.name) for each in folders[name].passed_over)
        there = set(folders[name].images.ids.tolist())
        missing = {int(match[1]) for match in matches if match} - there
        vanished += [f"{part}: {person:04d}" for person in sorted(missing) if person > 0]
    return tuple(vanished)


def rendered_counts(base: Path) -> Counts | None:
    """Return the counts that the renderer wrote beside its images, None where they cannot be read."""
    counts = (_manifest(base) or {}).get("counts", {})
    try:
        return Counts(
            title="rendered.json",
            train=counts["train_images"],
            train_ids=counts["train_ids"],
            query=counts["query_images"],
            query_ids=counts["test_ids"],
            gallery=counts["gallery_images"] + counts["distractors"],
            gallery_ids=counts["test_ids"],
            cameras=counts["cameras"],
            junk=counts["junk"],
        )
    except (KeyError, TypeError):
        return None


def _read_folder(folder: Path, base: Path) -> _Folder:
    found = look_into(folder)
    matches: list[re.Match[str]] = []
    unnamed: list[Path] = []
    others: list[str] = []
    for name in found.files:
        match = _NAME.match(name)
        if not is_image(name):
            others.append(name)
        elif match:
            matches.append(match)
        else:
            unnamed.append(folder / name)
    images = make_list(
        [folder / match.string for match in matches],
        [int(match[1]) for match in matches],
        [int(match[2]) for match in matches],
    )
    strays = [*passed_over(folder, others, "file")]
    strays += passed_over(folder, (name for name in found.special if not is_image(name)), "special")
    for name in found.folders:
        if not is_litter(name):
            strays += all_below(folder / name, base)
    special = tuple(folder / name for name in found.special if is_image(name))
    return _Folder(images, tuple(unnamed), special, tuple(strays))


def _problems(base: Path, folders: dict[str, _Folder], places: dict[str, str]) -> list[Problem]:
    problems = []
    missing = [place for name, place in places.items() if name not in folders]
    if missing:
        wanted = ", ".join(places.values())
        text = f"{base} must hold the folders {wanted}, {' and '.join(missing)} missing; unpack it completely"
        problems.append(Problem("half extracted", text))
    problems += special_problems(base, [path for folder in folders.values() for path in folder.special])
    for name, folder in folders.items():
        if folder.unnamed:
            wrong = named([path.name for path in folder.unnamed])
            text = (
                f"images in {base / places[name]} must be named with person and camera like {_EXAMPLE}, "
                f"{counted(len(folder.unnamed), 'is', 'are')} not: {wrong}; rename or remove "
                f"{'it' if len(folder.unnamed) == 1 else 'them'}"
            )
            problems.append(Problem("names", text, tuple(str(path) for path in folder.unnamed)))
        elif not len(folder.images) and not folder.special:
            text = (
                f"{base / places[name]} must hold images named like {_EXAMPLE}, found none; is the archive unpacked "
                "completely?"
            )
            problems.append(Problem("empty part", text))
    return problems


def _form(images: dict[str, ImageList]) -> Form:
    """Return the form that most names have."""
    paths = [path.name for part in images.values() for path in part.paths]
    for form, pattern in (("market", _MARKET), ("duke", _DUKE)):
        if sum(bool(pattern.match(name)) for name in paths) * 2 > len(paths):
            return form  # type: ignore[return-value]
    return "plain"


def _check(base: Path, layout: str, images: dict[str, ImageList]) -> _Choice:
    """Refuse a layout that the names, the cameras, the counts or the renderer's manifest contradict."""
    if contradiction := _contradiction(base, layout, images):
        raise UserError(
            f"data: {base} is not {layout}: {contradiction}; leave the layout out to find it by content, or say "
            "three_folders for a set of your own"
        )
    for alike in (_DUKES, _CUHK03):
        found = _cuhk03_half(base) if alike == _CUHK03 else None
        found = found or by_counts(alike, *_sizes(images))
        if layout in alike and found not in (None, layout):
            raise UserError(f"data: {base} is not {layout}: it is {found}; leave the layout out or choose that one")
    if layout in ("msmt17_v1", "msmt17_v2"):
        return _Choice(layout, "repacked in three folders, the version is taken as given")
    return _Choice(layout)


def _contradiction(base: Path, layout: str, images: dict[str, ImageList]) -> str:
    """Return what in the folder cannot be of this layout, "" where nothing contradicts it."""
    taken = [part for part in images.values() if len(part)]
    if (base / MANIFEST).is_file() and layout not in ("market1501", "three_folders"):
        return f"its {MANIFEST} says that it is rendered"
    if taken and _form(images) not in FORMS[layout]:
        return f"its files are named like {taken[0].paths[0].name}"
    allowed = _CAMERAS.get(layout)
    if allowed and (others := _cameras(images) - allowed):
        cameras = named(sorted(allowed), len(allowed))
        return f"{PUBLISHED[layout].title} has cameras {cameras}, this set has {named(sorted(others))} too"
    if layout.startswith("msmt17") and any((part.ids == -1).any() for part in taken):
        return "it has images of id -1, and MSMT17 has no junk"
    return ""


def _cameras(images: dict[str, ImageList]) -> set[int]:
    return {int(camera) for part in images.values() for camera in np.unique(part.cameras)}


def _sizes(images: dict[str, ImageList]) -> tuple[int, int, int]:
    return len(images[_TRAIN]), len(images[_QUERY]), int((images[_TEST].ids != -1).sum())


def _identify(base: Path, images: dict[str, ImageList]) -> _Choice:
    """Tell which data set it is."""
    if (base / MANIFEST).is_file():
        return _Choice("market1501")
    form = _form(images)
    cameras = _cameras(images)
    if form == "duke":
        return _tell_duke_apart(base, by_counts(_DUKES, *_sizes(images)))
    if cameras and cameras <= _CAMERAS["personx"] and max(cameras) >= 8:
        return _Choice("personx")
    if form == "market":
        return _Choice("market1501")
    if cameras == {1, 2}:
        counted = by_counts(_CUHK03, *_sizes(images))
        if counted or base.name.lower() in _HALVES or _all_png(images):
            return _tell_cuhk03_apart(base, counted)
    counted_from_0 = 0 in images[_TRAIN].ids or 0 in images[_QUERY].ids
    whole = len(cameras) == len(_CAMERAS["msmt17_repacked"])
    if (counted_from_0 or whole) and not _contradiction(base, "msmt17_repacked", images):
        note = "MSMT17 repacked: its content does not tell version 1 from 2, whose scores differ by points"
        return _Choice("msmt17_repacked", f"{note}; say msmt17_v1 or msmt17_v2 with {LAYOUT_OPTION}")
    return _Choice("three_folders", "no public data set that is known here")


def by_counts(layouts: Sequence[str], train: int, query: int, gallery: int) -> str | None:
    """Return the one of `layouts` that has so many images in a part in which the layouts differ, or None."""
    for layout in layouts:
        others = [PUBLISHED[other] for other in layouts if other != layout]
        for part, found in (("train", train), ("query", query), ("gallery", gallery)):
            if found == getattr(PUBLISHED[layout], part) and all(getattr(other, part) != found for other in others):
                return layout
    return None


def _tell_duke_apart(base: Path, counted: str | None) -> _Choice:
    """Return which of the two sets with Duke's names it is: by the counts, else by the folder's name."""
    if counted:
        return _Choice(counted)
    if "occ" in base.name.lower():
        return _Choice("occluded_duke", f"taken for Occluded-Duke by the folder's name {base.name}")
    return _Choice("dukemtmc", "DukeMTMC-reID and Occluded-Duke have the same names, taken for the former")


def _tell_cuhk03_apart(base: Path, counted: str | None) -> _Choice:
    """Return which half of CUHK03-NP it is: by the name that the release gives its folder, else by the counts."""
    layout = _cuhk03_half(base) or counted
    if layout is None:
        raise UserError(
            f"data: {base} looks like a half of CUHK03-NP, and neither its name nor its counts tell which; "
            f"choose cuhk03_np_detected or cuhk03_np_labeled (three_folders for any other set) with {LAYOUT_OPTION}"
        )
    return _Choice(layout)


def _all_png(images: dict[str, ImageList]) -> bool:
    """Return whether all images are PNG files, as in the release; of copies in another format it says nothing."""
    return all(path.suffix.lower() == ".png" for part in images.values() for path in part.paths)


def _cuhk03_half(base: Path) -> str | None:
    return next((layout for word, layout in _HALVES.items() if word in base.name.lower()), None)


def _manifest(base: Path) -> dict[str, Any] | None:
    """Return the renderer's manifest, {} where it is not readable as one, None where there is none."""
    path = base / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = read_json(path)
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _title(base: Path, layout: str, manifest: dict[str, Any] | None) -> str:
    """Return how tables call the data set; one of the user's own by its folder."""
    if manifest is not None:
        found = manifest.get("parameters")
        parameters = found if isinstance(found, dict) else {}
        occluded = ", occluded" if parameters.get("occluded") else ""
        return f"rendered {parameters.get('domain', 'pedestrians')}{occluded}"
    return PUBLISHED[layout].title if layout in PUBLISHED else base.resolve().name
