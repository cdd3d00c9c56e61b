"""The page about what became of the mutants."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.mutation.mutants import ROOT, Mutant
from tests.mutation.targets import Area

Tried = tuple[Area, Mutant, dict[str, Any]]
_CAUGHT = ("killed", "timed out")

_HEAD = """# Mutants

The sources are changed in one place: a comparison, a sign, a constant by one, `and` for `or`, a condition turned
round, a call, a refusal, a keyword or a slice's bound left out, `min` for `max`. The nearest tests that run the line
are run, quickest first, at most {budget:.0f} seconds of them; one has to fail. Equivalent mutants change nothing that
can be observed; the reason is in the list.

**{score} of the mutants that are not equivalent are caught** ({caught} of {counted}; {equivalent} of {drawn} are
equivalent). Drawn by seed {seed}, as many of each area. Made by `make test-mutants`.

"""


def write(tried: Sequence[Tried], reasons: dict[str, str], seed: int) -> str:
    """Return the page."""
    from tests.mutation.__main__ import BUDGET

    caught = sum(outcome["outcome"] in _CAUGHT for _, _, outcome in tried)
    equivalent = sum(_is_equivalent(mutant, outcome, reasons) for _, mutant, outcome in tried)
    counted = len(tried) - equivalent
    head = _HEAD.format(
        budget=BUDGET,
        score=f"{100 * caught / max(counted, 1):.1f} %",
        caught=caught,
        counted=counted,
        equivalent=equivalent,
        drawn=len(tried),
        seed=seed,
    )
    return head + _by(tried, reasons, "area") + "\n" + _by(tried, reasons, "module") + "\n" + _survivors(tried, reasons)


def _is_equivalent(mutant: Mutant, outcome: dict[str, Any], reasons: dict[str, str]) -> bool:
    return outcome["outcome"] not in _CAUGHT and mutant.key in reasons


def _by(tried: Sequence[Tried], reasons: dict[str, str], what: str) -> str:
    counts: dict[str, Counter[str]] = {}
    for area, mutant, outcome in tried:
        name = area.name if what == "area" else f"`{mutant.path}`"
        told = "equivalent" if _is_equivalent(mutant, outcome, reasons) else outcome["outcome"]
        counts.setdefault(name, Counter())[told] += 1
    columns = ("killed", "timed out", "survived", "not run", "equivalent")
    lines = [f"| {what} | mutants | {' | '.join(columns)} | caught |", "|---" * (len(columns) + 3) + "|"]
    for name, count in sorted(counts.items()) if what == "module" else counts.items():
        total = count.total() - count["equivalent"]
        score = f"{100 * sum(count[each] for each in _CAUGHT) / total:.0f} %" if total else "–"
        lines.append(f"| {name} | {count.total()} | {' | '.join(str(count[each]) for each in columns)} | {score} |")
    return "\n".join(lines) + "\n"


def _survivors(tried: Sequence[Tried], reasons: dict[str, str]) -> str:
    lines = ["## Survivors", ""]
    for _, mutant, outcome in sorted(tried, key=lambda each: (each[1].path, each[1].line)):
        if outcome["outcome"] in _CAUGHT:
            continue
        why = reasons.get(mutant.key)
        told = f"equivalent: {why}" if why else outcome["outcome"]
        lines.append(f"- `{mutant.path}:{mutant.line}` {mutant.where}: {mutant.change}: {told}")
        lines.append(f"  (`{_line(mutant)}`)")
    return "\n".join([*lines, "" if len(lines) > 2 else "None.\n"])


def _line(mutant: Mutant) -> str:
    return (ROOT / mutant.path).read_text(encoding="utf-8").splitlines()[mutant.line - 1].strip()
