"""A store of features, written a batch at a time, so that a process that is stopped leaves what can be gone on with."""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np

from attnreid.files import remove_drafts, replacing, write_text
from reference_pipelines.errors import UserError
from reference_pipelines.features.files import FEATURES, HEADER_BYTES, META, TABLE, Meta, header, read_meta
from reference_pipelines.spreadsheet import as_cell, as_line

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Listing:
    """The images of a store.

    Args:
        source: the folder or table that they were listed from.
        paths: N files.
        ids: (N,) person ids, None where they are not known.
        cameras: (N,) cameras, None where they are not known.
    """

    source: str
    paths: tuple[Path, ...]
    ids: np.ndarray | None = None
    cameras: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def digest(self) -> str:
        """Return a digest of every image's place, size, person and camera; a file that is gone has no size."""
        digest = hashlib.sha256()
        for path, *numbers in zip(self.paths, self._texts(self.ids), self._texts(self.cameras), strict=True):
            try:
                size = os.stat(path).st_size
            except OSError:
                size = -1
            line = f"{path}\0{size}\0{numbers[0]}\0{numbers[1]}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]

    def table(self, without: Sequence[int]) -> str:
        """Return the text of table.csv without the images at some places."""
        left_out = set(without)
        lines = [as_line(["path", "id", "camera"])]
        cells = (as_cell(str(path)) for path in self.paths)
        for place, row in enumerate(zip(cells, self._texts(self.ids), self._texts(self.cameras), strict=True)):
            if place not in left_out:
                lines.append(as_line(row))
        return "".join(lines)

    def _texts(self, numbers: np.ndarray | None) -> list[str]:
        return [""] * len(self.paths) if numbers is None else [str(number) for number in numbers.tolist()]


class FeatureWriter:
    """Writes a store, or goes on with one; a context manager that keeps what was added when an error ends it.

    Args:
        folder: a new or empty folder, or a store of the same features of the same images.
        meta: what the store is to be of; nothing of it done yet.
        listing: its images.
        who: complains.

    Attributes:
        meta: what is on the disk.
        rows: features that were added, before too.

    Raises:
        UserError: the folder holds something else, another process is writing in it, or it cannot be written.
    """

    def __init__(self, folder: Path, meta: Meta, listing: Listing, who: str = "extract") -> None:
        self.folder, self.meta, self.listing, self.who = folder, meta, listing, who
        self._lock: int | None = None
        self._new: list[tuple[int, str, str]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            self._begin()
            self._file = open(folder / FEATURES, "r+b")  # noqa: SIM115  (closed at the end of `with`)
        except OSError as error:
            self._unlock()
            raise self._unwritten(error) from None
        except UserError:
            self._unlock()
            raise
        self._done, self.rows = self.meta.done, self.meta.rows
        if not self.meta.finished:  # what lies beyond was not told
            self._file.truncate(HEADER_BYTES + self.rows * meta.dim * 4)

    def __enter__(self) -> "FeatureWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is not None and not self.meta.finished:
                with suppress(UserError):  # the first error is the one to tell
                    self.commit()
        finally:
            with suppress(OSError):  # a full disk, which was told
                self._file.close()
            self._unlock()

    @property
    def passed_over(self) -> tuple[tuple[int, str, str], ...]:
        """Place, path and reason of each image that did not decode, so far."""
        return (*self.meta.passed_over, *self._new)

    def add(self, features: np.ndarray, passed_over: Sequence[tuple[int, str]] = ()) -> None:
        """Write the features of the next images of the list.

        Args:
            features: (B, D), of those that decoded, in their order.
            passed_over: place in the list and reason of those that did not.
        """
        rows = np.ascontiguousarray(features, dtype="<f4")
        if rows.ndim != 2 or rows.shape[1] != self.meta.dim:
            raise ValueError(f"{self.who}: features must be (B, {self.meta.dim}), got {rows.shape}")
        try:
            self._file.seek(HEADER_BYTES + self.rows * self.meta.dim * 4)
            self._file.write(rows.tobytes())
        except OSError as error:
            raise self._unwritten(error) from None
        self.rows += len(rows)
        self._done += len(rows) + len(passed_over)
        self._new += [(place, str(self.listing.paths[place]), reason) for place, reason in passed_over]

    def commit(self) -> None:
        """Have what was added on the disk, and then say so."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._say(replace(self.meta, done=self._done, rows=self.rows, passed_over=self.passed_over))
        except OSError as error:
            raise self._unwritten(error) from None
        self._new = []

    def finish(self) -> None:
        """Write the table, and declare the store whole; all images must have been added."""
        if self._done != len(self.listing):
            raise ValueError(f"{self.who}: all {len(self.listing)} images must be added, got {self._done}")
        self.commit()
        try:
            text = self.listing.table([place for place, _, _ in self.meta.passed_over])
            with replacing(self.folder / TABLE) as draft:
                draft.write_bytes(text.encode("utf-8", "surrogateescape"))
            self._file.seek(0)
            self._file.write(header(self.rows, self.meta.dim))
            self._file.flush()
            os.fsync(self._file.fileno())
            self._say(replace(self.meta, finished=True))
        except OSError as error:
            raise self._unwritten(error) from None

    def _begin(self) -> None:
        """Write the files of a new store, or take up those of one that is there."""
        there = {path.name for path in self.folder.iterdir() if not path.name.startswith(".")}
        if META not in there:
            if there:
                raise UserError(
                    f"{self.who}: --out must be a new folder, or one that `extract` has written, {self.folder} holds "
                    f"{min(there)}; name another"
                )
            self._say(self.meta)
            (self.folder / FEATURES).write_bytes(header(0, self.meta.dim))
            return
        found = read_meta(self.folder, self.who)
        for name, what, advice in (
            ("model", "features of this network", "name another folder, or the network that it was begun with"),
            ("listing", "features of these images", "name another folder for this list"),
        ):
            mine, other = getattr(self.meta, name), getattr(found, name)
            if mine != other:
                raise UserError(f"{self.who}: {self.folder} must hold {what}, {_difference(mine, other)}; {advice}")
        if not found.done:  # it may have been killed before features.npy was there
            (self.folder / FEATURES).write_bytes(header(0, self.meta.dim))
        self._check_size(found)
        remove_drafts(self.folder)
        self.meta = found

    def _check_size(self, found: Meta) -> None:
        path = self.folder / FEATURES
        wanted, size = HEADER_BYTES + found.rows * found.dim * 4, path.stat().st_size if path.is_file() else 0
        if size < wanted:
            raise UserError(
                f"{self.who}: {path} must hold the {found.rows:,} rows that {META} names, {wanted:,} bytes, it has "
                f"{size:,}; name another folder"
            )

    def _say(self, meta: Meta) -> None:
        write_text(self.folder / META, meta.to_json())
        self.meta = meta

    def _take_lock(self) -> None:
        """Refuse a folder that another process writes in; the lock goes with the process, however it ends."""
        if fcntl is None:
            return
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UserError(
                f"{self.who}: one process at a time may write {self.folder}, and another one does; wait for it"
            ) from None
        except OSError:  # a file system without locks
            os.close(descriptor)
            return
        self._lock = descriptor
        os.register_at_fork(after_in_child=self._unlock)  # a worker that outlives this process would keep it locked

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _unwritten(self, error: OSError) -> UserError:
        return UserError(
            f"{self.who}: cannot write {error.filename or self.folder} ({error.strerror or error}); make room or name "
            "another folder, then go on with the same command"
        )


def _difference(mine: object, other: object) -> str:
    """Return what differs, key by key where both have keys."""
    if isinstance(mine, dict) and isinstance(other, dict):
        keys = [key for key in {**mine, **other} if mine.get(key) != other.get(key)]
        return "it differs in " + ", ".join(f"{key} ({other.get(key)} there, {mine.get(key)} here)" for key in keys)
    return f"it holds others (list {other} there, {mine} here)"
