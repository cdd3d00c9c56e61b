"""What `data verify` found, as plain data."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reference_pipelines.data.names import printable

Severity = Literal["error", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Args:
        severity: "error" where training or evaluation would be wrong; "note" where it would be right all the same.
        kind: a word or two, the same for the same kind of finding.
        text: what was found and what to do.
        items: all files, ids or lines concerned.
    """

    severity: Severity
    kind: str
    text: str
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class PartCounts:
    """What one part has, and what it should have.

    Args:
        part: "train", "query" or "gallery".
        images: images, without junk.
        ids: people.
        cameras: images of each camera, by its number; None where cameras are not known.
        distractors: images of id 0.
        junk: images of id -1, which are left out.
        expected_images: images of the whole data set; None where nothing is published.
        expected_ids: people of the whole data set.
    """

    part: str
    images: int
    ids: int
    cameras: Mapping[int, int] | None
    distractors: int
    junk: int
    expected_images: int | None
    expected_ids: int | None


@dataclass(frozen=True)
class Verification:
    """What a folder is and what is wrong with it.

    Args:
        root: the folder, or CSV file, that was taken.
        layout: how its files are laid out, with the version.
        name: the data set's name.
        expected_from: where the expected counts are from; "" where there are none.
        notes: rules that were applied in reading.
        parts: counts of train, query and gallery.
        passed_over: what lies in its folders and was not taken, litter of systems too.
        findings: errors first.
        fingerprint: digest of the data set, as results name it.
    """

    root: Path
    layout: str
    name: str
    expected_from: str
    notes: tuple[str, ...]
    parts: tuple[PartCounts, ...]
    passed_over: tuple[str, ...]
    findings: tuple[Finding, ...]
    fingerprint: str

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return sum(finding.severity == "error" for finding in self.findings)

    def to_plain(self) -> dict[str, Any]:
        """Return the result as JSON holds it."""
        plain = dataclasses.asdict(self)
        return {**plain, "root": printable(str(self.root)), "errors": self.errors, "notes": list(self.notes)}
