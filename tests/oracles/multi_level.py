"""The MLA block: pixel, head and domain level in a row, the pixel gate on the head's position code."""

from tests.oracles.domain import domain
from tests.oracles.head import head
from tests.oracles.pixel import pixel_gate


def _own(p, level):
    return {name.removeprefix(level + "."): value for name, value in p.items() if name.startswith(level + ".")}


def multi_level(x, p, *, levels, heads):
    gate = None
    if "pixel" in levels:
        own = _own(p, "pixel")
        gate = pixel_gate(x, own["conv.weight"], own["conv.bias"])
        x = x * gate
    if "head" in levels:
        x = head(x, _own(p, "head"), heads=heads, gate=gate)
    if "domain" in levels:
        x = domain(x, _own(p, "domain"))
    return x
