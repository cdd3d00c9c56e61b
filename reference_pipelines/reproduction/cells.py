"""What an experiment has to run: a run for each row, data set and seed, and a test where the data sets differ."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from reference_pipelines.config.loading import load_config, to_plain
from reference_pipelines.errors import UserError, closest
from reference_pipelines.ledger.entry import Selection
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.reproduction.catalogue import TRANSFER, Experiment, Recipe, Row, Scale
from reference_pipelines.runs.folder import BEST, HELD_OUT, RESULT, WEIGHTS

WEIGHTS_OF: dict[Selection, str] = {"last": WEIGHTS, "held_out": HELD_OUT, "oracle": BEST}
"""The file of a run folder with the weights that each rule selects."""

_PLACE = ("title", "data.root", "device", "data.workers")  # none of these makes another run


@dataclass(frozen=True)
class Run:
    """A training that cells need.

    Args:
        title: what progress and messages call it.
        pipeline: "apnet" or "mla".
        images: name of the data set.
        root: where it lies.
        seed: of the training.
        arguments: of `train PIPELINE`, without the folder.
        folder: where it is written; two experiments that need the same run share it.
        minutes: that it is expected to take; None where nobody has measured.
    """

    title: str
    pipeline: str
    images: str
    root: Path
    seed: int
    arguments: tuple[str, ...]
    folder: Path
    minutes: float | None = None

    @cached_property
    def config(self) -> Any:
        """What it is trained with."""
        return load_config(PIPELINES[self.pipeline].config, self.arguments, recipes=PIPELINES[self.pipeline].recipes)

    @property
    def done(self) -> bool:
        """Whether it has a result, which is taken over whatever the code was; the ledger keeps that."""
        return (self.folder / RESULT).is_file()


@dataclass(frozen=True)
class Cell:
    """One number of a table and seed.

    Args:
        row: of the table.
        dataset: that it is tested on, or "A to B".
        seed: of the training.
        run: that it is of; None where it cannot be run.
        test: the images it is tested on, where they are not the run's.
        reason: why it cannot be run.
    """

    row: Row
    dataset: str
    seed: int
    run: Run | None
    test: Path | None = None
    reason: str | None = None

    @property
    def result(self) -> Path | None:
        """The file with its scores after the last epoch, there or not."""
        return self.result_of("last")

    def result_of(self, selection: Selection) -> Path | None:
        """Return the file with the scores of the weights that a rule selects, there or not."""
        if self.run is None:
            return None
        if selection == "last" and self.test is None:
            return self.run.folder / RESULT
        parts = [] if selection == "last" else [Path(WEIGHTS_OF[selection]).stem]
        parts += ["on", _slug(self.test.name)] if self.test is not None else []
        return self.run.folder / f"{'-'.join(parts)}.json"


class Plan:
    """The cells of an experiment at a scale, and where all that they need lies.

    Args:
        experiment: which.
        scale: how large.
        out: folder of runs and images; of all experiments.
        seeds: 1, 2, ... so many.
        only: names of rows and of data sets that are run; all rows, or data sets, where none is named.
        root: folder of the data sets, where they are not rendered.
        select: rules by which the weights are chosen, each a column. "held_out" trains without some people.

    Raises:
        UserError: a row or data set that the experiment does not have, or no folder of data sets.
    """

    def __init__(
        self,
        experiment: Experiment,
        scale: Scale,
        out: Path,
        *,
        seeds: int = 1,
        only: Sequence[str] = (),
        root: Path | None = None,
        select: Sequence[Selection] = ("last",),
    ) -> None:
        names = [row.name for row in experiment.rows]
        for name in only:
            if name not in (*names, *experiment.data):
                raise UserError(
                    f"reproduce: {experiment.name} has the rows {', '.join(names)} and the data sets "
                    f"{', '.join(experiment.data)}, got {name!r}{closest(name, [*names, *experiment.data])}"
                )
        if not scale.images and root is None and experiment.kind != "cost":
            raise UserError(
                f"reproduce: the scale {scale.name} reads the data sets themselves; name the folder that holds them "
                "with --data.root"
            )
        self.experiment = experiment
        self.scale = scale
        self.out = out / scale.name
        self.root = root
        self.select = tuple(rule for rule in WEIGHTS_OF if rule in select)
        self.rows = [row for row in experiment.rows if row.name in only or not {*names} & {*only}]
        self.data = [name for name in experiment.data if name in only or not {*experiment.data} & {*only}]
        self.cells = [
            self._cell(row, dataset, seed) for seed in range(1, seeds + 1) for dataset in self.data for row in self.rows
        ]

    @property
    def runs(self) -> list[Run]:
        """Every run that the cells need, once, in their order."""
        return list({cell.run.folder: cell.run for cell in self.cells if cell.run is not None}.values())

    def source(self) -> Run | None:
        """Return the run whose weights unsupervised training starts from."""
        if self.scale.source is None:
            return None
        return self._run("source weights", self.scale.source, {}, "source", 1)

    def place_of(self, images: str) -> Path | None:
        """Return where a data set lies: rendered, or in the folder of data sets; None where it is not there."""
        if images in self.scale.images:
            return self.out / "images" / _slug(images)
        if self.root is None:
            return None
        places = [self.root / name for name in self.scale.folders.get(images, ())]
        return next((place for place in places if place.exists()), None)

    def _cell(self, row: Row, dataset: str, seed: int) -> Cell:
        reason = self.scale.why_not(row, dataset)
        trained, _, tested = dataset.partition(TRANSFER)
        test = self.place_of(tested) if tested else None
        if reason is None and (self.place_of(trained) is None or (tested and test is None)):
            reason = f"{dataset} is not in {self.root}"
        if reason is not None:
            return Cell(row, dataset, seed, None, reason=reason)
        recipe = self.scale.recipes[row.recipe]
        more = self.scale.exceptions.get(trained, {}).get(row.recipe, {})
        apart = {"evaluation.held_out": self.scale.held_out} if "held_out" in self.select else {}
        change = {"title": row.name, **more, **row.change, **apart}
        run = self._run(f"{row.name} on {trained}", recipe, change, trained, seed)
        return Cell(row, dataset, seed, run, test)

    def _run(self, title: str, recipe: Recipe, change: Mapping[str, Any], images: str, seed: int) -> Run:
        root = self.place_of(images)
        assert root is not None
        values = {"title": title, **recipe.change, **change, "seed": seed, "data.root": str(root.absolute())}
        source = self.source() if recipe.pipeline == "mla" and self.scale.source is not None else None
        if source is not None:
            values["model.weights"] = str((source.folder / "model.safetensors").absolute())
        words = [word for key, value in values.items() for word in _words(key, value)]
        arguments = ("--config", recipe.config, *words)
        run = Run(title, recipe.pipeline, images, root, seed, arguments, Path(), recipe.minutes)
        return _with_folder(run, self.out / "runs")


def _words(key: str, value: Any) -> list[str]:
    """Return a key of a config with its value as a user types them."""
    if isinstance(value, list | tuple) and value:
        return [f"--{key}", *map(str, value)]
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}"]


def _with_folder(run: Run, runs: Path) -> Run:
    """Return the run with a folder named by what makes it another run than others."""
    config = to_plain(run.config)
    for key in _PLACE:
        section, _, name = key.rpartition(".")
        (config[section] if section else config).pop(name)
    if config["model"]["weights"] not in ("imagenet", "none", "package"):
        config["model"]["weights"] = "source"
    digest = hashlib.sha256(json.dumps([run.pipeline, run.images, config], sort_keys=True).encode()).hexdigest()
    name = f"{_slug(run.title)}-seed{run.seed}-{digest[:8]}"
    return replace(run, folder=runs / name)


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text.lower()).strip("-")


def pending(runs: Sequence[Run]) -> Iterator[Run]:
    """Yield the runs that are still to be trained."""
    return (run for run in runs if not run.done)
