"""Verdicts on 200 synthetic ledgers whose truth is known, and what must never be compared."""

import csv
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from reference_pipelines.claims.listing import read_claims
from reference_pipelines.claims.verdicts import decide, judge
from reference_pipelines.commands.cli import main
from reference_pipelines.ledger.recording import record
from reference_pipelines.ranks.scoring import QueryRanks
from tests.claims.synthetic import claim, first_ranks, ledger, logits, ranks_of, truth
from tests.conftest import says
from tests.ledger.support import cell, finished_run

# How far the left row is lifted, direction and margin of the claim, and whether it is true.
TRUTHS = [
    (0.15, "higher", 0.5, True),
    (-0.15, "higher", 0.5, False),
    (-0.15, "lower", 0.5, True),
    (0.0, "higher", 2.0, False),
    (0.0, "alike", 3.0, True),
    (0.3, "alike", 1.0, False),
    (0.03, "higher", 0.2, True),
    (0.03, "higher", 2.0, False),
]


def verdicts(seeds, ledgers=200):
    """Return the verdict and the truth of each of so many ledgers."""
    rng, found = np.random.default_rng(2026), []
    for number in range(ledgers):
        lift, direction, margin, true = TRUTHS[number % len(TRUTHS)]
        (verdict,) = judge([claim(direction, margin)], ledger(rng, lift, seeds), "demo")
        found.append((verdict, true))
    return found


def test_the_truths_are_what_the_claims_say():
    for lift, direction, margin, true in TRUTHS:
        known = 0.0 if lift == 0 else truth(lift)
        holds = decide(direction, margin, known, known) == "reproduced"
        assert holds == true, (lift, known)


@pytest.mark.parametrize(("seeds", "decided"), [(3, 0.4), (5, 0.55)])
def test_of_200_ledgers_at_most_one_in_twenty_is_judged_wrong_and_most_are_judged(seeds, decided):
    found = verdicts(seeds)
    wrong = sum(each.decision == ("contradicted" if true else "reproduced") for each, true in found)
    assert len(found) == 200
    assert wrong <= 10
    assert sum(each.decision != "undecided" for each, _ in found) >= 200 * decided
    assert {each.decision for each, _ in found} == {"reproduced", "contradicted", "undecided"}


def test_the_interval_holds_the_known_difference():
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(100):
        (verdict,) = judge([claim()], ledger(rng, 0.15, 3), "demo")
        low, high = verdict.estimate.interval
        held += low <= truth(0.15) <= high
    assert held >= 91


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_decide_nothing(seeds):
    rng = np.random.default_rng(0)
    (verdict,) = judge([claim()], ledger(rng, 2.0, seeds), "demo")
    assert (verdict.decision, verdict.needed) == ("undecided", 3)
    assert says(verdict.why, f"{seeds} seed", "at least 3")


def test_what_is_undecided_says_how_many_seeds_would_decide():
    rng, needed = np.random.default_rng(1), []
    for _ in range(20):
        (verdict,) = judge([claim()], ledger(rng, 0.05, 3), "demo")
        if verdict.decision == "undecided":
            needed.append(verdict.needed)
    assert any(each is not None and each > 3 for each in needed)


def test_rank_metrics_are_paired_by_query_too():
    (verdict,) = judge([claim(metric="rank5")], ledger(np.random.default_rng(3), 0.3, 4), "demo")
    drawn = first_ranks(logits(np.random.default_rng(3), 0.3, 4))
    expected = 100 * ((drawn[0] < 5).mean() - (drawn[1] < 5).mean())
    assert verdict.estimate.difference == pytest.approx(expected)
    assert verdict.estimate.seeds == 4


@pytest.mark.parametrize(
    ("direction", "low", "high", "expected"),
    [
        ("higher", 0.6, 2.0, "reproduced"),
        ("higher", 0.4, 2.0, "undecided"),
        ("higher", -1.0, 0.4, "contradicted"),
        ("higher", 0.1, 0.4, "contradicted"),  # there, but too small to count
        ("lower", -2.0, -0.6, "reproduced"),
        ("lower", -0.4, 1.0, "contradicted"),
        ("lower", -2.0, -0.4, "undecided"),
        ("alike", -0.4, 0.3, "reproduced"),
        ("alike", -0.6, 0.3, "undecided"),
        ("alike", 0.6, 0.9, "contradicted"),
        ("alike", -0.9, -0.6, "contradicted"),
    ],
)
def test_the_rule(direction, low, high, expected):
    assert decide(direction, 0.5, low, high) == expected


# What counts, and what is never mixed


def changed(lines, row, **changes):
    return [replace(line, entry=replace(line.entry, **changes)) if line.entry.title == row else line for line in lines]


@pytest.fixture
def lines():
    return ledger(np.random.default_rng(0), 0.5, 3)


def decision(lines, **options):
    (verdict,) = judge([claim()], lines, options.pop("scale", "demo"), **options)
    return verdict


def test_another_scale_selection_or_row_is_not_run(lines):
    assert decision(lines).decision == "reproduced"
    assert decision(lines, scale="full").decision == "not run"
    assert decision(lines, selection="held_out").decision == "not run"
    assert decision(changed(lines, "left", selection="oracle")).why == "no run of left"
    assert decision(changed(lines, "right", scores=None)).why == "no run of right"
    with pytest.raises(ValueError, match="claims: .*without the test set, got 'oracle'"):
        decision(lines, selection="oracle")


def test_rows_trained_without_some_people_are_not_beside_those_trained_on_all(lines):
    apart = changed(lines, "right", config={"evaluation": {"held_out": 16}})
    assert decision(apart).why == "no run of right"
    both = changed(apart, "left", config={"evaluation": {"held_out": 16}}, selection="held_out")
    both = changed(both, "right", selection="held_out")
    assert decision(both, selection="held_out").decision == "reproduced"


def test_seeds_are_paired_and_others_are_left_out(lines):
    extra = ledger(np.random.default_rng(1), 0.5, 5)
    mixed = [line for line in lines if line.entry.title == "left"] + [
        each for each in extra if each.entry.title != "left"
    ]
    assert decision(mixed).estimate.seeds == 3
    apart = [
        replace(line, entry=replace(line.entry, seed=line.entry.seed + 10 * (line.entry.title == "left")))
        for line in lines
    ]
    assert says(decision(apart).why, "no seed that both")


def test_the_first_run_of_a_seed_counts(lines):
    again = ledger(np.random.default_rng(9), -3.0, 3)
    later = [replace(line, entry=replace(line.entry, recorded="2027")) for line in again]
    assert decision([*later, *lines]).estimate == decision(lines).estimate


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tested_on": {"fingerprint": "other"}}, "different images"),
        ({"protocol": {"flip": False}}, "different ways"),
    ],
)
def test_what_was_not_tested_alike_is_not_compared(lines, changes, why):
    verdict = decision(changed(lines, "left", **changes))
    assert verdict.decision == "undecided"
    assert why in verdict.why


def test_two_recipes_or_other_queries_are_not_one_row(lines):
    one = [replace(lines[0], entry=replace(lines[0].entry, recipe_sha256="other")), *lines[1:]]
    assert says(decision(one).why, "runs of left", "not of one recipe")
    ranks = lines[0].standing
    moved = replace(lines[0], standing=replace(ranks, people=ranks.people[::-1].copy()))
    assert says(decision([moved, *lines[1:]]).why, "other queries")


def test_what_no_run_can_judge_says_why():
    found = {verdict.claim.kind: verdict for verdict in judge(read_claims(), [], "demo")}
    assert {each.decision for each in found.values()} == {"not run"}
    assert says(found["published"].why, "published number")
    assert says(found["cost"].why, "attnreid cost")


# The command, on ledgers that are on the disk


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """Two rows of Table II with three seeds, the second level far better than the first."""
    return written(tmp_path_factory.mktemp("claims"), seeds=3)


def written(place, seeds):
    drawn = first_ranks(logits(np.random.default_rng(0), 0.6, 3, people=60))
    for side, row in enumerate(("APNet-C_2", "APNet-C_1")):
        for seed in range(seeds):
            run = finished_run(place / f"{row}-{seed}", seed, in_32_bits(ranks_of(drawn[side, seed])))
            record(place / "ledger", f"demo-{row}", run, cell=cell(row))
    return place / "ledger"


def in_32_bits(ranks):
    names = ("ranks", "matches", "images", "queries", "people")
    return QueryRanks(*(getattr(ranks, name).astype(np.int32) for name in names), skipped=ranks.skipped)


def test_the_command_gives_every_claim_a_verdict(on_disk, tmp_path, capsys):
    out = tmp_path / "verdicts.csv"
    assert main(["claims", str(on_disk), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    name = "apnet.second-level.apnet-c-2-over-apnet-c-1-on-market-1501-map"
    assert says(printed, name, "demo", "reproduced", "higher +0.9", "0.45", "3")
    assert says(printed, f"demo: of {len(read_claims())} claims ", "reproduced", "not run", "last")
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(read_claims())
    assert Counter(row["verdict"] for row in rows)["not run"] == len(rows) - 2
    assert main(["claims", str(on_disk), "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert [(each["claim"]["id"], each["scale"], each["verdict"]) for each in plain] == [
        (row["claim"], row["scale"], row["verdict"]) for row in rows
    ]
    for each, row in zip(plain, rows, strict=True):
        measured = each["difference"] is not None
        assert (f"{each['difference']:+.2f}" if measured else "") == row["measured"].partition(" ")[0]
        assert (str(each["seeds"]) if measured else "") == row["seeds"]
        assert (str(each["would_decide"] or ""), each["why"]) == (row["would decide"], row["why"])
        if each["interval"] is not None:
            assert "[{:+.2f}, {:+.2f}]".format(*each["interval"]) in row["measured"]
    assert sum(each["interval"] is not None for each in plain) == 2
    assert main(["claims", str(on_disk), "--selection", "held_out"]) == 0
    assert says(capsys.readouterr().out, "0 reproduced", f"{len(rows)} not run", "held_out")


def test_the_json_says_how_many_seeds_would_decide(tmp_path, capsys):
    assert main(["claims", str(written(tmp_path, seeds=2)), "--json"]) == 0
    found = [each for each in json.loads(capsys.readouterr().out) if each["seeds"]]
    assert [(each["verdict"], each["seeds"], each["would_decide"]) for each in found] == [("undecided", 2, 3)] * 2
    assert {each["why"] for each in found} == {"2 seeds of at least 3"}


def test_the_command_refuses_a_ledger_that_is_wrong_and_a_scale_that_is_not_there(on_disk, tmp_path, capsys):
    assert main(["claims", str(on_disk), "--scale", "full"]) == 2
    assert says(capsys.readouterr().err, "claims: ", "--scale", "demo", "got full")
    (on_disk / "demo-APNet-C_2.ranks").write_bytes(b"")
    assert main(["claims", str(on_disk)]) == 2
    assert says(capsys.readouterr().err, "claims: ", "demo-APNet-C_2.jsonl", "check-result")
