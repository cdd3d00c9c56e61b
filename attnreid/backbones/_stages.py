"""Where the stages of a network end, told from what its modules give, whatever their classes.

A *block* is a module that gives a map and has at least two weights in it: no norm, activation or pooling, no transition
of one convolution, no head convolution. A *container*, such as `features`, is one that holds most of what is computed
at another scale than its own: it spans several stages. The outermost of the other blocks are the *units*. Maps of
nearly one size, as unpadded convolutions give them, are of one *scale*.

| network | its stages end at |
|---|---|
| staged | the unit that finishes last, for each scale; the last four scales |
| isotropic: nearly all weights at one scale (ViT, Mixer) | the blocks at 1/4, 1/2, 3/4 and 4/4 of its largest row |
| a plain row of layers (VGG), or what comes before the units | the layer that finishes last, for each scale with some |
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from attnreid.backbones._surgery import mark_of
from attnreid.backbones.sites import Survey

_MOST = 4
_SEVERAL = 2  # weights that make a block
_ONE_SCALE = 1.5  # areas that differ less than by this are of one scale; a stride of 2 makes it 4
_NEARLY_ALL = 0.9


@dataclass(frozen=True)
class Part:
    """What is known of one module.

    Args:
        name: its dotted name.
        kind: the name of its class.
        size: height and width of its map.
        finished: its place in the order in which the modules end their last call.
        weights: how many weights are in it: parameters with two or more dimensions that are longer than 1.
        refusal: why attention cannot stand there; None where it can.
        taken: whether it carries attention already: its stage is refused, and not given another place.
    """

    name: str
    kind: str
    size: tuple[int, int]
    finished: int
    weights: int
    refusal: str | None = None
    taken: bool = False

    @property
    def area(self) -> int:
        """How many positions its map has."""
        return self.size[0] * self.size[1]

    @property
    def is_block(self) -> bool:
        """Whether it gives a map, and no pooled vector, and is more than one layer."""
        return self.area > 1 and self.weights >= _SEVERAL

    @property
    def fits(self) -> bool:
        """Whether attention can stand there, or does."""
        return self.refusal is None or self.taken

    def holds(self, other: "Part") -> bool:
        """Whether the other is inside it."""
        return other.name.startswith(f"{self.name}.")


@dataclass(frozen=True)
class Stage:
    """The end of a stage.

    Args:
        end: the module that it ends at.
        ways: where attention can stand for it, the best place first: the end itself, what ends last inside it, or what
            is around it and ends with it.
    """

    end: Part
    ways: tuple[str, ...]


def parts_of(model: nn.Module, survey: Survey) -> list[Part]:
    """Return what is known of every module that gives a map."""
    parts = []
    for name, site in survey.sites.items():
        if site.size is not None and site.layout is not None:
            # The survey's copy is without the attention that the model carries.
            weights = count_weights(survey.double.get_submodule(name))
            order, taken = survey.seen[name].finished, mark_of(model.get_submodule(name)) is not None
            parts.append(Part(name, site.kind, site.size, order, weights, site.refusal, taken))
    return parts


def count_weights(module: nn.Module, *, recurse: bool = True) -> int:
    """Return how many parameters have two or more dimensions that are longer than 1; of the module alone on demand."""
    return sum(sum(side > 1 for side in tensor.shape) > 1 for tensor in module.parameters(recurse))


def stage_ends(parts: Sequence[Part]) -> list[Stage]:
    """Return the ends of the stages, in the order of the network.

    There may be fewer than four, and none where no module gives a map.
    """
    return _Network(parts).stages()


class _Network:
    """The parts, and how much is computed at which scale."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = sorted((part for part in parts if part.area > 1), key=lambda part: part.finished)
        self.scales = _scales(self.parts)
        # A weight counts at the scale of the innermost module around it that gives a map.
        own = {part.name: part.weights for part in parts}
        for part in parts:
            home = next((name for name in around(part.name) if name in own), None)
            if home is not None:
                own[home] -= part.weights
        self.own = own
        self.total = self._weights(self.parts)
        blocks = [part for part in self.parts if part.is_block]
        self.blocks = [block for block in blocks if not self._is_container(block)]
        names = {block.name for block in self.blocks}
        self.units = [block for block in self.blocks if names.isdisjoint(around(block.name))]

    def stages(self) -> list[Stage]:
        """Return the ends of the stages."""
        scales = self._in_order(self.units)
        for scale in scales:
            if len(scales) == 1 or self.total[scale] >= _NEARLY_ALL * self.total.total():
                return [self._stage(block) for block in self._quarters(scale)]
        ends = [[unit for unit in self.units if self.scale(unit) == scale][-1] for scale in scales]
        if len(ends) < _MOST:
            ends = [*self._plain_ends(scales), *ends]
        return [self._stage(end) for end in ends[-_MOST:]]

    def scale(self, part: Part) -> int:
        """Return the number of the scale of its map."""
        return self.scales[part.size]

    def _weights(self, parts: Sequence[Part]) -> Counter[int]:
        weights: Counter[int] = Counter()
        for part in parts:
            weights[self.scale(part)] += max(0, self.own[part.name])
        return weights

    def _is_container(self, block: Part) -> bool:
        """Whether it holds most of the weights at another scale, and no less than a stage of blocks there.

        A block that strides late may hold most of what one other scale has, too, where the stage before it is one
        block: then it has no row of blocks there, and something at that scale is outside it.
        """
        inside = [part for part in self.parts if block.holds(part)]
        held = self._weights([block, *inside])
        own = held.pop(self.scale(block), 0)
        most = {scale for scale, weights in held.items() if 2 * weights > self.total[scale]}
        blocks = [part for part in inside if part.is_block and self.scale(part) in most]
        if max(Counter(map(_row, blocks)).values(), default=0) > 1:
            return True
        larger = {self.scale(part) for part in blocks if part.area > block.area}
        if any(held[scale] == self.total[scale] for scale in larger):
            return True
        return len(most) > 1 and (bool(blocks) or held.total() > own)

    def _in_order(self, parts: Sequence[Part]) -> list[int]:
        """Return the scales of some parts, in the order in which they come up."""
        return list(dict.fromkeys(self.scale(part) for part in parts))

    def _quarters(self, scale: int) -> list[Part]:
        """Return the blocks at four depths of the row with the most weights."""
        rows: dict[tuple[str, str], list[Part]] = {}
        for block in self.blocks:
            if self.scale(block) == scale:
                rows.setdefault(_row(block), []).append(block)

        def rank(row: Sequence[Part]) -> tuple[int, int, int]:
            return min(len(row), _MOST), sum(block.weights for block in row), -row[0].name.count(".")

        row = max(rows.values(), key=rank)
        depths = sorted({-(-len(row) * quarter // _MOST) for quarter in range(1, _MOST + 1)})
        return [row[depth - 1] for depth in depths]

    def _plain_ends(self, taken: Sequence[int]) -> list[Part]:
        """Return the last layer at each scale that has layers but no unit, of those that come before the units."""
        names = {unit.name for unit in self.units}
        ends: dict[int, Part] = {}
        weights: Counter[int] = Counter()
        for part in self.parts:
            scale = self.scale(part)
            if self.units and part.finished > self.units[0].finished:
                break
            if not part.is_block and names.isdisjoint(around(part.name)) and scale not in taken:
                weights[scale] += self.own[part.name]
                if part.fits:
                    ends[scale] = part
        return [end for scale, end in ends.items() if weights[scale] >= (_SEVERAL if self.units else 1)]

    def _stage(self, end: Part) -> Stage:
        inside = [part for part in self.parts if end.holds(part) and part.size == end.size]
        inside.sort(key=lambda part: (part.is_block, part.finished), reverse=True)
        homes = list(around(end.name))
        later = [block for block in self.blocks if block.finished > end.finished and block.name not in homes]
        homes_that_end_with_it = [
            part
            for part in self.parts
            if part.name in homes and part.size == end.size and not any(part.holds(block) for block in later)
        ]
        return Stage(end, tuple(part.name for part in (end, *inside, *homes_that_end_with_it) if part.fits))


def _scales(parts: Sequence[Part]) -> dict[tuple[int, int], int]:
    """Return for each size the number of its scale."""
    scales: dict[tuple[int, int], int] = {}
    largest = 0
    for size in sorted({part.size for part in parts}, key=lambda size: -size[0] * size[1]):
        area = size[0] * size[1]
        if not scales or largest >= _ONE_SCALE * area:
            largest = area
            scales[size] = len(scales)
        else:
            scales[size] = max(scales.values())
    return scales


def _row(block: Part) -> tuple[str, str]:
    """Return what the blocks of one row have in common: their class, and their names but for the numbers."""
    return re.sub(r"\d+", "#", block.name), block.kind


def around(name: str) -> Iterator[str]:
    """Yield the names of the modules around one, from the inside."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
