"""An explanation to look at: a sheet of pictures an image, and one page of all that needs nothing beside it."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from reference_pipelines.data.names import printable
from reference_pipelines.explaining.explain import Explanation
from reference_pipelines.explaining.gates import GateMap
from reference_pipelines.explaining.heat_maps import HeatMap
from reference_pipelines.reporting.figures import as_data_uri
from reference_pipelines.reporting.overlay import GATE, HEAT, Scale, channel_profile, overlaid
from reference_pipelines.templates import find_template

BOX = (150, 192)  # width and height that a picture fits in
_DPI = 100
_INK, _SOFT = "#1c1c1c", "#5c5c5c"
_LABEL, _TEXT, _GAP, _EDGE = 0.9, 0.62, 0.14, 0.16  # inches: a row's label, the words below a picture, between, around
LEGEND = (
    (HEAT, "Grad-CAM", "nothing speaks for it", "the highest in a picture"),
    (GATE, "gates", "lowest, as captions say", "highest"),
)


@dataclass(frozen=True)
class Tile:
    """One picture with its caption.

    Args:
        head: what it is.
        lines: what else is to be said.
        picture: as it is shown.
    """

    head: str
    lines: tuple[str, ...]
    picture: Image.Image


@dataclass(frozen=True)
class SiteRow:
    """The pictures of one site.

    Args:
        site: its name.
        tiles: Grad-CAM first, gates after it.
    """

    site: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Sheet:
    """All of one image.

    Args:
        path: the file.
        target: what Grad-CAM asks for, in words.
        photograph: the image itself, as large as it is shown.
        against: the image that it is compared with, likewise.
        covers: part of the image that the person covers; None where it is not known.
        rows: by site, in the network's order.
    """

    path: Path
    target: str
    photograph: Image.Image
    against: Image.Image | None
    covers: float | None
    rows: tuple[SiteRow, ...]


def sheets_of(explanation: Explanation) -> list[Sheet]:
    """Return a sheet for every image of an explanation."""
    shares = explanation.on_person()
    sites = list(dict.fromkeys([each.site for each in explanation.heat] + [each.site for each in explanation.gates]))
    sheets = []
    for index, path in enumerate(explanation.images):
        photograph = shown_image(path)
        rows = []
        for site in sites:
            heat = [
                _heat_tile(each, index, photograph, shares[each.site, each.level][index])
                for each in explanation.heat
                if each.site == site
            ]
            gates = [_gate_tile(each, index, photograph) for each in explanation.gates if each.site == site]
            rows.append(SiteRow(site, (*heat, *gates)))
        mask, others = explanation.masks[index], explanation.against
        other = None if others is None else shown_image(others[index if len(others) > 1 else 0])
        covers = None if mask is None else float(mask.mean())
        sheets.append(Sheet(path, explanation.targets[index], photograph, other, covers, tuple(rows)))
    return sheets


def as_page(explanation: Explanation, sheets: Sequence[Sheet]) -> str:
    """Return the page of an explanation."""
    legend = [(Scale(colours, 0, 1).gradient(), *words) for colours, *words in LEGEND]
    page = find_template("reference_pipelines.explaining", "page.html.j2")
    return printable(page.render(explanation=explanation, sheets=sheets, legend=legend, uri=as_data_uri))


def as_png(title: str, sheet: Sheet) -> bytes:
    """Return a sheet as one picture: a row a site, what was asked for above, the colours below."""
    tall, wide = (side / _DPI for side in reversed(BOX))
    columns = max(len(row.tiles) for row in sheet.rows)
    cell = max(wide, 1.5) + _GAP
    left = _EDGE + max(wide, 1.5) + 2 * _GAP
    head, foot = 0.75, 0.75
    width = max(left + _LABEL + columns * cell + _EDGE, 7.0)
    height = head + len(sheet.rows) * (tall + _TEXT + _GAP) + foot
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")

    def place(x: float, y: float, picture: Image.Image) -> None:
        """Show a picture with its upper left corner in inches from the figure's."""
        across, down = picture.width / _DPI, picture.height / _DPI
        axes = figure.add_axes((x / width, 1 - (y + down) / height, across / width, down / height))
        axes.imshow(np.asarray(picture), aspect="auto")
        axes.set_axis_off()

    def write(x: float, y: float, words: str, size: float, colour: str = _INK, **options: Any) -> None:
        figure.text(x / width, 1 - y / height, printable(words), fontsize=size, color=colour, va="top", **options)

    write(_EDGE, 0.14, f"{title}: {sheet.path.name}", 12, weight="bold")
    write(_EDGE, 0.42, f"Grad-CAM of: {sheet.target}", 9.5, _SOFT)
    place(_EDGE, head, sheet.photograph)
    said = ["the image", *([] if sheet.covers is None else [f"the person covers {sheet.covers:.0%}"])]
    write(_EDGE, head + tall + 0.05, "\n".join(said), 8)
    if sheet.against is not None:
        second = head + tall + _TEXT + _GAP
        if len(sheet.rows) > 1:
            place(_EDGE, second, sheet.against)
            write(_EDGE, second + tall + 0.05, "what it is compared with", 8)
    for number, row in enumerate(sheet.rows):
        top = head + number * (tall + _TEXT + _GAP)
        write(left, top, row.site, 10, weight="bold")
        for column, tile in enumerate(row.tiles):
            x = left + _LABEL + column * cell
            place(x, top, tile.picture)
            write(x, top + tall + 0.05, tile.head, 8, weight="bold")
            write(x, top + tall + 0.19, "\n".join(tile.lines), 7.5, _SOFT)
    for number, (colours, name, low, high) in enumerate(LEGEND):
        x = _EDGE + number * (width - 2 * _EDGE) / len(LEGEND)
        bar = figure.add_axes((x / width, 0.36 / height, 2.6 / width, 0.14 / height))
        draw_scale(bar, colours)
        write(x, height - 0.70, name, 8, weight="bold")
        write(x, height - 0.32, low, 7.5, _SOFT)
        write(x + 2.6, height - 0.32, high, 7.5, _SOFT, ha="right")
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    return out.getvalue()


@dataclass(frozen=True)
class Column:
    """Maps of one network after one place, over several images.

    Args:
        head: whose, a line or two.
        values: (N, h, w), 0 or more.
        foot: what is said below.
    """

    head: str
    values: np.ndarray
    foot: str = ""


def as_figure(title: str, images: Sequence[Path], others: Sequence[Path], columns: Sequence[Column]) -> bytes:
    """Return maps of several networks over the same images as a PNG: a row an image, a column a map.

    Args:
        title: stands above it.
        images: N files.
        others: what each is compared with.
        columns: the maps over them.
    """
    box = (96, 192)
    wide, tall = (side / _DPI for side in box)
    heads = ["the image", "compared with\n(same person)", *(column.head for column in columns)]
    cell, top, foot = wide + 0.14, 0.85, 0.95
    width = max(2 * _EDGE + len(heads) * cell - 0.14, 5.6)
    height = top + len(images) * (tall + 0.1) + foot
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    figure.text(_EDGE / width, 1 - 0.12 / height, printable(title), fontsize=10, weight="bold", va="top", wrap=True)
    for column, words in enumerate(heads):
        middle = _EDGE + column * cell + wide / 2
        figure.text(middle / width, 1 - 0.44 / height, words, fontsize=7.5, ha="center", va="top")
    for row, (path, other) in enumerate(zip(images, others, strict=True)):
        photograph = shown_image(path, box)
        maps = [
            overlaid(photograph, column.values[row], Scale(HEAT, 0, float(column.values[row].max())))
            for column in columns
        ]
        for column, picture in enumerate([photograph, shown_image(other, box), *maps]):
            across, down = picture.width / _DPI, picture.height / _DPI
            x, y = _EDGE + column * cell + (wide - across) / 2, top + row * (tall + 0.1)
            axes = figure.add_axes((x / width, 1 - (y + down) / height, across / width, down / height))
            axes.imshow(np.asarray(picture), aspect="auto")
            axes.set_axis_off()
            if column >= 2 and not columns[column - 2].values[row].any():
                x, y = x + across / 2, y + down - 0.06
                figure.text(x / width, 1 - y / height, "nothing", fontsize=7, color="white", ha="center", va="bottom")
    for column, each in enumerate(columns, start=2):
        middle = _EDGE + column * cell + wide / 2
        figure.text(middle / width, (foot - 0.02) / height, each.foot, fontsize=8, ha="center", va="top")
    if any(each.foot for each in columns):
        label = "on the person, mean"
        figure.text(
            (_EDGE + 2 * cell - 0.14) / width, (foot - 0.02) / height, label, fontsize=7.5, ha="right", va="top"
        )
    colours, name, low, high = LEGEND[0]
    draw_scale(figure.add_axes((_EDGE / width, 0.36 / height, 2.6 / width, 0.14 / height)), colours)
    figure.text(_EDGE / width, 0.54 / height, name, fontsize=8, weight="bold", va="bottom")
    figure.text(_EDGE / width, 0.32 / height, low, fontsize=7.5, color=_SOFT, va="top")
    figure.text((_EDGE + 2.6) / width, 0.32 / height, high, fontsize=7.5, color=_SOFT, va="top", ha="right")
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    return out.getvalue()


def draw_scale(axes: Axes, colours: str) -> None:
    """Fill axes with a colour map, low at the left."""
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=colours, aspect="auto")
    axes.set_axis_off()


def shown_image(path: Path, box: tuple[int, int] = BOX) -> Image.Image:
    """Return an image file as large as it fits in a box of (width, height)."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    scale = min(box[0] / image.width, box[1] / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _heat_tile(heat: HeatMap, index: int, photograph: Image.Image, share: float) -> Tile:
    values = heat.values[index]
    lines = ["Grad-CAM, {} × {}".format(*values.shape)]
    if not values.any():
        lines.append("nothing speaks for it here")
    elif not np.isnan(share):
        lines.append(f"{share:.0%} on the person")
    return Tile(_level(heat.level), tuple(lines), overlaid(photograph, values, Scale(HEAT, 0, values.max())))


def _gate_tile(gate: GateMap, index: int, photograph: Image.Image) -> Tile:
    values = gate.values[index]
    if gate.kind == "channels":
        ends = f"{values.min():.2f} to {values.max():.2f}, mean {values.mean():.2f}"
        bars = (gate.note, ends, "bars from 0 to 1")
        return Tile(f"gate, {_level(gate.level)}", bars, channel_profile(values, photograph.size))
    scale = Scale(GATE, float(gate.values.min()), float(gate.values.max()))
    size = "{} × {}".format(*values.shape)
    lines = (f"{gate.note}, {size}", f"colours {scale.low:.3g} to {scale.high:.3g}")
    return Tile(f"gate, {_level(gate.level)}", lines, overlaid(photograph, values, scale))


def _level(level: str) -> str:
    return f"level {level.removeprefix('level')}" if level.removeprefix("level").isdecimal() else level
