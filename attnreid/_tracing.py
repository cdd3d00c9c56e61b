"""What tracers see of the layers; all that serves them is here, and nothing of it runs in eager code.

*torch.fx* (and torchvision's feature extractors on it) runs a module once on proxies, which have no shape to
compare, no type and no mode. So whatever asks for one (the checks, the pooling, einops) is a `leaf`: one node of
the graph, which asks anew at each call of the traced module. All around it, down to each product and sigmoid, is
traced through, and what depends on train or eval mode is a leaf that is handed the norm itself.

*torch.jit.trace* and the exporter of ONNX that is built on it run a module on real numbers and record torch's
operations; functions with a backward pass of their own, and Python's comparisons of sizes, have no place in
their graph: `is_recording` says to leave them out, as `torch.compiler.is_compiling` does for the compiler.

*torch.jit.script* reads source code, and not this one: `Unscriptable` says so.
"""

import functools
from collections.abc import Callable, Iterable
from typing import NoReturn, ParamSpec, TypeVar

import einops
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Proxy

P = ParamSpec("P")
R = TypeVar("R")


def is_symbolic(*args: object) -> bool:
    """Whether torch.fx is tracing: there is a proxy among the arguments."""
    return _proxy_among(args) is not None


def _proxy_among(args: Iterable[object]) -> Proxy | None:
    for arg in args:
        if isinstance(arg, Proxy):
            return arg
    return None


def leaf(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function of a module's globals one node wherever it is called in a symbolic trace.

    `torch.fx.wrap` would have to be repeated in every module that imports the function.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        proxy = _proxy_among((*args, *kwargs.values()))
        if proxy is None:
            return function(*args, **kwargs)
        node: R = proxy.tracer.create_proxy("call_function", call, args, kwargs)  # type: ignore[assignment]
        return node

    return call


@leaf
def rearrange(tensor: Tensor, pattern: str, **lengths: int) -> Tensor:
    """Return what einops.rearrange returns."""
    return einops.rearrange(tensor, pattern, **lengths)


@leaf
def reduce(tensor: Tensor, pattern: str, reduction: str, **lengths: int) -> Tensor:
    """Return what einops.reduce returns."""
    return einops.reduce(tensor, pattern, reduction, **lengths)


def is_recording() -> bool:
    """Whether torch.jit.trace, or the exporter that is built on it, is at work."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def makes_graph() -> bool:
    """Whether a graph is made of what runs: by a compiler, an exporter or torch.jit.trace."""
    return torch.compiler.is_compiling() or is_recording()


def holds_trace(module: nn.Module) -> bool:
    """Whether the module is a graph of torch.fx into which attention was traced."""
    if not isinstance(module, GraphModule):
        return False
    return any(getattr(node.target, "__module__", "").startswith("attnreid.") for node in module.graph.nodes)


class Unscriptable(nn.Module):
    """A module that torch.jit.script refuses in a sentence."""

    def __prepare_scriptable__(self) -> NoReturn:
        raise ValueError(
            f"{type(self).__name__}: TorchScript can only be had by tracing, got torch.jit.script: use "
            "torch.jit.trace(model, example), or torch.export.export"
        )
