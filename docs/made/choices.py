"""Which attention for which backbone: counted costs, measured times and the ledger's evidence, row by row."""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from docs.scores import by_cell, read_lines
from reference_pipelines.reproduction.table import summary

RESULTS = Path(__file__).parents[1] / "results"
COSTS = RESULTS / "attention_costs.csv"
BENCHMARKS = RESULTS / "benchmarks_cpu.md"
# The catalogue's row for an attention, and the row without it: paper, row, row without.
ROWS: Mapping[str, tuple[str, str, str]] = {
    "SE": ("apnet", "APNet-C_1", "APNet_0"),
    "SE pyramid, 2 levels": ("apnet", "APNet-C_2", "APNet_0"),
    "SE pyramid, 3 levels": ("apnet", "APNet-C_3", "APNet_0"),
    "SE in every block": ("apnet", "SE-ResNet", "APNet_0"),
    "RGA-S": ("apnet", "APNet-S_1", "APNet_0"),
    "RGA-S pyramid, 2 levels": ("apnet", "APNet-S_2", "APNet_0"),
    "pixel level": ("mla", "PLA", "baseline"),
    "head level": ("mla", "HLA", "baseline"),
    "domain level": ("mla", "DLA", "baseline"),
    "multi-level (MLA)": ("mla", "MLA", "baseline"),
    "APNet's released code": ("apnet", "APNet released", "APNet_0"),
}
# The benchmarks' row of a whole ResNet-50 at 256x128.
WHOLE = {
    "SE pyramid, 2 levels": "ResNet-50 + APNet-C2, inference",
    "RGA-S pyramid, 2 levels": "ResNet-50 + APNet-S2 folded, inference",
    "multi-level (MLA)": "ResNet-50 + MLA folded, inference",
}
# The benchmarks' layers, whose times at the ResNet-50's four stages are added.
LAYERS = {"SE": "se", "SE pyramid, 2 levels": "pyramid", "split attention": "split", "RGA-S": "rga_s", "RGA-C": "rga_c"}
STAGES = {
    "256x128": ("256x64x32", "512x32x16", "1024x16x8", "2048x16x8"),
    "384x192": ("256x96x48", "512x48x24", "1024x24x12", "2048x24x12"),
}
HEADINGS = (
    "backbone",
    "input",
    "attention",
    "smallest map",
    "parameters added",
    "multiply-adds added, %",
    "measured time",
    "evidence, rendered people",
)


@dataclass(frozen=True)
class Benchmarks:
    """What the benchmarks measured.

    Args:
        whole: images a second by the plain network's, by row.
        layer: milliseconds of a forward pass and the images in it, by layer and map.
    """

    whole: Mapping[str, float]
    layer: Mapping[tuple[str, str], tuple[float, int]]


def _whole_run(page: Path = BENCHMARKS) -> str:
    """Return the benchmarks' page up to its first section: the newest whole run."""
    return page.read_text(encoding="utf-8").partition("\n## ")[0]


@cache
def benchmarks(page: Path = BENCHMARKS) -> Benchmarks:
    """Read the benchmarks' page."""
    whole: dict[str, float] = {}
    layer: dict[tuple[str, str], tuple[float, int]] = {}
    text = _whole_run(page)
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) > 3 and cells[2] == "plain ResNet-50":
            whole[cells[0]] = float(cells[3])
    forward = text.partition("forward, eval mode:")[2].partition("largest gaps")[0]
    for name, batch, shape, ms in re.findall(r"^\| (\w+) +\| (\d+)x([\dx]+) *\| [\d.]+ +\| ([\d.]+) ", forward, re.M):
        layer[name, shape] = float(ms), int(batch)
    if not whole or not layer:
        raise ValueError(f"choices: {page} must hold the benchmarks' tables, got none; has their form changed?")
    return Benchmarks(whole, layer)


def measured(backbone: str, input_size: str, attention: str) -> str:
    """Return the time that was measured, or that none was."""
    found = benchmarks()
    if backbone != "ResNet-50":
        return "not measured"
    if input_size == "256x128" and attention in WHOLE:
        return f"{found.whole[WHOLE[attention]]:.2f} of the plain network's images a second"
    if attention in LAYERS:
        parts = [found.layer[LAYERS[attention], shape] for shape in STAGES[input_size]]
        return f"{sum(ms / images for ms, images in parts):.2g} ms an image, the layers alone"
    return "not measured"


@cache
def evidence(attention: str) -> str:
    """Return what the ledger has: mAP with and without, seeds and intervals."""
    if attention not in ROWS:
        return "not run"
    paper, row, without = ROWS[attention]
    cells = by_cell(read_lines())
    shown = []
    for name in (row, without):
        entries = cells.get((paper, name, "Market-1501"), {})
        scores = [entry.scores for entry in entries.values() if entry.scores is not None]
        if not scores:
            return "not run"
        mean, interval = summary(scores, "mAP")
        ends = "" if interval is None else " [{:.1f}, {:.1f}]".format(*interval)
        shown.append((f"{mean:.1f}{ends}", len(scores)))
    (ours, seeds), (plain, _) = shown
    return f"mAP {ours}, without {plain}; {seeds} {'seed' if seeds == 1 else 'seeds'}"


def rows(source: Path = COSTS) -> list[list[str]]:
    """Return the table's rows."""
    found = []
    with source.open(encoding="utf-8", newline="") as file:
        for cost in csv.DictReader(file):
            share = 100 * int(cost["multiply_adds"]) / int(cost["multiply_adds_before"])
            found.append(
                [
                    cost["backbone"],
                    cost["input_size"],
                    cost["attention"],
                    cost["smallest_map"],
                    f"{int(cost['parameters']):,}",
                    f"{share:.3f}" if abs(share) < 0.1 else f"{share:.1f}",
                    measured(cost["backbone"], cost["input_size"], cost["attention"]),
                    evidence(cost["attention"]),
                ]
            )
    return found


def layer_times(name: str) -> list[list[str]]:
    """Return the benchmarks' rows of a layer: map, forward and training milliseconds, and how far from the bound.

    Args:
        name: as it is registered, or "pyramid".
    """
    text = _whole_run()
    found: dict[str, list[str]] = {}
    for section in ("forward, eval mode:", "forward+backward, train mode:"):
        part = text.partition(f"\n{section}\n")[2].partition("largest gaps")[0]
        for line in part.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if cells[0] == name:
                found.setdefault(cells[1], []).append(f"{cells[3]} ms ({cells[2]} × bound)")
    if not found:
        raise ValueError(f"choices: the benchmarks must have rows of {name!r}, got none; run python -m benchmarks")
    return [[shape, *times, *[""] * (2 - len(times))] for shape, times in found.items()]


def ratios(start: str) -> list[list[str]]:
    """Return the benchmarks' rows that begin so: what, map, against, ratio.

    Args:
        start: of the row's name.
    """
    lines = _whole_run().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith(f"| {start}")]
    if not rows:
        raise ValueError(f"choices: the benchmarks must have rows of {start!r}, got none; run python -m benchmarks")
    return [row[:4] for row in rows]
