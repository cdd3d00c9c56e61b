"""Images that vanish or turn to garbage while they are read, and worker processes that are killed.

One sentence names what went wrong, the last good checkpoint is kept, and once the images are back the run goes on as
if nothing had happened.
"""

import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reference_pipelines.commands.cli import main
from reference_pipelines.errors import UserError
from reference_pipelines.runs.checkpoints import saved_epochs
from reference_pipelines.training.loop import Trainer
from reference_pipelines.training.session import Session
from tests.conftest import says
from tests.faults.test_commands import KILLS, content, finish, start
from tests.training.runs import assert_same_run, trained

pytestmark = [pytest.mark.faults, pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked")]
LONG = {"optimizer.epochs": "3"}
# Enough steps that not all of an epoch's images are loaded by the time of its first.
SPECIFIC = {"apnet": {"sampler.ids": "2", "sampler.images": "2"}, "mla": {"iterations": "8"}}
BEFORE = {
    "training": (Trainer, "_step"),
    "extraction": (Session, "training_features"),
    "testing": (Session, "_evaluate"),
}
PHASES = [("apnet", "training"), ("apnet", "testing"), ("mla", "training"), ("mla", "extraction"), ("mla", "testing")]


def vanish(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scribble(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))


def become_empty(path: Path) -> None:
    path.write_bytes(b"")


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


HARMS = [vanish, cut, scribble, become_empty, become_a_folder, become_a_pipe]


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    for pipeline in SPECIFIC:
        trained(pipeline, images, out / pipeline, **LONG, **SPECIFIC[pipeline])
    return out


def once_in_the_second_epoch(monkeypatch, phase: str, happens: Callable[[], None]) -> list[int]:
    """Have something happen in a phase of the second epoch: before its second step, or its extraction or test."""
    where, name = BEFORE[phase]
    function, calls = getattr(where, name), []
    steps: Counter[str] = Counter()

    def call(*arguments, **options):
        title = arguments[-1].title if phase == "training" else f"epoch {arguments[0].epoch + (phase != 'testing')}/"
        steps[title] += 1
        if title.startswith("epoch 2/") and steps[title] == (2 if phase == "training" else 1):
            happens()
            calls.append(1)
        return function(*arguments, **options)

    monkeypatch.setattr(where, name, call)
    return calls


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_images_that_are_harmed_while_a_run_reads_them(images, whole, harm, tmp_path, monkeypatch, tell):
    times = 0
    for pipeline, phase in PHASES:
        for workers in (0, 1):
            place = tmp_path / f"{pipeline}{phase}{workers}"
            shutil.copytree(images, place / "images")
            folders = ["query", "bounding_box_test"] if phase == "testing" else ["bounding_box_train"]

            def happens(place=place, folders=folders):
                for folder in folders:
                    for path in (place / "images" / folder).glob("*.jpg"):
                        harm(path)

            changes = {**LONG, **SPECIFIC[pipeline], "data.workers": str(workers)}
            with monkeypatch.context() as patch:
                happened = once_in_the_second_epoch(patch, phase, happens)
                with pytest.raises(UserError) as refused:
                    trained(pipeline, place / "images", place / "run", **changes)
            assert happened
            message = str(refused.value)
            assert "\n" not in message
            assert says(message, str(place / "images" / folders[0]), ".jpg", "after epoch 1 is kept"), message
            assert saved_epochs(place / "run")[-1] == 1
            assert not list((place / "run").rglob("*.partial"))
            assert main(["resume", str(place / "run"), "--quiet"]) == 2  # while they are harmed
            shutil.rmtree(place / "images")
            shutil.copytree(images, place / "images")
            assert main(["resume", str(place / "run"), "--quiet", f"--data.root={images}", "--data.workers=0"]) == 0
            assert_same_run(place / "run", whole / pipeline)
            shutil.rmtree(place)
            times += 1
    tell(
        "train",
        f"images {harm.__name__.replace('_', ' ')}",
        times,
        "one sentence names one",
        lost="the epoch under way",
    )


@pytest.mark.parametrize(("pipeline", "phase"), PHASES)
def test_a_worker_that_is_killed_while_a_run_reads(images, whole, pipeline, phase, tmp_path, monkeypatch, tell):
    def happens():
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    changes = {**LONG, **SPECIFIC[pipeline], "data.workers": "2"}
    with monkeypatch.context() as patch:
        happened = once_in_the_second_epoch(patch, phase, happens)
        # Where the worker had handed over all that it read for the test, the next epoch notices.
        noticed = "data: all 2 worker processes must live .*; what was saved after epoch [12] is kept"
        with pytest.raises(UserError, match=noticed):
            trained(pipeline, images, tmp_path / "run", **changes)
    assert happened
    assert not multiprocessing.active_children()
    assert main(["resume", str(tmp_path / "run"), "--quiet", "--data.workers=0"]) == 0
    assert_same_run(tmp_path / "run", whole / pipeline)
    tell(f"train {pipeline}, {phase}", "a loader worker SIGKILLed", 1, "one sentence", lost="the epoch under way")


READING = {
    "extract": lambda run, images, out: ["extract", str(run), str(images), "--out", str(out), "--device", "cpu"],
    "evaluate": lambda run, images, out: ["evaluate", str(run), "--out", str(out / "it.json"), "--device", "cpu"],
    "data render": lambda run, images, out: ["data", "render", str(out), "--image-size", "64", "32"],
}


def children(process: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found in /proc")
@pytest.mark.parametrize("name", READING)
def test_a_worker_of_a_command_that_is_killed(name, trained_run, images, tmp_path, tell):
    ends: Counter[str] = Counter()
    moments = np.random.default_rng(list(READING).index(name)).uniform(0, 0.1 if name == "evaluate" else 0.6, KILLS)

    def words(out):
        if name != "data render":
            (out if name == "evaluate" else out.parent).mkdir(parents=True, exist_ok=True)
        batches = ["--batch-size", "2"] if name != "data render" else []
        return [*READING[name](trained_run, images, out), *batches, "--workers", "2"]

    assert finish(start(words(tmp_path / "alone"), tmp_path / "printed")) == 0, (tmp_path / "printed").read_text()
    wanted = lasting(content(tmp_path / "alone", ()))
    for number, moment in enumerate(moments):
        out, printed = tmp_path / f"out{number}", tmp_path / f"printed{number}"
        child = start(words(out), printed)
        while len(children(child)) < 2 and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.001)
        time.sleep(moment)
        for worker in children(child)[-1:]:  # the first may be the tracker of semaphores
            os.kill(worker, signal.SIGKILL)
        status, text = finish(child), printed.read_text(errors="replace")
        errors = [line for line in text.splitlines() if line.startswith("error: ")]
        assert (status, len(errors)) in ((0, 0), (2, 1)), text
        assert "Traceback" not in text
        ends["one sentence, exit status 2" if status else "finished before"] += 1
        assert finish(start(words(out), printed)) == 0, printed.read_text(errors="replace")
        assert lasting(content(out, ())) == wanted
        shutil.rmtree(out)
    assert ends["one sentence, exit status 2"], ends
    tell(name, "a worker SIGKILLed", KILLS, ", ".join(f"{count} {end}" for end, count in sorted(ends.items())))


def lasting(files: dict[str, bytes | None]) -> dict[str, bytes | None]:
    """Leave out what tells when and how long."""
    return {name: held for name, held in files.items() if not name.endswith("it.json")}
