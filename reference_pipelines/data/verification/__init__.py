"""Says what a folder is, whether it is whole, and what would make training or evaluation on it wrong."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from reference_pipelines.data.layouts import PUBLISHED, Counts, examine
from reference_pipelines.data.layouts.three_folders import rendered_counts
from reference_pipelines.data.names import printable
from reference_pipelines.data.verification.checks import (
    check_counts,
    check_duplicates,
    check_files,
    check_parts,
    check_passed_over,
    check_people,
    count_parts,
)
from reference_pipelines.data.verification.printing import format_verification
from reference_pipelines.data.verification.result import Finding, PartCounts, Verification

__all__ = ["Finding", "PartCounts", "Verification", "format_verification", "verify"]


def verify(
    root: str | Path,
    layout: str | None = None,
    *,
    workers: int = 0,
    published: Mapping[str, Counts] = PUBLISHED,
) -> Verification:
    """Look through a data set, decode every image that is used, and return what was found.

    Args:
        root: the data set's folder, one in it or up to two above, or a CSV file.
        layout: one of `LAYOUTS`, or None to find it by content.
        workers: processes that decode; 0 decodes in this one.
        published: the counts of whole data sets, by layout; rendered pedestrians are held to those of their own
            rendered.json.

    Raises:
        UserError: there is no data set, several, or another one than `layout`, or a worker died.
    """
    reading = examine(root, layout)
    data = reading.data
    expected = rendered_counts(data.root) if data.rendered else published.get(data.layout)
    findings = [Finding("error", problem.kind, problem.text, problem.examples) for problem in reading.problems]
    if data.rendered and expected is None:
        text = f"the rendered.json of {data.root} does not say what was rendered; render it again"
        findings.append(Finding("error", "counts", text))
    if expected:
        findings += check_counts(data, expected)
    findings += check_parts(data) + check_people(data) + check_files(data, workers=workers)
    findings += check_duplicates(data, split=reading.unsplit) + check_passed_over(reading)
    return Verification(
        root=data.root,
        layout=data.layout,
        name=data.name,
        expected_from=expected.title if expected else "",
        notes=data.notes,
        parts=count_parts(data, expected),
        passed_over=tuple(printable(str(each.path)) for each in reading.passed_over),
        findings=tuple(sorted(map(_printable, findings), key=lambda finding: finding.severity)),
        fingerprint=data.fingerprint(),
    )


def _printable(finding: Finding) -> Finding:
    return replace(finding, text=printable(finding.text), items=tuple(map(printable, finding.items)))
