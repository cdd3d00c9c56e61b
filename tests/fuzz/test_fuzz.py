"""Bad input, generated: every entry point and every reader of a file, a few cases each; `make test-fuzz` for many."""

import itertools
import json
import os
import random
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.fuzz import attaching, command_lines, harness, layers, mutants, readers

CASES = int(os.environ.get("FUZZ", "20000"))  # generated arguments, and as many mutants, of `make test-fuzz`
ENTRIES = {entry.name: entry for part in (layers, attaching, command_lines) for entry in part.entries()}
READERS = {reader.name: reader for reader in (*readers.library_readers(), *readers.pipeline_readers())}
QUICK = 3  # cases of each entry point in the quick suite; those that build a network have one
QUICK_MUTANTS = 8


def share(total: int, weight: float, weights: Iterator[float]) -> int:
    return max(1, -(-int(total * weight) // max(1, round(sum(weights)))))


@pytest.fixture(scope="module", autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory, monkeypatch_module: pytest.MonkeyPatch) -> None:
    monkeypatch_module.setenv("FUZZ_SCRATCH", str(tmp_path_factory.mktemp("scratch")))


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.mark.parametrize("name", ENTRIES)
def test_generated_arguments(name: str) -> None:
    entry = ENTRIES[name]
    harness.run(entry, QUICK if entry.weight >= 0.4 else 1, random=False)


@pytest.mark.parametrize("name", READERS)
def test_mutants_of_a_file(name, tmp_path):
    fail_with(mutants.run(READERS[name], tmp_path, QUICK_MUTANTS, seed=0))


@pytest.mark.fuzz
@pytest.mark.parametrize("name", ENTRIES)
def test_many_generated_arguments(name, record_property):
    entry = ENTRIES[name]
    outcomes = harness.run(entry, share(CASES, entry.weight, (each.weight for each in ENTRIES.values())), random=True)
    record_property("fuzz", json.dumps({"name": name, "outcomes": outcomes}))


def _of_runs(run) -> dict[str, mutants.Reader]:
    return {reader.name: reader for reader in readers.run_readers(run)}


RUN_READERS = (
    *(f"report: {file}" for file in ("result.json", "log.jsonl", "examples.json", "attention.npz", "evaluations")),
    *("open_run: config.yaml", "open_run: result.json", "open_run: weights"),
    *("resume: training.safetensors", "describe: a checkpoint's description", "model.weights: a run's file"),
)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", [*READERS, *RUN_READERS])
def test_many_mutants_of_a_file(name, request, tmp_path, record_property):
    reader = READERS.get(name) or _of_runs(request.getfixturevalue("trained_run"))[name]
    seed = random.SystemRandom().randrange(10**6)
    weights = [each.weight for each in READERS.values()] + [0.5] * len(RUN_READERS)
    outcome = mutants.run(reader, tmp_path, share(CASES, reader.weight, iter(weights)), seed=seed)
    told = {"slowest": round(outcome.slowest, 2), "grown": outcome.largest >> 20}
    record_property("fuzz", json.dumps({"name": f"file: {name}", "outcomes": outcome.counts, **told}))
    fail_with(outcome, seed)


def fail_with(outcome: mutants.Outcome, seed: int = 0) -> None:
    lines = [f"mutant {number} of seed {seed}: {reason}" for number, reason in outcome.failures]
    assert not lines, "\n\n".join(lines)


def test_every_reader_of_a_run_is_known(tmp_path):
    (tmp_path / "checkpoints" / "epoch-0001").mkdir(parents=True)
    assert sorted(_of_runs(tmp_path)) == sorted(RUN_READERS)


# The harness finds what it is there to find.


def _entry(call: Callable, check: Callable = lambda arguments, result: None) -> harness.Entry:
    return harness.Entry("entry", None, call, check, (ValueError,))


def _library_below(arguments: dict) -> None:
    from attnreid.layers._checks import check_multiple

    check_multiple("who", "what", arguments["value"], 0)  # ZeroDivisionError in our own line, by no raise


def _change(arguments: dict) -> None:
    arguments["list"].append(1)


@pytest.mark.parametrize(
    ("call", "check", "message"),
    [
        (lambda arguments: int("x"), None, "not raised on purpose"),
        (lambda arguments: {}["x"], None, "KeyError is not documented"),
        (_library_below, None, "ZeroDivisionError is not documented"),
        (_change, None, "an argument was changed"),
        (lambda arguments: 4, lambda arguments, result: _require(result == 5), "wrong"),
    ],
)
def test_a_bug_is_seen(call, check, message):
    arguments = {"value": 1, "list": []}
    with pytest.raises(AssertionError, match=message):
        harness.judge(_entry(call, check or (lambda arguments, result: None)), arguments)


def _require(holds: bool) -> None:
    assert holds, "wrong"


def test_a_hang_is_seen():
    with pytest.raises(harness.Hang), harness.time_limit(0.05):
        for _ in itertools.count():
            pass


def _crash(path):
    if path.read_bytes() != b"sound":
        signal.raise_signal(signal.SIGKILL)


def _fill(path):
    if path.read_bytes() != b"sound":
        return bytearray(2 << 30)
    return None


@pytest.mark.parametrize(("read", "message"), [(_crash, "the process ended"), (_fill, "MemoryError is not documented")])
def test_a_crash_and_a_full_memory_are_seen(read, message, tmp_path):
    def make(folder):
        (folder / "file").write_bytes(b"sound")
        return folder / "file"

    def check(expected: object, got: object) -> None:
        pass

    reader = mutants.Reader("reader", make, read, check, (ValueError,), (mutants.damage_bytes,))
    outcome = mutants.run(reader, tmp_path, 3, seed=0, most=1)
    assert len(outcome.failures) == 1
    assert message in outcome.failures[0][1]
    assert (tmp_path / "file").read_bytes() == b"sound"


def test_mutants_are_found_again_by_their_number(tmp_path):
    reader = READERS["data: CSV"]
    sound = reader.make(tmp_path).read_bytes()
    again = [[mutants.mutant(reader, sound, 1, number) for number in range(20)] for _ in range(2)]
    assert again[0] == again[1]
    assert len(set(again[0])) > 15


def test_every_command_is_an_entry():
    for program in (command_lines.ATTNREID, command_lines.PIPELINES_PROGRAM):
        for name, command in program.commands.items():
            if command.options is not None:
                assert f"{program.script} {name}: its words" in ENTRIES
