"""The user's own data as a table: a CSV file that lists images, with commas, semicolons or tabs between the values.

Of its columns, image, id, camera, split and tracklet, only the first must be there. Without ids, or where a line of
train has none, it is not known who is seen; without a split the people are split by the reader.
"""

import codecs
import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from attnreid.files import read_bytes
from reference_pipelines.data.layouts.own import Image, assemble
from reference_pipelines.data.layouts.reading import NUMBER, Problem, Reading, counted, named
from reference_pipelines.data.layouts.scanning import Finder, what_is
from reference_pipelines.data.names import composed
from reference_pipelines.data.records import PARTS
from reference_pipelines.errors import UserError, closest

LAYOUTS = ("csv",)

_COLUMNS = ("image", "id", "camera", "split", "tracklet")
_NEEDED = ("image",)
_NEVER_MISSPELT = ("image", "id", "split")  # read as something else without a word where they are not found
_SEPARATORS = (",", ";", "\t")
# Whole numbers as programs write them whose columns have gaps: 1.0, or 1,0 where the comma is a point.
_WHOLE = re.compile(rf"(-?{NUMBER})[.,]0+", re.ASCII)
_BEGINNING = 1000  # bytes
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read(path: Path) -> Reading:
    """Read a table.

    Args:
        path: the file; images are named relative to its folder, or absolutely.

    Raises:
        UserError: it is no such file.
        OSError: it cannot be read.
    """
    text = _text(path)
    separator = _separator(text)
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        header = [name.strip() for name in next(rows, [])]
        columns = _columns(path, header, separator)
        numbered = [(rows.line_num, row) for row in rows if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UserError(f"data: {path} must be a CSV file, it does not parse ({error}); save it as one") from None
    images, faults = _read_rows(path, columns, numbered)
    problems = []
    if faults:
        found = counted(len(faults), "wrong line", "wrong lines")
        text = f"{path} has {found}: {named(faults)}; correct {'it' if len(faults) == 1 else 'them'}"
        problems.append(Problem("rows", text, tuple(faults)))
    elif not images:
        problems.append(Problem("empty part", f"{path} must list images below its header, it lists none; add lines"))
    problems += _camera_problems(path, images)
    extra = [name or "(no name)" for name, column in zip(header, columns, strict=True) if column not in _COLUMNS]
    notes = [f"columns passed over: {', '.join(extra)}"] if extra else []
    if "id" not in columns:
        notes.append("it has no column id: nobody is labelled")
    return assemble(path, "csv", images, problems, tuple(notes))


def _text(path: Path) -> str:
    """Return a file's text.

    Raises:
        UserError: it is not in UTF-8; the sentence names what it seems to be in.
    """
    content = read_bytes(path)
    if content.startswith(_UTF16) or b"\0" in content[:_BEGINNING]:
        raise UserError(f'data: {path} must be in UTF-8, it seems to be in UTF-16; save it as "CSV UTF-8"')
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"data: {path} must be in UTF-8, line {line} has the byte 0x{content[error.start]:02X}, which is none: "
            'it seems to be in Windows-1252 (cp1252) or another encoding of one byte; save it as "CSV UTF-8"'
        ) from None


def _separator(text: str) -> str:
    """Return what stands between the columns' names in the first line; the values may hold anything."""
    header = re.split(r"[\r\n]", text, maxsplit=1)[0]

    def known(separator: str) -> int:
        return sum(name.strip(' "').lower() in _COLUMNS for name in header.split(separator))

    return max(_SEPARATORS, key=known)


def _columns(path: Path, header: Sequence[str], separator: str) -> list[str]:
    """Return the columns' names in lower case.

    Raises:
        UserError: one is missing, or there twice.
    """
    columns = [name.lower() for name in header]
    twice = [name for name in _COLUMNS if columns.count(name) > 1]
    others = [name for name in columns if name not in _COLUMNS]
    absent = [name for name in _NEVER_MISSPELT if name not in columns]
    meant = {name: other for name in absent for other in others if other and closest(other, [name])}
    missing = [name for name in absent if name in _NEEDED or name in meant]
    if missing or twice:
        named_so = [f"{name} (is it {meant[name]!r}?)" if name in meant else name for name in missing]
        fault = f"{' and '.join(named_so)} missing" if missing else f"the column {twice[0]} comes twice"
        raise UserError(
            f"data: {path} line 1 must name the columns image,id,camera,split,tracklet (all but image may be left out) "
            f"with commas, semicolons or tabs between them, got {separator.join(header) or 'nothing'}: {fault}"
        )
    return columns


def _read_rows(
    path: Path, columns: Sequence[str], rows: Iterable[tuple[int, Sequence[str]]]
) -> tuple[list[Image], list[str]]:
    """Return the images, and what is wrong with the other lines."""
    images: list[Image] = []
    faults: list[str] = []
    seen: dict[tuple[str, str], str] = {}
    finder, folder = Finder(), path.parent
    for number, row in rows:
        where = f"line {number}"
        if len(row) != len(columns):
            faults.append(f"{where}: {len(columns)} values are needed, got {len(row)}")
            continue
        cells = {name: cell.strip() for name, cell in zip(columns, row, strict=True)}
        values = {
            "image": cells["image"],
            "id": _whole(cells.get("id", "")),
            "camera": _whole(cells.get("camera", "")),
            "split": cells.get("split", "train" if "id" not in columns else "").lower(),
        }
        file = finder.find(folder / values["image"])
        fault = _row_fault(values, file, split="split" in columns)
        first = seen.setdefault((values["split"], os.path.normpath(file)), where)
        if not fault and first != where:
            fault = f"the image {values['image']} is in {values['split']} already, by {first}"
        if fault:
            faults.append(f"{where}: {fault}")
            continue
        part = next((part for part in PARTS if part == values["split"]), None)
        camera = int(values["camera"]) if values["camera"] else None
        tracklet = composed(_whole(cells.get("tracklet", "")))
        images.append(Image(file, composed(values["id"]), camera, part, where, tracklet))
    return images, faults


def _whole(value: str) -> str:
    """Return a whole number without the point and noughts behind it, anything else as it is."""
    match = _WHOLE.fullmatch(value)
    return match[1] if match else value


def _row_fault(values: dict[str, str], file: Path, *, split: bool) -> str:
    camera = values["camera"]
    if not values["image"]:
        return "the image is missing"
    if not values["id"] and values["split"] in PARTS[1:]:
        return f"the id is missing, which only an image of train may be without, and this is one of {values['split']}"
    if split and values["split"] not in PARTS:
        near = closest(values["split"], PARTS)
        return f"split must be train, query or gallery, got {values['split']!r}{near}"
    if camera and not (camera.isascii() and re.fullmatch(NUMBER, camera)):
        return f"camera must be a whole number from 0 on with at most 18 digits, got {camera!r}"
    if not os.path.isfile(file):  # unlike Path.is_file, also answers for a name too long or a locked folder
        return f"{file} is no image, it is {what_is(file)}" if os.path.lexists(file) else f"there is no image {file}"
    return ""


def _camera_problems(path: Path, images: Sequence[Image]) -> list[Problem]:
    without = tuple(image.where for image in images if image.camera is None)
    if len(without) in (0, len(images)):
        return []
    text = (
        f"{path} must give a camera for every image or for none, "
        f"{counted(len(without), f'of {len(images):,} has', f'of {len(images):,} have')} none: {named(without)}; "
        "add the cameras or leave out all of them"
    )
    return [Problem("cameras", text, without)]
