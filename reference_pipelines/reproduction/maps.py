"""The figures of heat maps: Grad-CAM of each row's network over the same images, and how much of it is on the person.

What is asked is the similarity of a query to the first gallery image of the same person by another camera, for every
network alike: the papers do not say what they took, and networks trained without labels have no classifier.
"""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from attnreid.files import write_bytes, write_text
from reference_pipelines.data import ReidData, read
from reference_pipelines.distributed.device import describe_hardware, pick_device
from reference_pipelines.errors import UserError
from reference_pipelines.explaining.explain import Explanation, explain
from reference_pipelines.explaining.heat_maps import BEFORE, STAGE
from reference_pipelines.explaining.pictures import Column, as_figure
from reference_pipelines.ranks.scoring import bootstrap_interval
from reference_pipelines.reproduction.cells import Cell, Plan
from reference_pipelines.runs.provenance import file_digest, provenance
from reference_pipelines.runs.result import last_weights
from reference_pipelines.templates import find_template, write_page
from reference_pipelines.text_table import format_table

MOST_PEOPLE = 200
SAMPLES = 5  # images of the picture


@dataclass(frozen=True)
class OnPerson:
    """How much of Grad-CAM after one place lies on the person.

    Args:
        row: of the experiment.
        seed: of the training.
        run: its folder's name.
        weights: digest of the weights.
        site: the stage.
        level: of its pyramid, or where else the map was taken.
        height: of the map.
        width: of the map.
        people: one image each.
        silent: how many of their maps are 0 everywhere, and count for nothing.
        on_person: the mean over the others, 0 to 1; None where no mask is known.
        low: lower end of its 95 % bootstrap interval over people; None where it has none.
        high: the upper end.
        covers: the mean part of the image that the person covers, which a map without a preference would have.
    """

    row: str
    seed: int
    run: str
    weights: str | None
    site: str
    level: str
    height: int
    width: int
    people: int
    silent: int
    on_person: float | None
    low: float | None
    high: float | None
    covers: float | None


@dataclass(frozen=True)
class Maps:
    """A figure of heat maps, explained.

    Args:
        plan: what it is of.
        data: whose queries are shown.
        queries: one a person.
        partners: an image of the same person for each.
        found: an explanation of each cell that was run.
        numbers: of every place in every network.
    """

    plan: Plan
    data: ReidData
    queries: tuple[Path, ...]
    partners: tuple[Path, ...]
    found: tuple[tuple[Cell, Explanation], ...]
    numbers: tuple[OnPerson, ...]

    @property
    def stages(self) -> tuple[str, ...]:
        """Every stage that a map is of, the first first."""
        return tuple(dict.fromkeys(each.site for each in self.numbers))

    def caption(self) -> str:
        """Say what the figure is of."""
        scale = self.plan.scale
        said = (
            f"{self.plan.experiment.title}. Scale {scale.name}: {scale.about}. Of the similarity to another camera's "
            f"image of the same person, {len(self.queries)} people, one query each"
        )
        return f"{said}; how much of a map is on the person, 95 % intervals over people."

    def as_text(self) -> str:
        """Return the numbers after the last stage as a terminal shows them."""
        last = self.stages[-1:]
        rows = [
            [each.row, str(each.seed), _place(each), f"{each.height} x {each.width}", _percent(each), _covers(each)]
            for each in self.numbers
            if each.site in last
        ]
        table = format_table(rows, ["row", "seed", "Grad-CAM", "map", "on the person", "person covers"], words=3)
        missing = [cell for cell in self.plan.cells if all(cell is not done for done, _ in self.found)]
        return "\n".join([table, *(f"not run: {cell.row.name}, seed {cell.seed}" for cell in missing)])

    def as_csv(self) -> str:
        """Return one line a place of a network."""
        out = io.StringIO()
        writer = csv.DictWriter(out, list(OnPerson.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(each) for each in self.numbers)
        return out.getvalue()

    def as_json(self) -> str:
        """Return the numbers with what made them."""
        document = {
            "experiment": self.plan.experiment.name,
            "scale": self.plan.scale.name,
            **provenance(),
            "hardware": describe_hardware(pick_device("auto")),
            "images": {"name": self.data.name, "fingerprint": self.data.fingerprint(), "people": len(self.queries)},
            "target": "cosine similarity to the first gallery image of the person by another camera",
            "numbers": [asdict(each) for each in self.numbers],
        }
        return json.dumps(document, indent=1) + "\n"

    def as_html(self, pictures: Mapping[str, bytes]) -> str:
        """Return a page with the figure, a PNG after each stage, and every number."""
        rows = [(each, _place(each), _percent(each), _covers(each)) for each in self.numbers]
        template = find_template("reference_pipelines.reproduction", "maps.html.j2")
        return template.render(title=self.plan.experiment.title, caption=self.caption(), pictures=pictures, rows=rows)

    def as_png(self, stage: str) -> bytes:
        """Return the picture in the paper's layout: a row an image, a column a map after `stage`, seed 1."""
        shown = np.linspace(0, len(self.queries) - 1, min(SAMPLES, len(self.queries))).round().astype(int).tolist()
        columns = [
            Column(f"{cell.row.name}\n{_short(each.level)}", each.values[shown], self._foot(cell, stage, each.level))
            for cell, explanation in self.found
            if cell.seed == 1
            for each in explanation.heat
            if each.site == stage and each.level != BEFORE
        ]
        return as_figure(
            f"{self.plan.experiment.title}; {stage}",
            [self.queries[index] for index in shown],
            [self.partners[index] for index in shown],
            columns,
        )

    def write(self) -> list[Path]:
        """Write numbers, page and pictures, and return the files."""
        folder = self.plan.out / "tables"
        folder.mkdir(parents=True, exist_ok=True)
        pictures = {stage: self.as_png(stage) for stage in reversed(self.stages)}
        name = self.plan.experiment.name
        for stage, content in pictures.items():
            write_bytes(folder / self._name(stage), content)
        for ending, text in (("csv", self.as_csv()), ("json", self.as_json())):
            write_text(folder / f"{name}.{ending}", text)
        write_page(folder / f"{name}.html", self.as_html(pictures))
        endings = ("csv", "json", "html")
        return [folder / each for each in (*map(self._name, pictures), *(f"{name}.{ending}" for ending in endings))]

    def _name(self, stage: str) -> str:
        """Return the picture's file name: the last stage, which the papers show, has the experiment's."""
        after = "" if stage == self.stages[-1] else f"-{stage}"
        return f"{self.plan.experiment.name}{after}.png"

    def _foot(self, cell: Cell, stage: str, level: str) -> str:
        found = [each for each in self.numbers if (each.row, each.seed) == (cell.row.name, cell.seed)]
        return next(
            (f"{each.on_person:.0%}" for each in found if (each.site, each.level) == (stage, level) and each.on_person),
            "",
        )


def maps_of(plan: Plan) -> Maps:
    """Explain every network of a plan that is trained.

    Raises:
        UserError: none is, the images are not there, or no query has an image of the same person by another camera.
    """
    done = [cell for cell in plan.cells if cell.run is not None and cell.run.done]
    if not done:
        raise UserError(f"reproduce: {plan.experiment.name} needs a network that is trained, and none is")
    root = plan.place_of(plan.data[0])
    assert root is not None
    data = read(root)
    queries, partners = pairs_of(data)
    found, numbers = [], []
    for cell in done:
        assert cell.run is not None
        explanation = explain(cell.run.folder, queries, against=partners, gates=False)
        found.append((cell, explanation))
        numbers += _numbers(cell, explanation)
    return Maps(plan, data, queries, partners, tuple(found), tuple(numbers))


def pairs_of(data: ReidData) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return a query a person, and the first gallery image of the person by another camera.

    Raises:
        UserError: there is no such pair.
    """
    pairs: dict[int, tuple[Path, Path]] = {}
    for path, person, camera in zip(
        data.query.paths, data.query.ids.tolist(), data.query.cameras.tolist(), strict=True
    ):
        others = np.flatnonzero((data.gallery.ids == person) & (data.gallery.cameras != camera))
        if person not in pairs and len(others):
            pairs[person] = path, data.gallery.paths[others[0]]
    if not pairs:
        raise UserError(f"reproduce: {data.name} must have a query with an image of the same person by another camera")
    shown = np.linspace(0, len(pairs) - 1, min(MOST_PEOPLE, len(pairs))).round().astype(int)
    chosen = [[*pairs.values()][index] for index in shown]
    return tuple(query for query, _ in chosen), tuple(other for _, other in chosen)


def _numbers(cell: Cell, explanation: Explanation) -> list[OnPerson]:
    assert cell.run is not None
    shares = explanation.on_person()
    masks = [mask for mask in explanation.masks if mask is not None]
    covers = float(np.mean([mask.mean() for mask in masks])) if masks else None
    weights = file_digest(last_weights(cell.run.folder))
    numbers = []
    for each in explanation.heat:
        known = shares[each.site, each.level]
        known = known[~np.isnan(known)]
        interval = bootstrap_interval(known)
        numbers.append(
            OnPerson(
                row=cell.row.name,
                seed=cell.seed,
                run=cell.run.folder.name,
                weights=weights,
                site=each.site,
                level=each.level,
                height=each.values.shape[1],
                width=each.values.shape[2],
                people=len(each.values),
                silent=int((~each.values.any(axis=(1, 2))).sum()),
                on_person=float(known.mean()) if len(known) else None,
                low=None if interval is None else interval[0],
                high=None if interval is None else interval[1],
                covers=covers,
            )
        )
    return numbers


def _place(number: OnPerson) -> str:
    return f"{number.site}, {_short(number.level)}"


def _short(level: str) -> str:
    return "the stage" if level == STAGE else level.replace("level", "level ")


def _percent(number: OnPerson) -> str:
    if number.on_person is None:
        return "-"
    ends = "" if number.low is None or number.high is None else f" [{100 * number.low:.1f}, {100 * number.high:.1f}]"
    return f"{100 * number.on_person:.1f}{ends}"


def _covers(number: OnPerson) -> str:
    return "-" if number.covers is None else f"{100 * number.covers:.1f}"
