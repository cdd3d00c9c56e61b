"""Changes the sources in one place at a time, and looks whether the nearest tests notice.

    python -m tests.mutation --mutants 300 --seed 0 --out docs/results/mutants.md    (make test-mutants)
    python -m tests.mutation --again                     survivors once more, after new tests
    python -m tests.mutation --only 'layers/gate.py'     mutants whose name has these words, printed

As many mutants of each area are drawn by the seed. What came of each is kept in build/mutation as it comes, and is not
tried again: an interrupted run goes on.
"""

import argparse
import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from tests.mutation import page, running
from tests.mutation.mutants import ROOT, Mutant, mutants_of
from tests.mutation.targets import AREAS, Area

FOLDER = ROOT / "build" / "mutation"
OUTCOMES = FOLDER / "outcomes.jsonl"
BUDGET = 30.0  # seconds of tests, as they take without a mutant
EQUIVALENT = Path(__file__).parent / "equivalent.json"


def main() -> None:
    """Try what has not been tried, and write the page."""
    arguments = _arguments()
    FOLDER.mkdir(parents=True, exist_ok=True)
    drawn = [(area, mutant) for area in AREAS for mutant in _draw(area, arguments.mutants, arguments.seed)]
    drawn = [(area, mutant) for area, mutant in drawn if arguments.only in mutant.key]
    known = _known()
    reasons = json.loads(EQUIVALENT.read_text(encoding="utf-8"))
    again = arguments.again
    wanted = [
        (area, mutant)
        for area, mutant in drawn
        if _is_wanted(known.get(mutant.key), again=again and mutant.key not in reasons)
    ]
    if wanted:
        running.load_heavy()
    for number, (area, mutant) in enumerate(wanted, 1):
        outcome = _try(area, mutant)
        known[mutant.key] = outcome
        with OUTCOMES.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"mutant": mutant.key, **outcome}) + "\n")
        print(f"{number}/{len(wanted)} {outcome['outcome']} in {outcome['seconds']} s: {mutant.key}", flush=True)
    told = page.write([(area, mutant, known[mutant.key]) for area, mutant in drawn], reasons, arguments.seed)
    if arguments.only:
        print(told)
    else:
        (ROOT / arguments.out).write_text(told, encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description="Mutation testing.")
    parser.add_argument("--mutants", type=int, default=300, help="how many, the areas having as many each")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    parser.add_argument("--only", default="", help="those whose name has these words, printed instead of written")
    parser.add_argument("--again", action="store_true", help="try what was not killed once more")
    parser.add_argument("--out", default="docs/results/mutants.md", help="the page that is written")
    return parser.parse_args()


def _draw(area: Area, mutants: int, seed: int) -> list[Mutant]:
    """Return an area's share, the same whatever else changes in the sources."""
    every = [mutant for path in area.modules() for mutant in mutants_of(path)]
    every.sort(key=lambda mutant: hashlib.sha256(f"{seed} {mutant.key}".encode()).digest())
    return every[: mutants // len(AREAS)]


def _known() -> dict[str, dict[str, Any]]:
    if not OUTCOMES.exists():
        return {}
    lines = [json.loads(line) for line in OUTCOMES.read_text(encoding="utf-8").splitlines()]
    return {line.pop("mutant"): line for line in lines}


def _is_wanted(outcome: dict[str, Any] | None, *, again: bool) -> bool:
    return outcome is None or (again and outcome["outcome"] in ("survived", "not run"))


def _try(area: Area, mutant: Mutant) -> dict[str, Any]:
    noted = _noted(area)
    tests = running.tests_of(mutant, noted, BUDGET)
    if not tests:
        return {"outcome": "not run", "tests": 0, "seconds": 0.0}
    limit = 20 + 4 * sum(noted["seconds"][name] for name in tests)
    status, seconds = running.try_mutant(mutant, tests, FOLDER / "last.log", limit)
    outcome = {None: "timed out", 0: "survived"}.get(status, "killed")
    return {"outcome": outcome, "status": status, "tests": len(tests), "seconds": round(seconds, 1), "by": _failed()}


@functools.cache
def _noted(area: Area) -> dict[str, Any]:
    return running.which_tests_run_what(area, FOLDER)


def _failed() -> str:
    """Return the test that noticed the mutant last tried."""
    words = (FOLDER / "last.log").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", words, re.MULTILINE)
    return found[1] if found else ""


if __name__ == "__main__":
    main()
