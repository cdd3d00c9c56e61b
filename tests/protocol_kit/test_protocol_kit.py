"""The kit: ours agrees in every case, the runner sees what is wrong, and the page is what was measured."""

import ast
import importlib
import json
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from tests.protocol_kit import compare, generate, page, run

KIT = Path(__file__).parent
CASES = run.read_cases()
RESULTS = json.loads(compare.RESULTS.read_text(encoding="utf-8"))
ADAPTER = """
import json, sys
print(json.dumps({"name": "fake", "version": "1"}), flush=True)
for line in sys.stdin:
    case = json.loads(line)
    assert "expected" not in case
    print(json.dumps(ANSWER), flush=True)
"""


@pytest.fixture(scope="module")
def ours():
    sys.path.insert(0, str(compare.ADAPTERS))
    try:
        yield importlib.import_module("attnreid_adapter").evaluate, importlib.import_module("serving")._plain
    finally:
        sys.path.remove(str(compare.ADAPTERS))


def answer(evaluate, plain, case):
    try:
        return {"scores": plain(evaluate(case))}
    except ValueError as error:
        return {"refused": str(error)}


def named(name):
    return next(case for case in CASES if case["name"] == name)


def test_ours_gives_every_score_of_every_case(ours):
    assert len(CASES) >= 60
    for case in CASES:
        outcome = run.compare(case, answer(*ours, case))
        assert outcome.outcome == "agrees", run.describe(outcome)
        if "refused" not in case["expected"]:
            given = {label.partition("@")[0] for label in outcome.compared}
            assert given == set(case["expected"]) - {"single_shot_variance"}, case["name"]


def test_the_cases_are_what_the_generator_writes_and_it_knows_no_one(capsys):
    assert generate.CASES.read_text(encoding="utf-8") == generate.document(
        [case for group in generate.GROUPS for case in group()]
    )
    for path in (KIT / "generate.py", KIT / "run.py"):
        imported = [
            node.module if isinstance(node, ast.ImportFrom) else name.name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in node.names
        ]
        assert all(name.partition(".")[0] in sys.stdlib_module_names for name in imported), imported


@pytest.mark.parametrize(
    ("name", "said", "outcome", "points"),
    [
        ("both-ap/second", {"scores": {"mAP": 0.5, "mAP_market": 0.25}}, "agrees", {}),
        ("both-ap/second", {"scores": {"mAP": 0.5, "mAP_market": 0.5}}, "deviates", {"mAP_market": 25}),
        ("both-ap/second", {"scores": {"mAP": 0.50001}}, "deviates", {"mAP": 0.001}),
        ("both-ap/second", {"scores": {"mAP": None}}, "deviates", {}),
        ("both-ap/second", {"scores": {"cmc": {"1": 1, "5": 1}}}, "deviates", {"cmc@1": 100}),
        ("both-ap/second", {"scores": {"average_precision": [0.5, 0.5]}}, "deviates", {}),
        ("both-ap/second", {"scores": {"places": [[2]]}}, "deviates", {}),
        ("both-ap/second", {"scores": {}}, "not supported", {}),
        ("both-ap/second", {"refused": "no"}, "fails", {}),
        ("both-ap/second", {"not_supported": "why"}, "not supported", {}),
        ("single-shot/half", {"scores": {"single_shot_cmc": {"1": 0.6}, "draws": 100}}, "agrees", {}),
        (
            "single-shot/half",
            {"scores": {"single_shot_cmc": {"1": 0.76}, "draws": 100}},
            "deviates",
            {"single_shot_cmc@1": 26},
        ),
        ("empty/no-query", {"refused": "no"}, "agrees", {}),
        ("empty/no-query", {"scores": {"mAP": None}}, "agrees", {}),
        ("empty/no-query", {"scores": {"mAP": 0.0}}, "deviates", {}),
    ],
)
def test_an_answer_is_judged(name, said, outcome, points):
    found = run.compare(named(name), said)
    assert found.outcome == outcome
    assert found.points == pytest.approx(points)


def test_a_score_that_does_not_exist_is_the_adapters_mistake():
    with pytest.raises(ValueError, match="scores that do not exist: map"):
        run.compare(named("basic/last"), {"scores": {"map": 1}})


@pytest.mark.parametrize(
    ("said", "status", "printed"),
    [
        ({"scores": {"mAP": 1 / 6}}, 0, "fake 1: 1 cases: 1 agrees"),
        ({"scores": {"mAP": 1}}, 1, "mAP 1 instead of 1/6 (+83.33 points)"),
        ({"refused": "E"}, 1, "fails          basic/last; E"),
        (None, 2, "ended without an answer"),
    ],
)
def test_the_command_asks_a_program(said, status, printed, tmp_path, monkeypatch, capfd):
    program = tmp_path / "adapter.py"
    program.write_text(f"ANSWER = {said!r}{ADAPTER}" if said else "import sys; sys.exit(3)")
    out = tmp_path / "out.json"
    words = ["run", "--adapter", f"{sys.executable} {program}", "--case", "basic/last", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    assert run.main() == status
    text = capfd.readouterr()
    assert printed in text.out + text.err
    assert out.exists() == (status != 2)


def test_the_page_is_what_was_measured_on_these_cases():
    assert RESULTS["cases"] == run.digest(), "cases.json has changed since: make protocol-kit"
    assert compare.PAGE.read_text(encoding="utf-8") == page.page(RESULTS, CASES)
    assert [peer["adapter"]["name"] for peer in RESULTS["peers"]] == [peer.name for peer in compare.PEERS]
    wanted = [case["name"] for case in CASES] + list(RESULTS["rendered"]["mAP"])
    for peer in RESULTS["peers"]:
        assert [each["case"] for each in peer["outcomes"]] == wanted


def test_ours_has_no_deviation_and_every_other_has_its_reason():
    ours, *others = RESULTS["peers"]
    assert {each["outcome"] for each in ours["outcomes"]} == {"agrees"}
    for peer in others:
        for each in peer["outcomes"]:
            if each["outcome"] in ("deviates", "fails"):
                assert page.reason_of(peer["adapter"], each["case"]), (peer["adapter"]["name"], each["case"])
            assert each["said"] or each["outcome"] != "not supported"


def test_a_score_by_hand():
    hits = [True, False, True, False, False, True]
    assert generate.average_precision(hits) == Fraction(13, 18)
    assert generate.average_precision_market(hits) == (1 + Fraction(7, 12) + Fraction(9, 20)) / 3
    assert generate.inverse_negative_penalty(hits) == Fraction(1, 2)
