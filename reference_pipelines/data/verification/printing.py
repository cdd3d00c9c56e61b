"""A verification as people read it."""

import shutil
import textwrap
from collections import Counter
from pathlib import Path

from reference_pipelines.data.names import printable
from reference_pipelines.data.verification.result import Finding, Verification
from reference_pipelines.text_table import format_table

_ITEMS = 8  # files or ids shown of a finding
_CAMERAS = 32  # rows shown of the cameras' table
_WIDTHS = (80, 120)


def format_verification(result: Verification) -> str:
    """Return the tables, the findings and the verdict, as wide as the terminal but 80 to 120 columns."""
    width = min(max(shutil.get_terminal_size().columns, _WIDTHS[0]), _WIDTHS[1])
    name = result.name if result.name == result.layout else f"{result.name} ({result.layout})"
    head = [
        f"{name} at {printable(str(result.root))}",
        *_wrapped(result.notes, width),
        f"fingerprint {result.fingerprint}",
    ]
    if result.passed_over:
        names = Counter(Path(path).name for path in result.passed_over)
        named = ", ".join(sorted(names)[:_ITEMS]) + (", ..." if len(names) > _ITEMS else "")
        many = len(result.passed_over)
        head.append(
            textwrap.shorten(f"{many:,} file{'s' * (many > 1)} passed over: {named}", width, placeholder=" ...")
        )
    blocks = [
        "\n".join(head),
        _parts(result),
        _cameras(result),
        "\n".join(_finding(finding, result.root, width) for finding in result.findings),
        _verdict(result),
    ]
    return "\n\n".join(block for block in blocks if block)


def _wrapped(lines: tuple[str, ...], width: int) -> list[str]:
    return [textwrap.fill(line, width, initial_indent="  ", subsequent_indent="  ") for line in lines]


def _parts(result: Verification) -> str:
    columns = ["part", "images", "ids", "cameras", "distractors", "junk"]
    if result.expected_from:
        source = "rendered" if result.expected_from == "rendered.json" else "published"
        columns[2:3] = [source, "ids", source]
    rows = []
    for part in result.parts:
        expected = (part.expected_images, part.expected_ids)
        counts: list[int | None] = [part.images, part.ids]
        if result.expected_from:
            counts = [part.images, expected[0], part.ids, expected[1]]
        counts += [None if part.cameras is None else len(part.cameras), part.distractors, part.junk]
        rows.append((part.part, *("-" if count is None else f"{count:,}" for count in counts)))
    return format_table(rows, columns, words=1)


def _cameras(result: Verification) -> str:
    """Return images by camera and part, a row a camera."""
    seen = [part.cameras for part in result.parts if part.cameras is not None]
    numbers = sorted({camera for cameras in seen for camera in cameras})
    rows = [
        (str(number), *(f"{cameras[number]:,}" if number in cameras else "-" for cameras in seen))
        for number in numbers[:_CAMERAS]
    ]
    if not rows:
        return ""
    more = f"\nand {len(numbers) - _CAMERAS:,} more cameras: --json lists them" if len(numbers) > _CAMERAS else ""
    return format_table(rows, ("camera", *(part.part for part in result.parts)), words=1) + more


def _finding(finding: Finding, root: Path, width: int) -> str:
    indent = " " * 7
    head = textwrap.fill(f"{finding.severity:<7}{finding.kind}: {finding.text}", width, subsequent_indent=indent)
    folder = printable(f"{root.parent if root.is_file() else root}/")
    lines = [head, *(indent + item.replace(folder, "") for item in finding.items[:_ITEMS])]
    if len(finding.items) > _ITEMS:
        lines.append(f"{indent}and {len(finding.items) - _ITEMS:,} more: --json lists them")
    return "\n".join(lines)


def _verdict(result: Verification) -> str:
    notes = len(result.findings) - result.errors
    also = f", {notes} note{'s' * (notes > 1)}" if notes else ""
    if result.errors:
        return f"{result.errors} error{'s' * (result.errors > 1)}{also}: training or evaluation on it would be wrong."
    counts = "the rendered ones" if result.expected_from == "rendered.json" else "the published ones"
    whole = f"its counts are {counts}, " if result.expected_from else ""
    return f"No error{also}: {whole}every image that is used decodes."
