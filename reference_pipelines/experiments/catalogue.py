"""Runs as data: a recipe, the images it is trained on, and the keys that are changed in it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reference_pipelines.pipelines import PIPELINES


@dataclass(frozen=True)
class Entry:
    """One run.

    Args:
        name: of its folder.
        pipeline: "apnet" or "mla".
        images: which of the catalogue's data sets it is trained on.
        change: keys of the pipeline's demo recipe and their values.
    """

    name: str
    pipeline: str
    images: str
    change: Mapping[str, Any]

    def arguments(self, data: Path, **more: str) -> list[str]:
        """Return the config's arguments of `train PIPELINE`."""
        changed = {**self.change, "data.root": str(data), **more}
        values = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in changed.items()]
        return ["--config", str(PIPELINES[self.pipeline].recipes / "demo.yaml"), *values]


@dataclass(frozen=True)
class Catalogue:
    """What a table is made of.

    Args:
        images: options of `render_market` for each data set.
        source: the run whose weights the unsupervised runs start from.
        runs: the rows, in order.
    """

    images: Mapping[str, Mapping[str, Any]]
    source: Entry
    runs: tuple[Entry, ...]


def read_catalogue(path: Path) -> Catalogue:
    """Return the catalogue that a YAML file holds."""
    plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    runs = tuple(Entry(name, **fields) for name, fields in plan["runs"].items())
    return Catalogue(plan["images"], Entry("source", **plan["source"]), runs)
