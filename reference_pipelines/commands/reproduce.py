"""`reproduce`: an experiment of a paper by its name."""

import json
import sys
import time
from dataclasses import asdict

from reference_pipelines.commands.options import ReproduceOptions
from reference_pipelines.errors import UserError
from reference_pipelines.reproduction.catalogue import experiments, find_experiment, scales
from reference_pipelines.reproduction.cells import Plan, Run
from reference_pipelines.text_table import format_table


def run(options: ReproduceOptions) -> int:
    """List the experiments, say what one would run, or run it; return 1 if a run failed.

    Raises:
        UserError: no such experiment or row, no data, or a folder that cannot be written.
    """
    if options.experiment == "list":
        print(json.dumps(_plain_list(), indent=2) if options.json else _listing())
        return 0
    plan = Plan(
        find_experiment(options.experiment),
        scales()[options.scale],
        options.out,
        seeds=options.seeds,
        only=options.only,
        root=options.data_root,
        select=options.select,
    )
    if options.select != ("last",) and plan.experiment.kind in ("cost", "maps"):
        raise UserError(
            f"reproduce: --select must be last for {plan.experiment.name}, which has no scores, got "
            f"{' '.join(options.select)}; leave it out"
        )
    if options.dry_run:
        print(json.dumps(_plain_plan(plan), indent=2) if options.json else _said_before(plan))
        return 0
    from reference_pipelines.reproduction.table import as_text, caption, values_of, write_tables

    began = time.perf_counter()
    failures, costs = [], None
    try:
        plan.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"reproduce: cannot write in {plan.out} ({error.strerror}); choose another --out") from None
    if plan.experiment.kind == "cost":
        from reference_pipelines.reproduction.costs import costs_of

        costs = costs_of(plan.rows)
    else:
        from reference_pipelines.reproduction.running import run_plan

        failures = run_plan(plan)
    if plan.experiment.kind == "maps":
        from reference_pipelines.reproduction.maps import maps_of

        maps = maps_of(plan)
        said, table = f"{maps.caption()}\n\n{maps.as_text()}", [asdict(each) for each in maps.numbers]
        written = maps.write()
    else:
        values = values_of(plan, costs)
        said, table = f"{caption(plan)}\n\n{as_text(plan, values)}", [asdict(each) for each in values]
        written = write_tables(plan, values)
    if options.json:
        about = {"experiment": plan.experiment.name, "scale": plan.scale.name, "table": table}
        failed = [{"run": failure.job.title, "reason": failure.reason} for failure in failures]
        print(json.dumps({**about, "failed": failed, "written": [str(path) for path in written]}, indent=2))
        return int(bool(failures))
    print(f"\n{said}\n")
    for path in written:
        print(f"written: {path}")
    for failure in failures:
        print(f"failed: {failure.job.title}: {failure.reason}", file=sys.stderr)
    print(f"{time.perf_counter() - began:.0f} s in all")
    return int(bool(failures))


def _listing() -> str:
    rows = []
    for name, each in experiments().items():
        trained = 0 if each.kind == "cost" else len(each.rows) * len(each.data)
        rows.append((name, each.title, str(len(each.rows)), str(len(each.data)), str(trained)))
    about = "\n".join(f"--scale {scale.name}: {scale.about}" for scale in scales().values())
    return f"{format_table(rows, ('experiment', 'what', 'rows', 'data sets', 'cells'))}\n\n{about}"


def _plain_list() -> dict[str, object]:
    found = [
        {
            "experiment": name,
            "title": each.title,
            "kind": each.kind,
            "rows": [row.name for row in each.rows],
            "data": each.data,
            "metrics": each.metrics,
        }
        for name, each in experiments().items()
    ]
    return {"experiments": found, "scales": {scale.name: scale.about for scale in scales().values()}}


def _plain_plan(plan: Plan) -> dict[str, object]:
    cells = [(cell, cell.reason) for cell in plan.cells if cell.reason]
    return {
        "experiment": plan.experiment.name,
        "scale": plan.scale.name,
        "select": plan.select,
        "runs": [
            {"run": each.title, "seed": each.seed, "done": each.done, "folder": str(each.folder)} for each in plan.runs
        ],
        "not_run": [{"row": cell.row.name, "data": cell.dataset, "reason": reason} for cell, reason in cells],
    }


def _said_before(plan: Plan) -> str:
    """Say what would be run, for how long and on how much disk."""
    runs = plan.runs
    waiting = [each for each in runs if not each.done]
    rows = [(each.title, str(each.seed), "done" if each.done else "to train", str(each.folder)) for each in runs]
    reasons = sorted(
        {f"not run: {cell.row.name} on {cell.dataset}: {cell.reason}" for cell in plan.cells if cell.reason}
    )
    return "\n".join([format_table(rows, ("run", "seed", "state", "folder")), *reasons, _estimate(plan, waiting)])


def _estimate(plan: Plan, waiting: list[Run]) -> str:
    recipes = {cell.run.folder: plan.scale.recipes[cell.row.recipe] for cell in plan.cells if cell.run is not None}
    minutes = [recipes[each.folder].minutes for each in waiting]
    known = [each for each in minutes if each is not None]
    unknown = len(minutes) - len(known)
    disk = sum(recipes[each.folder].megabytes or 0 for each in waiting)
    said = f"{len(waiting)} of {len(plan.runs)} runs to train"
    if known:
        said += f", about {sum(known):.0f} core-minutes and {disk:.0f} MB for {len(known)} of them"
    if unknown:
        said += f"; nobody has measured {unknown} of them at this scale"
    return said
