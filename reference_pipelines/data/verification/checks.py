"""The checks of `data verify`, each from a data set to what is wrong with it."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reference_pipelines.data.decoding import find_corrupt, holds_image
from reference_pipelines.data.layouts import Counts, Reading
from reference_pipelines.data.layouts.published import differences
from reference_pipelines.data.layouts.reading import counted
from reference_pipelines.data.layouts.scanning import PassedOver, said
from reference_pipelines.data.records import PARTS, ImageList, Part, ReidData
from reference_pipelines.data.verification.result import Finding, PartCounts, Severity
from reference_pipelines.progress import progress_bar

_Place = tuple[Part, int]  # a part and an index in it


def check_passed_over(reading: Reading) -> list[Finding]:
    """Find people and images that are missing from the parts because of where they lie or how they are called."""
    findings = []
    if reading.vanished:
        text = f"{counted(len(reading.vanished), 'person has', 'people have')} nothing but what is passed over"
        findings.append(Finding("error", "vanished", text, reading.vanished))
    images, others = [], []
    for each in reading.passed_over:
        kind = each.kind
        if kind in ("file", "deep", "litter") and each.path.is_file() and holds_image(each.path):
            images.append(each)
        elif kind != "litter":
            others.append(each)
    if images:
        text = (
            f"{counted(len(images), 'image is', 'images are')} passed over ({said(images) or 'hidden'}); let their "
            "names end like an image's, .jpg, and move them to the others, or remove them"
        )
        findings.append(Finding("error", "passed over", text, _places(images)))
    if others:
        findings.append(Finding("note", "passed over", said(others), _places(others)))
    return findings


def _places(found: Sequence[PassedOver]) -> tuple[str, ...]:
    return tuple(f"{each.path}{'/' * each.path.is_dir()}" for each in found)


def count_parts(data: ReidData, expected: Counts | None) -> tuple[PartCounts, ...]:
    """Return what each part has beside what it should have."""
    counts = []
    for name in PARTS:
        images = data.part(name)
        cameras = dict(sorted(Counter(images.cameras.tolist()).items())) if data.cameras_known else None
        counts.append(
            PartCounts(
                part=name,
                images=len(images),
                ids=len(images.people()),
                cameras=cameras,
                distractors=int((images.ids == 0).sum()),
                junk=data.junk if name == "gallery" else 0,
                expected_images=getattr(expected, name, None),
                expected_ids=getattr(expected, f"{name}_ids", None),
            )
        )
    return tuple(counts)


def check_counts(data: ReidData, expected: Counts) -> list[Finding]:
    """Find numbers of images, people, cameras or junk that are not those of the whole data set."""
    wrong = differences(data, expected)
    if not wrong:
        return []
    other = "; if it is a set of your own in these folders, say --layout three_folders"
    advice = "render it again" if data.rendered else "it is not whole, or another version"
    hint = other if data.layout in ("market1501", "personx", "msmt17_repacked") and not data.rendered else ""
    return [Finding("error", "counts", f"these are not the counts of {expected.title}: {advice}{hint}", wrong)]


def check_parts(data: ReidData) -> list[Finding]:
    """Find parts without which something cannot be done with the data set, and images that train leaves out."""
    findings = []
    if data.left_out:
        findings.append(Finding("note", "left out", f"{data.left_out_note()}; only people are trained on"))
    if not len(data.train):
        findings.append(Finding("note", "parts", "there is no train part; the data set is for evaluation only"))
    elif not data.train.known.any():
        text = "nobody in train is labelled; mla learns from such images, apnet does not"
        findings.append(Finding("note", "no labels", text))
    elif len(data.train.people()) < 2:
        findings.append(Finding("error", "parts", "train has images of one id only; training needs at least two"))
    if not len(data.query) and not len(data.gallery):
        text = "there are no query and gallery parts; training has no scores without them (--data.test names others)"
        findings.append(Finding("note", "parts", text))
    return findings


def check_people(data: ReidData) -> list[Finding]:
    """Find people who are in the wrong parts, or of whom there are too few images or cameras."""
    train, query, gallery = (set(data.part(name).people().tolist()) for name in PARTS)
    findings = []
    if shared := train & (query | gallery):
        text = f"{_ids(shared)} both in train and in query or gallery; scores would be of people trained on"
        findings.append(Finding("error", "shared ids", text, _named(data, shared)))
    if gallery and (missing := query - gallery):
        text = f"{_ids(missing)} in query and not in gallery; are the two of one data set?"
        findings.append(Finding("error", "query ids", text, _named(data, missing)))
    if once := {person for person, images in _images_of(data.train).items() if images == 1}:
        found = counted(len(once), "id has", "ids have")
        text = f"{found} one image in train; a batch repeats it, which is no pair to learn from"
        findings.append(Finding("note", "one image", text, _named(data, once)))
    if data.cameras_known:
        findings += _check_cameras(data, query & gallery)
    return findings + _check_matches(data, query & gallery)


def _check_cameras(data: ReidData, tested: set[int]) -> list[Finding]:
    findings = []
    if alone := _seen_by_one([data.train]):
        text = f"{_ids(alone)} of one camera only in train; that teaches nothing across cameras"
        findings.append(Finding("note", "one camera", text, _named(data, alone)))
    if alone := _seen_by_one([data.query, data.gallery]) & tested:
        text = f"{_ids(alone)} of one camera only in query and gallery; no match is across cameras"
        findings.append(Finding("note", "one camera", text, _named(data, alone)))
    return findings


def _check_matches(data: ReidData, tested: set[int]) -> list[Finding]:
    """Find queries without a valid match whose person is in the gallery."""
    matches = data.match_counts()
    lost = [i for i in np.flatnonzero(matches == 0).tolist() if int(data.query.ids[i]) in tested]
    findings = []
    if lost:
        verb, them = ("has", "it") if len(lost) == 1 else ("have", "them")
        text = f"{len(lost):,} of {len(matches):,} queries {verb} no match from another camera; scores leave {them} out"
        items = tuple(str(data.query.paths[i]) for i in lost)
        findings.append(Finding("note", "no match", text, items))
    if len(matches) and not matches.any():
        why = data.why_no_match()
        text = f"no query has a gallery image of the same person from another camera; nothing can be evaluated: {why}"
        findings.append(Finding("error", "no match", text))
    return findings


def _seen_by_one(parts: Sequence[ImageList]) -> set[int]:
    cameras = defaultdict(set)
    for part in parts:
        for person, camera in zip(part.ids.tolist(), part.cameras.tolist(), strict=True):
            cameras[person].add(camera)
    return {person for person, seen in cameras.items() if person > 0 and len(seen) == 1}


def _images_of(images: ImageList) -> Counter[int]:
    return Counter(images.ids.tolist())


def _ids(people: set[int]) -> str:
    return counted(len(people), "id is", "ids are")


def _named(data: ReidData, people: set[int]) -> tuple[str, ...]:
    return tuple(data.id_name(person) for person in sorted(people))


def check_files(data: ReidData, *, workers: int) -> list[Finding]:
    """Decode every image that is used, so no junk, and find those that are empty or do not decode.

    Args:
        data: as read.
        workers: processes that decode; 0 decodes in this one.
    """
    paths = list(dict.fromkeys(path for name in PARTS for path in data.part(name).paths))
    empty = [path for path in paths if _size(path) == 0]
    findings = []
    if empty:
        what = counted(len(empty), "image file is", "image files are")
        text = f"{what} of zero size; unpack or copy {'it' if len(empty) == 1 else 'them'} again"
        findings.append(Finding("error", "zero size", text, tuple(str(path) for path in empty)))
    hollow = set(empty)
    if corrupt := find_corrupt([path for path in paths if path not in hollow], workers=workers):
        what = counted(len(corrupt), "image file does", "image files do")
        them = "it" if len(corrupt) == 1 else "them"
        text = f"{what} not decode; replace or remove {them}, or train with --data.skip_corrupt true"
        findings.append(Finding("error", "unreadable", text, tuple(f"{path} ({reason})" for path, reason in corrupt)))
    return findings


def _size(path: Path) -> int | None:
    """Return a file's size, None where it cannot be looked at: that it does not decode says why."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def check_duplicates(data: ReidData, *, split: bool = False) -> list[Finding]:
    """Find files of the same content, and tell those that falsify training or scores from those that do not.

    Args:
        data: as read.
        split: whether the reader has split the people, and so put every query into the gallery too.
    """
    places: dict[Path, list[_Place]] = defaultdict(list)
    for name in PARTS:
        for index, path in enumerate(data.part(name).paths):
            places[path].append((name, index))
    groups = same_content(list(places))
    if not split:
        groups += [[path] for path, found in places.items() if len(found) > 1 and _size(path)]
    sorted_groups: dict[str, list[str]] = defaultdict(list)
    for group in groups:
        kind = _duplicate_kind(data, [place for path in group for place in places[path]])
        sorted_groups[kind].append(" = ".join(str(path) for path in group))
    return [
        Finding(
            severity,
            "duplicates",
            f"{counted(len(items), 'image is', 'images are')} {text}",
            tuple(items),
        )
        for kind, (severity, text) in _DUPLICATES.items()
        if (items := sorted_groups.get(kind, []))
    ]


_DUPLICATES: dict[str, tuple[Severity, str]] = {
    "leak": ("error", "both in train and in query or gallery; scores would be of images trained on"),
    "people": ("error", "there under two ids; one of them is wrong"),
    "cameras": ("error", "there under two cameras; one of them is wrong"),
    "free": ("error", "both in query and in gallery without a camera; the copy is a match that costs nothing"),
    "harmless": ("note", "there more than once, with one label; nothing is wrong, only counted twice"),
}


def _duplicate_kind(data: ReidData, places: Sequence[_Place]) -> str:
    """Return what the copies of one image in these places do."""
    parts = {part for part, _ in places}
    people = {int(data.part(part).ids[index]) for part, index in places}
    cameras = {int(data.part(part).cameras[index]) for part, index in places}
    if "train" in parts and len(parts) > 1:
        return "leak"
    if len(people) > 1:
        return "people"
    if len(cameras) > 1 and data.cameras_known:
        return "cameras"
    return "free" if len(cameras) > 1 and len(parts) > 1 else "harmless"


def same_content(paths: Sequence[Path]) -> list[list[Path]]:
    """Return the groups of two or more files whose content is the same and not empty, in the paths' order."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in paths:
        if size := _size(path):
            by_size[size].append(path)
    alike = [path for group in by_size.values() if len(group) > 1 for path in group]
    by_content: dict[bytes, list[Path]] = defaultdict(list)
    with progress_bar(alike, len(alike), "comparing files", unit="file") as bar:
        for path in bar:
            try:
                with open(path, "rb") as file:
                    by_content[hashlib.file_digest(file, "sha256").digest()].append(path)
            except OSError:  # it does not decode either, which says why
                continue
    order = {path: index for index, path in enumerate(paths)}
    return sorted((group for group in by_content.values() if len(group) > 1), key=lambda group: order[group[0]])
