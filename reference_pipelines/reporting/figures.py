"""What the report draws: line charts as inline SVG, thumbnails, and attention blended over images."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from reference_pipelines.runs.provenance import file_digest

THUMBNAIL = (64, 128)  # width and height that a shown image fits in
TILE = (88, 176)
STRONGEST_SLOTS = 3

# Okabe and Ito's colours; dashes and markers tell the lines apart without them.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "P")
# Drawn in these two, which the page's own colours replace.
_INK, _GRID = "#010203", "#040506"
_COLOUR_MAP = matplotlib.colormaps["viridis"]


class Points(NamedTuple):
    """One line of a chart.

    Args:
        key: makes the line's id in the page, "CHART-KEY".
        label: what a reader calls it.
        order: its place among the lines, which gives its colour, dashes and marker.
        at: (x, y) in the order of x.
    """

    key: str
    label: str
    order: int
    at: Sequence[tuple[float, float]]


def line_chart(
    name: str,
    title: str,
    lines: Sequence[Points],
    *,
    dashed: Mapping[str, float] | None = None,
    floor: float | None = None,
    ceiling: float | None = None,
) -> Markup:
    """Return a chart over epochs as an SVG element.

    Args:
        name: prefix of every id in it, so that charts share a page.
        title: names the chart for those who do not see it; its values are added.
        lines: what is drawn.
        dashed: levels marked by a dashed line, with the words beside it.
        floor: where the y axis begins; None fits it to the lines.
        ceiling: where it ends.
    """
    figure = Figure(figsize=(5.4, 3.1), layout="constrained")
    axes = figure.add_subplot()
    for line in lines:
        x, y = zip(*line.at, strict=True) if line.at else ((), ())
        axes.plot(x, y, **_style(line.order), gid=line.key, markevery=max(1, len(x) // 15))
    for words, level in (dashed or {}).items():
        axes.axhline(level, color=_INK, linestyle=(0, (4, 3)), linewidth=1, gid="dashed")
        axes.annotate(
            words,
            (1, level),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=_INK,
            fontsize=9,
        )
    _dress(axes)
    axes.set_ylim(floor, ceiling)
    spoken = "; ".join(f"{line.label}: {_course(line)}" for line in lines)
    return _as_element(figure, name, f"{title}. {spoken}", {line.key: line.label for line in lines})


def legend_sample(name: str, order: int) -> Markup:
    """Return the piece of line that stands before a legend's words."""
    figure = Figure(figsize=(0.5, 0.2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.plot([0, 1, 2], [0, 0, 0], **_style(order), markevery=[1])
    axes.set_axis_off()
    return _as_element(figure, name, "", {})


def _style(order: int) -> dict[str, Any]:
    # A second round through the colours meets other dashes.
    dash = _DASHES[(order + order // len(_COLOURS)) % len(_DASHES)]
    marker = _MARKERS[order % len(_MARKERS)]
    return {
        "color": _COLOURS[order % len(_COLOURS)],
        "linestyle": dash,
        "marker": marker,
        "markersize": 4.5,
        "linewidth": 1.7,
        "clip_on": False,
    }


def _dress(axes: Axes) -> None:
    axes.set_xlabel("epoch", color=_INK)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.tick_params(colors=_INK, labelsize=9, length=0)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)


def _course(line: Points) -> str:
    if not line.at:
        return "no value"
    (first, start), (last, end) = line.at[0], line.at[-1]
    return f"{start:.3g} at epoch {first:g}, {end:.3g} at epoch {last:g}"


def _as_element(figure: Figure, name: str, spoken: str, labels: Mapping[str, str]) -> Markup:
    """Return the figure without what only a file of its own needs, its colours following the page's."""
    for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
        patch.set_visible(False)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(file, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = svg.replace(_INK, "currentColor").replace(_GRID, "var(--line)")
    for i, colour in enumerate(_COLOURS):
        svg = svg.replace(colour, f"var(--series{i}, {colour})")
    for key, label in labels.items():
        group = f'<g id="{name}-{key}">'
        svg = svg.replace(group, f"{group}<title>{escape(label)}</title>")
    role = Markup('role="img" aria-label="{}"').format(spoken) if spoken else 'aria-hidden="true"'
    head, _, body = svg.partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    return Markup(f'<svg id="{name}" {box[0] if box else ""} {role}>{body}')


class Picture(NamedTuple):
    """An image of the page, in the page once however often it is shown.

    Args:
        key: its id in the page.
        name: the file's name.
        width: of what is embedded, in pixels.
        height: likewise.
        uri: the data; None where the file is gone or broken.
    """

    key: str
    name: str
    width: int
    height: int
    uri: str | None


class Pictures:
    """Every distinct image that the page shows.

    Args:
        digests: of the files as the runs saw them; another file of the name is not shown.
    """

    def __init__(self, digests: Mapping[str, str] | None = None) -> None:
        self.known: dict[str, Picture] = {}
        self.digests = dict(digests or {})

    def __getitem__(self, path: str) -> Picture:
        """Return the picture of a file, read at its first use."""
        if path not in self.known:
            key = f"image{len(self.known)}"
            image = open_image(path, self.digests.get(path))
            if image is None:
                self.known[path] = Picture(key, Path(path).name, *THUMBNAIL, None)
            else:
                image.thumbnail(THUMBNAIL)
                self.known[path] = Picture(key, Path(path).name, *image.size, _data_uri(image, "JPEG"))
        return self.known[path]


def open_image(path: str | Path, digest: str | None = None) -> Image.Image | None:
    """Return a file's pixels, or None where it is gone, broken or another one: a report outlives its data."""
    if digest is not None and file_digest(Path(path)) != digest:
        return None
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # Pillow reports broken files by all four
        return None


def _data_uri(image: Image.Image, kind: str) -> str:
    file = io.BytesIO()
    options = {"quality": 82, "optimize": True} if kind == "JPEG" else {"optimize": True}
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


@dataclass(frozen=True)
class AttentionRow:
    """One site and level: a map over each image, or one strip where the gate has no place in the image.

    Args:
        site: where the attention is.
        level: which one of the site's.
        note: what is drawn, and how it was reduced.
        low: the value of the colour scale's left end.
        high: of its right end.
        tiles: a data URI an image, or the strip alone.
        strip: whether it is a strip.
    """

    site: str
    level: str
    note: str
    low: float
    high: float
    tiles: tuple[str, ...]
    strip: bool = False


def attention_rows(
    gates: Mapping[str, np.ndarray], images: Sequence[str], digests: Mapping[str, str] | None = None
) -> list[AttentionRow]:
    """Return the rows of a run's gates, named "site/level" and shaped (N, C, H, W), over its N images.

    Args:
        gates: of the run.
        images: their files.
        digests: of these, where they are known; another file of the name is not drawn over.
    """
    opened = [open_image(path, (digests or {}).get(path)) for path in images]
    rows = []
    for name, gate in gates.items():
        site, _, level = name.rpartition("/")
        gate = np.nan_to_num(gate.astype(np.float64))
        channels, height, width = gate.shape[1:]
        size = f"{height} × {width}"
        if height == width == 1:
            rows.append(_strip(site, level, gate[:, :, 0, 0]))
        elif channels == 1:
            rows.append(_maps(site, level, f"spatial gate, {size}", gate[:, 0], opened))
        elif "domain" in level:
            # A pixel's slots sum to one, so that their mean is the same everywhere.
            spread = gate.std(axis=(0, 2, 3))
            for slot in np.argsort(-spread, kind="stable")[:STRONGEST_SLOTS]:
                note = f"memory slot {slot + 1} of {channels}, one of the {STRONGEST_SLOTS} that vary most, {size}"
                rows.append(_maps(site, level, note, gate[:, slot], opened))
        else:
            note = f"mean over {channels} channels, {size}"
            rows.append(_maps(site, level, note, gate.mean(axis=1), opened))
    return rows


def colour_scale() -> str:
    """Return the colours of the maps, low to high, as a CSS gradient."""
    stops = ",".join(matplotlib.colors.to_hex(_COLOUR_MAP(step / 8)) for step in range(9))
    return f"linear-gradient(90deg,{stops})"


def _maps(site: str, level: str, note: str, values: np.ndarray, images: Sequence[Image.Image | None]) -> AttentionRow:
    shares, low, high = _to_unit(values)
    tiles = tuple(_data_uri(_blend(image, share), "JPEG") for image, share in zip(images, shares, strict=False))
    return AttentionRow(site, level, note, low, high, tiles)


def _strip(site: str, level: str, values: np.ndarray) -> AttentionRow:
    """Return a strip with a row an image and a column a channel, the channels in the order of their means."""
    shares, low, high = _to_unit(values[:, np.argsort(values.mean(axis=0), kind="stable")])
    strip = Image.fromarray(_COLOUR_MAP(shares, bytes=True)[..., :3])
    note = f"channel gate: {values.shape[1]} channels in the order of their mean, a row an image"
    return AttentionRow(site, level, note, low, high, (_data_uri(strip, "PNG"),), strip=True)


def _to_unit(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return values scaled to 0 ... 1 by their range, and the range; a constant becomes the middle."""
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.full(values.shape, 0.5)
    return scaled, low, high


def _blend(image: Image.Image | None, share: np.ndarray) -> Image.Image:
    """Return the map in colours over the image in grey."""
    ground = image.convert("L").convert("RGB") if image else Image.new("RGB", TILE, "#888888")
    scale = min(TILE[0] / ground.width, TILE[1] / ground.height)
    size = (max(1, round(ground.width * scale)), max(1, round(ground.height * scale)))
    grown = Image.fromarray(share.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    heat = Image.fromarray(_COLOUR_MAP(np.clip(np.asarray(grown), 0, 1), bytes=True)[..., :3])
    return Image.blend(ground.resize(size, Image.Resampling.LANCZOS), heat, 0.55)
