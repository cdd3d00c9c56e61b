"""Where the stages of a network end, told from what its modules give, whatever their classes.

A *block* is a module that gives a map and has at least two weights of two or more dimensions in it: no norm, activation
or pooling, no transition of one convolution, no head convolution. A module that holds blocks with a larger map than its
own spans several stages, such as `features` or `stages`; any other block is a *unit*, with all that is in it.

| network | its stages end at |
|---|---|
| staged | the unit that finishes last, for each size of map; the last four sizes |
| isotropic: nearly all weights at one size (ViT, Mixer) | the blocks at 1/4, 1/2, 3/4 and 4/4 of its longest row |
| a plain row of layers (VGG) | the module that finishes last, for each size; the last four sizes |
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from attnreid.backbones.sites import Survey

_MOST = 4
_SEVERAL = 3  # sizes of map in one row of layers: a block has its own, and where it starts with a stride one more
_NEARLY_ALL = 0.9


@dataclass(frozen=True)
class Part:
    """What is known of one module.

    Args:
        name: its dotted name.
        kind: the name of its class.
        size: height and width of its map; None where it gives none.
        finished: its place in the order in which the modules end their last call.
        weights: how many weights of two or more dimensions are in it.
        refusal: why attention cannot stand there; None where it can.
    """

    name: str
    kind: str
    size: tuple[int, int] | None
    finished: int
    weights: int
    refusal: str | None = None

    @property
    def parent(self) -> str:
        """The name of the module around it."""
        return self.name.rpartition(".")[0]

    @property
    def area(self) -> int:
        """How many positions its map has."""
        return 0 if self.size is None else self.size[0] * self.size[1]

    @property
    def is_block(self) -> bool:
        """Whether it gives a map and is more than one layer."""
        return self.area > 1 and self.weights > 1

    @property
    def fits(self) -> bool:
        """Whether attention can stand there."""
        return self.refusal is None

    def holds(self, other: "Part") -> bool:
        """Whether the other is inside it."""
        return other.name.startswith(f"{self.name}.")


@dataclass(frozen=True)
class Stage:
    """The end of a stage.

    Args:
        end: the module that it ends at.
        ways: where attention can stand for it, the best place first: the end itself, or what is inside it.
    """

    end: Part
    ways: tuple[str, ...]


def parts_of(model: nn.Module, survey: Survey) -> list[Part]:
    """Return what is known of every module that gives a map."""
    parts = []
    for name, site in survey.sites.items():
        if site.size is not None and site.layout is not None:
            weights = sum(tensor.ndim > 1 for tensor in model.get_submodule(name).parameters())
            order = survey.seen[name].finished
            parts.append(Part(name, site.kind, site.size, order, weights, site.refusal))
    return parts


def stage_ends(parts: Sequence[Part]) -> list[Stage]:
    """Return the ends of the stages, in the order of the network.

    There may be fewer than four, and none where no module gives a map.
    """
    units = list(_units(parts))
    if not units:
        plain = [part for part in parts if part.area > 1 and part.fits]
        return [Stage(end, (end.name,)) for end in _last_of_each_size(plain)]
    main = max({unit.size for unit in units}, key=lambda size: _weights_at(units, size))
    if _weights_at(units, main) >= _NEARLY_ALL * sum(unit.weights for unit in units):
        row = _longest_row([part for part in parts if part.is_block and part.size == main])
        if len(row) >= _MOST:
            depths = [row[-(-len(row) * quarter // _MOST) - 1] for quarter in range(1, _MOST + 1)]
            return [Stage(block, _ways(block, parts)) for block in depths]
    return [Stage(end, _ways(end, parts)) for end in _last_of_each_size(units)]


def _units(parts: Sequence[Part]) -> Iterator[Part]:
    """Yield the outermost blocks that hold none with a larger map, and that are no row of layers for several stages."""
    taken: list[Part] = []
    for block in sorted((part for part in parts if part.is_block), key=lambda block: block.name.count(".")):
        if any(unit.holds(block) for unit in taken):
            continue
        inside = [part for part in parts if block.holds(part)]
        sizes = {part.size for part in inside if part.area >= block.area}
        if not any(part.is_block and part.area > block.area for part in inside) and len(sizes) < _SEVERAL:
            taken.append(block)
            yield block


def _last_of_each_size(parts: Iterable[Part]) -> list[Part]:
    """Return what finishes last at each of the last four sizes; of what ends together, the outermost."""
    ends: dict[tuple[int, int] | None, Part] = {}
    for part in sorted(parts, key=lambda part: part.finished):
        ends[part.size] = part
    return sorted(ends.values(), key=lambda end: -end.area)[-_MOST:]


def _weights_at(units: Sequence[Part], size: tuple[int, int] | None) -> int:
    return sum(unit.weights for unit in units if unit.size == size)


def _longest_row(blocks: Sequence[Part]) -> list[Part]:
    """Return the most blocks of one kind that stand beside one another, in the order in which they run."""
    rows: dict[tuple[str, str], list[Part]] = {}
    for block in sorted(blocks, key=lambda block: block.finished):
        rows.setdefault((block.parent, block.kind), []).append(block)
    return max(rows.values(), key=len)


def _ways(end: Part, parts: Sequence[Part]) -> tuple[str, ...]:
    """Return the stage's end, and what inside it comes closest, where attention can stand."""
    inside = [part for part in parts if end.holds(part) and part.size == end.size]
    inside.sort(key=lambda part: (part.name.count("."), -part.finished))
    return tuple(part.name for part in (end, *inside) if part.fits)
