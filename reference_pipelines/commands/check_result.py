"""`check-result`: a ledger looked through, and its scores computed again from the ranks."""

import json
from collections.abc import Sequence

from reference_pipelines.commands.options import CheckResultOptions
from reference_pipelines.ledger.entry import Entry
from reference_pipelines.ledger.verifying import CheckedSlice, verify
from reference_pipelines.text_table import format_table

_HEADINGS = ("slice", "line", "row", "tested on", "seed", "selection", "mAP", "Market AP", "rank-1", "mINP")


def run(options: CheckResultOptions) -> int:
    """Print what a ledger says and what is wrong with it; return 1 if anything is.

    Raises:
        UserError: the path is no ledger.
    """
    checked = verify(options.file)
    print(json.dumps([_plain(each) for each in checked], indent=2) if options.json else _said(checked))
    return int(not all(each.sound for each in checked))


def _plain(checked: CheckedSlice) -> dict[str, object]:
    return {
        "slice": str(checked.path),
        "lines": checked.lines,
        "sound": checked.sound,
        "findings": [
            {"line": finding.line, "what": finding.what, "wrong": finding.wrong} for finding in checked.findings
        ],
    }


def _said(checked: Sequence[CheckedSlice]) -> str:
    rows = [_row(entry) for each in checked for entry in each.entries]
    parts = [format_table(rows, _HEADINGS, words=4)] if rows else []
    said = [
        f"{'wrong' if finding.wrong else 'note'}: {each.path}, {_where(finding.line)}: {finding.what}"
        for each in checked
        for finding in each.findings
    ]
    sound, lines = sum(each.sound for each in checked), sum(each.lines for each in checked)
    parts += ["\n".join(said)] if said else []
    parts.append(
        f"{len(checked)} slices, {lines} lines, {sound} of the slices sound: every score was computed again from its "
        "ranks" + ("" if sound == len(checked) else ", and what is wrong stands above")
    )
    return "\n\n".join(parts)


def _where(line: int | None) -> str:
    return "the whole" if line is None else f"line {line}"


def _row(entry: Entry) -> tuple[str, ...]:
    place = (entry.slice, str(entry.number), entry.cell.get("row", entry.title), str(entry.tested_on.get("name", "-")))
    if entry.scores is None:
        return (*place, str(entry.seed), "failed", *"----")
    numbers = (entry.scores.get(name) for name in ("mAP", "mAP_market", "rank1", "mINP"))
    shown = (f"{100 * each:.1f}" if isinstance(each, int | float) else "-" for each in numbers)
    return (*place, str(entry.seed), entry.selection, *shown)
