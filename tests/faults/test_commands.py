"""Commands that are killed at any moment, or whose disk is full at any write: the same command again ends as if alone.

Each runs in a forked process, in which all modules are there already, so that the moments are the command's own.
"""

import builtins
import errno
import io
import os
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path

import numpy as np
import pytest

from reference_pipelines.commands.cli import main

KILLS = int(os.environ.get("FAULTS", "25")) // 3 + 1
WRITES = 50
SIGNALS = (signal.SIGKILL, signal.SIGTERM)


@dataclass(frozen=True)
class Command:
    """What is typed, with the folder that it writes or writes into, and the endings of files that differ by the run."""

    words: Callable[[Path, Path, Path], Sequence[str]]
    into: bool = True
    passing: tuple[str, ...] = ()


COMMANDS = {
    "data render": Command(
        lambda run, images, out: ["data", "render", str(out), "--image-size", "32", "16", "--workers", "0"],
        into=False,
    ),
    "extract": Command(
        lambda run, images, out: [
            *("extract", str(run), str(images), "--out", str(out), "--batch-size", "2", "--workers", "0"),
            *("--device", "cpu"),
        ],
        into=False,
    ),
    "cluster": Command(
        lambda run, images, out: [
            *("cluster", str(run.parent / "features"), "--out", str(out / "labels.csv")),
            *("--k1", "6", "--k2", "2", "--min-samples", "2"),
        ]
    ),
    "search": Command(
        lambda run, images, out: [
            *("search", str(run.parent / "features"), "--gallery", str(run.parent / "features")),
            *("--html", str(out / "page.html")),
        ]
    ),
    "report": Command(lambda run, images, out: ["report", str(run), "--out", str(out / "report.html")]),
    "explain": Command(
        lambda run, images, out: [
            *("explain", str(run), str(sorted((images / "query").glob("*.jpg"))[0]), "--out", str(out)),
            *("--device", "cpu"),
        ]
    ),
    "export": Command(
        lambda run, images, out: ["export", str(run), "--torch-export", str(out / "model.pt2")], passing=(".pt2",)
    ),
}
every_command = pytest.mark.parametrize("name", COMMANDS)
pytestmark = [pytest.mark.faults, pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked")]


def start(words: Sequence[str], printed: Path, before: Callable[[], None] = lambda: None) -> int:
    """Fork a process that runs the command, as the program would, and return its id."""
    child = os.fork()
    if child:
        return child
    status = 99  # of what no command ends with: a traceback
    try:
        os.setsid()
        # A tracker of its own for semaphores: the parent's would be told of names that it never heard of.
        resource_tracker._resource_tracker = resource_tracker.ResourceTracker()
        for name in ("ensure_running", "register", "unregister"):
            setattr(resource_tracker, name, getattr(resource_tracker._resource_tracker, name))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        sys.stdout = sys.stderr = printed.open("w", encoding="utf-8", buffering=1)
        before()
        status = main(list(words))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def finish(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def content(out: Path, passing: tuple[str, ...]) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(out)): None if path.suffix in passing else path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def alone(name, run, images, tmp_path):
    """What the command writes when nothing happens to it, and how long that takes."""
    command = COMMANDS[name]
    began = time.monotonic()
    out = tmp_path / "alone"
    assert finish(start(words_of(name, run, images, out), tmp_path / "printed")) == 0, (
        tmp_path / "printed"
    ).read_text()
    return {**content(out, command.passing)}, time.monotonic() - began


def words_of(name, run, images, out):
    if COMMANDS[name].into:
        out.mkdir(exist_ok=True)
    return COMMANDS[name].words(run, images, out)


def again(name, run, images, out, printed):
    """Run the command once more, where it stopped; what it writes must be what it would have written."""
    command = COMMANDS[name]
    assert finish(start(words_of(name, run, images, out), printed)) == 0, printed.read_text(errors="replace")
    return content(out, command.passing)


@every_command
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_killed_at_any_moment(name, number, run, images, alone, tmp_path, tell):
    wanted, seconds = alone
    before = content(run, ())
    moments = np.random.default_rng([list(COMMANDS).index(name), number]).uniform(0, seconds, KILLS)
    ends = Counter()
    for i, moment in enumerate(moments):
        out, printed = tmp_path / f"out{i}", tmp_path / f"printed{i}"
        child = start(words_of(name, run, images, out), printed)
        time.sleep(moment)
        os.kill(child, number)
        status = finish(child)
        # A command that several processes may share ends by itself at a SIGTERM, with a sentence.
        ends["finished before" if status == 0 else "killed" if status < 0 else f"one sentence, status {status}"] += 1
        caught = [128 + number] if number == signal.SIGTERM else []
        assert status in (0, -number, *caught), printed.read_text(errors="replace")
        assert again(name, run, images, out, printed) == wanted
        shutil.rmtree(out)
    assert content(run, ()) == before
    seen = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
    tell(name, number.name, KILLS, seen)


def full_from(write: int) -> Callable[[], None]:
    """Return what makes a process's writes to files fail from this one on."""

    def patch() -> None:
        left, opened = [write], io.open

        def check() -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def fail(stream):
            written = stream.write

            def write_or_fail(data):
                check()
                return written(data)

            stream.write = write_or_fail
            return stream

        def open_checked(file, mode="r", *arguments, **options):
            writes = bool({"w", "a", "x", "+"} & set(mode)) and not isinstance(file, int)
            if not writes:
                return opened(file, mode, *arguments, **options)
            check()
            return fail(opened(file, mode, *arguments, **options))

        builtins.open = io.open = open_checked

    return patch


@every_command
def test_a_disk_that_is_full_at_any_write(name, run, images, alone, tmp_path, tell):
    wanted, _ = alone
    before = content(run, ())
    sentences = Counter()
    for write in range(WRITES):
        out, printed = tmp_path / f"out{write}", tmp_path / f"printed{write}"
        status = finish(start(words_of(name, run, images, out), printed, full_from(write)))
        text = printed.read_text(errors="replace")
        if status == 0:
            break
        errors = [line for line in text.splitlines() if line.startswith("error: ")]
        assert status == 2, text
        assert len(errors) == 1, text
        assert "No space left on device" in errors[0], text
        sentences[errors[0].split(":")[1].strip()] += 1
        assert again(name, run, images, out, printed) == wanted
        shutil.rmtree(out)
    assert sentences, "the disk was never full"
    assert content(run, ()) == before
    tell(name, "disk full at a write", sum(sentences.values()), "one sentence, exit status 2")
