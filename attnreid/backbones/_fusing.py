"""Take a backbone's batch norms into the convs before them, where a trace of the network shows that it is exact."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from attnreid.layers._folding import Foldable, like

# By their exact class: whatever is derived from them (attention's hosts, parametrizations) may do something else.
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class FoldedNorm(Foldable):
    """What stands where a norm stood that is in the conv before it: it passes its input on and refuses train mode."""

    folded = True

    def __init__(self) -> None:
        super().__init__()
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`."""
        return x


def fuse_norms(model: nn.Module) -> None:
    """Take every batch norm whose input is a conv's output, and nobody else's, into that conv, in place, in eval mode.

    Raises:
        ValueError: torch.fx cannot trace the model, so that nobody knows what stands behind what.
    """
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:  # whatever the model's own code raises on a proxy
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            "fold: with backbone=True the model must be one that torch.fx can trace, which shows what stands before "
            f"each norm, got {type(error).__name__}: {reason}; fold(model) folds the attention alone"
        ) from error
    names = {module: name for name, module in model.named_modules()}
    for conv, norm in list(_pairs(model, graph)):
        _fuse(conv, norm)
        model.set_submodule(names[norm], FoldedNorm())


def _pairs(model: nn.Module, graph: fx.Graph) -> Iterator[tuple[Any, Any]]:
    """Yield each conv and the norm behind it that are one map: called once, by nobody else, sharing nothing."""
    calls = Counter(model.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module")
    owners = Counter(id(value) for _, value in model.named_parameters(remove_duplicate=False))
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}

    def alone(node: fx.Node, module: nn.Module) -> bool:
        return (
            calls[module] == 1
            and str(node.target) not in read
            and not (module._forward_hooks or module._forward_pre_hooks)
            and all(owners[id(value)] == 1 for value in module.parameters())
        )

    for node in graph.nodes:
        before = node.args[0] if node.args else None
        if node.op != "call_module" or not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        conv, norm = (model.get_submodule(str(each.target)) for each in (before, node))
        exact = type(conv) in _CONVS and type(norm) in _NORMS and norm.running_mean is not None
        if exact and len(before.users) == 1 and alone(before, conv) and alone(node, norm):
            yield conv, norm


def _fuse(conv: Any, norm: Any) -> None:
    # In double precision: a product of rounded factors is rounded once more.
    weight, mean, variance = (each.detach().double() for each in (conv.weight, norm.running_mean, norm.running_var))
    bias, scale, shift = (
        None if each is None else each.detach().double() for each in (conv.bias, norm.weight, norm.bias)
    )
    weight, bias = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, scale, shift)
    with torch.no_grad():
        conv.bias = like(conv.weight, bias.to(conv.weight.dtype))
        conv.weight.copy_(weight)
