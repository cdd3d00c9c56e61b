"""A ledger looked through: chains, digests, and every score computed again from the ranks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reference_pipelines.errors import UserError
from reference_pipelines.ledger.chain import HEADS, LINES, Head, Slice, broken_links, rank_bytes, read_heads
from reference_pipelines.ledger.entry import SELECTIONS, Entry, config_digest, recipe_digest
from reference_pipelines.ranks.files import from_bytes
from reference_pipelines.ranks.scoring import QueryRanks, score

_TOLERANCE = 1e-9  # what another order of summation may change


@dataclass(frozen=True)
class Finding:
    """What is to be said of a slice.

    Args:
        line: which line; None for the whole.
        what: a sentence.
        wrong: False where a killed process explains it, or a check could not be made.
    """

    line: int | None
    what: str
    wrong: bool = True


@dataclass(frozen=True)
class CheckedSlice:
    """A slice, looked through.

    Args:
        path: its file of lines.
        lines: how many it has.
        entries: those that can be read.
        findings: what is to be said.
    """

    path: Path
    lines: int
    entries: tuple[Entry, ...]
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not any(finding.wrong for finding in self.findings)


def verify(path: Path) -> list[CheckedSlice]:
    """Look through a slice, or every slice of a folder and of the ledgers that were copied into it.

    Args:
        path: a slice's file of lines, or a folder.

    Raises:
        UserError: it is neither.
    """
    if path.is_file():
        heads = read_heads(path.parent)
        return [_verify(path, heads.get(_name(path)), indexed=bool(heads))]
    found = []
    for folder in _ledgers(path):
        heads = read_heads(folder)
        files = {_name(file): file for file in folder.glob(f"*{LINES}")}
        for name in sorted({*files, *heads}):
            file = files.get(name, folder / f"{name}{LINES}")
            found.append(_verify(file, heads.get(name), indexed=bool(heads)))
    return found


def _ledgers(path: Path) -> list[Path]:
    below = {file.parent for file in path.rglob(HEADS)} if path.is_dir() else set()
    folders = sorted({path, *below} if any(path.glob(f"*{LINES}")) else below)
    if not folders:
        raise UserError(
            f"check-result: {path} must be a ledger, a folder with {HEADS}, or a slice's {LINES} file; name one"
        )
    return folders


def _name(path: Path) -> str:
    return path.name.removesuffix(LINES)


def _verify(path: Path, head: Head | None, *, indexed: bool) -> CheckedSlice:
    found = Slice.read(path)
    findings = [Finding(number, what) for number, what in broken_links(found.lines, found.name, head)]
    if head is None:
        says = f"it is not in the index {HEADS} of its folder" if indexed else f"there is no index {HEADS} beside it"
        findings.append(Finding(None, f"{says}, so lines cut off its end would not show", wrong=indexed))
    elif head.lines < len(found.lines):
        findings.append(
            Finding(head.lines + 1, "the index ends before it: a process was killed before it wrote that", wrong=False)
        )
    if found.rest:
        findings.append(
            Finding(
                len(found.lines) + 1,
                f"it was cut off after {len(found.rest)} bytes: a process was killed, or the file was cut; the next "
                "append removes it",
                wrong=head is not None and head.lines > len(found.lines),
            )
        )
    entries, end = [], 0
    for number, line in enumerate(found.lines, start=1):
        try:
            entry = Entry.from_line(line)
        except ValueError:
            continue  # said already
        entries.append(entry)
        findings += [Finding(number, what) for what in _check_entry(path, entry, end)]
        end += entry.ranks["bytes"] if entry.ranks and isinstance(entry.ranks.get("bytes"), int) else 0
    order = sorted(findings, key=lambda finding: (finding.line is None, finding.line or 0))
    return CheckedSlice(path, len(found.lines), tuple(entries), tuple(order))


def _check_entry(path: Path, entry: Entry, end: int) -> Iterator[str]:
    """Yield what is wrong with a line by itself; its ranks must begin at `end`."""
    if config_digest(entry.config) != entry.config_sha256 or recipe_digest(entry.config) != entry.recipe_sha256:
        yield "its config was changed: the digest is another"
    if entry.config.get("seed") != entry.seed:
        yield f"its seed is {entry.seed}, its config's {entry.config.get('seed')}"
    if entry.selection not in SELECTIONS:
        yield f"its selection is {entry.selection!r}, none of {', '.join(SELECTIONS)}"
    if entry.source == "failure":
        if (entry.scores, entry.ranks) != (None, None) or not entry.failure:
            yield "it is a failure, and has scores or no reason"
        return
    if entry.ranks is not None and entry.ranks.get("offset") != end:
        yield f"its ranks do not follow those of the line before, which end at byte {end}"
    try:
        ranks, precision = from_bytes(rank_bytes(path, entry))
    except ValueError as error:
        yield str(error)
        return
    told = entry.scores or {}
    yield from differences(told, scores_of(ranks, cmc_of(told)), ranks, precision)


def cmc_of(scores: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the k of the CMC@k among some scores."""
    return tuple(int(name[4:]) for name in scores if name[:4] == "rank" and name[4:].isdecimal() and len(name) < 12)


def differences(
    scores: Mapping[str, Any], again: Mapping[str, Any], ranks: QueryRanks, precision: np.ndarray
) -> Iterator[str]:
    """Yield each score that is not what the ranks give.

    Args:
        scores: as a line has them.
        again: as the ranks give them.
        ranks: of the true matches.
        precision: (N,) the average precision of each query, as it stands beside the ranks.
    """
    for name in again:
        if name not in scores:
            yield f"it has no {name}"
    for name, told in scores.items():
        if name not in again:
            yield f"its {name} is nothing that the ranks give"
        elif not _same(told, again[name]):
            yield f"its {name} is {told}, and its ranks give {again[name]}"
    own = ranks.ranked.average_precision()
    if precision.shape != own.shape or not np.allclose(precision, own, rtol=0, atol=_TOLERANCE):
        yield "the average precisions beside its ranks are not what the ranks give"


def scores_of(ranks: QueryRanks, first: tuple[int, ...]) -> dict[str, Any]:
    """Return what a line says of its ranks; `first` are the k of CMC@k."""
    found = score(ranks, first)
    return {
        "mAP": found.mAP,
        "interval": None if found.interval is None else list(found.interval),
        **{f"rank{k}": value for k, value in found.cmc.items()},
        "mINP": found.mINP,
        "mAP_market": found.mAP_market,
        "interval_market": None if found.interval_market is None else list(found.interval_market),
        "queries": len(ranks.queries),
        "skipped": ranks.skipped,
    }


def _same(told: Any, again: Any) -> bool:
    if isinstance(again, list):
        return isinstance(told, list) and len(told) == len(again) and all(map(_same, told, again))
    if again is None or told is None or isinstance(told, bool | str | list | dict):
        return again is None and told is None
    try:
        return bool(abs(told - again) <= _TOLERANCE)
    except OverflowError:  # a whole number beyond what a float holds
        return False
