"""No score in README or docs that the ledger does not hold."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import script

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"<!-- (ledger|explain): \S+ -->.*?<!-- end of \1 -->", re.DOTALL)
# A score with its interval, or mAP or rank-1 with a number of one decimal.
SCORE = re.compile(r"\b\d{1,2}\.\d \[\d|\b(?:mAP|rank-1)\b[^|\n]{0,20}?\b\d{1,2}\.\d\b(?! times| MiB)")
MEASURED_OTHERWISE = {"rendered.md"}  # what `data difficulty` prints of colours and networks, by person and by camera


@pytest.fixture(scope="module")
def scores():
    return script("scores")


@pytest.fixture(scope="module")
def lines(scores):
    return scores.read_lines()


def test_the_blocks_are_what_the_ledger_gives(scores, lines):
    cells = scores.by_cell(lines)
    blocks = 0
    for path in scores.PAGES:
        text = path.read_text(encoding="utf-8")
        blocks += len(BLOCK.findall(text))
        assert scores.fill(text, cells) == text, f"{path}: run python docs/scores.py"
    assert blocks >= 1


def test_a_figures_table_is_what_its_file_holds(scores):
    rows = [line.split(" | ") for line in scores.on_person("apnet.figure6-demo").splitlines()]
    assert rows[0] == ["| row", "seed", "Grad-CAM", "layer1", "layer2", "layer3", "layer4 |"]
    numbers = json.loads((scores.EXPLAINED / "apnet.figure6-demo.json").read_text(encoding="utf-8"))["numbers"]
    assert len(numbers) == 4 * (len(rows) - 3)
    for number in numbers:
        named = (f"| {number['row']}", number["level"].replace("level", "level "))
        (row,) = [each for each in rows if (each[0], each[2]) == named]
        column = 2 + int(number["site"].removeprefix("layer"))
        assert row[column].startswith(f"{100 * number['on_person']:.1f} [{100 * number['low']:.1f}, ")
        assert rows[-1][column].removesuffix(" |") == f"{100 * number['covers']:.1f}"


def test_the_page_of_results_is_what_the_ledger_gives(scores, lines):
    assert scores.PAGE.read_text(encoding="utf-8") == scores.page(lines)


def test_no_score_is_typed(scores):
    for path in scores.PAGES:
        if path.name not in MEASURED_OTHERWISE:
            typed = SCORE.findall(BLOCK.sub("", path.read_text(encoding="utf-8")))
            assert not typed, f"{path}: {typed}"


@pytest.mark.parametrize("typed", ["it reaches 61.2 [58.0, 64.1]", "ends at mAP 61.2", "rank-1 of 75.8"])
def test_a_typed_score_is_found(typed):
    assert SCORE.search(typed)


def test_every_number_of_the_first_table_is_a_mean_of_the_ledgers_lines(scores, lines):
    """Counted anew, from the ranks."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = [line.split("|")[1:-1] for line in BLOCK.search(text)[0].splitlines() if line.startswith("| ")]
    rows = [list(map(str.strip, each)) for each in table[2:]]
    assert len(rows) > 3
    for row in rows:
        found = {}
        for line in lines:
            entry = line.entry
            of_row = entry.cell["row"] == row[0] and entry.cell["dataset"] == "Market-1501" and entry.scores
            if of_row and entry.selection == "last" and not entry.held_out:
                found.setdefault(entry.seed, line.ranks().ranked.average_precision().mean())
        assert int(row[1]) == len(found)
        assert row[2].startswith(f"{100 * sum(found.values()) / len(found):.1f}")


def _with(line, selection, held_out, mean):
    entry = line.entry
    config = {**entry.config, "evaluation": {**entry.config["evaluation"], "held_out": held_out}}
    scores = {**entry.scores, "mAP": mean}
    return replace(line, entry=replace(entry, selection=selection, config=config, scores=scores, recorded="2099"))


def test_rules_of_selection_are_never_mixed(scores, lines):
    line = next(each for each in lines if each.entry.scores and not each.entry.held_out)
    name = f"| {line.entry.cell['row']} | {line.entry.cell['dataset']} |"
    others = [_with(line, rule, 7, mean) for rule, mean in (("last", 0.11), ("held_out", 0.22), ("oracle", 0.33))]
    assert scores.by_cell([line, *others]) == scores.by_cell([line])
    assert scores.by_cell(others) == {}
    (row,) = [each for each in scores.selected([line, *others]).splitlines() if each.startswith(name)]
    cells = [each.strip() for each in row.split("|")[3:-1]]
    assert cells[:2] == ["7", "1"]
    assert [each.split()[0] for each in cells[2:]] == ["11.0", "22.0", "33.0"]
    without = scores.selected([line, others[0], others[2]])
    assert [each.strip().split()[0] for each in without.splitlines()[-1].split("|")[-4:-1]] == ["11.0", "not", "33.0"]
    assert scores.selected([line]) == ""


def test_a_seed_without_all_rules_is_in_no_rules_mean(scores, lines):
    line = next(each for each in lines if each.entry.scores)
    both = [_with(line, "last", 7, 0.1), _with(line, "oracle", 7, 0.3)]
    alone = _with(line, "oracle", 7, 0.9)
    alone = replace(alone, entry=replace(alone.entry, seed=line.entry.seed + 1))
    row = scores.selected([*both, alone]).splitlines()[-1]
    assert [each.strip().split()[0] for each in row.split("|")[4:-1]] == ["1", "10.0", "not", "30.0"]


def test_what_was_trained_again_is_compared_by_its_ranks(scores, lines):
    line = next(each for each in lines if each.entry.scores)

    def like(**changes):
        return replace(line, entry=replace(line.entry, **changes))

    again = like(weights="again")
    assert scores.trained_again([line, like(commit="later"), like(seed=77, weights="other")]) == []
    assert scores.trained_again([line, again, like(weights="third", seed=77)]) == [True]
    moved = like(weights="moved", ranks={**line.entry.ranks, "sha256": "0"})
    assert scores.trained_again([line, again, moved]) == [False]
