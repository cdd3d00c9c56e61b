"""Both papers, small, on rendered pedestrians: render, train every recipe of demo.yaml, one table, one report."""

import dataclasses
import json
import shlex
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from reference_pipelines.config import load_config, to_plain
from reference_pipelines.data import read
from reference_pipelines.data.rendering import render_market
from reference_pipelines.errors import UserError
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.reporting.report import write_report
from reference_pipelines.reporting.table import format_table, table_rows
from reference_pipelines.training.run import RESULT, code_digest

CATALOGUE = Path(__file__).with_name("demo.yaml")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One run of the catalogue: a pipeline's demo recipe, the images it is trained on, and the keys it changes."""

    pipeline: str
    images: str
    change: Mapping[str, Any]

    def arguments(self, data: Path, **more: Any) -> list[str]:
        """Return what `train PIPELINE` is called with."""
        recipe = PIPELINES[self.pipeline].recipes / "demo.yaml"
        changed = {**self.change, "data.root": str(data), **more}
        values = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in changed.items()]
        return ["--config", str(recipe), *values]


def run_demo(out: Path, catalogue: Path = CATALOGUE) -> Path:
    """Render, train, print the table and return the report's path.

    What an earlier call in `out` finished with the same code, config and images is taken over, not done again.
    """
    began = time.perf_counter()
    plan = yaml.safe_load(catalogue.read_text(encoding="utf-8"))
    _check_out(out)
    images = {}
    for name, options in plan["images"].items():
        images[name] = out / "images" / name
        print(render_market(images[name], **options), flush=True)
    source = Entry(**plan["source"])
    _train(source, out / "source", images)
    weights = out / "source" / "model.safetensors"
    folders = []
    for name, fields in plan["runs"].items():
        entry = Entry(**fields)
        more = {"model.weights": str(weights)} if entry.pipeline == "mla" else {}
        folders.append(out / name)
        _train(entry, out / name, images, **more)
    report = write_report(folders, out / "report.html", title="attnreid demo: both papers on rendered pedestrians")
    results = [json.loads((folder / RESULT).read_text(encoding="utf-8")) for folder in folders]
    print("\n" + format_table(table_rows(results)))
    print(
        "\nRendered pedestrians, small networks: these numbers show that the programs learn, "
        "not which method is better.\nUnsupervised runs start from the source weights, trained with labels on other "
        f"rendered people and cameras.\n{time.perf_counter() - began:.0f} s in all. Report: {report}"
    )
    return report


def _check_out(out: Path) -> None:
    if out.exists() and any(out.iterdir()) and not (out / "images").is_dir():
        raise UserError(f"demo: {out} holds something that is not a demo; name a new folder with --out")


def _train(entry: Entry, folder: Path, images: Mapping[str, Path], **more: Any) -> None:
    pipeline = PIPELINES[entry.pipeline]
    arguments = entry.arguments(images[entry.images], **more)
    config: Any = load_config(pipeline.config, arguments)
    print(
        f"\n$ python -m reference_pipelines train {entry.pipeline} --out {folder} {shlex.join(arguments)}",
        flush=True,
    )
    if _is_done(folder, config, images[entry.images]):
        print(f"taken over from an earlier call, finished in {folder}", flush=True)
        return
    if (folder / "config.yaml").is_file():
        shutil.rmtree(folder)  # a run of the demo's own that was cut off, or of other code
    pipeline.train(config, folder)


def _is_done(folder: Path, config: Any, root: Path) -> bool:
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    same_code = result.get("code") == code_digest()
    same_config = result.get("config") == to_plain(config)
    same_images = result.get("data", {}).get("fingerprint") == read(root).fingerprint()
    return bool(same_code and same_config and same_images)
