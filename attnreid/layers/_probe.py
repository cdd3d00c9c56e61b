"""Probes: modules without weights that gates and maps pass on their way, so that hooks and tracers find them by name.

A probe returns what it takes. It costs one call of a module in eager code, and compiled and exported graphs hold
nothing of it. `record_attention` listens behind the probes, and not by hooks on them: those would stay in a copy that
is made of the model meanwhile.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

from torch import Tensor, nn
from torch.fx import Proxy

from attnreid._tracing import makes_graph

Listener = Callable[[Tensor], None]

_listeners: list[Mapping[nn.Module, Listener]] = []


class Probe(nn.Identity):
    """Returns the tensor that it is given. Whoever hooks it sees that tensor, in eager code."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the tensor; in a symbolic trace, as a node of this module's name."""
        if isinstance(input, Proxy):
            node = input.tracer.create_proxy("call_module", input.tracer.path_of_module(self), (input,), {})
            return cast(Tensor, node)
        return input


def probed(probe: nn.Module, tensor: Tensor) -> Tensor:
    """Return the tensor behind its probe, which a compiler and torch.jit.trace do not get to see."""
    if makes_graph():
        return tensor
    seen: Tensor = probe(tensor)
    for listeners in _listeners:
        if probe in listeners:
            listeners[probe](seen)
    return seen


def is_heard(probe: nn.Module) -> bool:
    """Whether anyone listens to the probe, for what is computed for listeners only."""
    if makes_graph():
        return False
    return bool(probe._forward_hooks or probe._forward_pre_hooks) or any(probe in each for each in _listeners)


@contextmanager
def listening(listeners: Mapping[nn.Module, Listener]) -> Iterator[None]:
    """Hand what leaves each of these probes to its listener."""
    _listeners.append(listeners)
    try:
        yield
    finally:
        _listeners.remove(listeners)


class HidesProbes(nn.Module):
    """A module that prints as if it had no probes."""

    def __repr__(self) -> str:
        children = self._modules.items()
        shown = {name: child for name, child in children if child is not None and not isinstance(child, Probe)}
        double = object.__new__(type(self))
        double.__dict__.update(self.__dict__, _modules=shown)
        return nn.Module.__repr__(double)
