"""Runs what a plan still lacks, side by side; what fails stays in the ledger, and the rest goes on."""

import itertools
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnreid.files import write_text
from reference_pipelines.config.loading import to_plain
from reference_pipelines.distributed.device import describe_hardware, pick_device
from reference_pipelines.errors import writing
from reference_pipelines.ledger.entry import SELECTIONS, Selection
from reference_pipelines.ledger.recording import record, record_failure
from reference_pipelines.rendering import render_market
from reference_pipelines.reproduction.cells import WEIGHTS_OF, Cell, Plan, Run, pending
from reference_pipelines.reproduction.jobs import Failure, Job, run_jobs
from reference_pipelines.runs.folder import RESULT

_RECORDED = "recorded.json"  # beside a result: the slices of the ledger that have it


def run_plan(plan: Plan) -> list[Failure]:
    """Render, train and test all that is not there yet, and append it to the ledger; return what failed.

    Of each seed's runs the longest are begun first, so that no core is left with one at the end. What starts from the
    source weights waits for them while other runs go on.

    Raises:
        UserError: images could not be made.
    """
    needed = {run.images for run in plan.runs} | {cell.test.name for cell in plan.cells if cell.test is not None}
    source = plan.source() if any(run.pipeline == "mla" for run in plan.runs) else None
    if source is not None:
        needed.add(source.images)
    _render(plan, needed)
    runs = list(pending(plan.runs))
    runs.reverse()  # of equals the later one first: rows with more attention come last in the papers' tables
    runs.sort(key=lambda run: (run.seed, -(run.minutes or 0)))
    failures = run_jobs(_jobs(runs, source, plan), keep_going=True)
    tests = [(cell, rule) for rule in plan.select for cell in plan.cells if _is_to_be_tested(cell, rule)]
    failures += run_jobs([_test(cell, rule, plan) for cell, rule in tests], keep_going=True)
    _record(plan, failures)
    return failures


def _render(plan: Plan, needed: set[str]) -> None:
    for name, options in plan.scale.images.items():
        place = plan.place_of(name)
        if place is not None and (name in needed or place.name in needed):
            place.parent.mkdir(parents=True, exist_ok=True)
            print(render_market(place, **options), file=sys.stderr, flush=True)


def _jobs(runs: Sequence[Run], source: Run | None, plan: Plan) -> list[Job]:
    first = _job(source, plan) if source is not None and not source.done else None
    return [*([first] if first else []), *(_job(run, plan, first if run.pipeline == "mla" else None) for run in runs)]


def _job(run: Run, plan: Plan, after: Job | None = None) -> Job:
    if run.folder.exists() and not (run.folder / "checkpoints").is_dir():  # cut off before it had saved anything
        shutil.rmtree(run.folder)
    command = ["train", run.pipeline, "--out", str(run.folder), *run.arguments]
    if run.folder.exists():
        command = ["resume", str(run.folder)]
    title = f"{run.title}, seed {run.seed}"
    return Job(title, command, run.folder, run.config.optimizer.epochs, _console(plan, run.folder.name), after)


def _test(cell: Cell, rule: Selection, plan: Plan) -> Job:
    result = cell.result_of(rule)
    assert cell.run is not None
    assert result is not None
    weights = cell.run.folder if rule == "last" else cell.run.folder / WEIGHTS_OF[rule]
    data = [] if cell.test is None else ["--data", str(cell.test)]
    command = ["evaluate", str(weights), *data, "--out", str(result)]
    title = f"{cell.row.name}, {cell.dataset}, seed {cell.seed}"
    console = _console(plan, f"{cell.run.folder.name}-{result.stem}")
    return Job(f"{title}, {SELECTIONS[rule]}", command, cell.run.folder / "tests", 0, console)


def _is_to_be_tested(cell: Cell, rule: Selection) -> bool:
    result = cell.result_of(rule)
    return cell.run is not None and cell.run.done and result is not None and not result.is_file()


def _console(plan: Plan, name: str) -> Path:
    return plan.out / "console" / f"{name}.txt"


def _record(plan: Plan, failures: Sequence[Failure]) -> None:
    """Append every new number of the experiment to the ledger, and every failure."""
    ledger = plan.out.parent / "ledger"
    reasons = {failure.job.folder: failure for failure in failures}
    for cell, rule in itertools.product(plan.cells, plan.select):
        result = cell.result_of(rule)
        if cell.run is None or result is None:
            continue
        name = {"paper": cell.row.paper, "row": cell.row.name, "dataset": cell.dataset, "scale": plan.scale.name}
        slice_name = f"{plan.scale.name}-seed{cell.seed}"
        if result.is_file():
            if slice_name in _recorded(result):
                continue
            source = cell.run.folder if result.name == RESULT else result
            record(ledger, slice_name, source, cell=name, once=True)  # a killed process may not have noted it
            _note(result, slice_name)
        elif cell.run.folder in reasons and rule == plan.select[0]:
            failure = reasons[cell.run.folder]
            config: Any = cell.run.config
            record_failure(
                ledger,
                slice_name,
                failure.reason,
                pipeline=cell.run.pipeline,
                config=to_plain(config),
                hardware=describe_hardware(pick_device(config.device)),
                seconds=failure.seconds,
                cell=name,
            )


def _recorded(result: Path) -> list[str]:
    try:
        found: list[str] = json.loads((result.parent / f"{result.stem}-{_RECORDED}").read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        return []


def _note(result: Path, slice_name: str) -> None:
    text = json.dumps([*_recorded(result), slice_name])
    with writing(result.parent):
        write_text(result.parent / f"{result.stem}-{_RECORDED}", text)


def seconds_of(runs: Sequence[Run]) -> list[float]:
    """Return how long those that are done took."""
    return [json.loads((run.folder / RESULT).read_text(encoding="utf-8"))["seconds"] for run in runs if run.done]
