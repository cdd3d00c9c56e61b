"""Charts as inline SVG whose colours, dashes and type the page's style sheet gives, with what a hover shows."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 340.0, 216.0
COLOURS, DASHES = 6, 4
# Circle, square, triangles, diamond, plus: around (0, 0), about 7 wide.
MARKS = (
    "M-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0z",
    "M-3-3h6v6h-6z",
    "M0-3.9L3.7 2.8h-7.4z",
    "M0-4.2L4.2 0 0 4.2-4.2 0z",
    "M0 3.9L3.7-2.8h-7.4z",
    "M-1.3-4h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7z",
)
_MARKED = 24  # of more points only some are marked
_TOP, _RIGHT, _BOTTOM, _CHARACTER = 12.0, 12.0, 38.0, 7.2


class Points(NamedTuple):
    """One line of a chart.

    Args:
        key: makes the line's id in the page, "CHART-KEY".
        label: what a reader calls it.
        order: its place among the lines, which gives its colour, dashes and marks.
        at: (x, y) in the order of x.
    """

    key: str
    label: str
    order: int
    at: Sequence[tuple[float, float]]


class Dot(NamedTuple):
    """One point of a scatter chart.

    Args:
        at: (x, y).
        order: its group's place, which gives its colour and mark.
        strong: whether it is drawn larger, with an outline.
        words: what a hover says of it.
    """

    at: tuple[float, float]
    order: int
    strong: bool
    words: str


@dataclass(frozen=True)
class _Axes:
    """Where values stand in the drawing."""

    low: tuple[float, float]
    high: tuple[float, float]
    left: float
    logarithmic: bool = False

    def x(self, value: float) -> float:
        low, high = self.low[0], self.high[0]
        if self.logarithmic:
            value, low, high = (math.log10(each) for each in (value, low, high))
        return self.left + (WIDTH - _RIGHT - self.left) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self.low[1], self.high[1]
        return HEIGHT - _BOTTOM - (HEIGHT - _BOTTOM - _TOP) * (value - low) / (high - low)


def line_chart(
    name: str,
    title: str,
    lines: Sequence[Points],
    *,
    x_title: str = "epoch",
    dashed: Mapping[str, float] | None = None,
    floor: float | None = None,
    ceiling: float | None = None,
    logarithmic: bool = False,
) -> Markup:
    """Return a chart as an element that the page's script answers hovers and arrow keys in.

    Args:
        name: prefix of every id in it, so that charts share a page.
        title: names the chart for those who do not see it; its values are added.
        lines: what is drawn.
        x_title: what stands under the x axis.
        dashed: levels marked by a dashed line, with the words beside it.
        floor: where the y axis begins; None fits it to the lines.
        ceiling: where it ends.
        logarithmic: whether the x axis is; then every x must be above 0.
    """
    levels = list((dashed or {}).values())
    xs = [x for line in lines for x, _ in line.at]
    ys = [y for line in lines for _, y in line.at] + levels
    x_ticks, x_low, x_high = _decades(xs) if logarithmic else _ticks(xs, whole=True)
    y_ticks, y_low, y_high = _ticks(ys, floor, ceiling)
    left = 12 + _CHARACTER * max(len(_number(tick)) for tick in y_ticks)
    axes = _Axes((x_low, y_low), (x_high, y_high), left, logarithmic)
    parts = [_grid(axes, x_ticks, y_ticks, x_title)]
    for words, level in (dashed or {}).items():
        parts.append(_level(name, axes, words, level, lines))
    parts += [_line(name, axes, line) for line in lines]
    spoken = "; ".join(f"{line.label}: {_course(line, x_title)}" for line in lines)
    hover = {
        "x": x_title,
        "lines": [
            [line.label, line.order, [[_r(axes.x(x)), _r(axes.y(y)), _number(x), f"{y:.4g}"] for x, y in line.at]]
            for line in lines
        ],
    }
    return _plot(name, f"{title}. {spoken}", "".join(parts), hover)


def scatter_chart(name: str, title: str, dots: Sequence[Dot]) -> Markup:
    """Return a chart of points whose axes have the same scale, and no numbers.

    Args:
        name: prefix of its id.
        title: names it for those who do not see it.
        dots: what is drawn, in this order.
    """
    room = 10.0
    xs, ys = ([dot.at[axis] for dot in dots] or [0.0] for axis in (0, 1))
    span = max((max(xs) - min(xs)) / (WIDTH - 2 * room), (max(ys) - min(ys)) / (HEIGHT - 2 * room)) or 1.0
    middle = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    parts, hover = [Markup('<path class="frame" d="M.5.5H{}V{}H.5z"/>').format(WIDTH - 0.5, HEIGHT - 0.5)], []
    for dot in dots:
        x = _r(WIDTH / 2 + (dot.at[0] - middle[0]) / span)
        y = _r(HEIGHT / 2 - (dot.at[1] - middle[1]) / span)
        strong = " strong" if dot.strong else ""
        parts.append(
            Markup('<path class="dot s{}{}" transform="translate({} {})" d="{}"/>').format(
                dot.order % COLOURS, strong, x, y, mark(dot.order)
            )
        )
        hover.append([x, y, dot.words])
    return _plot(name, title, "".join(parts), {"dots": hover})


def mark(order: int) -> str:
    """Return the mark of a line or a group; a second round through the colours meets other marks."""
    return MARKS[(order + order // COLOURS) % len(MARKS)]


def legend_sample(order: int) -> Markup:
    """Return the piece of line that stands before a legend's words."""
    return Markup(
        '<svg class="sample" viewBox="0 0 36 14" aria-hidden="true"><path class="line s{} d{}" d="M1 7H35"/>'
        '<path class="mark s{}" transform="translate(18 7)" d="{}"/></svg>'
    ).format(order % COLOURS, _dash(order), order % COLOURS, mark(order))


def legend_mark(order: int) -> Markup:
    """Return the mark that stands before a group's name."""
    return Markup(
        '<svg class="sample small" viewBox="0 0 14 14" aria-hidden="true">'
        '<path class="dot s{}" transform="translate(7 7)" d="{}"/></svg>'
    ).format(order % COLOURS, mark(order))


def _dash(order: int) -> int:
    return (order + order // COLOURS) % DASHES


def _line(name: str, axes: _Axes, line: Points) -> Markup:
    at = [(_r(axes.x(x)), _r(axes.y(y))) for x, y in line.at]
    course = "".join(f"{'L' if i else 'M'}{x} {y}" for i, (x, y) in enumerate(at))
    step = max(1, math.ceil(len(at) / _MARKED))
    marks = Markup("").join(
        Markup('<path class="mark s{}" transform="translate({} {})" d="{}"/>').format(
            line.order % COLOURS, x, y, mark(line.order)
        )
        for x, y in at[::step]
    )
    return Markup('<g id="{}-{}"><title>{}</title><path class="line s{} d{}" d="{}"/>{}</g>').format(
        name, line.key, line.label, line.order % COLOURS, _dash(line.order), course or "M0 0", marks
    )


def _level(name: str, axes: _Axes, words: str, level: float, lines: Sequence[Points]) -> Markup:
    """Return a dashed level with its words at the end and on the side where the lines leave them the most room."""
    width, height = _CHARACTER * len(words), 12.0
    start, end = axes.left + 4, WIDTH - _RIGHT - 4
    at = [(axes.x(x), axes.y(y)) for line in lines for x, y in _thickened(line.at)]

    def room(place: tuple[float, float]) -> float:
        left, middle = place
        inside = middle - height / 2 > _TOP and middle + height / 2 < HEIGHT - _BOTTOM
        near = (abs(y - middle) for x, y in at if left - 6 <= x <= left + width + 6)
        return min(near, default=HEIGHT) if inside else -1

    places = [(left, axes.y(level) + side) for left in (start, end - width) for side in (-9, 9)]
    left, middle = max(places, key=room)
    return Markup(
        '<g id="{}-dashed"><path class="level" d="M{} {}H{}"/><text class="halo" x="{}" y="{}">{}</text></g>'
    ).format(name, _r(axes.left), _r(axes.y(level)), _r(WIDTH - _RIGHT), _r(left), _r(middle + 4.5), words)


def _thickened(at: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points of a line and some between each two."""
    between = [(x + (u - x) * part / 8, y + (v - y) * part / 8) for (x, y), (u, v) in pairwise(at) for part in range(8)]
    return [*between, *at[-1:]]


def _grid(axes: _Axes, x_ticks: Sequence[float], y_ticks: Sequence[float], x_title: str) -> Markup:
    end, floor = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    lines = "".join(f"M{_r(axes.left)} {_r(axes.y(tick))}H{_r(end)}" for tick in y_ticks)
    words = [(axes.left - 6, axes.y(tick) + 4.2, "end", _number(tick)) for tick in y_ticks]
    words += [(axes.x(tick), floor + 16, "middle", _number(tick)) for tick in x_ticks]
    words.append(((axes.left + end) / 2, HEIGHT - 5, "middle", x_title))
    texts = Markup("").join(
        Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(_r(x), _r(y), anchor, said)
        for x, y, anchor, said in words
    )
    return Markup('<path class="grid" d="{}"/>{}').format(lines, texts)


def _plot(name: str, spoken: str, body: str, hover: Mapping[str, object]) -> Markup:
    # A frame that takes the keyboard's focus; the script puts the cursor and the box of values into it.
    return Markup(
        '<div class="plot" tabindex="0" role="group" aria-label="{}: arrow keys step through the values" '
        'data-plot="{}"><svg class="chart" id="{}" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}'
        '<path class="cursor" d=""/></svg><div class="tip" role="status" hidden></div></div>'
    ).format(
        spoken.partition(".")[0],
        json.dumps(hover, separators=(",", ":"), ensure_ascii=False),
        name,
        WIDTH,
        HEIGHT,
        spoken,
        Markup(body),
    )


def _ticks(
    values: Sequence[float], floor: float | None = None, ceiling: float | None = None, *, whole: bool = False
) -> tuple[list[float], float, float]:
    """Return the ticks of an axis and its ends."""
    low = min(values, default=0.0) if floor is None else floor
    high = max(values, default=1.0) if ceiling is None else ceiling
    if high <= low:
        room = 1.0 if whole or low == 0 else abs(low) * 0.1
        low, high = (low if floor is not None or whole else low - room), low + room
    locator = MaxNLocator(nbins=5, integer=whole, steps=[1, 2, 2.5, 5, 10])
    ticks = [float(tick) for tick in locator.tick_values(low, high)]
    if not whole:
        low = low if floor is not None else min(low, max((t for t in ticks if t <= low), default=low))
        high = high if ceiling is not None else max(high, min((t for t in ticks if t >= high), default=high))
    slack = 1e-9 * (high - low)
    return [tick for tick in ticks if low - slack <= tick <= high + slack], low, high


def _decades(values: Sequence[float]) -> tuple[list[float], float, float]:
    """Return the powers of ten around the values, and the first and last of them."""
    low = math.floor(math.log10(min(values, default=0.1)) + 1e-9)
    high = max(math.ceil(math.log10(max(values, default=1.0)) - 1e-9), low + 1)
    return [10.0**power for power in range(low, high + 1)], 10.0**low, 10.0**high


def _course(line: Points, x_title: str) -> str:
    if not line.at:
        return "no value"
    (first, start), (last, end) = line.at[0], line.at[-1]
    return f"{start:.3g} at {x_title} {first:g}, {end:.3g} at {x_title} {last:g}"


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.0e}".replace("e-0", "e-")


def _r(value: float) -> float:
    return round(value, 1)
