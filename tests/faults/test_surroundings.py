"""A folder that cannot be written, too little memory, a clock that is set back, and two commands at once."""

import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from reference_pipelines.commands.cli import main
from reference_pipelines.runs.checkpoints import saved_epochs
from tests.conftest import says
from tests.faults.test_commands import COMMANDS, content, finish, start
from tests.training.runs import arguments, assert_same_run, logged, trained

pytestmark = [pytest.mark.faults, pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked")]
DAY = 86400.0
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "apnet"
    trained("apnet", images, out)
    return out


def train(images, out, pipeline="apnet", **changes):
    return ["train", pipeline, "--out", str(out), *arguments(pipeline, images, **changes), "--quiet"]


def ended(words, printed: Path, before: Callable[[], None] = lambda: None) -> tuple[int, str]:
    """Run a command in a process of its own, and return its status and what it printed."""
    status = finish(start(words, printed, before))
    return status, printed.read_text(errors="replace")


def assert_one_sentence(status: int, text: str, *parts: str) -> None:
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert (status, len(errors)) == (2, 1), text
    assert "Traceback" not in text
    assert says(errors[0], *parts), errors


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_a_folder_that_cannot_be_written(run, images, tmp_path, tell):
    """Mounted read-only, which keeps root from writing, too."""
    place = tmp_path / "place"
    (place / "inner").mkdir(parents=True)
    shutil.copytree(run, place / "run")
    words = {name: COMMANDS[name].words(run, images, place / "inner") for name in COMMANDS}
    words |= {
        "train": train(images, place / "inner" / "new"),
        "train in it": train(images, place / "inner"),
        "resume": ["resume", str(place / "run"), "--optimizer.epochs=2", "--quiet"],
        "evaluate": ["evaluate", str(place / "run"), "--device", "cpu", "--workers", "0"],
    }
    if subprocess.run(["mount", "--bind", place, place], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
        before = content(place, ())
        for name, typed in words.items():
            assert_one_sentence(*ended(typed, tmp_path / "printed"), str(place), "Read-only file system")
            assert content(place, ()) == before, name
    finally:
        subprocess.run(["umount", place], check=True)
    tell("every command that writes", "read-only folder", len(words), "one sentence, exit status 2")


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="memory is read in /proc")
@pytest.mark.parametrize("name", [*sorted({*COMMANDS} - {"data render"}), "evaluate", "train", "train mla"])
def test_too_little_memory(name, run, images, tmp_path, tell):
    def words(out):
        if name == "evaluate":
            return ["evaluate", str(run), "--out", str(out / "it.json"), "--device", "cpu", "--workers", "0"]
        if name.startswith("train"):
            return train(images, out / "run", "mla" if name.endswith("mla") else "apnet")
        return COMMANDS[name].words(run, images, out if COMMANDS[name].into else out / "new")

    ends: Counter[str] = Counter()
    assert main(words(tmp_path)) == 0  # all is imported then
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    before = content(run, ())
    for megabytes in (0, 2, 8, 16, 32, 64, 128, 256):
        out = tmp_path / f"out{megabytes}"
        out.mkdir()

        def limit(megabytes=megabytes):
            signal.alarm(20)
            most = address_space() + megabytes * MEGABYTE
            resource.setrlimit(resource.RLIMIT_AS, (most, most))

        status, text = ended(words(out), tmp_path / "printed", limit)
        if status == 0:
            ends["enough"] += 1
            continue
        if status < 0:  # compiled code did not ask whether it got memory, or Python waits for a thread that has none
            assert status in (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGALRM, -signal.SIGBUS), text
            ends["hung in a library" if status == -signal.SIGALRM else "died in a library"] += 1
            assert not [path for path in content(out, ()) if not Path(path).name.startswith(".") and name != "extract"]
            continue
        if text.rstrip().endswith("SystemError: error return without exception set"):
            ends["Python lost the error"] += 1
            continue
        assert_one_sentence(status, text, "memory")
        ends["one sentence"] += 1
        files = [path for path in out.rglob("*") if path.is_file()]
        assert not [path for path in files if path.name.endswith(".partial")], files
        if name.startswith("train") and (out / "run").exists():
            assert saved_epochs(out / "run")
            assert "goes on with the same settings" in text
        elif name not in ("extract",):  # which goes on from where it was
            assert not files
    assert content(run, ()) == before
    assert ends["enough"] < sum(ends.values()), ends
    seen = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
    tell(name, "0 to 256 MB of memory left", sum(ends.values()), seen)


def test_a_clock_that_is_set_back(images, whole, tmp_path, monkeypatch, tell):
    """By a day, again and again: seconds are taken from a clock that nobody sets."""
    real, calls = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: real() - DAY * next(calls))
    trained("apnet", images, tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)
    seconds = [entry["seconds"] for entry in logged(tmp_path / "run")]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert all(0 <= one <= other < DAY / 2 for one, other in itertools.pairwise(seconds))
    assert 0 < result["train_seconds"] <= result["seconds"] < DAY / 2
    (tmp_path / "run" / "result.json").unlink()
    ancient = real() - 10 * 365 * DAY  # what lies there is of another time than what is written now
    for path in (tmp_path / "run").rglob("*"):
        os.utime(path, (ancient, ancient + 20 * 365 * DAY))
    assert main(["resume", str(tmp_path / "run"), "--quiet"]) == 0
    assert_same_run(tmp_path / "run", whole)
    tell("train, resume apnet", "clock set back by a day", 2, "nothing")


def both(one, other, tmp_path, apart: float) -> list[tuple[int, str]]:
    """Run two commands at once, the second a while after the first."""
    printed = [tmp_path / "printed-one", tmp_path / "printed-other"]
    first = start(one, printed[0])
    time.sleep(apart)
    second = start(other, printed[1])
    return [
        (finish(child), path.read_text(errors="replace")) for child, path in zip((first, second), printed, strict=True)
    ]


APART = (0.0, 0.01, 0.05, 0.2, 0.5)


def test_two_that_train_in_one_folder(images, whole, tmp_path, tell):
    ends: Counter[str] = Counter()
    for number, apart in enumerate(APART):
        out = tmp_path / str(number)
        outcomes = both(train(images, out), train(images, out), tmp_path, apart)
        assert sorted(status for status, _ in outcomes) == [0, 2], outcomes
        refused = next(text for status, text in outcomes if status == 2)
        assert_one_sentence(2, refused, "run: ", str(out))
        ends["another process" if "another process is training" in refused else "not empty"] += 1
        assert_same_run(out, whole)
        (out / "result.json").unlink()
        outcomes = both(["resume", str(out), "--quiet"], ["resume", str(out), "--quiet"], tmp_path, apart)
        assert sorted(status for status, _ in outcomes) in ([0, 2], [0, 0]), outcomes
        for status, text in outcomes:
            if status == 2:
                assert_one_sentence(2, text, "run: another process ", str(out))
                ends["another process"] += 1
        assert_same_run(out, whole)
    seen = ", ".join(f"{count} refused ({end})" for end, count in sorted(ends.items()))
    tell("train or resume twice at once", "one run folder", 2 * len(APART), seen)


def test_a_run_is_evaluated_while_it_trains(images, whole, tmp_path, tell):
    """Each evaluation is of an epoch that was saved, or there is nothing yet."""
    out = tmp_path / "run"
    known = {entry["epoch"]: entry["mAP"] for entry in logged(whole)}
    child = start(train(images, out), tmp_path / "training")
    ends: Counter[str] = Counter()
    number = 0
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        number += 1
        target = tmp_path / f"{number}.json"
        words = ["evaluate", str(out), "--out", str(target), "--device", "cpu", "--workers", "0"]
        status, text = ended(words, tmp_path / "printed")
        if status == 0:
            scores = json.loads(target.read_text())
            epoch = (scores["unfinished"] or {"epoch": 2})["epoch"]
            assert scores["scores"]["mAP"] == pytest.approx(known[epoch], abs=1e-12)
        else:
            assert_one_sentence(status, text, str(out))
        ends["right scores" if status == 0 else "one sentence"] += 1
    assert finish(child) == 0
    assert_same_run(out, whole)
    seen = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
    tell("evaluate beside train", "one run folder", sum(ends.values()), seen)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "export"])
def test_two_that_write_one_file(name, run, images, tmp_path, tell):
    def words(out):
        if COMMANDS[name].into:
            out.mkdir(exist_ok=True)
        return COMMANDS[name].words(run, images, out)

    assert finish(start(words(tmp_path / "alone"), tmp_path / "printed")) == 0
    wanted, ends = content(tmp_path / "alone", ()), Counter()
    for number, apart in enumerate(APART):
        out = tmp_path / str(number)
        outcomes = both(words(out), words(out), tmp_path, apart)
        assert min(status for status, _ in outcomes) == 0, outcomes
        for status, text in outcomes:
            ends["whole" if status == 0 else "refused"] += 1
            if status:
                assert_one_sentence(status, text, str(out))
        assert content(out, ()) == wanted
    seen = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
    tell(f"{name} twice at once", "one place", len(APART), seen)


def test_nothing_waits_for_the_time_of_day():
    """No clock that can be set is asked but for the ledger's date."""
    found = [
        str(path)
        for folder in ("attnreid", "reference_pipelines")
        for path in (Path(__file__).parents[2] / folder).rglob("*.py")
        if re.search(r"\btime\.time\(|datetime\.now\(|datetime\.today\(|utcnow\(", path.read_text(encoding="utf-8"))
    ]
    assert [Path(path).name for path in found] == ["chain.py"]
