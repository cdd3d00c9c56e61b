"""Files that are whole or not there: written beside their place, synchronised with the disk, then renamed.

A process that is killed leaves at most a draft, a hidden file whose name ends in `.partial`, which the next one that
writes into the folder removes; a failure leaves none.
What is read is a file: a pipe, which would be waited for, or a device, which may never end, is refused.
"""

import errno
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

PARTIAL = ".partial"
_DEEPEST = 100  # lists and dicts in one another, in JSON
_MAKER = re.compile(rf"\..+\.([0-9a-f]{{6}})-([0-9]+)-[0-9a-f]{{8}}{re.escape(PARTIAL)}", re.DOTALL)
_NAMED = 40  # characters of a name in its draft's, which may be as long as the name alone


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


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading its bytes, and wait for nobody.

    Raises:
        OSError: it cannot be opened, or is no file.
    """
    _check_is_file(path, os.stat(path).st_mode)  # first, since opening a device may have effects
    # Should a pipe have taken the file's place meanwhile, it is not waited for either.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check_is_file(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path) -> bytes:
    """Return what a file holds.

    Raises:
        OSError: it cannot be read, or is no file.
    """
    with open_file(path) as file:
        return file.read()


def read_text(path: Path, *, errors: str = "strict") -> str:
    """Return a file's text, in UTF-8, with line feeds for all ends of lines.

    Args:
        path: the file.
        errors: what is done with bytes that are no UTF-8, as for `bytes.decode`.

    Raises:
        OSError: it cannot be read, or is no file.
        ValueError: it is not in UTF-8.
    """
    return read_bytes(path).decode("utf-8", errors).replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        OSError: it cannot be read, or is no file.
        ValueError: it is no JSON, or nested too deeply.
    """
    return parse_json(read_bytes(path))


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text holds.

    Raises:
        ValueError: it is no JSON, or lists and dicts stand in one another more than a hundred deep, which nothing
            that is written here does, and which code that walks through them would fail at.

    Example:
        >>> parse_json('{"epoch": 3}')
        {'epoch': 3}
    """
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested more than {_DEEPEST} deep") from None
    level = [content]
    for _ in range(_DEEPEST):
        level = [
            inside
            for each in level
            if isinstance(each, dict | list)
            for inside in (each.values() if isinstance(each, dict) else each)
        ]
    if level:
        raise ValueError(f"it is nested more than {_DEEPEST} deep")
    return content


def _check_is_file(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise OSError(errno.EINVAL, f"{kind}, where a file is needed", str(path))


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


def draft_beside(path: Path) -> Path:
    """Return a new name beside `path` for a draft of a file or folder, after removing what dead processes left there.

    The name tells the process that makes it, so that nobody takes the draft of one that lives for abandoned.
    """
    _remove_abandoned(path.parent)
    return path.with_name(f".{path.name[:_NAMED]}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")


@functools.cache  # once a process: a folder may hold many files, and be written into as often
def _remove_abandoned(folder: Path) -> None:
    """Remove the drafts in a folder that processes of this machine left which are dead."""
    if os.name == "nt":  # where asking whether a process lives would end it
        return
    with suppress(OSError):
        for name in os.listdir(folder):
            made = _MAKER.fullmatch(name)
            if made and made[1] == _machine() and not _lives(int(made[2])):
                _remove(folder / name)


def _remove(path: Path) -> None:
    with suppress(OSError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@functools.cache
def _machine() -> str:
    """Return what tells where a process's number holds: the machine and, in containers, the name space."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:6]


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is another user's, or no number of a process
        return True
    return True


def system_error(error: Exception, path: Path) -> OSError:
    """Return what the system refused, from the error of a compiled library that tells it in its text alone."""
    number = re.search(r"os error (\d+)", str(error))
    if number is None:
        return OSError(f"writing {path} failed with: {error}")
    return OSError(int(number[1]), os.strerror(int(number[1])), str(path))


@contextmanager
def _draft_of(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` for a draft, and leave none behind."""
    draft = draft_beside(path)
    try:
        yield draft
    finally:
        with suppress(OSError):
            draft.unlink()


def _synchronise(path: Path) -> None:
    """Wait until a file's content is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
