"""The gates that attention applied in a forward pass, per site and level, with nothing left behind."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from attnreid import _recording
from attnreid.backbones.attach import attachments


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, dict[str, Tensor]]]:
    """Collect the gates that the attention in `model` applies while the context is open.

    Works in eager forward passes, also under `torch.no_grad()`; a compiled model is not promised to report. A
    later forward pass overwrites the gates of an earlier one. The gates are detached, shaped as each layer's
    `gate()` shapes them, and stay in the dict after the context is closed; no hook and no state stays in the
    model.

    Args:
        model: a model that attention was attached to, or one with attention layers of its own. Attach first:
            what is attached inside the context is not seen.

    Yields:
        `{site: {level: gate}}`. The site is the name that the attention was attached at; for a layer that the
        model has of its own, the layer's dotted name (`""` for the model itself).

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
    site_of = {id(module): name for name, module in model.named_modules()}
    for attachment in attachments(model):
        site_of.update(attachment.sites_by_module())
    gates: dict[str, dict[str, Tensor]] = {}

    def listen(layer: nn.Module, level: str, gate: Tensor) -> None:
        site = site_of.get(id(layer))
        if site is not None:
            gates.setdefault(site, {})[level] = gate.detach()

    _recording.listeners.append(listen)
    try:
        yield gates
    finally:
        _recording.listeners.remove(listen)
