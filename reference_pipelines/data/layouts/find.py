"""Finds where a data set lies and which one it is, by content, and reads it."""

import os
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from reference_pipelines.config.sections import HALVES, PeopleSplit
from reference_pipelines.data.layouts import msmt17, own, photographs, table, three_folders
from reference_pipelines.data.layouts.published import PUBLISHED, Counts, differences, title_of
from reference_pipelines.data.layouts.reading import LAYOUT_OPTION, ROOT_OPTION, Problem, Reading, named
from reference_pipelines.data.layouts.scanning import Finder, is_litter, said, subfolders, what_is
from reference_pipelines.data.names import printable
from reference_pipelines.data.records import PARTS, ReidData
from reference_pipelines.data.splitting import split_people
from reference_pipelines.errors import UserError, closest

LAYOUTS = tuple(sorted({*three_folders.LAYOUTS, *msmt17.LAYOUTS, *own.LAYOUTS, *photographs.LAYOUTS, *table.LAYOUTS}))

_FAMILIES: tuple[ModuleType, ...] = (three_folders, msmt17, own)
_PART_FOLDERS = {
    *three_folders.FOLDERS,
    *three_folders.VERI_FOLDERS,
    *(name for folders in msmt17.VERSIONS.values() for name in folders),
    *PARTS,
}
_UNSPLIT_LAYOUTS = (*own.PEOPLE_LAYOUTS, *photographs.LAYOUTS)
_TABLES = (".csv", ".tsv")
_RAW_CUHK03 = "cuhk-03.mat"
_SHOWN = 6


def read(root: str | Path, layout: str | None = None, split: PeopleSplit = HALVES) -> ReidData:
    """Read a data set; nothing is decoded yet. A part that its layout leaves out is empty.

    Args:
        root: the data set's folder, one in it or up to two above, or a CSV file.
        layout: one of `LAYOUTS`, or None to find it by content.
        split: of people whom the data set does not split.

    Raises:
        UserError: there is no data set, several, or another one than `layout`; it is not whole; no query has a match.
    """
    reading = examine(root, layout, split)
    data, problems = reading.data, reading.problems
    if problems:
        more = len(problems) - 1
        also = f" ({more} more: python -m reference_pipelines data verify {data.root})" if more else ""
        raise UserError(f"data: {problems[0].text}{also}")
    if len(data.query) and not data.match_counts().any():
        raise UserError(
            f"data: some query of {data.root} must have a gallery image of the same person from another camera, "
            f"none has; {data.why_no_match()}"
        )
    notes = [note for note in (_difference(data), _passed_over(reading)) if note]
    return replace(data, notes=(*data.notes, *notes))


def holds_data_set(root: Path) -> bool:
    """Return whether a path is a file, or a folder that looks like a data set with parts, whole or not."""
    return root.is_file() or bool(root.is_dir() and _candidates(root))


def _difference(data: ReidData) -> str:
    """Say in the printed line that a public or rendered data set is not the whole one; `data verify` says more."""
    whole = _whole(data)
    if whole is None or not differences(data, whole):
        return ""
    counts = ", ".join(f"{part} {getattr(whole, part):,}" for part in PARTS)
    kind = "rendered" if data.rendered else "published"
    return f"these are not the {kind} counts, {counts}: see data verify"


def _whole(data: ReidData) -> Counts | None:
    """Return the counts that a data set should have, None where nothing says them."""
    return three_folders.rendered_counts(data.root) if data.rendered else PUBLISHED.get(data.layout)


def retitled(data: ReidData) -> ReidData:
    """Return a data set with the title that its counts allow."""
    return replace(data, title=title_of(data, _whole(data)))


def _passed_over(reading: Reading) -> str:
    """Say in the printed line what lies in the folders and was not taken."""
    what = said(reading.passed_over)
    if not what:
        return ""
    people = len(reading.vanished)
    nobody = f"; {people:,} {'people have' if people > 1 else 'person has'} nothing else" if people else ""
    return f"passed over: {what}{nobody}: see data verify"


def examine(root: str | Path, layout: str | None = None, split: PeopleSplit = HALVES) -> Reading:
    """Read a data set as far as it can be read, and tell what is wrong with it.

    Args:
        root: as in `read`.
        layout: as in `read`.
        split: as in `read`.

    Raises:
        UserError: there is no data set, or several, or another one than `layout`, or it cannot be read.
    """
    root = Finder().find(Path(root).expanduser())
    try:
        reading = _examine(root, layout)
    except OSError as error:
        raise UserError(
            f"data: cannot read {error.filename or root} ({error.strerror}); check its name and permissions"
        ) from None
    data = split_people(reading.data, split) if reading.unsplit else reading.data
    return reading._replace(data=retitled(data), problems=(*_path_problems(root), *reading.problems))


def _path_problems(root: Path) -> list[Problem]:
    """Refuse a path that is no text: names in the data set may be anything, but a config has to hold the root."""
    shown = printable(str(root))
    if shown == str(root):
        return []
    text = (
        f"the path {shown} must be in UTF-8, since a run's config holds it, and it has other bytes; rename the folder, "
        "or give a link to it with another name"
    )
    return [Problem("path", text)]


def _examine(root: Path, layout: str | None) -> Reading:
    if layout is not None and layout not in LAYOUTS:
        raise UserError(
            f"data: there is no layout {layout!r}; leave it out to find it by content, or choose one of "
            f"{', '.join(LAYOUTS)}{closest(layout, LAYOUTS)}"
        )
    if root.is_file():
        return table.read(_table_file(root, layout))
    if not root.is_dir():
        raise UserError(_no_folder(root))
    if layout == "csv":
        raise UserError(f"data: the layout csv needs a CSV file, {root} is a folder; give the file with {ROOT_OPTION}")
    bases = _candidates(root) if layout not in _UNSPLIT_LAYOUTS else []
    unsplit = None if bases else _unsplit_family(root, layout)
    if unsplit is not None:
        return _read_by(unsplit, root, layout)
    base = _choose(root, bases, layout)
    family = _family(base)
    if family is None or (layout and layout not in family.LAYOUTS):
        raise UserError(
            f"data: {base} is not {layout}: it looks like {_identify(base) or 'another layout'}; "
            "leave the layout out to find it by content"
        )
    return _read_by(family, base, layout)


def _read_by(family: ModuleType, base: Path, layout: str | None) -> Reading:
    reading: Reading = family.read(base, layout)
    return reading


def _unsplit_family(root: Path, layout: str | None) -> ModuleType | None:
    """Return who reads a folder without parts: people in folders, photographs, or nobody."""
    if layout in photographs.LAYOUTS:
        return photographs
    if layout in own.PEOPLE_LAYOUTS:
        return own
    if layout is not None or any(root.glob("*.[ct]sv")) or _raw_cuhk03_in(root):
        return None
    return photographs if photographs.looks_like(root) else own if own.looks_like_people(root) else None


def _no_folder(root: Path) -> str:
    """Say that there is nothing of this name, with the names nearest to it, or what it is instead."""
    wanted = "file" if root.suffix.lower() in _TABLES else "folder"
    if os.path.lexists(root):
        return f"data: {root} is not a {wanted}, it is {what_is(root)}; give the data set's {wanted} with {ROOT_OPTION}"
    around = root.parent
    if not around.is_dir():
        return f"data: there is no {wanted} {root}, nor the folder {around}; give the data set's with {ROOT_OPTION}"
    near = closest(root.name, os.listdir(around))
    return f"data: there is no {wanted} {root}; give the data set's {wanted} with {ROOT_OPTION}{near}"


def _table_file(root: Path, layout: str | None) -> Path:
    if root.name == _RAW_CUHK03:
        raise UserError(_raw_cuhk03(root))
    if layout not in (None, "csv") or (layout is None and root.suffix.lower() not in _TABLES):
        wanted = f"a folder for the layout {layout}" if layout else "a folder or a .csv file"
        raise UserError(f"data: {root} must be {wanted}, it is a file of another kind; is the archive unpacked?")
    return root


def _family(base: Path) -> ModuleType | None:
    """Return the first family whose layout a folder has, or has a part of."""
    return next((family for family in _FAMILIES if family.looks_like(base)), None)


def _candidates(root: Path) -> list[Path]:
    """Return the folders nearest to `root` that look like a data set: itself, below, or the one that it is a part of.

    Archives nest their folder, and people unpack them into one of the same name. The one around comes last: a folder
    called test may as well be the user's own.
    """
    around = [root.parent] if root.resolve().name in _PART_FOLDERS else []
    for level in ([root], subfolders(root), (below for each in subfolders(root) for below in subfolders(each)), around):
        found = [base for base in level if _family(base)]
        if found:
            return found
    return []


def _choose(root: Path, bases: list[Path], layout: str | None) -> Path:
    """Return the one folder to read.

    Raises:
        UserError: there is none, or more than one that could be meant.
    """
    if not bases:
        raise UserError(_nothing_found(root))
    if len(bases) == 1:
        return bases[0]
    known = {base: _identify(base) for base in bases[:_SHOWN]}
    meant = [base for base, found in known.items() if layout and found and layout.startswith(found)]
    if len(meant) == 1:
        return meant[0]
    listed = ", ".join(f"{base.relative_to(root)} ({found or 'unclear'})" for base, found in known.items())
    several = ", ..." if len(bases) > _SHOWN else ""
    layouts = sorted({found for found in known.values() if found})
    chosen = f"choose {' or '.join(layouts)} with {LAYOUT_OPTION}, or give" if len(layouts) == len(bases) else "give"
    raise UserError(
        f"data: {root} holds {len(bases)} data sets: {listed}{several}; {chosen} one's folder with {ROOT_OPTION}"
    )


def _identify(base: Path) -> str | None:
    family = _family(base)
    try:
        return family.read(base, None).data.layout if family else None
    except UserError:
        return None


def _nothing_found(root: Path) -> str:
    if raw := _raw_cuhk03_in(root):
        return _raw_cuhk03(raw[0])
    entries = sorted(path.name for path in root.iterdir() if not is_litter(path.name))
    if not entries:
        return f"data: {root} must hold a data set, it is empty; give the data set's folder with {ROOT_OPTION}"
    tables = [root / name for name in entries if name.lower().endswith(_TABLES)]
    hint = f"; to read its CSV file, give {tables[0]}" if tables else ""
    return (
        f"data: {root} must hold {', '.join(three_folders.FOLDERS)} (Market-1501 and its relatives), the lists of "
        "MSMT17, train, query and gallery with a folder a person, a folder a person, or images, found "
        f"{named(entries)}{hint}; give the data set's folder with {ROOT_OPTION}"
    )


def _raw_cuhk03_in(root: Path) -> list[Path]:
    return [*root.glob(_RAW_CUHK03), *root.glob(f"*/{_RAW_CUHK03}")]


def _raw_cuhk03(path: Path) -> str:
    return (
        f"data: {path} is the raw release of CUHK03, which is not read here: get the CUHK03-NP folders "
        "(detected and labeled, the new protocol's split), or cut the images out and list them in a CSV file"
    )
