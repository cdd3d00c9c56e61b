"""The ledger keeps what made a number, gives every score again, and shows each kind of doctoring."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reference_pipelines.commands.cli import main
from reference_pipelines.errors import UserError
from reference_pipelines.ledger import chain
from reference_pipelines.ledger.chain import Slice, read_heads, read_ranks
from reference_pipelines.ledger.recording import record, record_failure
from reference_pipelines.ledger.verifying import scores_of, verify
from reference_pipelines.ranks.files import to_bytes, write_ranks
from tests.conftest import says
from tests.ledger.support import cell, drawn, finished_run

NAME = "apnet.table2-demo"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Four runs in one slice."""
    place = tmp_path_factory.mktemp("recorded")
    for seed in range(4):
        record(place / "ledger", NAME, finished_run(place / f"run{seed}", seed), cell=cell())
    return place / "ledger"


@pytest.fixture
def ledger(recorded, tmp_path):
    return shutil.copytree(recorded, tmp_path / "ledger")


def lines_of(ledger):
    return (ledger / f"{NAME}.jsonl").read_bytes().splitlines()


def write_lines(ledger, lines):
    (ledger / f"{NAME}.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


def findings(ledger):
    """Return (line, what) of everything that is wrong."""
    return [(each.line, each.what) for found in verify(ledger) for each in found.findings if each.wrong]


def said_of(ledger, line):
    return " / ".join(what for number, what in findings(ledger) if number == line)


def test_a_line_holds_what_made_the_number_and_its_ranks(ledger):
    entries = Slice.read(ledger / f"{NAME}.jsonl").entries()
    assert [entry.number for entry in entries] == [1, 2, 3, 4]
    third = entries[2]
    assert (third.seed, third.selection, third.source, third.cell) == (2, "last", "run", cell())
    assert third.config["seed"] == 2
    assert (third.tested_on["fingerprint"], third.commit, third.seconds) == ("ab12", "abc", 1.5)
    assert third.weights != entries[1].weights
    assert len({entry.recipe_sha256 for entry in entries}) == 1
    assert len({entry.config_sha256 for entry in entries}) == 4
    ranks = read_ranks(ledger / f"{NAME}.jsonl", third)
    assert to_bytes(ranks) == to_bytes(drawn(2))
    assert read_heads(ledger)[NAME].lines == 4


def test_a_sound_ledger_passes_and_prints_what_the_ranks_give(ledger, capsys):
    assert main(["check-result", str(ledger)]) == 0
    printed = capsys.readouterr().out
    assert says(printed, "1 slices, 4 lines, 1 of the slices sound")
    mAP = Slice.read(ledger / f"{NAME}.jsonl").entries()[1].scores["mAP"]
    assert says(printed, NAME, "2", "APNet-C_2", "rendered plaza", "last", f"{100 * mAP:.1f}")
    assert main(["check-result", str(ledger / f"{NAME}.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["sound"]


def test_checking_imports_no_torch(ledger):
    code = (
        "import sys\nfrom reference_pipelines.commands.cli import main\n"
        f"status = main(['check-result', {str(ledger)!r}])\n"
        "sys.exit(status or bool({'torch', 'numba', 'scipy', 'yaml'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda line: line["scores"].update(mAP=0.99), "its mAP is 0.99, and its ranks give"),
        (lambda line: line["scores"].update(mAP_market=0.99), "its mAP_market is 0.99, and its ranks give"),
        (lambda line: line["scores"].update(rank5=0.01), "its rank5 is 0.01, and its ranks give"),
        (lambda line: line["scores"].update(mINP=0.5), "its mINP is 0.5, and its ranks give"),
        (lambda line: line["scores"].update(interval=[0.1, 0.2]), "its interval is [0.1, 0.2], and its ranks give"),
        (lambda line: line["scores"].update(rank1="all"), "its rank1 is all"),
        (lambda line: line["scores"].pop("mINP"), "it has no mINP"),
        (lambda line: line["scores"].update(mAP_best=1.0), "its mAP_best is nothing that the ranks give"),
        (lambda line: line["config"]["evaluation"].update(flip=False), "its config was changed"),
        (lambda line: line.update(seed=7), "its seed is 7, its config's"),
        (lambda line: line.update(selection="best"), "its selection is 'best'"),
        (lambda line: line.update(number=9), "it calls itself line 9"),
        (lambda line: line["ranks"].update(offset=1), "its ranks"),
        (lambda line: line["ranks"].update(offset="1"), "its ranks are not in"),
        (lambda line: line.update(ranks=None), "it has no ranks"),
        (lambda line: line.update(more=1), "its fields are others"),
    ],
)
def test_a_doctored_value_is_named_with_its_line(ledger, number, change, said):
    lines = lines_of(ledger)
    line = json.loads(lines[number - 1])
    change(line)
    lines[number - 1] = json.dumps(line, separators=(",", ":")).encode()
    write_lines(ledger, lines)
    assert said in said_of(ledger, number)
    assert main(["check-result", str(ledger)]) == 1


@pytest.mark.parametrize("number", [2, 4])
def test_any_byte_of_a_line_is_held_by_the_next_or_by_the_index(ledger, number):
    lines = lines_of(ledger)
    lines[number - 1] = lines[number - 1].replace(b'"hardware":"cpu"', b'"hardware":"gpu"')
    write_lines(ledger, lines)
    if number == 4:
        assert findings(ledger) == [(4, "its digest is not the one in the index: it was changed")]
    else:
        assert "does not carry the digest of line 2" in said_of(ledger, 3)


def test_a_rank_that_was_changed_is_named(ledger):
    entry = Slice.read(ledger / f"{NAME}.jsonl").entries()[1]
    content = bytearray((ledger / f"{NAME}.ranks").read_bytes())
    content[entry.ranks["offset"] + entry.ranks["bytes"] // 2] ^= 1
    (ledger / f"{NAME}.ranks").write_bytes(content)
    assert findings(ledger) == [(2, "its ranks were changed: their digest is another")]


def test_ranks_that_are_exchanged_with_their_digest_do_not_give_the_scores(ledger, monkeypatch):
    """Whoever writes the digests anew as well must write the scores of these ranks."""
    lines, shift = lines_of(ledger), 0
    blobs, before = [], chain.beginning(NAME)
    for number, raw in enumerate(lines, start=1):
        line = json.loads(raw)
        blob = to_bytes(drawn(99 if number == 2 else number - 1))
        line["ranks"] = {"offset": shift, "bytes": len(blob), "sha256": chain.hashlib.sha256(blob).hexdigest()}
        line["previous"] = before
        lines[number - 1] = json.dumps(line, separators=(",", ":")).encode()
        before = chain.digest(lines[number - 1])
        blobs.append(blob)
        shift += len(blob)
    (ledger / f"{NAME}.ranks").write_bytes(b"".join(blobs))
    (ledger / "heads.json").write_text(json.dumps({NAME: {"lines": 4, "head": before}}))
    write_lines(ledger, lines)
    assert {number for number, _ in findings(ledger)} == {2}
    assert "its mAP is" in said_of(ledger, 2)


def test_removed_swapped_and_repeated_lines_are_named(ledger):
    whole = lines_of(ledger)
    write_lines(ledger, [whole[0], *whole[2:]])
    assert says(said_of(ledger, 2), "it calls itself line 3", "does not carry the digest of line 1")
    assert says(said_of(ledger, None), "the index names 4 lines, and 3 are whole")
    write_lines(ledger, [whole[0], whole[2], whole[1], whole[3]])
    assert {number for number, _ in findings(ledger)} == {2, 3, 4}
    write_lines(ledger, [*whole, whole[3]])
    assert "it calls itself line 4" in said_of(ledger, 5)
    write_lines(ledger, whole[:3])
    assert says(said_of(ledger, None), "the index names 4 lines, and 3 are whole")
    write_lines(ledger, [whole[0], b"{}", *whole[2:]])
    assert "no line of format 1" in said_of(ledger, 2)


def test_a_slice_that_is_gone_renamed_or_in_no_index_is_named(ledger, capsys):
    slice_file = ledger / f"{NAME}.jsonl"
    shutil.copy(slice_file, ledger / "other.jsonl")
    shutil.copy(ledger / f"{NAME}.ranks", ledger / "other.ranks")
    assert main(["check-result", str(ledger)]) == 1
    printed = capsys.readouterr().out
    assert says(printed, "other.jsonl, line 1", f"it calls itself line 1 of {NAME}")
    assert says(printed, "other.jsonl, the whole", "not in the index")
    slice_file.unlink()
    assert "the index names 4 lines, and 0 are whole" in said_of(ledger, None)


def test_without_an_index_the_chain_is_followed_and_what_does_not_show_is_said(ledger, capsys):
    (ledger / "heads.json").unlink()
    assert main(["check-result", str(ledger)]) == 0
    assert says(capsys.readouterr().out, "note: ", "the whole", "no index", "cut off its end would not show")


# A process that is killed


def test_what_a_kill_leaves_is_named_and_mended_by_the_next_append(ledger, tmp_path, capsys):
    path, blob = ledger / f"{NAME}.jsonl", ledger / f"{NAME}.ranks"
    sound = path.read_bytes()
    with path.open("ab") as file:
        file.write(sound.splitlines()[-1][:100])
    with blob.open("ab") as file:
        file.write(b"ranks of a line that was never written")
    assert main(["check-result", str(ledger)]) == 0
    assert says(capsys.readouterr().out, "note: ", "line 5", "cut off after 100 bytes")
    record(ledger, NAME, finished_run(tmp_path / "again", 9), cell=cell())
    assert path.read_bytes().startswith(sound)
    entries = Slice.read(path).entries()
    assert len(entries) == 5
    assert says(entries[4].remarks[-1], "100 bytes", "cut off")
    assert main(["check-result", str(ledger)]) == 0


def test_a_last_line_that_the_index_knows_is_not_taken_for_a_kill(ledger, tmp_path):
    path = ledger / f"{NAME}.jsonl"
    path.write_bytes(path.read_bytes()[:-50])
    assert "cut off" in said_of(ledger, 4)
    with pytest.raises(UserError) as error:
        record(ledger, NAME, finished_run(tmp_path / "again", 9), cell=cell())
    assert says(str(error.value), "ledger: ", str(path), "names 4 lines, and 3 are whole", "check-result")


def test_an_index_that_is_behind_is_named_and_caught_up(ledger, tmp_path, capsys):
    record(ledger, "other", finished_run(tmp_path / "another", 7), cell=cell())
    heads = (ledger / "heads.json").read_bytes()
    record(ledger, NAME, finished_run(tmp_path / "again", 9), cell=cell())
    (ledger / "heads.json").write_bytes(heads)
    assert main(["check-result", str(ledger)]) == 0
    assert says(capsys.readouterr().out, "note: ", "line 5", "the index ends before it")
    record(ledger, NAME, finished_run(tmp_path / "once more", 10), cell=cell())
    assert read_heads(ledger)[NAME].lines == 6
    assert read_heads(ledger)["other"].lines == 1


def test_a_full_disk_leaves_the_chain_as_it_was(ledger, tmp_path, monkeypatch):
    before = {path.name: path.read_bytes() for path in ledger.iterdir()}
    run, calls = finished_run(tmp_path / "again", 9), []

    def refuse(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:  # the ranks are on the disk, the line is not
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(chain.os, "fsync", refuse)
    with pytest.raises(UserError, match="ledger: cannot write in .*No space left"):
        record(ledger, NAME, run, cell=cell())
    monkeypatch.undo()
    after = {path.name: path.read_bytes() for path in ledger.iterdir()}
    assert after[f"{NAME}.jsonl"] == before[f"{NAME}.jsonl"]
    assert after["heads.json"] == before["heads.json"]
    record(ledger, NAME, run, cell=cell())
    assert main(["check-result", str(ledger)]) == 0


APPENDING = """
import sys
from pathlib import Path

from reference_pipelines.ledger.chain import append
from tests.ledger.support import drawn

ledger, name = Path(sys.argv[1]), sys.argv[2]
fields = eval(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for seed in range(15):
    append(ledger, name, fields, drawn(seed))
"""


def test_processes_that_append_at_once_make_one_chain(ledger, tmp_path):
    own = ("slice", "number", "previous", "recorded", "ranks", "format")
    fields = {name: value for name, value in json.loads(lines_of(ledger)[0]).items() if name not in own}
    command = [sys.executable, "-c", APPENDING, str(ledger), NAME, repr(fields)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [subprocess.Popen(command, cwd=Path(__file__).parents[2], **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    (checked,) = verify(ledger)
    assert checked.lines == 34
    # The scores of the first run stand on other ranks in the lines of the second process and on.
    assert not [each for each in checked.findings if "digest" in each.what or "line" in each.what]
    assert read_heads(ledger)[NAME].lines == 34


# Other machines, other sources


def test_another_machines_ledger_is_joined_by_copying_its_folder(ledger, tmp_path):
    record(tmp_path / "theirs", NAME, finished_run(tmp_path / "their run", 8), cell=cell())
    shutil.copytree(tmp_path / "theirs", ledger / "machine-b")
    checked = verify(ledger)
    assert [(each.path.parent.name, each.lines, each.sound) for each in checked] == [
        ("ledger", 4, True),
        ("machine-b", 1, True),
    ]


def test_an_evaluation_says_by_which_rule_its_weights_were_chosen(ledger, tmp_path):
    for name, selection in (("model", "last"), ("held_out", "held_out"), ("best", "oracle")):
        run = finished_run(tmp_path / name, 5)
        result = json.loads((run / "result.json").read_text())
        ranks = drawn(50)
        numbers = {key: value for key, value in result.items() if key not in ("final", "data", "weights_digest")}
        numbers |= {"trained_on": result["data"], "tested_on": {**result["data"], "fingerprint": "cd34"}}
        numbers |= {"scores": scores_of(ranks, (1, 5)), "ranks": write_ranks(run / "e.ranks.npz", ranks)}
        numbers |= {"flip": False, "reranked": True, "image_size": [64, 32], "start_weights": None}
        numbers["weights"] = {"name": name, "digest": "0123"}
        (run / "e.json").write_text(json.dumps(numbers))
        entry = record(ledger, "evaluations", run / "e.json", cell=cell())
        assert (entry.selection, entry.source, entry.weights) == (selection, "evaluation", "0123")
        assert entry.protocol == {"flip": False, "reranked": True, "image_size": [64, 32]}
        assert (entry.trained_on["fingerprint"], entry.tested_on["fingerprint"]) == ("ab12", "cd34")
    assert not findings(ledger)


def test_a_failure_stays_without_scores(ledger, capsys):
    config = Slice.read(ledger / f"{NAME}.jsonl").entries()[0].config
    about = {"pipeline": "apnet", "config": config, "hardware": "cpu", "seconds": 2.0, "cell": cell()}
    entry = record_failure(ledger, NAME, "the loss is nan at step 3", **about)
    assert (entry.source, entry.scores, entry.failure) == ("failure", None, "the loss is nan at step 3")
    assert main(["check-result", str(ledger)]) == 0
    assert says(capsys.readouterr().out, NAME, "5", "failed")


# Refusals


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda run: (run / "ranks.npz").unlink(), ("ranks.npz", "result.json", "evaluate it again")),
        (lambda run: (run / "ranks.npz").write_bytes(b"x"), ("ranks.npz", "digest is another")),
        (lambda run: (run / "result.json").unlink(), ("result.json", "finished run", "resume")),
        (lambda run: (run / "result.json").write_text("{}"), ("result.json", "finished run", "final")),
        (lambda run: rewrite(run, unfinished={"epoch": 3, "epochs": 9}), ("epoch 3 of 9", "resume")),
        (lambda run: rewrite(run, final={"mAP": 0.9, "rank1": 1.0}), ("those of its ranks", "mAP is 0.9")),
    ],
)
def test_what_is_not_whole_is_not_recorded(ledger, tmp_path, change, parts):
    before = {path.name: path.read_bytes() for path in ledger.iterdir()}
    run = finished_run(tmp_path / "again", 9)
    change(run)
    with pytest.raises(UserError) as error:
        record(ledger, NAME, run, cell=cell())
    assert says(str(error.value), "ledger: ", *parts)
    assert {path.name: path.read_bytes() for path in ledger.iterdir()} == before


def rewrite(run, **changes):
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, **changes}))


@pytest.mark.parametrize("name", ["", "../x", "a b", ".hidden", "a/b"])
def test_a_slices_name_is_a_file_name(ledger, tmp_path, name):
    with pytest.raises(ValueError, match="ledger: .*name .*letters, digits"):
        record(ledger, name, finished_run(tmp_path / "again", 9), cell=cell())


def test_a_folder_that_is_no_ledger_is_refused(tmp_path, capsys):
    assert main(["check-result", str(tmp_path)]) == 2
    assert says(capsys.readouterr().err, "check-result: ", str(tmp_path), "must be a ledger", "heads.json")
    (tmp_path / "heads.json").write_text('{"a": {"lines": -3, "head": "x"}}')
    assert main(["check-result", str(tmp_path)]) == 2
    assert says(capsys.readouterr().err, "ledger: ", "heads.json", "index")


def test_a_chain_that_was_doctored_is_not_appended_to(ledger, tmp_path):
    lines = lines_of(ledger)
    lines[1] = lines[1].replace(b'"hardware":"cpu"', b'"hardware":"gpu"')
    write_lines(ledger, lines)
    with pytest.raises(UserError) as error:
        record(ledger, NAME, finished_run(tmp_path / "again", 9), cell=cell())
    assert says(str(error.value), "ledger: ", "unbroken chain", "line 3", "begin a new slice")


def test_ranks_are_compact():
    """Market-1501's queries, in random order, which compresses worst."""
    ranks = drawn(0, queries=3368, images=15913)
    assert len(to_bytes(ranks)) < 3 * len(ranks.ranks) + 12 * len(ranks.queries)
