"""What lies in a folder, in one look that opens nothing, and what is passed over."""

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from reference_pipelines.data.formats import ending, has_image_ending
from reference_pipelines.data.names import composed

Kind = Literal["litter", "file", "deep", "beside", "unlisted", "special", "folder", "empty"]

_LITTER = {
    *("__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini"),
}
_TEXTS = ("readme", "license", "licence")


class PassedOver(NamedTuple):
    """Something in a data set's folders that was not taken.

    Args:
        path: the file or folder.
        kind: "litter" of systems and archives, as which readmes and licences count too; "file" without the ending of
            an image; "deep", a file in a folder below that of its person or part; "beside" the parts; "unlisted", a
            file that no list names; "special", neither file nor folder; "folder" that was not looked into; "empty"
            folder of a person.
    """

    path: Path
    kind: Kind


class Listing(NamedTuple):
    """What lies in a folder by name, in the order of the names.

    Args:
        files: files, links to them too.
        folders: folders, links to them too.
        special: neither, such as a link to nothing or a pipe, which must not be opened.
    """

    files: list[str]
    folders: list[str]
    special: list[str]


def look_into(folder: Path) -> Listing:
    """List a folder.

    Raises:
        OSError: it cannot be listed.
    """
    found = Listing([], [], [])
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                names = found.files if entry.is_file() else found.folders if entry.is_dir() else found.special
            except OSError:  # a link to itself, or into a folder that is locked
                names = found.special
            names.append(entry.name)
    for names in found:
        names.sort(key=composed)
    return found


def what_is(path: Path) -> str:
    """Return what stands where a file should: a link to nothing, a pipe, a folder."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return f"a link to nothing, {os.strerror(error.errno or 0)}" if path.is_symlink() else str(error.strerror)
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for holds, name in kinds if holds(mode)), "a device")


def is_litter(name: str) -> bool:
    """Return whether systems and archives leave files or folders of this name: ._*, .DS_Store, __MACOSX, Thumbs.db."""
    return name.startswith(".") or name.lower() in _LITTER


def is_image(name: str) -> bool:
    """Return whether a name is that of an image that the readers take."""
    return has_image_ending(name) and not is_litter(name)


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder by name, without litter; none where it cannot be listed."""
    try:
        return [folder / name for name in look_into(folder).folders if not is_litter(name)]
    except OSError:
        return []


def passed_over(folder: Path, names: Iterable[str], kind: Kind) -> Iterator[PassedOver]:
    """Give names of one folder a kind, litter its own."""
    for name in names:
        text = name.lower().startswith(_TEXTS) and not is_image(name)
        yield PassedOver(folder / name, "litter" if is_litter(name) or text else kind)


def all_below(folder: Path, base: Path) -> Iterator[PassedOver]:
    """Go through everything in a folder that is not one of the data set's, deeper ones too.

    Links are followed out of the data set, each folder once, and never back into it.

    Args:
        folder: where to begin.
        base: the data set's own folder, or the part of it that `folder` is.
    """
    home = os.path.realpath(base)
    seen: set[str] = set()
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        real = os.path.realpath(place)
        inside = os.path.commonpath([home, real])
        into = place != base and place.is_symlink() and inside in (home, real)
        try:
            found = None if into or real in seen else look_into(place)
        except OSError:
            found = None
        if found is None:
            yield PassedOver(place, "folder")
            continue
        seen.add(real)
        yield from passed_over(place, found.files, "deep")
        yield from passed_over(place, found.special, "special")
        waiting += [place / name for name in reversed(found.folders) if not is_litter(name)]


def images_below(folder: Path) -> tuple[Path, ...]:
    """Return the images in a folder and in the folders in it, in the order of their names, each folder once.

    Raises:
        OSError: a folder cannot be listed.
    """
    return tuple(_walk(folder, set()))


def _walk(folder: Path, seen: set[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in seen:  # a link that leads back
        return
    seen.add(real)
    found = look_into(folder)
    yield from (folder / name for name in found.files if is_image(name))
    for name in found.folders:
        if not is_litter(name):
            yield from _walk(folder / name, seen)


def beside(base: Path, parts: Iterable[str]) -> Iterator[PassedOver]:
    """Go through the images and the non-empty folders that lie beside the parts; other files may lie there.

    Args:
        base: the data set's folder.
        parts: names that belong there.
    """
    found, known = look_into(base), set(parts)
    yield from passed_over(base, (name for name in found.files if is_image(name)), "beside")
    for name in found.folders:
        if name not in known and not is_litter(name) and _holds_something(base / name):
            yield PassedOver(base / name, "beside")


def _holds_something(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(not is_litter(entry.name) for entry in entries)
    except OSError:
        return True


class Finder:
    """Finds files whose names on disk are in the other Unicode form than those that are given."""

    def __init__(self) -> None:
        self._names: dict[Path, dict[str, str]] = {}

    def find(self, path: Path) -> Path:
        """Return a path as its names are spelt on disk, or itself where nothing there is called so."""
        if str(path).isascii() or os.path.lexists(path):
            return path
        found = Path(path.anchor)
        for name in path.parts[bool(path.anchor) :]:
            there = os.path.lexists(found / name)
            found /= name if there else self._listed(found).get(composed(name), name)
        return found

    def _listed(self, folder: Path) -> dict[str, str]:
        if folder not in self._names:
            try:
                self._names[folder] = {composed(name): name for name in os.listdir(folder)}
            except OSError:
                self._names[folder] = {}
        return self._names[folder]


_SHOWN = 3
_SAID = {
    "deep": ("file in a deeper folder", "files in deeper folders"),
    "unlisted": ("file that no list names", "files that no list names"),
    "special": ("thing that is neither file nor folder", "things that are neither file nor folder"),
    "folder": ("folder that was not looked into", "folders that were not looked into"),
    "empty": ("empty folder", "empty folders"),
    "beside": ("thing beside the parts", "things beside the parts"),
}


def said(found: Sequence[PassedOver]) -> str:
    """Say how many of what were passed over, litter apart; "" where there is nothing else."""
    counts = Counter(each.kind for each in found)
    endings = Counter(ending(each.path.name) for each in found if each.kind == "file")
    phrases = []
    for name, count in sorted(endings.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]:
        files = "file" if count == 1 else "files"
        phrases.append(f"{count:,} {name} {files}" if name else f"{count:,} {files} without an ending")
    if others := sum(endings.values()) - sum(sorted(endings.values(), reverse=True)[:_SHOWN]):
        phrases.append(f"{others:,} other files")
    for kind, (one, many) in _SAID.items():
        if count := counts[kind]:  # type: ignore[index]
            phrases.append(f"{count:,} {one if count == 1 else many}")
    names = [each.path.name for each in found if each.kind == "beside"]
    more = ", ..." if len(names) > _SHOWN else ""
    return ", ".join(phrases) + (f" ({', '.join(names[:_SHOWN])}{more})" if names else "")
