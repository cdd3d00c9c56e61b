"""The classes that are generated for modules with attention: the host's own, with the attention after its forward.

A generated class has a `__class__` of its own: whatever gives its host another class (parametrizations,
`fully_shard`) puts that on top of it, and the attention stands directly on the host's own class and comes out from
under it. Tools that know modules by their exact class (`fuse_modules`) do not know it, and show its `repr`, which
says what to do.
"""

import abc
import functools
import inspect
import types
import weakref
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.utils.parametrize import is_parametrized

from attnreid._tracing import Unscriptable, is_symbolic, leaf

CHILD = "attention"
MARK = "_attnreid_mark"
WAY_OUT = "take the attention out first (attachments(model) lists it), change the model, and attach again"
Tensors = Mapping[str, Tensor | None]
_generated: dict[type[nn.Module], type[nn.Module]] = {}
_hosts: "weakref.WeakKeyDictionary[nn.Module, weakref.ref[nn.Module]]" = weakref.WeakKeyDictionary()


class _Named(abc.ABCMeta):  # of ABCMeta, so that abstract classes can be put on top of a generated one
    def __repr__(cls) -> str:
        return f"<class {cls.__name__!r}, which attnreid made for a module with attention; {WAY_OUT}>"


class Attended(Unscriptable):
    """The part of a generated class that calls the attention; it stands before the host's own class."""

    attended_class: type[nn.Module]
    attention: nn.Module

    def __reduce_ex__(self, protocol: Any) -> Any:
        if "attended_class" not in vars(type(self)):
            return super().__reduce_ex__(protocol)  # torch's own class on top says what becomes of it
        # The generated class has no importable name: name the class that it was generated from instead.
        return _rebuild, (self.attended_class,), self.__getstate__()  # type: ignore[no-untyped-call]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if MARK in self.__dict__:
            note_host(self)
            if self.__dict__[MARK].alone:
                self.__dict__["_parameters"] = _OfLoneCopy(self)


def note_host(host: nn.Module) -> None:
    """Remember whose attention it is."""
    _hosts[host.get_submodule(CHILD)] = weakref.ref(host)


def host_of(attention: nn.Module) -> nn.Module | None:
    """Return the module that carries, or carried, this attention."""
    host = _hosts.get(attention)
    return None if host is None else host()


# What forward does ----------------------------------------------------------------------------------------------------


@leaf
def host_forward(host: Attended, *args: Any, **kwargs: Any) -> Any:
    """Return what the host's own class does; torch.fx keeps torch's own modules whole, and so this one."""
    return super(Attended, host).forward(*args, **kwargs)


def _forward_of(cls: type[nn.Module]) -> Callable[..., Any]:
    """Return the forward of the class that is generated for `cls`."""

    def forward(self: Attended, *args: Any, **kwargs: Any) -> Any:
        _check_call(args)
        return self.attention(super(Attended, self).forward(*args, **kwargs))

    def forward_of_torch(self: Attended, *args: Any, **kwargs: Any) -> Any:
        _check_call(args)
        if is_symbolic(*args, *kwargs.values()) and not _is_root(self, args, kwargs):
            return self.attention(host_forward(self, *args, **kwargs))
        try:
            result = super(Attended, self).forward(*args, **kwargs)
        except RuntimeError as error:
            _check_not_quantized(cls, args, error)
            raise
        return self.attention(result)

    chosen = forward_of_torch if cls.__module__.startswith(("torch.nn.", "torch.ao.nn.")) else forward
    if any(parameter.kind in _OPEN for parameter in inspect.signature(cls.forward).parameters.values()):
        return chosen
    # torch.fx asks for the signature; what else is set on a forward (torch.compiler.disable) is not for the attention.
    return functools.wraps(cls.forward, updated=())(chosen)


_OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _check_call(args: object) -> None:
    if type(args) is not tuple:  # torch.fx hands over one proxy for all of them
        raise ValueError(
            "attnreid: a module with attention that is the root of a symbolic trace must have a forward without *args, "
            "**kwargs and keyword-only arguments; trace the model around it."
        )


def _is_root(host: Attended, args: Iterable[Any], kwargs: Mapping[str, Any]) -> bool:
    return any(
        isinstance(arg, Proxy) and getattr(arg.tracer, "root", None) is host for arg in (*args, *kwargs.values())
    )


def _check_not_quantized(cls: type[nn.Module], args: Iterable[Any], error: Exception) -> None:
    if any(isinstance(arg, Tensor) and arg.is_quantized for arg in args):
        raise ValueError(
            f"attnreid: {cls.__name__} with attention must get a floating-point map, got a quantised one: eager "
            "quantisation leaves it as it is; quantise in graph mode (prepare_fx), or set its qconfig to None before "
            "prepare() and have a DeQuantStub before it and a QuantStub after it."
        ) from error


# Which class ----------------------------------------------------------------------------------------------------------


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


def attended(cls: type[nn.Module]) -> type[nn.Module]:
    """Return the class for a module of class `cls` with attention."""
    if cls in _generated:
        return _generated[cls]
    bases: tuple[type[nn.Module], ...] = (Attended, cls)
    if issubclass(cls, nn.Sequential | nn.ModuleList):
        bases = (Attended, _HidesFromList, cls)
    elif issubclass(cls, nn.ModuleDict):
        bases = (Attended, _HidesFromDict, cls)
    attributes = {
        "attended_class": cls,
        "forward": _forward_of(cls),
        "__class__": property(type, _change_class),
        "__module__": __name__,
        "__doc__": cls.__doc__,
    }
    metaclass = _Named if type(cls) is type else type(cls)
    _generated[cls] = types.new_class(
        f"{cls.__name__}WithAttention", bases, {"metaclass": metaclass}, lambda space: space.update(attributes)
    )
    return _generated[cls]


def _change_class(host: nn.Module, cls: type[nn.Module]) -> None:
    """What `host.__class__ = cls` does: the attention stays."""
    set_class(host, cls if issubclass(cls, Attended) else attended(cls))


def set_class(host: nn.Module, cls: type[nn.Module]) -> None:
    """Give `host` this class, whatever it carries."""
    vars(object)["__class__"].__set__(host, cls)


def with_attention(host: nn.Module) -> type[nn.Module]:
    """Return the class for `host` with attention: below the class that torch generated for a parametrization."""
    cls = type(host)
    if not is_parametrized(host):
        return attended(cls)
    below = cls.__bases__[0]
    return _rebased(cls, below, attended(below))


def without_attention(host: nn.Module) -> type[nn.Module]:
    """Return the class for `host` without attention: what was put on top since stays.

    Raises:
        ValueError: the class on top was written by hand, and cannot be put on another.
    """
    cls = type(host)
    return _stripped(cls) if issubclass(cls, Attended) else cls


def _stripped(cls: type[nn.Module]) -> type[nn.Module]:
    if "attended_class" in vars(cls):
        own: type[nn.Module] = vars(cls)["attended_class"]
        return own
    below = next(base for base in cls.__bases__ if issubclass(base, Attended))
    return _rebased(cls, below, _stripped(below))


def _rebased(cls: type[nn.Module], old: type[nn.Module], new: type[nn.Module]) -> type[nn.Module]:
    """Return a class that was generated for one module, on the base `new` instead of `old`."""
    space = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__", "_abc_impl")}
    codes = [getattr(value, "__code__", None) for value in space.values()]
    if any(code is not None and "__class__" in code.co_freevars for code in codes):  # super() would look in `cls`
        raise ValueError(
            f"attnreid: the class {cls.__name__} of a module must be one that can be put on {new.__name__} instead "
            f"of {old.__name__}, and its methods call super(); give the module back the class that it had first."
        )
    bases = tuple(new if base is old else base for base in cls.__bases__)
    return types.new_class(
        cls.__name__.replace(old.__name__, new.__name__), bases, exec_body=lambda body: body.update(space)
    )


def plain_name(module: nn.Module) -> str:
    """Return the name of the module's own class."""
    return str(getattr(type(module), "attended_class", type(module)).__name__)


def _rebuild(cls: type[nn.Module]) -> nn.Module:
    generated = attended(cls)
    return generated.__new__(generated)


# Fused ----------------------------------------------------------------------------------------------------------------


class _OfLoneCopy(dict[str, nn.Parameter | None]):
    """The `_parameters` of a host that was copied by itself, until it has a place: so does `fuse_conv_bn_eval`."""

    def __init__(self, host: nn.Module) -> None:
        super().__init__(host._parameters)
        self.before = {name: None if value is None else value.detach().clone() for name, value in self.items()}

    def __setitem__(self, name: str, parameter: nn.Parameter | None) -> None:
        super().__setitem__(name, parameter)
        if name == "bias":
            check_not_fused(self, self.before)

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


def settle(module: nn.Module) -> None:
    """End the watch over a copy of a host: it has a place."""
    mark = module.__dict__.get(MARK)
    if mark is not None and mark.alone:
        mark.alone = False
        module.__dict__["_parameters"] = dict(module._parameters)


def check_not_fused(new: Tensors, old: Tensors) -> None:
    """Refuse the parameters of a host that a norm was fused into.

    Raises:
        ValueError: it was.
    """
    if _is_fused(new, old):
        raise ValueError(
            "attnreid: a norm must follow its convolution directly to be fused into it, got a convolution with "
            f"attention between the two; {WAY_OUT}. What fuses in a graph (fuse_fx) leaves such pairs alone."
        )


def _is_fused(new: Tensors, old: Tensors) -> bool:
    """Whether `new["weight"]` is the old one with a factor for each channel, and `new["bias"]` is another too.

    That is what an affine map after a convolution leaves in it, and nothing else that is done to weights.
    """
    weight, before, bias = new.get("weight"), old.get("weight"), new.get("bias")
    if bias is None or weight is None or before is None or weight.ndim < 2 or weight.is_meta or before.is_meta:
        return False
    if (weight.shape, weight.dtype, weight.device) != (before.shape, before.dtype, before.device):
        return False
    with torch.no_grad():
        if torch.equal(weight, before) or _equal(bias, old.get("bias")):
            return False
        return any(_is_multiple(weight.transpose(0, axis), before.transpose(0, axis)) for axis in (0, 1))


def _equal(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.shape == other.shape and torch.equal(one, other.to(one))


def _is_multiple(weight: Tensor, before: Tensor) -> bool:
    new, old = weight.flatten(1).double(), before.flatten(1).double()
    factor = (new * old).sum(1, keepdim=True) / (old * old).sum(1, keepdim=True).clamp(min=1e-300)
    return bool((new - factor * old).norm() <= 4 * torch.finfo(weight.dtype).eps * new.norm())
