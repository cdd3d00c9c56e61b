"""How attention is put into a module and taken out again: two mechanisms, each with its exact inverse.

*After* a module: a container that runs its children in order (`nn.Sequential`) gets the attention appended as
its child `attention`. Any other module keeps its object and gets a generated subclass of its own class, whose
forward is `attention(super().forward(...))`. *Instead of* a module: its parent holds a `Replacement` with the
attention in it.

Hooks would not do, because a deep copy keeps calling the original's attention, nor would wrappers, because
they rename the parameters. What was inserted is marked on the module that carries it, so that a deep copy or
an unpickled model knows of its own attention.

What changes a host afterwards cannot lose its attention without a word. All guards act when something is
changed, so a forward pass pays nothing and no tracer sees them:

- *Another class* (parametrizations, `fully_shard`) goes on top of the generated one (`_classes.py`).
- *Another module in its place* (converters of norms, quantisation, `model.layer4 = ...`): from the model down
  to the host, `_modules` is a `_Children`. A converted host, which has the host's tensors, takes the attention
  over; anything that would lose it is refused.
- *Another place* (a host that is moved into a new container or model): torch tells of every child that a module
  is given (`_on_registration`), and what is given a host is guarded from then on. It listens from the first
  attention in this process on.
- *A norm fused into a host* (`fuse_conv_bn_eval`) would stand before the attention and not after it: refused.

Out of reach are `_modules` or `forward` themselves set anew, and a new module made by hand of a host's tensors
that is never put in the host's place.
"""

import copy
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from attnreid.backbones._classes import CHILD as CHILD  # part of this module's interface, as is without_attention
from attnreid.backbones._classes import (
    MARK,
    WAY_OUT,
    check_not_fused,
    host_of,
    note_host,
    plain_name,
    set_class,
    settle,
    with_attention,
)
from attnreid.backbones._classes import without_attention as without_attention
from attnreid.backbones._site import Site

_order = itertools.count()
_listening = False


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
    """Left on a module that carries attention.

    Args:
        group: which call put it there.
        site: what it saw.
        host: the module itself.
        alone: whether it is a copy that was made of this module and not of one around it, and has no place yet.
    """

    group: Group
    site: Site
    host: nn.Module | None = field(default=None, compare=False, repr=False)
    alone: bool = field(default=False, compare=False, repr=False)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        _listen()  # unpickling comes here too
        return super().__new__(cls)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Mark":
        # What is copied first stands first in the memo.
        alone = next(iter(memo), None) == id(self.host)
        copied = memo[id(self)] = Mark(copy.deepcopy(self.group, memo), self.site, alone=alone)
        copied.host = copy.deepcopy(self.host, memo)
        return copied


def mark_of(module: nn.Module) -> Mark | None:
    """Return the mark of the attention that `module` carries, if any."""
    return module.__dict__.get(MARK)


def attention_of(host: nn.Module) -> nn.Module:
    """Return the attention that `host` carries."""
    return host.get_submodule(CHILD)


def insert_after(host: nn.Module, attention: nn.Module, mark: Mark) -> None:
    """Let `attention` take what `host` returns, from now on."""
    own_class = type(host)
    if own_class.forward is not nn.Sequential.forward:
        set_class(host, with_attention(host))
    host.__dict__[MARK] = mark
    try:
        host.add_module(CHILD, attention)
    except BaseException:
        del host.__dict__[MARK]
        set_class(host, own_class)
        raise
    mark.host = host
    note_host(host)


def insert_instead(parent: nn.Module, child: str, attention: nn.Module, mark: Mark, stride: int) -> nn.Module:
    """Put `attention` in the place of the child named `child`, and return the module that holds it."""
    replaced = parent.get_submodule(child)
    holder = Replacement(attention, replaced, stride).train(replaced.training)
    holder.__dict__[MARK], mark.host = mark, holder
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
    del host.__dict__[MARK]
    set_class(host, own_class)


def guard(model: nn.Module) -> None:
    """Have every module with attention somewhere below it refuse to lose it, and no other."""
    for module in model.modules():
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
            self._check(name, module, old)
            mark = mark_of(old)
            if mark is not None and mark.host is old and mark == mark_of(module):
                module.__dict__[MARK], mark.host = mark, module  # the handle follows
            guard(module)
        super().__setitem__(name, module)

    def _check(self, name: str, module: nn.Module, old: nn.Module) -> None:
        kept = _marks([module, *(child for key, child in self.items() if key != name)])
        sites = [mark.site for mark in _marks([module])]  # a copy has marks of its own
        lost = [mark for mark in _marks([old]) if mark not in kept and mark.site not in sites]
        own = mark_of(old)
        if own is not None and own.site in [*sites, *(mark.site for mark in lost)]:
            check_not_fused(module._parameters, old._parameters)
        if lost and lost == [own] and _stands_for(module, old):
            _take_over(module, old)
        elif lost:
            names = ", ".join(repr(mark.site.name) for mark in lost)
            raise ValueError(
                f"attnreid: a module that carries attention must stay in its place, got {type(module).__name__} "
                f"instead of {plain_name(old)}, and the attention at {names} would be lost; {WAY_OUT}."
            )


def _listen() -> None:
    global _listening
    if not _listening:
        _listening = True
        register_module_module_registration_hook(_on_registration)


def _on_registration(parent: nn.Module, name: str, module: nn.Module | None) -> None:
    """What torch calls before `parent`, any module of this process, gets the child `module`."""
    if "_is_replica" in parent.__dict__:
        return  # of DataParallel, made anew for every batch
    if name == CHILD and module is not None and mark_of(parent) is None:
        host = host_of(module)
        if host is not None and mark_of(host) is not None and _shares_tensors(parent, host):
            _take_over(parent, host)  # a converter is at work on the host alone
    children = parent.__dict__.get("_modules")
    if type(children) is _Children or not isinstance(children, dict):
        pass
    elif _carries(module) or _carries(children.get(name)):
        guarded = _Children(children)
        guarded[name] = module
        # torch may go on to fill the old one, which nobody holds any more.
        parent.__dict__["_modules"] = guarded
    if module is not None:
        settle(module)


def _carries(module: nn.Module | None) -> bool:
    return module is not None and (MARK in module.__dict__ or type(module.__dict__.get("_modules")) is _Children)


def _shares_tensors(module: nn.Module, host: nn.Module) -> bool:
    """Whether `module` was made of the tensors of `host`, and has no others."""
    tensors = {id(tensor) for tensor in itertools.chain(host.parameters(), host.buffers())}
    own = [id(tensor) for tensor in itertools.chain(module.parameters(), module.buffers())]
    return bool(own) and tensors.issuperset(own)


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


def _take_over(module: nn.Module, host: nn.Module) -> None:
    """Let `module` have the attention that `host` goes on to carry too, as it has its tensors."""
    attention, mark = attention_of(host), mark_of(host)
    assert mark is not None
    for name, child in list(module._modules.items()):
        # A converter copies the children, the attention among them, converted too. A row of them is run whole.
        if name == CHILD or child is attention:
            attention = module._modules.pop(name) or attention
    insert_after(module, attention, Mark(mark.group, mark.site))


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
