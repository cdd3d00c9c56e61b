"""The gates that attention applied in a forward pass, per site and level, with nothing left behind."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from attnreid import _recording
from attnreid._tracing import holds_trace
from attnreid.backbones.attach import attachments

_INSIDE = (
    "record_attention: it must be called in eager code, got a call inside a compiled function: "
    "record around the model itself, outside the function"
)


def record_attention(model: nn.Module) -> AbstractContextManager[dict[str, dict[str, Tensor]]]:
    """Collect the gates that the attention in `model` applies while the context is open.

    Works in eager forward passes, in train or eval mode, also under `torch.no_grad()` and
    `torch.inference_mode()`. A later forward pass overwrites the gates of an earlier one. The gates are
    detached, shaped as each layer's `gate()` shapes them (domain-level attention: its memory map `(N, memory,
    H, W)`), and stay in the dict after the context is closed; no hook and no state stays in the model.
    Head-level attention has no gate, so that it is not listed. Where a pyramid runs an attention from
    elsewhere, there is a gate only if that attention is one of this library's.

    A compiled model is refused, since each recording would compile it anew. Within the context all compiled
    code runs eagerly, so that a compiled wrapper of `model` may be called.

    Args:
        model: a model that attention was attached to, or one with attention layers of its own. Attach first:
            what is attached inside the context is not seen.

    Returns:
        A context manager that yields `{site: {level: gate}}`. The site is the name that the attention was
        attached at; for a layer that the model has of its own, the layer's dotted name (`""` for the model
        itself). The level is "level1", "level2", ... for a pyramid's merged gates, else the layer's
        registered name, behind its name in the attention where it is a part of it: "levels.1.parts.0.domain".

    Raises:
        TypeError: `model` is not a module.
        ValueError: `model`, or a module in it, is compiled, or attention was traced into it: a graph has no
            layers left to listen to.
        RuntimeError: it is called inside a compiled function.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from attnreid.backbones import attach
        >>> model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
        >>> _ = attach(model, "se", "1", input_size=(64, 32))
        >>> with record_attention(model) as gates:
        ...     _ = model(torch.rand(2, 3, 64, 32))
        >>> gates["1"]["se"].shape
        torch.Size([2, 16, 1, 1])
    """
    if torch.compiler.is_compiling():
        raise RuntimeError(_INSIDE)
    if not isinstance(model, nn.Module):
        raise TypeError(f"record_attention: the model must be an nn.Module, got {type(model).__name__}: pass the model")
    for name, module in model.named_modules():
        where = repr(name) if name else "a model"
        if holds_trace(module) or (module is model and isinstance(model, torch.jit.ScriptModule)):
            raise ValueError(
                f"record_attention: the model must run its attention layers, got {where} traced to a graph without "
                "any: record from the model that it was traced from"
            )
        wrapped = "_orig_mod" in module._modules
        if wrapped or module._compiled_call_impl is not None:
            way_out = (
                "pass the module in it, ._orig_mod, and run that" if wrapped else "record from copy.deepcopy(model)"
            )
            raise ValueError(f"record_attention: the model must run eagerly, got {where} compiled: {way_out}")
    return _recording_of(model)


@contextmanager
def _recording_of(model: nn.Module) -> Iterator[dict[str, dict[str, Tensor]]]:
    place_of = {id(module): (name, "") for name, module in model.named_modules()}
    for attachment in attachments(model):
        place_of.update(attachment.places_by_module())
    gates: dict[str, dict[str, Tensor]] = {}

    def listen(layer: nn.Module, level: str, gate: Tensor) -> None:
        site, inside = place_of.get(id(layer), (None, ""))
        if site is not None:
            # A layer inside another has its name there, which may be its level's: "pixel", "levels.1.parts.0.domain".
            name = inside if inside.rpartition(".")[2] == level else f"{inside}.{level}".lstrip(".")
            gates.setdefault(site, {})[name] = gate.detach()

    try:
        # Without dynamo nothing has been compiled, and importing it takes seconds.
        eagerly = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    except RuntimeError:  # a compiled function that dynamo breaks in two comes as far as this
        raise RuntimeError(_INSIDE) from None
    _recording.listeners.append(listen)
    try:
        with eagerly:
            yield gates
    finally:
        _recording.listeners.remove(listen)
