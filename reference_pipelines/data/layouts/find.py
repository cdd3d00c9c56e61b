"""Finds where a data set lies and which one it is, by content, and reads it."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

from reference_pipelines.data.layouts import msmt17, own, three_folders
from reference_pipelines.data.layouts.published import PUBLISHED
from reference_pipelines.data.layouts.reading import LAYOUT_OPTION, ROOT_OPTION, Reading, is_litter, named, subfolders
from reference_pipelines.data.records import PARTS, ReidData
from reference_pipelines.errors import UserError, closest

LAYOUTS = tuple(sorted({*three_folders.LAYOUTS, *msmt17.LAYOUTS, *own.LAYOUTS}))

_FAMILIES: tuple[ModuleType, ...] = (three_folders, msmt17, own)
_PART_FOLDERS = {
    *three_folders.FOLDERS,
    *(name for folders in msmt17.VERSIONS.values() for name in folders),
    *PARTS,
}
_RAW_CUHK03 = "cuhk-03.mat"
_SHOWN = 6


def read(root: str | Path, layout: str | None = None) -> ReidData:
    """Read a data set; nothing is decoded yet. A part that its layout leaves out is empty.

    Args:
        root: the data set's folder, one in it or up to two above, or a CSV file.
        layout: one of `LAYOUTS`, or None to find it by content.

    Raises:
        UserError: there is no data set, several, or another one than `layout`; it is not whole; no query has a match.
    """
    data, problems, _ = examine(root, layout)
    if problems:
        more = len(problems) - 1
        also = f" ({more} more: python -m reference_pipelines data verify {data.root})" if more else ""
        raise UserError(f"data: {problems[0].text}{also}")
    if len(data.query) and not data.match_counts().any():
        raise UserError(
            f"data: some query of {data.root} must have a gallery image of the same person from another camera, "
            f"none has; {data.why_no_match()}"
        )
    difference = _difference(data)
    return replace(data, notes=(*data.notes, difference)) if difference else data


def _difference(data: ReidData) -> str:
    """Say in the printed line that a public data set is not the published one; `data verify` says more."""
    published = PUBLISHED.get(data.layout)
    if published is None or data.rendered:
        return ""
    whole = {part: getattr(published, part) for part in PARTS}
    if all(len(data.part(part)) == count for part, count in whole.items()):
        return ""
    counts = ", ".join(f"{part} {count:,}" for part, count in whole.items())
    return f"these are not the published counts, {counts}: see data verify"


def examine(root: str | Path, layout: str | None = None) -> Reading:
    """Read a data set as far as it can be read, and tell what is wrong with it.

    Args:
        root: as in `read`.
        layout: as in `read`.

    Raises:
        UserError: there is no data set, or several, or another one than `layout`, or it cannot be read.
    """
    root = Path(root).expanduser()
    try:
        return _examine(root, layout)
    except OSError as error:
        raise UserError(
            f"data: cannot read {error.filename or root} ({error.strerror}); check its name and permissions"
        ) from None


def _examine(root: Path, layout: str | None) -> Reading:
    if layout is not None and layout not in LAYOUTS:
        raise UserError(
            f"data: there is no layout {layout!r}; leave it out to find it by content, or choose one of "
            f"{', '.join(LAYOUTS)}{closest(layout, LAYOUTS)}"
        )
    if root.is_file():
        return own.read_csv(_csv_file(root, layout))
    if not root.is_dir():
        raise UserError(f"data: {root} is not a folder; give the data set's folder with {ROOT_OPTION}")
    if layout == "csv":
        raise UserError(f"data: the layout csv needs a CSV file, {root} is a folder; give the file with {ROOT_OPTION}")
    base = _choose(root, _candidates(root), layout)
    family = _family(base)
    if family is None or (layout and layout not in family.LAYOUTS):
        raise UserError(
            f"data: {base} is not {layout}: it looks like {_identify(base) or 'another layout'}; "
            "leave the layout out to find it by content"
        )
    reading: Reading = family.read(base, layout)
    return reading


def _csv_file(root: Path, layout: str | None) -> Path:
    if root.name == _RAW_CUHK03:
        raise UserError(_raw_cuhk03(root))
    if layout not in (None, "csv") or (layout is None and root.suffix.lower() != ".csv"):
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
    raw = [*root.glob(_RAW_CUHK03), *root.glob(f"*/{_RAW_CUHK03}")]
    if raw:
        return _raw_cuhk03(raw[0])
    entries = sorted(path.name for path in root.iterdir() if not is_litter(path))
    if not entries:
        return f"data: {root} must hold a data set, it is empty; give the data set's folder with {ROOT_OPTION}"
    tables = [path for path in sorted(root.iterdir()) if path.suffix.lower() == ".csv"]
    hint = f"; to read its CSV file, give {tables[0]}" if tables else ""
    return (
        f"data: {root} must hold {', '.join(three_folders.FOLDERS)} (Market-1501 and its relatives), the lists of "
        f"MSMT17, or train, query and gallery with a folder a person, found {named(entries)}{hint}; "
        f"give the data set's folder with {ROOT_OPTION}"
    )


def _raw_cuhk03(path: Path) -> str:
    return (
        f"data: {path} is the raw release of CUHK03, which is not read here: get the CUHK03-NP folders "
        "(detected and labeled, the new protocol's split), or cut the images out and list them in a CSV file"
    )
