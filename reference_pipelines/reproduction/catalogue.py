"""The experiments as data: rows, the experiments made of them, and how large each is run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from reference_pipelines.errors import UserError, closest

_HERE = Path(__file__).parent
TRANSFER = " to "  # between two data sets: trained on one, tested on the other


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        name: as claims.csv has it.
        paper: "apnet" or "mla".
        recipe: of a scale.
        change: keys of that recipe and their values.
    """

    name: str
    paper: str
    recipe: str
    change: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A table or a figure.

    Args:
        name: such as "apnet.table2"; its rows are the paper's before the point, or are named by paper.
        title: to read.
        rows: from top to bottom.
        data: the data sets, or "A to B".
        metrics: the columns of each.
        kind: "scores"; "curve", whose rows are drawn along an axis too; "maps", Grad-CAM of each row's network over the
            same images; or "cost", which trains nothing.
        labels: of the rows along the axis.
        axis: what is drawn along it.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    data: tuple[str, ...]
    metrics: tuple[str, ...]
    kind: Literal["scores", "curve", "maps", "cost"] = "scores"
    labels: tuple[str, ...] = ()
    axis: str = ""


@dataclass(frozen=True)
class Recipe:
    """What a scale takes for a recipe of the papers'.

    Args:
        pipeline: "apnet" or "mla".
        config: a shipped recipe of it.
        change: keys of that and their values.
        minutes: of a run on one core of two, as measured; None where nobody has.
        megabytes: of its folder, as measured.
    """

    pipeline: str
    config: str
    change: Mapping[str, Any] = field(default_factory=dict)
    minutes: float | None = None
    megabytes: float | None = None


@dataclass(frozen=True)
class Scale:
    """How large experiments are run.

    Args:
        name: "demo", "gpu" or "paper".
        about: in a line.
        recipes: by name.
        images: what is rendered for each data set; empty where the data sets themselves are read.
        source: recipe whose weights unsupervised training starts from, where it does not start from ImageNet's.
        folders: names under which each data set may lie in --data.root.
        exceptions: further keys for a data set and a recipe.
        held_out: training people that are held out where weights are selected by them.
    """

    name: str
    about: str
    recipes: Mapping[str, Recipe]
    images: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    source: Recipe | None = None
    folders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    exceptions: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    held_out: int = 0

    def why_not(self, row: Row, dataset: str) -> str | None:
        """Return why a cell cannot be run at this scale; None where it can."""
        if row.recipe not in self.recipes:
            return f"the scale {self.name} has no recipe {row.recipe}"
        for name in dataset.split(TRANSFER):
            if name not in (self.images or self.folders):
                return f"the scale {self.name} has no images for {name}"
        return None


@cache
def rows() -> dict[tuple[str, str], Row]:
    """Return every row by its paper and name."""
    found = _read("rows")
    return {
        (paper, name): Row(name, paper, **fields) for paper, table in found.items() for name, fields in table.items()
    }


@cache
def experiments() -> dict[str, Experiment]:
    """Return every experiment by name."""
    return {name: _experiment(name, **fields) for name, fields in _read("experiments").items()}


@cache
def scales() -> dict[str, Scale]:
    """Return every scale by name."""
    return {name: _scale(name, **fields) for name, fields in _read("scales").items()}


def find_experiment(name: str) -> Experiment:
    """Return an experiment.

    Raises:
        UserError: there is none of this name; the nearest ones are named.
    """
    known = experiments()
    if name not in known:
        raise UserError(
            f"reproduce: the experiment must be one of {', '.join(known)}, got {name!r}{closest(name, known)}; "
            "`reproduce list` says what each is"
        )
    return known[name]


def _experiment(name: str, **fields: Any) -> Experiment:
    own: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    of = own["rows"] if isinstance(own["rows"], dict) else {name.partition(".")[0]: own["rows"]}
    own["rows"] = tuple(rows()[paper, row] for paper, names in of.items() for row in names)
    return Experiment(name=name, **own)


def _scale(
    name: str,
    recipes: Mapping[str, Any],
    source: Mapping[str, Any] | None = None,
    folders: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Scale:
    start = {key: value for key, value in (source or {}).items() if key != "images"}
    return Scale(
        name,
        recipes={key: Recipe(**value) for key, value in recipes.items()},
        source=Recipe(**start) if start else None,
        folders={key: tuple(value) for key, value in (folders or {}).items()},
        **fields,
    )


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((_HERE / f"{name}.yaml").read_text(encoding="utf-8"))
    return content
