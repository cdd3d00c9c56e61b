"""How the map lies in what a module returns: what the shape allows, and what of that a look at the model shows.

Two things are looked at: which axis grows with the input's height, and where changed patches of the input are
answered (`_probing.py`). What neither shows is refused, or the caller's to state.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from attnreid.backbones._measuring import Seen
from attnreid.backbones._site import Layout

Patch = tuple[
    float, float, float, float
]  # top, bottom, left and right of it, as shares of the image's height and width

_MOST_PREFIX = 16  # tokens in front that are looked for: a class token, a distillation token, registers
# Of a position: a patch that lies anyhow may be answered by the position next to it, where it ends this near to that; a
# patch that is one position's own, only by that one.
_SLACK = 0.25


@dataclass(frozen=True)
class Stated:
    """What the caller says of a site, where looking does not tell: None for what is not said."""

    layout: Layout | None = None
    grid: tuple[int, int] | None = None
    prefix: int | None = None
    output: int | str | None = None

    def __str__(self) -> str:
        """Return the arguments that were passed."""
        return ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if value is not None)


@dataclass(frozen=True)
class Arrangement:
    """One way to read a tensor as a map.

    Args:
        layout: how the map lies in it.
        channels: the map's channels.
        size: its height and width.
        prefix: tokens in front of it.
    """

    layout: Layout
    channels: int
    size: tuple[int, int]
    prefix: int = 0

    def expects(self, patch: Patch, answer: int, slack: float) -> bool:
        """Whether the position numbered `answer`, or the token, is where the patch of the image is."""
        height, width = self.size
        row, column = divmod(answer - self.prefix, width)
        top, bottom, left, right = patch
        return (
            answer >= self.prefix
            and top * height - slack < row + 1
            and row < bottom * height + slack
            and left * width - slack < column + 1
            and column < right * width + slack
        )

    def __str__(self) -> str:
        """Return the arguments that choose this one."""
        if self.layout != "tokens":
            return f'layout="{self.layout}"'
        return f'layout="tokens", grid={self.size}, prefix={self.prefix}'


@dataclass(frozen=True)
class Answers:
    """What answered most to each changed patch, for every layout of the tensor: the number of the position, or token.

    Args:
        patches: what was changed, one after another.
        strongest: for each layout, one number a patch.
    """

    patches: Sequence[Patch]
    strongest: Mapping[Layout, Sequence[int]]

    def agree_with(self, arrangement: Arrangement, slack: float = _SLACK) -> bool:
        """Whether every patch was answered where this arrangement has it."""
        found = self.strongest.get(arrangement.layout, ())
        pairs = zip(self.patches, found, strict=False)
        return bool(found) and all(arrangement.expects(patch, answer, slack) for patch, answer in pairs)


@dataclass(frozen=True)
class Evidence:
    """What one module answered.

    Args:
        rough: to patches that lie anyhow: it leaves a few arrangements.
        exact: by grid, to patches that are one position's own: it proves one.
    """

    rough: Answers
    exact: Mapping[tuple[int, int], Answers]

    def proves(self, arrangement: Arrangement) -> bool:
        """Whether the arrangement is what was answered to all patches."""
        exact = self.exact.get(arrangement.size)
        return self.rough.agree_with(arrangement) and exact is not None and exact.agree_with(arrangement, -_SLACK)


def own_patches(grid: tuple[int, int]) -> list[Patch]:
    """Return patches of an image that are one position's own each: any other order than row by row moves some.

    They are the first quarter of the position's share of the image. The position sees that best both where its share is
    cut out, as by a ViT, and behind padded convolutions of stride 2, where it is the middle of what the position sees.
    """
    rows, columns = grid
    middle = (rows // 2, columns // 2)
    cells = [
        (0, 0),
        (0, columns - 1),
        (1, 0),
        (rows - 1, 1),
        middle,
        (middle[0] - 1, middle[1] - 1),
        (rows - 1, columns - 1),
    ]
    inside = sorted({(row, column) for row, column in cells if 0 <= row < rows and 0 <= column < columns})
    return [(row / rows, (row + 0.5) / rows, column / columns, (column + 0.5) / columns) for row, column in inside]


def allowed(shape: tuple[int, ...], image: tuple[int, int], stated: Stated) -> Iterator[Arrangement]:
    """Yield the arrangements that a tensor of this shape can have and the caller's word leaves.

    Args:
        shape: of the tensor, batch first.
        image: the input's height and width.
        stated: what the caller says.
    """
    if len(shape) == 4:
        _, one, two, three = shape
        maps = (Arrangement("NCHW", one, (two, three)), Arrangement("NHWC", three, (one, two)))
        yield from (each for each in maps if stated.layout in (None, each.layout))
    if len(shape) == 3 and stated.layout in (None, "tokens"):
        _, count, channels = shape
        for prefix in range(_MOST_PREFIX + 1) if stated.prefix is None else (stated.prefix,):
            for height in range(1, count - prefix + 1):
                width, rest = divmod(count - prefix, height)
                # A position is at least a pixel.
                if rest or height > image[0] or width > image[1] or stated.grid not in (None, (height, width)):
                    continue
                yield Arrangement("tokens", channels, (height, width), prefix)
    # With the grid alone, all that is left stands in front: it may be more than what is looked for.
    if len(shape) == 3 and stated.layout in (None, "tokens") and stated.grid is not None and stated.prefix is None:
        prefix = shape[1] - stated.grid[0] * stated.grid[1]
        if prefix > _MOST_PREFIX:
            yield Arrangement("tokens", shape[2], stated.grid, prefix)


@dataclass(frozen=True)
class Reading:
    """What two looks at one module showed, the second with a taller input.

    Args:
        seen: the first look.
        grown: shape that the module returned in the second; None where it did not come so far.
        batch: how many images were fed; None where that was no batch of images.
        image: their height and width; None likewise.
        reached: whether the model ran on the taller input to its end.
    """

    seen: Seen
    grown: tuple[int, ...] | None
    batch: int | None
    image: tuple[int, int] | None
    reached: bool

    @property
    def is_open(self) -> bool:
        """Whether changed patches could show more."""
        given = self.seen.given
        if given is None or len(given) not in (3, 4) or self.seen.calls != 1 or not self.seen.floating:
            return False
        if given[0] != self.batch:
            return False
        return len(given) == 3 or (not self.reached and self._by_growth() is None)

    def candidates(self, rough: Answers, stated: Stated) -> list[Arrangement]:
        """Return the arrangements that the answers to patches that lie anyhow leave."""
        if not self.is_open:
            return []
        choices = allowed(self.seen.given or (), self.image or (_ANY, _ANY), Stated(output=stated.output))
        return [choice for choice in choices if rough.agree_with(choice)]

    def arrangement(self, evidence: Evidence | None, stated: Stated) -> tuple[Arrangement | None, str | None]:
        """Return how the map lies, or why that is not known; neither where there is no map at all."""
        given = self.seen.given
        if given is None or len(given) not in (3, 4) or not self.seen.floating:
            return None, None
        if self.batch is not None and given[0] != self.batch:
            return None, (
                f"its tensor, of shape {given}, does not have the {self.batch} images that were fed on its first axis "
                "(windows or heads may be folded into it); choose a module around it"
            )
        grows = self._by_growth()
        if grows is not None:
            if stated.layout in (None, grows):
                return next(allowed(given, self.image or (0, 0), Stated(grows))), None
            return None, f"a taller input shows that its map is {grows}, and {stated} was passed; leave that out"
        choices = list(allowed(given, self.image or (_ANY, _ANY), stated))
        if not choices:
            return None, f"its tensor, of shape {given}, cannot be read by {stated}; pass others, or none"
        agreed = [choice for choice in choices if evidence is not None and evidence.proves(choice)]
        if len(agreed) == 1:
            return agreed[0], None
        if len(agreed) > 1:
            return None, f"its tensor, of shape {given}, may be read in several ways; pass one of: {_list(agreed)}"
        return self._by_word(choices, evidence, stated)

    def _by_growth(self) -> Layout | None:
        given, grown = self.seen.given, self.grown
        if given is None or grown is None or len(given) != 4 or len(grown) != 4:
            return None
        axes = [axis for axis in (1, 2, 3) if grown[axis] > given[axis]]
        return _GROWS.get(axes[0]) if len(axes) == 1 else None

    def _by_word(
        self, choices: Sequence[Arrangement], evidence: Evidence | None, stated: Stated
    ) -> tuple[Arrangement | None, str | None]:
        given = self.seen.given or ()
        if (stated.layout or stated.grid) and len(choices) == 1:
            others = allowed(given, self.image or (_ANY, _ANY), Stated())
            shown = [each for each in others if evidence is not None and evidence.proves(each)]
            if shown:
                return None, f"changed patches show {_list(shown)}, and {stated} was passed; leave that out"
            return choices[0], None
        if len(given) == 4:
            _, channels, height, width = given
            return None, (
                f"a taller input does not show which axis of its map, of shape {given}, is the height; pass "
                f'layout="NCHW" only if it has {channels} channels, a height of {height} and a width of {width}'
            )
        return None, (
            f"looking does not show rows of tokens in its tensor, of shape {given}: no patch of the input is answered "
            'where a grid, row by row, would have it; pass layout="tokens", grid=(rows, columns), prefix=(tokens in '
            "front) only if you know them"
        )


_GROWS: dict[int, Layout] = {1: "NHWC", 2: "NCHW"}
_ANY = 1 << 30


def _list(arrangements: Sequence[Arrangement]) -> str:
    return "; or ".join(map(str, arrangements[:4]))
