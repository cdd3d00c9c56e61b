"""Pictures of the report: thumbnails, and attention in colours over the images it is of."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image

from reference_pipelines.runs.provenance import file_digest

THUMBNAIL = (72, 144)  # width and height that a shown image fits in
TILE = (88, 176)
STRONGEST_SLOTS = 3
CONSTANT = 0.01  # of its largest value: a gate that varies by less has no map worth looking at

_STRIP_COLOURS = matplotlib.colormaps["viridis"]
# Below and above the middle of a row's values: told apart in every kind of colour vision, and from a grey image.
_BELOW, _ABOVE = (31, 119, 255), (255, 106, 0)
_CLIPPED = 98  # percentile of the distances from the middle that the strongest colour stands for


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
        hidden: whether no file is opened and nothing of it shown but its name.
    """

    def __init__(self, digests: Mapping[str, str] | None = None, *, hidden: bool = False) -> None:
        self.known: dict[str, Picture] = {}
        self.digests = dict(digests or {})
        self.hidden = hidden

    def __getitem__(self, path: str) -> Picture:
        """Return the picture of a file, read at its first use."""
        if path not in self.known:
            key = f"image{len(self.known)}"
            image = None if self.hidden else open_image(path, self.digests.get(path))
            if image is None:
                self.known[path] = Picture(key, Path(path).name, *THUMBNAIL, None)
            else:
                image.thumbnail(THUMBNAIL)
                self.known[path] = Picture(key, Path(path).name, *image.size, as_data_uri(image, "JPEG"))
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


def as_data_uri(image: Image.Image, kind: str = "JPEG") -> str:
    """Return an image as a JPEG or PNG file that a page holds in itself."""
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

    @property
    def middle(self) -> float:
        """The value of the colour scale's middle."""
        return (self.low + self.high) / 2

    @property
    def constant(self) -> bool:
        """Whether the values hardly differ."""
        return self.high - self.low <= CONSTANT * max(abs(self.low), abs(self.high))


def attention_rows(
    gates: Mapping[str, np.ndarray],
    images: Sequence[str],
    digests: Mapping[str, str] | None = None,
    *,
    hidden: bool = False,
) -> list[AttentionRow]:
    """Return the rows of a run's gates, named "site/level" and shaped (N, C, H, W), over its N images.

    Args:
        gates: of the run.
        images: their files.
        digests: of these, where they are known; another file of the name is not drawn over.
        hidden: whether the maps are drawn over plain grey and no file is opened.
    """
    opened = [None if hidden else open_image(path, (digests or {}).get(path)) for path in images]
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


def colour_scales() -> tuple[str, str]:
    """Return the colours of the maps and of the strips, low to high, as CSS gradients."""
    maps = ",".join(f"rgb({red} {green} {blue})" for red, green, blue in (_BELOW, (128, 128, 128), _ABOVE))
    strips = ",".join(matplotlib.colors.to_hex(_STRIP_COLOURS(step / 8)) for step in range(9))
    return f"linear-gradient(90deg,{maps})", f"linear-gradient(90deg,{strips})"


def _maps(site: str, level: str, note: str, values: np.ndarray, images: Sequence[Image.Image | None]) -> AttentionRow:
    # Around the median: where a gate is as it mostly is, the image stays grey, however narrow its range.
    middle = float(np.median(values))
    reach = float(np.percentile(np.abs(values - middle), _CLIPPED)) or float(np.abs(values - middle).max())
    shares = np.clip((values - middle) / reach, -1, 1) if reach > 0 else np.zeros(values.shape)
    tiles = tuple(as_data_uri(_blend(image, share), "JPEG") for image, share in zip(images, shares, strict=False))
    return AttentionRow(site, level, note, middle - reach, middle + reach, tiles)


def _strip(site: str, level: str, values: np.ndarray) -> AttentionRow:
    """Return a strip with a row an image and a column a channel, the channels in the order of their means."""
    low, high = float(values.min()), float(values.max())
    ordered = values[:, np.argsort(values.mean(axis=0), kind="stable")]
    shares = (ordered - low) / (high - low) if high > low else np.full(values.shape, 0.5)
    strip = Image.fromarray(_STRIP_COLOURS(shares, bytes=True)[..., :3])
    note = f"channel gate: {values.shape[1]} channels in the order of their mean, a row an image"
    return AttentionRow(site, level, note, low, high, (as_data_uri(strip, "PNG"),), strip=True)


def _blend(image: Image.Image | None, share: np.ndarray) -> Image.Image:
    """Return the map, -1 to 1, in colours over the image in grey, as dense as it is far from 0."""
    ground = image.convert("L").convert("RGB") if image else Image.new("RGB", TILE, "#888888")
    scale = min(TILE[0] / ground.width, TILE[1] / ground.height)
    size = (max(1, round(ground.width * scale)), max(1, round(ground.height * scale)))
    grown = Image.fromarray(share.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    map_ = np.clip(np.asarray(grown), -1, 1)[..., None]
    colour = np.where(map_ < 0, np.array(_BELOW), np.array(_ABOVE))
    grey = np.asarray(ground.resize(size, Image.Resampling.LANCZOS), dtype=np.float64)
    density = 0.75 * np.abs(map_)
    return Image.fromarray((grey * (1 - density) + colour * density).round().astype(np.uint8))
