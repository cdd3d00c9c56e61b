"""Files that are whole or not there: written beside their place, synchronised with the disk, then renamed.

A process that is killed leaves at most a draft, a hidden file whose name ends in `.partial`; a failure leaves none.
"""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = ".partial"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a draft to write; at the end it becomes the file at `path`, which is as it was before if anything fails.

    Args:
        path: the file, in a folder that exists; through a link its target, as writing goes.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "numbers.txt"
        >>> with replacing(path) as draft:
        ...     _ = draft.write_text("1 2 3")
        >>> path.read_text()
        '1 2 3'
    """
    path = Path(os.path.realpath(path))
    with _draft_of(path) as draft:
        with draft.open("xb") as file:
            mode = os.fstat(file.fileno()).st_mode  # as the user's umask has it; safetensors writes private files
        yield draft
        draft.chmod(mode)
        _synchronise(draft)
        os.replace(draft, path)
    synchronise_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file, in UTF-8.

    Raises:
        OSError: it cannot be written.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as draft:
        draft.write_bytes(content)


def link_file(path: Path, target: Path) -> None:
    """Have `path` be the content of `target` too, without taking its room again where the file system can.

    Raises:
        OSError: it cannot be written.
    """
    with _draft_of(path) as draft:
        try:
            os.link(target, draft)
        except OSError:  # a file system without links
            shutil.copyfile(target, draft)
            _synchronise(draft)
        os.replace(draft, path)  # which leaves the draft where both are one file already
    synchronise_folder(path.parent)


def synchronise_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_drafts(folder: Path) -> None:
    """Remove the drafts that killed processes left in a folder; no other process may be writing in it."""
    for draft in folder.glob(f".*{PARTIAL}"):
        draft.unlink(missing_ok=True)


def system_error(error: Exception, path: Path) -> OSError:
    """Return what the system refused, from the error of a compiled library that tells it in its text alone."""
    number = re.search(r"os error (\d+)", str(error))
    if number is None:
        return OSError(f"writing {path} failed with: {error}")
    return OSError(int(number[1]), os.strerror(int(number[1])), str(path))


@contextmanager
def _draft_of(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` for a draft, and leave none behind."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        yield draft
    finally:
        with suppress(OSError):
            draft.unlink()


def _synchronise(path: Path) -> None:
    """Wait until a file's content is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
