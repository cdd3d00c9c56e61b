"""Runs the cases through an adapter and says where its scores are not the expected ones.

    python tests/protocol_kit/run.py --adapter "python tests/protocol_kit/adapters/attnreid.py"
    python tests/protocol_kit/run.py --adapter "..." --case "ties/*" --out results.json

Standard library alone. The adapter is any program that reads a case a line and answers a line (README.md). Exit status
1 where an answer deviates or fails, 2 where the adapter cannot be run.
"""

import argparse
import fnmatch
import hashlib
import json
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

CASES = Path(__file__).with_name("cases.json")
OUTCOMES = ("agrees", "deviates", "fails", "not supported")
TOLERANCE = 2e-6  # float32 arithmetic; two rankings of one case differ by more
DEVIATIONS = 5  # standard errors that a drawn single-shot score may be off
SECONDS = 120  # for one case
_NUMBERS = ("mAP", "mAP_market", "mINP")
_BY_RANK = ("cmc", "single_shot_cmc")
_BY_QUERY = ("average_precision", "average_precision_market", "inverse_negative_penalty")
_COUNTS = ("queries", "skipped", "places")
SCORES = (*_NUMBERS, *_BY_RANK, *_BY_QUERY, *_COUNTS)

Case = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What came of one case.

    Args:
        case: its name.
        outcome: one of OUTCOMES.
        said: the reason of "not supported", the message of what "fails", or what a refusal said.
        compared: the scores that were given and compared.
        wrong: those that are not as expected: their names, with what was expected and got.
        points: what was got less what was expected, in points (hundredths), of the first wrong score that is a number.
    """

    case: str
    outcome: str
    said: str = ""
    compared: list[str] = field(default_factory=list)
    wrong: dict[str, dict[str, Any]] = field(default_factory=dict)
    points: dict[str, float] = field(default_factory=dict)


def read_cases(path: Path = CASES, pattern: str = "*") -> list[Case]:
    """Return the cases of a file whose names match a shell pattern."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["format"] != 1:
        raise ValueError(f"{path}: format must be 1, got {content['format']}")
    return [case for case in content["cases"] if matches(case["name"], pattern)]


def matches(name: str, pattern: str) -> bool:
    """Tell whether a case's name matches one of a pattern's alternatives, which "|" parts."""
    return any(fnmatch.fnmatchcase(name, each) for each in pattern.split("|"))


def digest(path: Path = CASES) -> str:
    """Return the SHA-256 of a file of cases."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def compare(case: Case, answer: dict[str, Any]) -> Outcome:
    """Return what an adapter's answer to a case comes to."""
    name, expected = case["name"], case["expected"]
    if "not_supported" in answer:
        return Outcome(name, "not supported", str(answer["not_supported"]))
    if "refused" in answer:
        return Outcome(name, "agrees" if "refused" in expected else "fails", str(answer["refused"]))
    scores = answer["scores"]
    if unknown := sorted(set(scores) - {*SCORES, "draws"}):
        raise ValueError(f"{name}: the adapter gave scores that do not exist: {', '.join(unknown)}")
    if "refused" in expected:
        given = {key: scores[key] for key in _NUMBERS if scores.get(key) is not None}
        wrong = {key: {"expected": None, "got": value} for key, value in given.items()}
        said = "a number where there is nothing to score" if wrong else "no number"
        return Outcome(name, "deviates" if wrong else "agrees", said, list(given), wrong)
    compared, wrong, points = [], {}, {}
    for label, wanted, got, allowed in _pairs(case, scores):
        compared.append(label)
        if not _same(wanted, got, allowed):
            wrong[label] = {"expected": wanted, "got": got}
            if isinstance(got, int | float) and label != "skipped":
                points[label] = 100 * float(got - Fraction(wanted))
    outcome = "deviates" if wrong else "agrees" if compared else "not supported"
    said = "" if compared else "it gives none of the case's scores"
    return Outcome(name, outcome, said, compared, wrong, points)


def _pairs(case: Case, scores: dict[str, Any]) -> Iterator[tuple[str, Any, Any, float]]:
    """Yield each score that was given: its name, what is expected, what was got and how far it may be off."""
    expected = case["expected"]
    for key in (key for key in SCORES if key in scores and key in expected):
        if key not in _BY_RANK:
            yield key, expected[key], scores[key], 0 if key in _COUNTS else TOLERANCE
            continue
        for k, got in scores[key].items():
            allowed = TOLERANCE
            if key == "single_shot_cmc":
                allowed += DEVIATIONS * (float(Fraction(expected["single_shot_variance"][k])) / scores["draws"]) ** 0.5
            yield f"{key}@{k}", expected[key][k], got, allowed


def _same(wanted: Any, got: Any, allowed: float) -> bool:
    if isinstance(wanted, list):
        if not isinstance(got, list) or len(wanted) != len(got):
            return False
        return all(_same(one, other, allowed) for one, other in zip(wanted, got, strict=True))
    if not isinstance(got, int | float):
        return False
    return abs(float(got - Fraction(wanted))) <= allowed


class Adapter:
    """An adapter that runs: a program that answers a line to each line.

    Args:
        command: the program and its arguments.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.hello = self._read()

    def ask(self, case: Case) -> dict[str, Any]:
        """Return the answer to a case, which is handed over without what is expected."""
        assert self._process.stdin is not None
        given = {key: value for key, value in case.items() if key != "expected"}
        try:
            self._process.stdin.write(json.dumps(given) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, and reading says so
        return self._read()

    def close(self) -> None:
        """End the adapter."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = threading.Timer(SECONDS, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if not line:
            raise RuntimeError(f"the adapter ended without an answer, exit status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def run(command: Sequence[str], cases: Sequence[Case]) -> tuple[dict[str, Any], list[Outcome]]:
    """Return what an adapter says of itself, and the outcome of each case.

    Raises:
        RuntimeError, OSError: it does not start, or ends before the last case.
    """
    adapter = Adapter(command)
    try:
        return adapter.hello, [compare(case, adapter.ask(case)) for case in cases]
    finally:
        adapter.close()


def describe(outcome: Outcome) -> str:
    """Return an outcome in one line."""
    parts = [f"{outcome.outcome:13}  {outcome.case}"]
    for label, each in outcome.wrong.items():
        size = f" ({outcome.points[label]:+.2f} points)" if label in outcome.points else ""
        parts.append(f"{label} {_short(each['got'])} instead of {_short(each['expected'])}{size}")
    return "; ".join([*parts, *([outcome.said] if outcome.said else [])])


def _short(value: Any) -> str:
    """Return a score as text, long fractions and floats to 6 places."""
    if isinstance(value, list):
        return f"[{', '.join(map(_short, value))}]"
    if isinstance(value, float) or len(str(value)) > 12:
        return f"{float(Fraction(value)):.6f}"
    return str(value)


def summary(hello: dict[str, Any], outcomes: Sequence[Outcome]) -> str:
    """Return how many cases came to what."""
    counts = [sum(each.outcome == name for each in outcomes) for name in OUTCOMES]
    said = ", ".join(f"{count} {name}" for count, name in zip(counts, OUTCOMES, strict=True) if count)
    return f"{hello['name']} {hello['version']}: {len(outcomes)} cases: {said}"


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", required=True, help="the program that answers, with its arguments")
    parser.add_argument("--cases", type=Path, default=CASES, help="a file of cases (default: cases.json beside this)")
    parser.add_argument("--case", default="*", help="names of cases, with *, ? and | (default: all)")
    parser.add_argument("--out", type=Path, help="a JSON file for the outcomes")
    options = parser.parse_args()
    cases = read_cases(options.cases, options.case)
    if not cases:
        print(f"run: no case is named {options.case}", file=sys.stderr)
        return 2
    try:
        hello, outcomes = run(shlex.split(options.adapter), cases)
    except (OSError, RuntimeError) as error:
        print(f"run: {options.adapter}: {error}", file=sys.stderr)
        return 2
    shown = outcomes if options.case != "*" else [each for each in outcomes if each.outcome != "agrees"]
    print("\n".join([*map(describe, shown), summary(hello, outcomes)]))
    if options.out is not None:
        content = {"cases": digest(options.cases), "adapter": hello, "outcomes": [asdict(each) for each in outcomes]}
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 1 if any(each.outcome in ("deviates", "fails") for each in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
