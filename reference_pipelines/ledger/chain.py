"""A slice on the disk: a chain of lines, a file of ranks beside it, and the index that names the head of each chain.

    LEDGER/heads.json         slice -> how many lines, and the digest of the last
    LEDGER/SLICE.jsonl        the lines
    LEDGER/SLICE.ranks        their ranks, one .npz after another

A line is written in this order: ranks, line, index, each on the disk before the next. A process that is killed leaves
at most ranks that no line names, a line without its end, or an index that is one line behind; the next append mends it.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

from attnreid.files import open_file, read_bytes, read_json, synchronise_folder, write_text
from reference_pipelines.errors import UserError
from reference_pipelines.ledger.entry import Entry, beginning, check_name, digest
from reference_pipelines.ranks.files import from_bytes, to_bytes
from reference_pipelines.ranks.scoring import QueryRanks

HEADS = "heads.json"
LINES, RANKS = ".jsonl", ".ranks"


@dataclasses.dataclass(frozen=True)
class Head:
    """What the index says of a slice.

    Args:
        lines: how many it has.
        head: digest of the last.
    """

    lines: int
    head: str


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice's file of lines, as it is.

    Args:
        path: the file.
        lines: those that are whole, without their ends.
        rest: what follows the last end: nothing, or a line that was cut off.
    """

    path: Path
    lines: tuple[bytes, ...]
    rest: bytes

    @property
    def name(self) -> str:
        """The slice's name."""
        return self.path.name.removesuffix(LINES)

    @classmethod
    def read(cls, path: Path) -> "Slice":
        """Return what a file holds; nothing where there is none."""
        *lines, rest = (read_bytes(path) if path.is_file() else b"").split(b"\n")
        return cls(path, tuple(lines), rest)

    def entries(self) -> list[Entry]:
        """Return the lines.

        Raises:
            UserError: one is no line of a ledger.
        """
        found = []
        for number, line in enumerate(self.lines, start=1):
            try:
                found.append(Entry.from_line(line))
            except ValueError as error:
                raise UserError(f"ledger: line {number} of {self.path} must be one of a ledger, {error}") from None
        return found


def read_heads(folder: Path) -> dict[str, Head]:
    """Return what a ledger's index says of each slice; nothing where there is none.

    Raises:
        UserError: it is no index.
    """
    path = folder / HEADS
    if not path.is_file():
        return {}
    try:
        heads = {name: Head(int(told["lines"]), str(told["head"])) for name, told in read_json(path).items()}
        for name in heads:
            check_name(name)  # a path would lead out of the ledger
        if any(head.lines < 1 for head in heads.values()):
            raise ValueError
        return heads
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        raise UserError(f"ledger: {path} must be the index of a ledger, and it is none; restore it") from None


def broken_links(lines: tuple[bytes, ...], slice_name: str, head: Head | None) -> Iterator[tuple[int | None, str]]:
    """Yield the number of each line, None for the whole, that does not carry the digest before it, and what is wrong.

    Args:
        lines: of the slice.
        slice_name: its name.
        head: what the index says of it.
    """
    before = beginning(slice_name)
    for number, line in enumerate(lines, start=1):
        try:
            entry = Entry.from_line(line)
        except ValueError as error:
            yield number, str(error)
        else:
            if (entry.slice, entry.number) != (slice_name, number):
                yield number, f"it calls itself line {entry.number} of {entry.slice}"
            if entry.previous != before:
                where = "the slice's name" if number == 1 else f"line {number - 1}"
                yield number, f"it does not carry the digest of {where}: one of the two was changed, added or removed"
        before = digest(line)
    if head is not None and head.lines > len(lines):
        yield None, f"the index names {head.lines} lines, and {len(lines)} are whole"
    elif head is not None and digest(lines[head.lines - 1]) != head.head:
        yield head.lines, "its digest is not the one in the index: it was changed"


def read_ranks(path: Path, entry: Entry) -> QueryRanks:
    """Return the ranks of a line; `path` is its slice's file of lines.

    Raises:
        ValueError: it has none, or they are not those that it names.
    """
    return from_bytes(rank_bytes(path, entry))[0]


def rank_bytes(path: Path, entry: Entry) -> bytes:
    """Return the bytes of a line's ranks.

    Raises:
        ValueError: the line names none, or not these.
    """
    place = entry.ranks
    if place is None:
        raise ValueError("it has no ranks")
    try:
        with open_file(path.with_suffix(RANKS)) as file:
            if place["offset"] + place["bytes"] > os.fstat(file.fileno()).st_size:
                raise ValueError
            file.seek(place["offset"])
            content = file.read(place["bytes"])
    except (OSError, KeyError, TypeError, ValueError):
        raise ValueError(f"its ranks are not in {path.with_suffix(RANKS).name}") from None
    if hashlib.sha256(content).hexdigest() != place.get("sha256"):
        raise ValueError("its ranks were changed: their digest is another")
    return content


def append(
    folder: Path, slice_name: str, fields: Mapping[str, Any], ranks: QueryRanks | None, *, once: bool = False
) -> Entry:
    """Append a line to a slice, which is made where there is none; two processes wait for one another.

    Args:
        folder: of the ledger.
        slice_name: which chain.
        fields: of the entry but those that its place gives.
        ranks: that its scores are made of; None of a failure.
        once: where the last line says the same, it is that one: a process was killed after it had written it.

    Raises:
        UserError: the chain is broken, or a file cannot be written; nothing is changed then.
        ValueError: the name is none of a slice.
    """
    check_name(slice_name)
    path = folder / f"{slice_name}{LINES}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            heads = read_heads(folder)
            found = Slice.read(path)
            _refuse_broken(found, heads.get(slice_name))
            last = _last_of(found, fields, ranks) if once else None
            entry = last or _write(found, fields, ranks)
            told = {**heads, slice_name: Head(entry.number, digest(entry.to_line()))}
            plain = {name: dataclasses.asdict(told[name]) for name in sorted(told)}
            write_text(folder / HEADS, json.dumps(plain, indent=1) + "\n")
            return entry
    except OSError as error:
        raise UserError(f"ledger: cannot write in {folder} ({error.strerror}); make room or choose another") from None


def _last_of(found: Slice, fields: Mapping[str, Any], ranks: QueryRanks | None) -> Entry | None:
    """Return the last line of a slice where it is of these fields and ranks."""
    if not found.lines or ranks is None:
        return None
    last = Entry.from_line(found.lines[-1])
    wanted = {name: value for name, value in fields.items() if name != "remarks"}  # it may have one on its writing
    plain = json.loads(json.dumps(wanted))
    same = {name: getattr(last, name) for name in plain} == plain
    digests = hashlib.sha256(to_bytes(ranks)).hexdigest(), (last.ranks or {}).get("sha256")
    return last if same and digests[0] == digests[1] else None


def _refuse_broken(found: Slice, head: Head | None) -> None:
    for number, what in broken_links(found.lines, found.name, head):
        where = found.path if number is None else f"line {number} of {found.path}"
        raise UserError(
            f"ledger: a line is appended to an unbroken chain only, and of {where}: {what}; look with "
            "check-result, restore the file or begin a new slice"
        )


def _write(found: Slice, fields: Mapping[str, Any], ranks: QueryRanks | None) -> Entry:
    """Write ranks and line, and return the line; whatever a killed process left behind is cut off."""
    before = [Entry.from_line(line) for line in found.lines]
    end = max((entry.ranks["offset"] + entry.ranks["bytes"] for entry in before if entry.ranks), default=0)
    content = b"" if ranks is None else to_bytes(ranks)
    place = {"offset": end, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    mended = [f"{len(found.rest)} bytes of a line that was never finished were cut off before this one"]
    entry = Entry(
        slice=found.name,
        number=len(before) + 1,
        previous=digest(found.lines[-1]) if before else beginning(found.name),
        recorded=datetime.now(UTC).isoformat(timespec="seconds"),
        ranks=None if ranks is None else place,
        **{**fields, "remarks": [*fields["remarks"], *(mended if found.rest else ())]},
    )
    try:
        Entry.from_line(entry.to_line())
    except ValueError as error:
        raise UserError(
            f"ledger: what is recorded must make a line of {found.name}, and {error}; train or evaluate it again"
        ) from None
    if ranks is not None:
        _write_at(found.path.with_suffix(RANKS), end, content)
    _write_at(found.path, sum(len(line) + 1 for line in found.lines), entry.to_line() + b"\n")
    synchronise_folder(found.path.parent)
    return entry


def _write_at(path: Path, offset: int, content: bytes) -> None:
    """Have a file end in `content` from `offset` on; where that fails it ends there without it."""
    path.touch()
    with path.open("r+b", buffering=0) as file:
        if os.fstat(file.fileno()).st_size < offset:
            raise UserError(
                f"ledger: {path} must have the {offset} bytes that the lines name, it is shorter; restore it or begin "
                "a new slice"
            )
        file.truncate(offset)
        file.seek(offset)
        try:
            written = 0
            while written < len(content):
                written += file.write(content[written:])
            os.fsync(file.fileno())
        except OSError:
            file.truncate(offset)
            raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep every other process from appending, where the platform and the file system can."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
