"""What the tests of attaching share: everything observable of a model, to compare before and after."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn


def _digest(tensor: Tensor) -> str:
    return hashlib.sha1(tensor.detach().reshape(-1).contiguous().view(torch.uint8).numpy().data).hexdigest()


def _observe(model: nn.Module) -> dict[str, Any]:
    """All that surgery could leave behind; tensors and modules by identity as well as by value."""
    seen: dict[str, Any] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        seen[f"{name}: object"] = (id(module), type(module), module.training)
        seen[f"{name}: attributes"] = sorted(vars(module))
        seen[f"{name}: children"] = [(child, id(part)) for child, part in module._modules.items()]
        seen[f"{name}: hooks"] = [len(hooks) for key, hooks in vars(module).items() if "hooks" in key]
    for name, tensor in model.state_dict(keep_vars=True).items():
        grad = None if tensor.grad is None else _digest(tensor.grad)
        seen[f"{name}: tensor"] = (id(tensor), tensor._version, _digest(tensor), tensor.requires_grad, grad)
    return seen


@pytest.fixture
def observe() -> Callable[[nn.Module], dict[str, Any]]:
    return _observe
