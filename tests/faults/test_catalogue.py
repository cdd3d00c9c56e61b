"""An experiment's table and its lines in the ledger, whose writing is killed, or finds the disk full, at any moment.

The runs are there; the same call again ends as if alone: each cell has one line, and the table is the same.
"""

import builtins
import io
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable

import pytest

from attnreid import files
from reference_pipelines.errors import UserError, writing
from reference_pipelines.ledger.verifying import verify
from reference_pipelines.reproduction import running
from reference_pipelines.reproduction.catalogue import Experiment
from reference_pipelines.reproduction.cells import Plan
from reference_pipelines.reproduction.running import run_plan
from reference_pipelines.reproduction.table import values_of, write_tables
from tests.faults.test_commands import WRITES, full_from
from tests.reproduction.miniature import BASELINE, PLAIN, PYRAMID, SCALE, run_here
from tests.training.runs import in_child

pytestmark = [pytest.mark.faults, pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked")]
EXPERIMENT = Experiment("apnet.mini", "A miniature", (PLAIN, PYRAMID, BASELINE), ("Market-1501",), ("mAP", "rank1"))


def tabulate(out) -> None:
    """Do what `reproduce` does once all is trained."""
    plan = Plan(EXPERIMENT, SCALE, out, seeds=1)
    assert run_plan(plan) == []
    with writing(out):
        write_tables(plan, values_of(plan))


def tabulate_anew(out) -> None:
    """The same in a new process, which looks for drafts of dead ones."""
    files._remove_abandoned.cache_clear()
    assert in_child(lambda: tabulate(out)) == 0


def written(out) -> dict[str, object]:
    tables = {path.name: path.read_bytes() for path in (out / "mini" / "tables").iterdir()}
    slices = verify(out / "ledger")
    assert all(each.sound for each in slices)
    lines = Counter((entry.cell["row"], entry.seed) for each in slices for entry in each.entries)
    return {**tables, "lines": lines, "others": sorted(path.name for path in out.rglob("*.partial"))}


@pytest.fixture
def out(tmp_path, monkeypatch):
    """The runs of an experiment, without table and ledger."""
    monkeypatch.setattr(running, "run_jobs", run_here([]))
    folder = tmp_path / "place" / "out"
    tabulate(folder)
    return folder


def unwritten(out) -> None:
    for folder in (out / "mini" / "tables", out / "ledger"):
        shutil.rmtree(folder, ignore_errors=True)
    for path in out.rglob("*recorded.json"):
        path.unlink()


def dying_at(number: int) -> Callable[[], None]:
    """Return what kills a process before this one of its calls that change the disk."""

    def patch() -> None:
        left = [number]

        def counted(function, changes=lambda *_, **__: True):
            def call(*arguments, **options):
                if changes(*arguments, **options):
                    left[0] -= 1
                    if left[0] < 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **options)

            return call

        for name in ("replace", "fsync", "mkdir", "ftruncate"):
            setattr(os, name, counted(getattr(os, name)))
        opened = counted(io.open, lambda file, mode="r", *_, **__: bool({"w", "x", "+"} & set(mode)))
        builtins.open = io.open = opened

    return patch


def test_killed_at_any_of_its_calls(out, tell):
    wanted = written(out)
    for number in range(300):
        unwritten(out)

        def write(number=number):
            dying_at(number)()
            tabulate(out)

        if in_child(write) == 0:
            break
        tabulate_anew(out)
        assert written(out) == wanted, number
    assert number > 20
    tell("reproduce: ledger and tables", "SIGKILL at a write", number, "killed")


def test_a_disk_that_is_full_at_any_write(out, tell):
    wanted = written(out)

    def write(number):
        full_from(number)()
        try:
            tabulate(out)
        except UserError as error:
            os._exit(2 if "No space left on device" in str(error) and "\n" not in str(error) else 3)

    for number in range(WRITES):
        unwritten(out)
        status = in_child(lambda number=number: write(number))
        if status == 0:
            break
        assert status == 2, number
        tabulate_anew(out)
        assert written(out) == wanted, number
    assert number > 5
    tell("reproduce: ledger and tables", "disk full at a write", number, "one sentence, exit status 2")
