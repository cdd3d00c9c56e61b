"""Both papers, small, on rendered pedestrians: render, train every run of demo.yaml, one table, one report."""

import json
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reference_pipelines.config.loading import load_config, to_plain
from reference_pipelines.data import read
from reference_pipelines.errors import UserError
from reference_pipelines.experiments.catalogue import Entry, read_catalogue
from reference_pipelines.experiments.jobs import Job, run_jobs
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.rendering import render_market
from reference_pipelines.reporting.report import write_report
from reference_pipelines.reporting.table import HEADINGS, learning_lines, table_notes, table_rows, tell_apart
from reference_pipelines.runs.folder import RESULT
from reference_pipelines.runs.provenance import code_digest, file_digest
from reference_pipelines.text_table import format_table
from reference_pipelines.training.pipeline_config import with_absolute_paths

_MARK = ".attnreid-demo"
CATALOGUE = Path(__file__).with_name("demo.yaml")


def run_demo(out: Path, catalogue: Path = CATALOGUE) -> Path:
    """Render, train, print the table and return the report's path.

    What an earlier call in `out` finished with the same code, config and images is taken over, not done again.

    Raises:
        UserError: `out` holds something else, or a run failed.
    """
    began = time.perf_counter()
    plan = read_catalogue(catalogue)
    _open(out)
    images = {}
    for name, options in plan.images.items():
        try:
            print(render_market(out / "images" / name, **options), flush=True)
        except OSError as error:
            raise UserError(str(error)) from None
        images[name] = out / "images" / name

    _train([plan.source], out, images)
    weights = {"model.weights": str(out / plan.source.name / "model.safetensors")}
    _train(plan.runs, out, images, unsupervised=weights)

    folders = [out / entry.name for entry in plan.runs]
    report = write_report(folders, out / "report.html", title="attnreid demo: both papers on rendered pedestrians")
    results = [json.loads((folder / RESULT).read_text(encoding="utf-8")) for folder in folders]
    names = tell_apart([result["title"] for result in results], folders)
    print("\n" + format_table(table_rows(results, names), HEADINGS) + "\n")
    print("\n".join([*learning_lines(results, names), *table_notes(results, names, recipes=False)]) + "\n")
    print("mAP, rank-1 and chance in percent. Rendered pedestrians and small networks: the numbers show that both")
    print(
        "programs learn, not which method is better. The unsupervised runs start from the source weights, trained with"
    )
    print("labels on other rendered people seen by other cameras.")
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


def _train(
    entries: Sequence[Entry], out: Path, images: Mapping[str, Path], unsupervised: Mapping[str, str] | None = None
) -> None:
    """Train what is not done yet, by the same command that a user types."""
    jobs = []
    for entry in entries:
        folder = out / entry.name
        more = (unsupervised or {}) if entry.pipeline == "mla" else {}
        arguments = entry.arguments(images[entry.images], **more)
        config: Any = load_config(PIPELINES[entry.pipeline].config, arguments)
        command = ["train", entry.pipeline, "--out", str(folder), *arguments]
        print(f"$ python -m reference_pipelines {shlex.join(command)}", flush=True)
        if _is_done(folder, config, images[entry.images]):
            print("  taken over from an earlier call", flush=True)
            continue
        if (folder / "config.yaml").is_file():
            shutil.rmtree(folder)  # cut off, or of other code; the folder bears the demo's mark, so it is its own
        jobs.append(Job(config.title, command, folder, config.optimizer.epochs, out / "console" / f"{entry.name}.txt"))
    run_jobs(jobs)


def _is_done(folder: Path, config: Any, root: Path) -> bool:
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    same_code = result.get("code") == code_digest()
    same_config = result.get("config") == to_plain(with_absolute_paths(config))
    same_weights = result.get("weights_digest") == file_digest(Path(config.model.weights))
    same_images = result.get("data", {}).get("fingerprint") == read(root).fingerprint()
    return bool(same_code and same_config and same_weights and same_images)
