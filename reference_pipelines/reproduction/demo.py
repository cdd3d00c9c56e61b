"""Both papers, small, on rendered pedestrians: the catalogue's entry `demo`, one table, one report."""

import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from attnreid.files import read_json
from reference_pipelines.errors import UserError
from reference_pipelines.reporting.report import write_report
from reference_pipelines.reporting.table import HEADINGS, learning_lines, table_notes, table_rows
from reference_pipelines.reproduction.catalogue import Experiment, Scale, find_experiment, scales
from reference_pipelines.reproduction.cells import Plan, Run
from reference_pipelines.reproduction.running import run_plan
from reference_pipelines.runs.folder import RESULT
from reference_pipelines.runs.provenance import code_digest
from reference_pipelines.text_table import format_table

_MARK = ".attnreid-demo"
_SAID = (
    "mAP, rank-1 and chance in percent. Rendered pedestrians and small networks: the numbers show that both\n"
    "programs learn, not which method is better. The unsupervised runs start from the source weights, trained with\n"
    "labels on other rendered people seen by other cameras."
)


def run_demo(out: Path, experiment: Experiment | None = None, scale: Scale | None = None) -> Path:
    """Render, train, print the table and return the report's path.

    What an earlier call in `out` finished with the same code is taken over, not done again.

    Args:
        out: folder of all of it.
        experiment: the catalogue's "demo" when left out.
        scale: the catalogue's "demo" when left out.

    Raises:
        UserError: `out` holds something else, or a run failed.
    """
    began = time.perf_counter()
    _open(out)
    plan = Plan(experiment or find_experiment("demo"), scale or scales()["demo"], out)
    source = plan.source()
    _forget_other_code([*([source] if source else []), *plan.runs])
    for run in plan.runs:
        command = ["train", run.pipeline, "--out", str(run.folder), *run.arguments]
        print(f"$ python -m reference_pipelines {shlex.join(command)}", flush=True)
        if run.done:
            print("  taken over from an earlier call", flush=True)
    failures = run_plan(plan)
    if failures:
        raise UserError(f"demo: {failures[0].job.title} failed: {failures[0].reason}")
    folders = [run.folder for run in plan.runs]
    title = "attnreid demo: both papers on rendered pedestrians"
    report = write_report(folders, out / "report.html", title=title, ledger=out / "ledger")
    results = [read_json(folder / RESULT) for folder in folders]
    names = [result["title"] for result in results]
    print("\n" + format_table(table_rows(results, names), HEADINGS) + "\n")
    print("\n".join([*learning_lines(results, names), *table_notes(results, names, recipes=False)]) + "\n")
    print(_SAID)
    print(f"{time.perf_counter() - began:.0f} s in all. Report: {report}")
    return report


def _open(out: Path) -> None:
    """Make the demo's folder, or find the mark that an earlier call left in it."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / _MARK).is_file())):
        raise UserError(f"demo: {out} holds something that is not a demo; name a new folder with --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / _MARK).touch()
    except OSError as error:
        raise UserError(f"demo: cannot write in {out} ({error.strerror}); choose another --out") from None


def _forget_other_code(runs: Sequence[Run]) -> None:
    """Remove what other code has trained; the folder bears the demo's mark, so it is its own."""
    for run in runs:
        if run.done:
            try:
                code = read_json(run.folder / RESULT).get("code")
            except (OSError, ValueError, AttributeError):
                code = None
            if code != code_digest():
                shutil.rmtree(run.folder)
