"""How attention is put into a module and taken out again: two mechanisms, each with its exact inverse.

*After* a module: a container that runs its children in order (`nn.Sequential`) gets the attention appended as
its child `attention`. Any other module keeps its object and gets a generated subclass of its own class, whose
forward is `attention(super().forward(...))`. *Instead of* a module: its parent holds a `Replacement` with the
attention in it.

Hooks would not do, because a deep copy keeps calling the original's attention, nor would wrappers, because
they rename the parameters. What was inserted is marked on the module that carries it, so that a deep copy or
an unpickled model knows of its own attention.

What changes a host afterwards cannot lose its attention without a word. Both guards act when something is
changed, so a forward pass pays nothing and no tracer sees them:

- *Another class* (parametrizations, `fully_shard`): a generated class has a `__class__` of its own. The attention
  stands directly on the host's class, below what torch puts on top, and comes out from under it.
- *Another module in its place* (converters of norms, quantisation, `model.layer4 = ...`): from the model down
  to the host, `_modules` is a `_Children`. A converted host, which has the host's tensors, takes the attention
  over; anything that would lose it is refused.

Out of reach are a host that is put into another container by hand and replaced there, and `_modules` or
`forward` themselves set anew.
"""

import itertools
import types
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from dataclasses import dataclass, field
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

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
        call: as plain data (`_calls.py`); None where it cannot be written down.
        order: counts the calls.
    """

    call: dict[str, Any] | None = None
    order: int = field(default_factory=lambda: next(_order))


@dataclass(unsafe_hash=True)
class Mark:
    """Left on a module that carries attention: which call put it there, what it saw, and the module itself."""

    group: Group
    site: Site
    host: nn.Module | None = field(default=None, compare=False, repr=False)


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
        _set_class(host, _with_attention(host))
    try:
        host.add_module(CHILD, attention)
    except BaseException:
        _set_class(host, own_class)
        raise
    host.__dict__[_MARK], mark.host = mark, host


def insert_instead(parent: nn.Module, child: str, attention: nn.Module, mark: Mark, stride: int) -> nn.Module:
    """Put `attention` in the place of the child named `child`, and return the module that holds it."""
    replaced = parent.get_submodule(child)
    holder = Replacement(attention, replaced, stride).train(replaced.training)
    holder.__dict__[_MARK], mark.host = mark, holder
    _put(parent, child, holder)
    return holder


def take_out(host: nn.Module, parent: nn.Module | None, child: str) -> None:
    """Undo `insert_after`, or `insert_instead` where `host` is a `Replacement` in `parent`.

    Raises:
        ValueError: the host's class was generated on the attention's in a way that cannot be undone. The host
            is then as it was.
    """
    if isinstance(host, Replacement):
        if parent is not None and parent._modules.get(child) is host:
            _put(parent, child, host.replaced)
        return
    own_class = without_attention(host)
    del host._modules[CHILD]
    del host.__dict__[_MARK]
    _set_class(host, own_class)


def guard(model: nn.Module) -> None:
    """Have every module with attention somewhere below it refuse to lose it, and no other."""
    for module in model.modules():
        mark = mark_of(module)
        if mark is not None:
            mark.host = module  # not so yet where a converted module took the attention over
        guarded = isinstance(module._modules, _Children)
        if guarded != bool(_marks(module.children())):
            module.__dict__["_modules"] = dict(module._modules) if guarded else _Children(module._modules)


def _marks(modules: Iterable[nn.Module | None]) -> list[Mark]:
    parts = [part for module in modules if module is not None for part in module.modules()]
    return [mark for part in parts if (mark := mark_of(part)) is not None]


class _Children(dict[str, nn.Module | None]):
    """The `_modules` of a module with attention somewhere below it: none may be lost by putting another in."""

    def __setitem__(self, name: str, module: nn.Module | None) -> None:
        old = self.get(name)
        if old is not None and module is not None and module is not old:
            kept = _marks([module, *(child for key, child in self.items() if key != name)])
            sites = [mark.site for mark in _marks([module])]  # a copy has marks of its own
            lost = [mark for mark in _marks([old]) if mark not in kept and mark.site not in sites]
            if lost and lost == [mark_of(old)] and _stands_for(module, old):
                _take_over(module, attention_of(old), lost[0])
            elif lost:
                names = ", ".join(repr(mark.site.name) for mark in lost)
                raise ValueError(
                    f"attnreid: a module that carries attention must stay in its place, got {type(module).__name__} "
                    f"instead of {_plain_name(old)}, and the attention at {names} would be lost; take it out "
                    "first (attachments(model) lists it), change the model, and attach again."
                )
            guard(module)
        super().__setitem__(name, module)


def _stands_for(module: nn.Module, host: nn.Module) -> bool:
    """Whether `module` is `host` converted: another kind with the same tensors, or some of them."""
    if isinstance(host, Replacement) or (hasattr(module, CHILD) and CHILD not in module._modules):
        return False
    attention = attention_of(host)
    new, old = _own_tensors(module, attention), _own_tensors(host, attention)
    return new.items() <= old.items() and bool(new) == bool(old)


def _own_tensors(module: nn.Module, attention: nn.Module) -> dict[str, tuple[int, ...]]:
    tensors = itertools.chain(module.named_parameters(), module.named_buffers())
    foreign = [name for name, child in module.named_children() if name == CHILD or child is attention]
    return {name: tuple(tensor.shape) for name, tensor in tensors if name.split(".")[0] not in foreign}


def _take_over(module: nn.Module, attention: nn.Module, mark: Mark) -> None:
    for name, child in list(module._modules.items()):
        # A converter copies the children, the attention among them, converted too. A row of them is run whole.
        if name == CHILD or child is attention:
            attention = module._modules.pop(name) or attention
    insert_after(module, attention, mark)


def _put(parent: nn.Module, child: str, module: nn.Module) -> None:
    dict.__setitem__(parent._modules, child, module)


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
        for key in self.replaced.state_dict().keys() - self.state_dict().keys():
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
        if "attended_class" not in vars(type(self)):
            return super().__reduce_ex__(protocol)  # torch's own class on top says what becomes of it
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
    attributes = {
        "attended_class": cls,
        "__class__": property(type, _change_class),
        "__module__": __name__,
        "__doc__": cls.__doc__,
    }
    _generated[cls] = types.new_class(
        f"{cls.__name__}WithAttention", bases, exec_body=lambda space: space.update(attributes)
    )
    return _generated[cls]


def _change_class(host: nn.Module, cls: type[nn.Module]) -> None:
    """What `host.__class__ = cls` does: the attention stays."""
    _set_class(host, cls if issubclass(cls, _Attended) else _attended(cls))


def _set_class(host: nn.Module, cls: type[nn.Module]) -> None:
    vars(object)["__class__"].__set__(host, cls)


def _with_attention(host: nn.Module) -> type[nn.Module]:
    """Return the class for `host` with attention: below the class that torch generated for a parametrization."""
    cls = type(host)
    if not is_parametrized(host):
        return _attended(cls)
    below = cls.__bases__[0]
    return _rebased(cls, below, _attended(below))


def without_attention(host: nn.Module) -> type[nn.Module]:
    """Return the class for `host` without attention: what was put on top since stays.

    Raises:
        ValueError: the class on top was written by hand, and cannot be put on another.
    """
    cls = type(host)
    return _stripped(cls) if issubclass(cls, _Attended) else cls


def _stripped(cls: type[nn.Module]) -> type[nn.Module]:
    if "attended_class" in vars(cls):
        own: type[nn.Module] = vars(cls)["attended_class"]
        return own
    below = next(base for base in cls.__bases__ if issubclass(base, _Attended))
    return _rebased(cls, below, _stripped(below))


def _rebased(cls: type[nn.Module], old: type[nn.Module], new: type[nn.Module]) -> type[nn.Module]:
    """Return a class that was generated for one module, on the base `new` instead of `old`."""
    space = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    codes = [getattr(value, "__code__", None) for value in space.values()]
    if any(code is not None and "__class__" in code.co_freevars for code in codes):  # super() would look in `cls`
        raise ValueError(
            f"attnreid: the class {cls.__name__} of a module must be one that can be put on {new.__name__} instead "
            f"of {old.__name__}, and its methods call super(); give the module back the class that it had first."
        )
    bases = tuple(new if base is old else base for base in cls.__bases__)
    metaclass: Any = type(cls)
    rebased: type[nn.Module] = metaclass(cls.__name__.replace(old.__name__, new.__name__), bases, space)
    return rebased


def _plain_name(module: nn.Module) -> str:
    return str(getattr(type(module), "attended_class", type(module)).__name__)


def _rebuild(cls: type[nn.Module]) -> nn.Module:
    generated = _attended(cls)
    return generated.__new__(generated)
