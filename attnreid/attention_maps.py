"""What attention does in a forward pass, per site and level, with nothing left behind: its gates, and its maps."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from attnreid._tracing import holds_trace
from attnreid.backbones.attach import attachments
from attnreid.layers._checks import check_flag
from attnreid.layers._probe import Probe, listening
from attnreid.layers.gate import Gate
from attnreid.layers.head import HeadLevelAttention
from attnreid.pyramid import AttentionPyramid
from attnreid.pyramid.levels import GateParts, PooledParts
from attnreid.registry import registered_name

Place = tuple[str, str]


def record_attention(
    model: nn.Module, *, weights: bool = False
) -> AbstractContextManager[dict[str, dict[str, Tensor]]]:
    """Collect the gates that the attention in `model` applies while the context is open.

    Works in eager forward passes, in train or eval mode, also under `torch.no_grad()` and
    `torch.inference_mode()`. A later forward pass overwrites the gates of an earlier one. The gates are
    detached, shaped as each layer's `gate()` shapes them (domain-level attention: its memory map `(N, memory,
    H, W)`), and stay in the dict after the context is closed; no hook and no state stays in the model.
    Head-level attention has no gate, so that it is listed only with `weights`. Where a pyramid runs an attention from
    elsewhere, there is a gate only if that attention is a `Gate`.

    A compiled model is refused, since each recording would compile it anew. Within the context all compiled
    code runs eagerly, so that a compiled wrapper of `model` may be called.

    Args:
        model: a model that attention was attached to, or one with attention layers of its own. Attach first:
            what is attached inside the context is not seen.
        weights: list head-level attention's weights too, `(N, heads, P, P)` of P = H*W positions, a row for
            each position that looks. The fused kernel never has them, so that they are computed apart.

    Returns:
        A context manager that yields `{site: {level: gate}}`. The site is the name that the attention was
        attached at; for a layer that the model has of its own, the layer's dotted name (`""` for the model
        itself). The level is "level1", "level2", ... for a pyramid's merged gates, else the layer's
        registered name (its class's name where it has none), behind its name in the attention where it is a part
        of it: "levels.1.parts.0.domain".

    Raises:
        TypeError: `model` is not a module, or `weights` not a bool.
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
    _check_eager("record_attention", model)
    check_flag("record_attention", "weights", weights)
    return _recording_of(model, weights)


def explain_levels(model: nn.Module) -> AbstractContextManager[dict[str, dict[str, nn.Module]]]:
    """Have every pyramid in `model` make the map after each of its levels, for Grad-CAM per level.

    A pyramid's fast path never has these maps, `x * g1`, `x * g1 * g2`, and so on in the order of its levels. While
    the context is open each is made, and passes a module that returns it unchanged: hook that module, or name it as
    the layer of a Grad-CAM. The outputs are equal up to rounding (1e-5 of the largest value in float32), and every
    map has a gradient. (Under `identity_init` that is 0 as long as the blend is.) A pyramid then takes a pass over
    the map for each level. A copy that is made of the model inside the context goes on so.

    A compiled model is refused, and compiled code runs eagerly within the context, as with `record_attention`.

    Args:
        model: a model with pyramids, attached or of its own.

    Returns:
        A context manager that yields `{site: {level: module}}`, sites and levels named as by `record_attention`. In
        the model the module of level i is "maps.level<i>" of the pyramid. Afterwards the modules are gone, with
        their hooks.

    Raises:
        TypeError: `model` is not a module.
        ValueError: there is no pyramid in `model`, or it, or a module in it, is compiled, or traced.
        RuntimeError: it is called inside a compiled function.

    Example:
        >>> import torch
        >>> from attnreid import AttentionPyramid
        >>> pyramid, maps = AttentionPyramid(16, levels=2), []
        >>> with explain_levels(pyramid) as modules:
        ...     for module in modules[""].values():
        ...         _ = module.register_forward_hook(lambda module, inputs, output: maps.append(output))
        ...     y = pyramid(torch.rand(2, 16, 8, 4))
        >>> [gradient.shape for gradient in torch.autograd.grad(y.square().sum(), maps)]
        [torch.Size([2, 16, 8, 4]), torch.Size([2, 16, 8, 4])]
    """
    _check_eager("explain_levels", model)
    if not any(isinstance(module, AttentionPyramid) for module in model.modules()):
        raise ValueError(
            f"explain_levels: the model must have an AttentionPyramid, got {type(model).__name__} without one: "
            "attach one first, e.g. with attach_apnet"
        )
    return _explanation_of(model)


def _check_eager(who: str, model: nn.Module) -> None:
    """Refuse a model whose layers do not run as Python code."""
    if torch.compiler.is_compiling():
        raise RuntimeError(_inside(who))
    if not isinstance(model, nn.Module):
        raise TypeError(f"{who}: the model must be an nn.Module, got {type(model).__name__}: pass the model")
    for name, module in model.named_modules():
        where = repr(name) if name else "a model"
        if holds_trace(module) or (module is model and isinstance(model, torch.jit.ScriptModule)):
            raise ValueError(
                f"{who}: the model must run its attention layers, got {where} traced to a graph without "
                "any: pass the model that it was traced from"
            )
        wrapped = "_orig_mod" in module._modules
        if wrapped or module._compiled_call_impl is not None:
            way_out = "pass the module in it, ._orig_mod, and run that" if wrapped else "pass copy.deepcopy(model)"
            raise ValueError(f"{who}: the model must run eagerly, got {where} compiled: {way_out}")


def _inside(who: str) -> str:
    return (
        f"{who}: it must be called in eager code, got a call inside a compiled function: "
        "open it around the model itself, outside the function"
    )


@contextmanager
def _eagerly(who: str) -> Iterator[None]:
    """Run compiled code as Python code."""
    try:
        # Without dynamo nothing has been compiled, and importing it takes seconds.
        eagerly = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    except RuntimeError:  # a compiled function that dynamo breaks in two comes as far as this
        raise RuntimeError(_inside(who)) from None
    with eagerly:
        yield


@contextmanager
def _recording_of(model: nn.Module, weights: bool) -> Iterator[dict[str, dict[str, Tensor]]]:
    places = _places(model)
    gates: dict[str, dict[str, Tensor]] = {}

    def keep(site: str, name: str, gate: Tensor) -> None:
        gates.setdefault(site, {})[name] = gate.detach()

    listeners = {
        probe: partial(keep, *_named(places[id(layer)], level))
        for probe, (layer, level) in _levels(model).items()
        if weights or not isinstance(layer, HeadLevelAttention)
    }
    with _eagerly("record_attention"), listening(listeners):
        yield gates


@contextmanager
def _explanation_of(model: nn.Module) -> Iterator[dict[str, dict[str, nn.Module]]]:
    places = _places(model)
    pyramids = [module for module in model.modules() if isinstance(module, AttentionPyramid)]
    own = [pyramid for pyramid in pyramids if pyramid.maps is None]  # not those that a context around this one has
    modules: dict[str, dict[str, nn.Module]] = {}
    with _eagerly("explain_levels"):
        try:
            for pyramid in own:
                pyramid.materialise_maps(True)
            for pyramid in pyramids:
                for level, probe in (pyramid.maps or {}).items():
                    site, name = _named(places[id(pyramid)], level)
                    modules.setdefault(site, {})[name] = probe
            yield modules
        finally:
            for pyramid in own:
                pyramid.materialise_maps(False)


def _places(model: nn.Module) -> dict[int, Place]:
    """Return the site, and the name inside the site's attention, for the id of every module."""
    places = {id(module): (name, "") for name, module in model.named_modules()}
    for attachment in attachments(model):
        places.update(attachment.places_by_module())
    return places


def _levels(model: nn.Module) -> dict[nn.Module, tuple[nn.Module, str]]:
    """Return, for each probe that is listed, the layer that it is listed under and the name of the level."""
    levels: dict[nn.Module, tuple[nn.Module, str]] = {}
    parts: set[nn.Module] = set()
    for module in model.modules():  # a pyramid comes before its levels, and a level before its parts
        if isinstance(module, AttentionPyramid):
            gates = {number: layer for number, layer in enumerate(module.levels, start=1) if isinstance(layer, Gate)}
            levels.update((gate.probe, (module, f"level{number}")) for number, gate in gates.items())
        if isinstance(module, GateParts | PooledParts):
            parts.update(module.parts)  # their merged gate is listed
        probe = module._modules.get("probe")
        if isinstance(probe, Probe) and module not in parts:
            levels.setdefault(probe, (module, registered_name(type(module))))
    return levels


def _named(place: Place, level: str) -> Place:
    # A layer inside another has its name there, which may be its level's: "pixel", "levels.1.parts.0.domain".
    site, inside = place
    return site, inside if inside.rpartition(".")[2] == level else f"{inside}.{level}".lstrip(".")
