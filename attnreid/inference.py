"""The same outputs with fewer operations, for a model that is done with training."""

import copy

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from attnreid.backbones._fusing import fuse_norms
from attnreid.backbones._wrapping import check_python
from attnreid.layers._checks import check_flag
from attnreid.layers._folding import Foldable, seal


def fold(model: nn.Module, *, backbone: bool = False) -> nn.Module:
    """Return a copy of a model in eval mode whose attention layers compute the same with fewer operations.

    Batch norms go into the linear maps before them (relation-aware and split attention), and domain-level
    attention's query and key become one conv. The backbone's own batch norms stay, unless `backbone` asks for
    them. The outputs are equal up to rounding. A model without anything to fold is plainly copied. The copy has
    other parameters, so that its state dict fits no unfolded model, and it refuses train mode, as a whole, before
    any part of it changes.

    Args:
        model: in eval mode, with all its parts; it stays as it is.
        backbone: whether the backbone's batch norms go into the convs before them, too. This is done where
            a trace by torch.fx shows that a conv's output goes to one norm and nowhere else, and both are torch's own
            classes without hooks or shared weights; all other norms stay.

    Returns:
        The folded copy, in eval mode.

    Raises:
        TypeError: `model` is not a module, or `backbone` no bool.
        ValueError: the model or a part of it is in train mode: there, batch norms use the batch's statistics,
            which no folded weight can hold. Or a layer that can be folded has parametrizations, or norms without
            statistics. Or it is scripted or traced, or, with `backbone`, nothing that torch.fx can trace.

    Example:
        >>> import torch
        >>> from attnreid import DomainLevelAttention
        >>> attention = DomainLevelAttention(64, memory=8).eval()
        >>> folded = fold(attention)
        >>> sum(parameter.numel() for parameter in folded.parameters())
        1024
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"fold: the model must be an nn.Module, got {type(model).__name__}: pass the model itself")
    check_python("fold", model)
    check_flag("fold", "backbone", backbone)
    _check(model)
    folded = copy.deepcopy(model)
    for module in list(folded.modules()):
        if isinstance(module, Foldable) and not module.folded:
            module.fold_()
    if backbone:
        fuse_norms(folded)
    seal(folded)
    return folded


def _check(model: nn.Module) -> None:
    """Refuse, before anything is copied, what cannot be folded."""
    inside = {one for module in model.modules() if isinstance(module, Foldable) for one in module.modules()}
    for name, module in model.named_modules():
        where = f"{name!r} ({type(module).__name__})" if name else f"the model ({type(module).__name__})"
        if module.training:
            raise ValueError(
                "fold: the model must be in eval mode, since train mode's batch statistics cannot be folded, got "
                f"{where} in train mode: call eval() first"
            )
        if module in inside and is_parametrized(module):
            raise ValueError(
                f"fold: the attention's weights must be plain parameters, got {where} with parametrizations: "
                "remove them with torch.nn.utils.parametrize.remove_parametrizations first"
            )
