"""The page: what it shows as data, the pictures for where the network does not run, and its files."""

import base64
import html
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from PIL import Image

from docs.playground.network import FEATURES, INPUT, LEVELS, SIZE, SPATIAL, STAGES
from docs.playground.people import MATES, People
from reference_pipelines.config.sections import IMAGENET

SOURCES = Path(__file__).parent / "page"
FILL = tuple(round(255 * mean) for mean in IMAGENET[0])
"""The colour of what is covered, as in the training's erasing."""

THIRDS = tuple((round(part * SIZE[0] / 3), round((part + 1) * SIZE[0] / 3)) for part in range(3))
LEVEL_TITLES = ("level 1, whole map", "level 2, halves")
APPLIED = "both levels"
COLOURS = matplotlib.colormaps["inferno"](np.arange(256), bytes=True)[:, :3]
_HEAT = 0.62
_FIRST = 8
"""Images of a ranking in the pictures."""


class Shot(NamedTuple):
    """A query with something covered, as the network saw it when the page was made.

    Args:
        query: its number among the queries.
        rows: covered, from the first to before the second; None where nothing is.
        about: in words.
        found: the features and gates, each (1, ...).
    """

    query: int
    rows: tuple[int, int] | None
    about: str
    found: Mapping[str, np.ndarray]


def shots_to_take(people: People) -> list[tuple[int, tuple[int, int] | None, str]]:
    """Return which queries are looked at beforehand, with what covered."""
    covers = [
        (None, "nothing covered"),
        (THIRDS[1], "the middle third covered"),
        (THIRDS[2], "the lower third covered"),
    ]
    return [(query, rows, about) for query in range(min(2, len(people.queries.ids))) for rows, about in covers]


def covered(pixels: np.ndarray, rows: tuple[int, int] | None) -> np.ndarray:
    """Return an image (H, W, 3) with some rows covered."""
    made = pixels.copy()
    if rows is not None:
        made[rows[0] : rows[1]] = FILL
    return made


def data_of(
    people: People,
    found: Mapping[str, np.ndarray],
    gallery: Mapping[str, np.ndarray],
    shots: list[Shot],
) -> dict[str, Any]:
    """Return what the page's program needs, as JSON.

    Args:
        people: whom it shows.
        found: the features and gates of the queries, with nothing covered.
        gallery: those of the gallery.
        shots: which the browser's features are compared with.
    """
    stages = []
    for stage in STAGES:
        names = [f"level{level}" for level in range(1, LEVELS + 1)]
        gates = [np.concatenate([found[f"{stage}/{name}"], gallery[f"{stage}/{name}"]]) for name in names]
        levels = [
            {"name": name, "title": title, "range": _range(gate), "halved": number > 0}
            for number, (name, title, gate) in enumerate(zip(names, LEVEL_TITLES, gates, strict=True))
        ]
        spatial = stage in SPATIAL
        if spatial:
            levels.append(
                {"name": "applied", "title": APPLIED, "range": _range(np.prod(gates, axis=0)), "halved": False}
            )
        stages.append(
            {
                "name": stage,
                "layer": "RGA-S" if spatial else "SE",
                "spatial": spatial,
                "map": list(gates[0].shape[2:]),
                "channels": gates[0].shape[1],
                "levels": levels,
            }
        )
    return {
        "size": list(SIZE),
        "fill": list(FILL),
        "input": INPUT,
        "features": FEATURES,
        "colours": COLOURS.flatten().tolist(),
        "stages": stages,
        "queries": [
            {"id": int(person), "camera": int(camera), "picture": data_uri(pixels, "PNG"), "pixels": _text(pixels)}
            for pixels, person, camera in zip(*people.queries, strict=True)
        ],
        "gallery": [
            {"id": int(person), "camera": int(camera), "picture": data_uri(pixels), "features": _text(features)}
            for pixels, person, camera, features in zip(*people.gallery, gallery[FEATURES], strict=True)
        ],
        "checks": [
            {"query": shot.query, "rows": shot.rows, "features": _text(shot.found[FEATURES][0])} for shot in shots
        ],
    }


def page_of(people: People, found: Mapping[str, np.ndarray], gallery: np.ndarray, shots: list[Shot], about: str) -> str:
    """Return the page in HTML, with the pictures.

    Args:
        people: whom it shows.
        found: the features and gates of the queries, which give the colours' range.
        gallery: (G, D) features.
        shots: to be shown.
        about: what the network is, in HTML.
    """
    template = (SOURCES / "index.html").read_text(encoding="utf-8")
    pictures = "\n".join(_shot(people, shot, found, gallery) for shot in shots)
    filled = {"width": str(SIZE[1]), "height": str(SIZE[0]), "pictures": pictures, "about": about}
    for name, text in filled.items():
        template = template.replace(f"{{{name}}}", text)
    return template


def _shot(people: People, shot: Shot, found: Mapping[str, np.ndarray], gallery: np.ndarray) -> str:
    """Return one of the pictures: the covered image, what the spatial levels let through, and the ranking."""
    person = people.queries.ids[shot.query]
    pixels = covered(people.queries.pixels[shot.query], shot.rows)
    looks = [(pixels, "the network's input")]
    for stage in SPATIAL:
        names = [f"{stage}/level{level}" for level in range(1, LEVELS + 1)]
        low, high = _range(np.prod([found[name] for name in names], axis=0))
        applied = np.prod([shot.found[name] for name in names], axis=0)[0, 0]
        looks.append(
            (overlay(pixels, (applied - low) / (high - low)), f"both levels after {stage}, {low:.2f} to {high:.2f}")
        )
    figures = "".join(
        f'<figure><img src="{data_uri(image)}" alt="" width="{SIZE[1]}" height="{SIZE[0]}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for image, caption in looks
    )
    similarities = gallery @ shot.found[FEATURES][0]
    items = []
    for rank, index in enumerate(np.argsort(-similarities, kind="stable")[:_FIRST], start=1):
        right = people.gallery.ids[index] == person
        alt = f"{rank}: person {people.gallery.ids[index]}, camera {people.gallery.cameras[index]}"
        marked, tick = (' class="right"', " ✓") if right else ("", "")
        items.append(
            f"<li{marked}>"
            f'<img src="{data_uri(people.gallery.pixels[index])}" alt="{alt}" width="{SIZE[1]}" height="{SIZE[0]}">'
            f"{similarities[index]:.2f}{tick}</li>"
        )
    return (
        f'<div class="shot"><h3>Person {person}, {html.escape(shot.about)}</h3>'
        f'<div class="looks">{figures}</div><ol class="ranks">{"".join(items)}</ol></div>'
    )


def overlay(pixels: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return an image (H, W, 3) in grey under a map (h, w) of 0 ... 1 in colours."""
    grey = 0.7 * (pixels @ np.array([0.299, 0.587, 0.114])) + 40
    rows = np.arange(SIZE[0]) * shares.shape[0] // SIZE[0]
    columns = np.arange(SIZE[1]) * shares.shape[1] // SIZE[1]
    places = np.rint(255 * np.clip(shares, 0, 1)).astype(int)[rows][:, columns]
    return np.rint(_HEAT * COLOURS[places] + (1 - _HEAT) * grey[..., None]).astype(np.uint8)


def data_uri(pixels: np.ndarray, kind: str = "JPEG") -> str:
    """Return an image (H, W, 3) uint8 as a data URI."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **({"quality": 88} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def data_script(data: Mapping[str, Any]) -> str:
    """Return the script that gives the page its data."""
    return f"globalThis.PLAYGROUND = {json.dumps(data, separators=(',', ':'))};\n"


def about_html(people: People, *, parameters: int, epochs: int, trained_on: int, chance: float) -> str:
    """Return what the network is, in HTML."""
    return html.escape(
        f"A ResNet with one narrow bottleneck a stage and {parameters:,} parameters, APNet-S's pyramid after its first "
        f"two stages and APNet-C's after the others, trained for {epochs} epochs on drawings of {trained_on} other "
        f"people, with parts erased at random. On all {people.tested} people of the test set it has "
        f"{100 * people.mean_average_precision:.0f} % mAP (chance {100 * chance:.0f} %) and {100 * people.rank1:.0f} % "
        "rank-1. The people shown are no random selection: they are the first of the test set whom it ranks right with "
        f"nothing covered and who have {MATES} images by other cameras; the gallery has these and one image of every "
        "other person. Drawings and a small network: what you see is how the layers work, not how good they are on "
        "photographs."
    )


def _range(values: np.ndarray) -> tuple[float, float]:
    """Return the range that 98 % of the values lie in, which the colours stand for."""
    low, high = (round(float(value), 2) for value in np.quantile(values, (0.01, 0.99)))
    return low, max(high, low + 0.01)


def _text(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
