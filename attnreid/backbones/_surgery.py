"""How attention is put into a module and taken out again: two mechanisms, each with its exact inverse.

*After* a module: a container that runs its children in order (`nn.Sequential`) gets the attention appended as
its child `attention`. Any other module keeps its object and gets a generated subclass of its own class, whose
forward is `attention(super().forward(...))`. *Instead of* a module: its parent holds a `Replacement` with the
attention in it.

Hooks would not do, because a deep copy keeps calling the original's attention, nor would wrappers, because
they rename the parameters. What was inserted is marked on the module that carries it, so that a deep copy or
an unpickled model knows of its own attention.
"""

import itertools
import types
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from dataclasses import dataclass, field
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

from attnreid._tracing import Unscriptable, is_symbolic, leaf
from attnreid.backbones._site import Site

CHILD = "attention"
_MARK = "_attnreid_mark"
_order = itertools.count()
_generated: dict[type[nn.Module], type[nn.Module]] = {}


@dataclass(eq=False, frozen=True)
class Group:
    """What the sites of one `attach` call share; compared by identity, so a copied model has its own.

    Args:
        recipe: the call as plain data (`_recipes.py`); None where it cannot be written down.
        order: counts the calls.
    """

    recipe: dict[str, Any] | None = None
    order: int = field(default_factory=lambda: next(_order))


@dataclass(frozen=True)
class Mark:
    """Left on a module that carries attention: which call put it there, and what it saw."""

    group: Group
    site: Site


def mark_of(module: nn.Module) -> Mark | None:
    """Return the mark of the attention that `module` carries, if any."""
    return module.__dict__.get(_MARK)


def attention_of(host: nn.Module) -> nn.Module:
    """Return the attention that `host` carries."""
    return host.get_submodule(CHILD)


def insert_after(host: nn.Module, attention: nn.Module, mark: Mark) -> None:
    """Let `attention` take what `host` returns, from now on."""
    own_class = type(host)
    if own_class.forward is not nn.Sequential.forward:
        host.__class__ = _attended(own_class)
    try:
        host.add_module(CHILD, attention)
    except BaseException:
        host.__class__ = own_class
        raise
    host.__dict__[_MARK] = mark


def insert_instead(parent: nn.Module, child: str, attention: nn.Module, mark: Mark, stride: int) -> nn.Module:
    """Put `attention` in the place of the child named `child`, and return the module that holds it."""
    replaced = parent.get_submodule(child)
    holder = Replacement(attention, replaced, stride).train(replaced.training)
    holder.__dict__[_MARK] = mark
    parent._modules[child] = holder
    return holder


def take_out(host: nn.Module, parent: nn.Module | None, child: str) -> None:
    """Undo `insert_after`, or `insert_instead` where `host` is a `Replacement` in `parent`."""
    if isinstance(host, Replacement):
        if parent is not None and parent._modules.get(child) is host:
            parent._modules[child] = host.replaced
        return
    del host._modules[CHILD]
    del host.__dict__[_MARK]
    if isinstance(host, _Attended):
        host.__class__ = host.attended_class  # type: ignore[assignment]


class Replacement(nn.Module):
    """Attention where another module stood; that module is kept out of sight, to be given back.

    Args:
        attention: maps a map to a map of the same shape.
        replaced: the module that stood here. It follows `.to()` and `.train()`, and its keys in a checkpoint
            are ignored.
        stride: what the replaced module divided the map's size by; average pooling does it after the
            attention.
    """

    def __init__(self, attention: nn.Module, replaced: nn.Module, stride: int = 1) -> None:
        super().__init__()
        self.attention = attention
        self.stride = stride
        self._kept = (replaced,)  # in a tuple, so that nn.Module does not register it

    @property
    def replaced(self) -> nn.Module:
        """The module that stood here."""
        return self._kept[0]

    def forward(self, x: Tensor) -> Tensor:
        """Attend, then pool where the replaced module had a stride."""
        x = self.attention(x)
        # Rounded up, as a padded 3x3 convolution rounds; a window over the edge averages what is there.
        return x if self.stride == 1 else F.avg_pool2d(x, self.stride, ceil_mode=True)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the attention and of the module that is kept."""
        self.replaced.train(mode)
        return super().train(mode)

    def extra_repr(self) -> str:
        """Name what stood here."""
        return f"in place of {type(self.replaced).__name__}" + ("" if self.stride == 1 else f", stride={self.stride}")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.replaced._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for key in self.replaced.state_dict():
            state_dict.pop(prefix + key, None)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class _Attended(Unscriptable):
    """The part of a generated class that calls the attention; it stands before the host's own class."""

    attended_class: type[nn.Module]
    attention: nn.Module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        of_torch = self.attended_class.__module__.startswith(("torch.nn.", "torch.ao.nn."))
        if of_torch and is_symbolic(*args, *kwargs.values()):
            return self.attention(host_forward(self, *args, **kwargs))
        return self.attention(super().forward(*args, **kwargs))

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The generated class has no importable name: name the class that it was generated from instead.
        return _rebuild, (self.attended_class,), self.__getstate__()  # type: ignore[no-untyped-call]


@leaf
def host_forward(host: _Attended, *args: Any, **kwargs: Any) -> Any:
    """Return what the host's own class does; torch.fx keeps torch's own modules whole, and so this one."""
    return super(_Attended, host).forward(*args, **kwargs)


class _HidesFromList(nn.Module):
    """For a container that loops over itself in its own forward: the attention is not one of its layers."""

    def __len__(self) -> int:
        return len(self._modules) - 1

    def __iter__(self) -> Iterator[nn.Module | None]:
        return iter([module for name, module in self._modules.items() if name != CHILD])


class _HidesFromDict(nn.Module):
    """The same for `nn.ModuleDict`."""

    def _own(self) -> dict[str, nn.Module | None]:
        return {name: module for name, module in self._modules.items() if name != CHILD}

    def __len__(self) -> int:
        return len(self._own())

    def __iter__(self) -> Iterator[str]:
        return iter(self._own())

    def keys(self) -> KeysView[str]:
        return self._own().keys()

    def items(self) -> ItemsView[str, nn.Module | None]:
        return self._own().items()

    def values(self) -> ValuesView[nn.Module | None]:
        return self._own().values()


def _attended(cls: type[nn.Module]) -> type[nn.Module]:
    if cls in _generated:
        return _generated[cls]
    bases: tuple[type[nn.Module], ...] = (_Attended, cls)
    if issubclass(cls, nn.Sequential | nn.ModuleList):
        bases = (_Attended, _HidesFromList, cls)
    elif issubclass(cls, nn.ModuleDict):
        bases = (_Attended, _HidesFromDict, cls)
    attributes = {"attended_class": cls, "__module__": __name__, "__doc__": cls.__doc__}
    _generated[cls] = types.new_class(
        f"{cls.__name__}WithAttention", bases, exec_body=lambda space: space.update(attributes)
    )
    return _generated[cls]


def _rebuild(cls: type[nn.Module]) -> nn.Module:
    generated = _attended(cls)
    return generated.__new__(generated)


def keep_when_absent(
    attention: nn.Module,
    state_dict: dict[str, Any],
    prefix: str,
    local_metadata: dict[str, Any],
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    """Before loading: keep the attention as it is if the state dict has none of its keys; refuse a part."""
    if not prefix:
        return  # The attention itself is being loaded, not a model around it.
    own = {prefix + key: value for key, value in attention.state_dict(keep_vars=True).items()}
    absent = [key for key in own if key not in state_dict]
    if len(absent) == len(own):
        # torch hands every child its own dict, so the caller's is not touched.
        state_dict.update(own)
    elif absent:
        error_msgs.append(
            f"the attention at {prefix[:-1]!r} must find all of its {len(own)} keys in the state dict or "
            f"none; {len(absent)} are missing, first {absent[0]!r}. Save the model with the same attention "
            f"in it, or drop the keys under {prefix!r} to keep the attention as it is."
        )
