"""The page of what `make protocol-kit` found, from its JSON file alone."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from tests.protocol_kit import run

_MARKS = {"agrees": "✓", "fails": "fails", "not supported": "–"}
_INTRODUCTION = """\
# How libraries score the same rankings

Written by `make protocol-kit` from [protocol_kit.json](protocol_kit.json); nothing here is typed. The cases are those
of the [evaluation kit](../../tests/protocol_kit/README.md): {count} small rankings, each with every score in exact
fractions, after Market-1501's rules (the query's person in the query's camera and junk are dropped, distractors stay,
queries without a match are left out) and with equal distances in the order of the gallery. The last rule is a
definition of ours: a library that leaves the order of equal distances open breaks no rule of its own. Libraries differ
in what they are for; a dash says that a case asks for what the library does not do, and is no fault.

Versions: {versions}. Run on {machine}. An unstable sort may come out otherwise on another processor.
Any cell again: `make protocol-kit PEER=torchreid CASE='ties/drawn'` (a peer, and a case or a pattern).
"""
_LEGEND = """\
✓: every score that the library gives agrees, to 2·10⁻⁶. A number: its mAP less the exact one, in points (hundredths).
≠: mAP agrees, another score does not. number: it gives a score where there is nothing to score. fails: it raises an
error where there is a score. –: not supported. Scores that a library does not give are not compared."""


def page(content: dict[str, Any], cases: Sequence[run.Case]) -> str:
    """Return the page in Markdown."""
    peers = content["peers"]
    names = [peer["adapter"]["name"] for peer in peers]
    found = {peer["adapter"]["name"]: {each["case"]: each for each in peer["outcomes"]} for peer in peers}
    versions = ", ".join(f"{peer['adapter']['name']} {peer['adapter']['version'] or 'not installed'}" for peer in peers)
    groups: dict[str, list[str]] = {}
    for case in cases:
        groups.setdefault(case["name"].partition("/")[0], []).append(case["name"])
    everything = [case["name"] for case in cases]
    counts = [
        [f"{group} ({len(members)})", *(_count([found[name][each] for each in members]) for name in names)]
        for group, members in groups.items()
    ]
    total = [f"**all ({len(cases)})**", *(_count([found[name][each] for each in everything]) for name in names)]
    given = [
        [f"`{score}`", *("yes" if _gives(found[name].values(), score) else "–" for name in names)]
        for score in ("mAP", "mAP_market", "mINP", "cmc", "single_shot_cmc", "skipped")
    ]
    rendered = content["rendered"]
    sets = [
        [f"`{name}`", f"{100 * float(Fraction(value)):.2f}", *(_points(found[peer][name]) for peer in names)]
        for name, value in rendered["mAP"].items()
    ]
    says = " ".join(f"`{name}`: {said}" for name, said in rendered["says"].items())
    rules = [[what, f"{points:+.2f}"] for what, points in rendered["rules"].items()]
    each = [[f"`{name}`", *(_cell(found[peer][name]) for peer in names)] for name in everything]
    parts = [
        _INTRODUCTION.format(count=len(cases), versions=versions, machine=content["machine"]),
        "## By rule\n\nCases that agree, of those that the library can be asked; d deviate, f fail, and the rest "
        "is not supported.",
        _table(["rule (cases)", *names], [*counts, total]),
        "The scores that each gives:",
        _table(["score", *names], given),
        f"## On a rendered set\n\n{rendered['said'].removeprefix('rendered, ').capitalize()}. The features are eight "
        "strips' mean colours, standardised by camera, in 64 levels "
        "([recipe](../../tests/protocol_kit/rendered.py)): a weak matcher, which is enough to see sizes. mAP in "
        "percent, exact, then each library's mAP less that, in points.",
        _table(["set", "mAP", *names], sets),
        f"{says}\n\nWhat leaving a rule out does to the mAP of `rendered/pixels`, in points, computed exactly; it is "
        "what a library without the rule would report.",
        _table(["rule left out", "points"], rules),
        f"## Case by case\n\n{_LEGEND}",
        _table(["case", *names], each),
        "## Library by library",
        *(_library(peer, {case["name"]: case["says"] for case in cases} | rendered["says"]) for peer in peers),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _library(peer: dict[str, Any], says: dict[str, str]) -> str:
    """Return what there is to say of one library: how it is called, what it cannot say, where it deviates and why."""
    adapter = peer["adapter"]
    also = ", ".join(f"{name} {version}" for name, version in adapter["versions"].items())
    lines = [f"### {adapter['name']} {adapter['version']}", ""]
    lines += [f"With {also}." if also else "", "", *(f"- {note}" for note in adapter["notes"])]
    unsupported: dict[str, list[str]] = {}
    for outcome in peer["outcomes"]:
        if outcome["outcome"] == "not supported":
            unsupported.setdefault(outcome["said"], []).append(f"`{outcome['case']}`")
    lines += [f"- Not supported: {reason}. ({', '.join(names)})" for reason, names in unsupported.items()]
    for outcome in peer["outcomes"]:
        if outcome["outcome"] in ("deviates", "fails"):
            scores = "; ".join(_scores(outcome)) or outcome["said"]
            why = f" Why: {reason}." if (reason := reason_of(adapter, outcome["case"])) else ""
            lines.append(
                f"- `{outcome['case']}` ({says[outcome['case']].rstrip('.')}) {outcome['outcome']}: {scores}.{why}"
            )
    if all(outcome["outcome"] in ("agrees", "not supported") for outcome in peer["outcomes"]):
        lines.append("- No deviation.")
    return "\n".join(line for number, line in enumerate(lines) if line or lines[number - 1])


def reason_of(adapter: dict[str, Any], case: str) -> str:
    """Return why a library deviates in a case, the last of its adapter's reasons that match; "" where none does."""
    found = [reason for pattern, reason in adapter["reasons"].items() if run.matches(case, pattern)]
    return found[-1] if found else ""


def _scores(outcome: dict[str, Any]) -> list[str]:
    found = []
    for label, each in outcome["wrong"].items():
        wanted = "none" if each["expected"] is None else _number(each["expected"])
        got = "none" if each["got"] is None else f"{each['got']:.4f}"
        size = f" ({outcome['points'][label]:+.2f} points)" if label in outcome["points"] else ""
        found.append(f"{label} {got} for {wanted}{size}")
    return found


def _number(value: Any) -> str:
    """Return a short fraction as it is, a long one as a decimal."""
    return str(value).removesuffix("/1") if len(str(value)) <= 9 else f"{float(Fraction(value)):.4f}"


def _cell(outcome: dict[str, Any]) -> str:
    if outcome["outcome"] != "deviates":
        return _MARKS[outcome["outcome"]]
    if "mAP" in outcome["points"]:
        return f"{outcome['points']['mAP']:+.2f}"
    return "number" if outcome["wrong"].get("mAP", {"expected": 0})["expected"] is None else "≠"


def _points(outcome: dict[str, Any]) -> str:
    if outcome["outcome"] in ("fails", "not supported"):
        return _MARKS[outcome["outcome"]]
    return f"{outcome['points'].get('mAP', 0.0):+.2f}" if outcome["outcome"] == "deviates" else "0"


def _count(outcomes: Sequence[dict[str, Any]]) -> str:
    counts = {name: sum(each["outcome"] == name for each in outcomes) for name in run.OUTCOMES}
    asked = len(outcomes) - counts["not supported"]
    if not asked:
        return "–"
    more = [f"{counts[name]} {name[0]}" for name in ("deviates", "fails") if counts[name]]
    return f"{counts['agrees']}/{asked}" + (f", {', '.join(more)}" if more else "")


def _gives(outcomes: Any, score: str) -> bool:
    return any(label.partition("@")[0] == score for each in outcomes for label in each["compared"])


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [headings, ["---"] * len(headings), *rows])
