"""What layers do with a batch norm: start it anew, keep it behind a linear map, and fold it for inference."""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_linear_bn_weights

from attnreid._tracing import Unscriptable


class Foldable(Unscriptable):
    """A layer that has an equal form with fewer operations in eval mode; `attnreid.fold` asks it to take it.

    `fold_` changes the layer in place and for good: no batch statistics are left to train with, so a folded
    layer refuses train mode.
    """

    folded: bool = False

    def fold_(self) -> None:
        """Take the folded form, in place; called once, in eval mode."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a folded layer refuses train mode."""
        if mode and self.folded:
            raise ValueError(
                f"{type(self).__name__}: a folded layer must stay in eval mode, got train(): "
                "train the model that it was folded from, and call eval() on this one again"
            )
        return super().train(mode)


class _Train:
    """What `train` is on a module with folded layers inside: `nn.Module.train` would change half of it, then fail."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, mode: bool = True) -> nn.Module:
        folded = _folded_in(self.module)
        if mode and folded:
            raise ValueError(
                f"{type(self.module).__name__}: a model with folded layers must stay in eval mode, got train() with "
                f"{type(folded[0]).__name__} inside: train the model that it was folded from"
            )
        return type(self.module).train(self.module, mode)


def seal(model: nn.Module) -> None:
    """Have every module of `model` with folded layers inside refuse train mode before anything changes."""
    for module in model.modules():
        if not isinstance(module, Foldable) and _folded_in(module):
            # On the object and not by a class: the copy's modules keep their types.
            module.__dict__["train"] = _Train(module)


def _folded_in(model: nn.Module) -> list[Foldable]:
    return [part for part in model.modules() if isinstance(part, Foldable) and part.folded]


def eval_form(who: str, norm: nn.Module | None) -> tuple[Tensor, Tensor, float, Tensor, Tensor]:
    """Return what a batch norm in eval mode computes with: mean, variance, epsilon, weight, bias.

    Raises:
        ValueError: there is no batch norm that has all these, or it is in train mode.
    """
    if isinstance(norm, _BatchNorm) and not norm.training and norm.running_mean is not None and norm.affine:
        assert norm.running_var is not None
        return norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    raise ValueError(
        f"fold: the norms of {who} must be batch norms in eval mode with running statistics, weight and bias, got "
        f"{norm}: put those in their place"
    )


def reset_norm(norm: _BatchNorm) -> None:
    """Start a batch norm anew, also one without a bias, on which older releases' `reset_parameters` fails."""
    norm.reset_running_stats()
    if norm.weight is not None:
        nn.init.ones_(norm.weight)
    if norm.bias is not None:
        nn.init.zeros_(norm.bias)


def like(old: Tensor, new: Tensor) -> nn.Parameter:
    """Return `new` as a parameter that is trained or frozen as `old` was."""
    return nn.Parameter(new.detach(), requires_grad=old.requires_grad)


class NormedLinear(nn.Module):
    """One linear map for each part, and the batch norm (and ReLU) behind it, of nodes `(N, parts, inputs, P)`.

    The caller multiplies with `weight`, in whichever order of products is the cheapest, and hands the result
    to `finish`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        parts: int,
        relu: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.relu = relu
        self.weight = nn.Parameter(torch.empty(parts, outputs, inputs, device=device, dtype=dtype))
        self.norm: nn.BatchNorm1d | None = nn.BatchNorm1d(parts * outputs, device=device, dtype=dtype)
        self.bias: nn.Parameter | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as torch's convs do, uniformly within 1/sqrt(inputs), and start the norm anew."""
        bound = self.weight.shape[2] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.norm is not None:
            reset_norm(self.norm)

    def finish(self, product: Tensor) -> Tensor:
        """Return the weights' product `(N, parts, outputs, P)` after batch norm and ReLU, all parts together.

        The product is the caller's to give away: what can be done in place is, which saves passes and memory.
        """
        if self.norm is not None:
            y: Tensor = self.norm(product.flatten(1, 2))
        else:
            assert self.bias is not None  # for the type checker: the one or the other is there
            y = product.add_(self.bias).flatten(1, 2)
        # In place on the norm's own output and not on a view of it, for which autograd would keep copies.
        return (F.relu(y, inplace=True) if self.relu else y).view(product.shape)

    def fold_(self, who: str) -> None:
        """Take the batch norm's eval form into the weights and a bias; `who` is named in what is raised."""
        parts, outputs, inputs = self.weight.shape
        weight, bias = fuse_linear_bn_weights(self.weight.flatten(0, 1), None, *eval_form(who, self.norm))
        self.weight = like(self.weight, weight.view(parts, outputs, inputs))
        self.bias = like(self.weight, bias.view(parts, outputs, 1))
        self.norm = None

    def extra_repr(self) -> str:
        """Return what is mapped to what, and in how many parts."""
        parts, outputs, inputs = self.weight.shape
        return f"{inputs} -> {outputs}" + (f", parts={parts}" if parts > 1 else "")
