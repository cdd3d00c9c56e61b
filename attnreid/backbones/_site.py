"""What is known of one place in a model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """A place in a model where attention can stand.

    Args:
        name: the module's dotted name.
        kind: the name of its class.
        channels: channels of the map that it gives; None where it gives no single map.
        size: height and width of that map at the measured input size.
        calls: how often one forward pass calls it.
        refusal: why attention cannot stand here, in words; None where it can.
    """

    name: str
    kind: str
    channels: int | None
    size: tuple[int, int] | None
    calls: int
    refusal: str | None = None
