"""`claims`: what a ledger says of each claim of the papers."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attnreid.files import write_text
from reference_pipelines.claims.listing import read_claims
from reference_pipelines.claims.verdicts import DECISIONS, Line, Verdict, judge
from reference_pipelines.commands.options import ClaimsOptions
from reference_pipelines.errors import UserError
from reference_pipelines.ledger.verifying import verify
from reference_pipelines.text_table import format_table

_HEADINGS = ("claim", "scale", "verdict", "paper", "measured", "margin", "seeds", "would decide", "why")


def run(options: ClaimsOptions) -> None:
    """Print a verdict on every claim that the ledger has runs of, and how many there are of each.

    Raises:
        UserError: no ledger, one that is wrong, a scale that it does not have, or a file that cannot be written.
    """
    lines = _sound_lines(options.ledger)
    found = sorted({line.entry.cell["scale"] for line in lines if "scale" in line.entry.cell})
    if options.scale is not None and options.scale not in found:
        raise UserError(
            f"claims: --scale must be one of the ledger's, {', '.join(found) or 'which has none'}, got {options.scale}"
        )
    claims, verdicts = read_claims(), {}
    for scale in found if options.scale is None else [options.scale]:
        verdicts[scale] = judge(claims, lines, scale, selection=options.selection)
    if options.out is not None:
        _write(options.out, [_cells(scale, each) for scale, judged in verdicts.items() for each in judged])
    if options.json:
        print(json.dumps([_plain(scale, each) for scale, judged in verdicts.items() for each in judged], indent=2))
        return
    for scale, judged in verdicts.items():
        counts = Counter(each.decision for each in judged)
        rows = [_cells(scale, each) for each in judged if each.decision != "not run"]
        if rows:
            print(format_table(rows, _HEADINGS, words=3) + "\n")
        said = ", ".join(f"{counts[decision]} {decision}" for decision in DECISIONS)
        print(f"{scale}: of {len(claims)} claims {said}; weights chosen by: {options.selection}")


def _sound_lines(ledger: Path) -> list[Line]:
    """Return the lines of a ledger, each once: a copy of a slice counts no second time."""
    lines: dict[bytes, Line] = {}
    for each in verify(ledger):
        if not each.sound:
            raise UserError(f"claims: the ledger must be sound, {each.path} is not; look with check-result {ledger}")
        for entry in each.entries:
            lines.setdefault(entry.to_line(), Line(each.path, entry))
    return list(lines.values())


def _cells(scale: str, verdict: Verdict) -> tuple[str, ...]:
    claim, measured = verdict.claim, verdict.estimate
    says = f"{claim.direction} {'' if claim.value is None else format(claim.value, '+.4g')}".strip()
    shown = ""
    if measured is not None:
        shown = f"{measured.difference:+.2f}"
        if measured.interval is not None:
            shown += " [{:+.2f}, {:+.2f}]".format(*measured.interval)
    seeds = str(measured.seeds) if measured else ""
    needed = str(verdict.needed) if verdict.needed else ""
    return claim.id, scale, verdict.decision, says, shown, f"{claim.margin:g}", seeds, needed, verdict.why


def _plain(scale: str, verdict: Verdict) -> dict[str, Any]:
    measured = verdict.estimate
    return {
        "claim": asdict(verdict.claim),
        "scale": scale,
        "verdict": verdict.decision,
        "difference": None if measured is None else measured.difference,
        "interval": None if measured is None else measured.interval,
        "seeds": 0 if measured is None else measured.seeds,
        "would_decide": verdict.needed,
        "why": verdict.why,
    }


def _write(path: Path, rows: Sequence[tuple[str, ...]]) -> None:
    content = io.StringIO()
    csv.writer(content, lineterminator="\n").writerows([_HEADINGS, *rows])
    try:
        write_text(path, content.getvalue())
    except OSError as error:
        raise UserError(f"claims: cannot write {path} ({error.strerror}); name another with --out") from None
