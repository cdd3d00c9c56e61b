"""What a training's next step depends on besides the weights, as tensors and JSON: optimiser, schedule, generators."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

Tensors = dict[str, Tensor]


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[Tensors, list[dict[str, Any]]]:
    """Return the optimiser's tensors, named "optimizer.PARAMETER.NAME", and its groups."""
    state = optimizer.state_dict()
    tensors = {
        f"optimizer.{index}.{name}": value for index, values in state["state"].items() for name, value in values.items()
    }
    return tensors, state["param_groups"]


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    """Put back what `optimizer_state` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    restored = [{key: tuple(value) if key == "betas" else value for key, value in group.items()} for group in groups]
    optimizer.load_state_dict({"state": state, "param_groups": restored})
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if value.shape == parameter.shape:
                # In the parameter's order of memory, as the optimiser makes them: another order rounds otherwise.
                values[key] = torch.empty_like(parameter).copy_(value)


def seed_generators(seed: int) -> None:
    """Seed every global random generator; a process begins with two of them unseeded.

    Args:
        seed: at least 0 and below 2**32, which is all that NumPy's takes.
    """
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def generator_state(device: torch.device) -> tuple[Tensors, dict[str, Any]]:
    """Return the state of every global random generator."""
    tensors = {"random.torch": torch.get_rng_state()}
    if device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    assert isinstance(keys, np.ndarray)
    return tensors, {"python": [version, list(words), gauss], "numpy": [name, keys.tolist(), *rest]}


def restore_generators(device: torch.device, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Put back what `generator_state` returned."""
    torch.set_rng_state(tensors["random.torch"])
    if device.type == "cuda" and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"], device)
    version, words, gauss = document["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = document["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
