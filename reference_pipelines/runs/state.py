"""What a training's next step depends on besides the weights, as one value that writes and reads itself."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from attnreid.files import parse_json, replacing, system_error
from reference_pipelines.runs.description import Damaged, RunDescription

Tensors = dict[str, Tensor]
_OPTIMIZER, _OBJECTIVE = "optimizer.", "objective."
_TORCH, _CUDA, _LABELS = "random.torch", "random.cuda", "labels"
_KEY = "training_state"


@dataclass(frozen=True)
class OptimizerState:
    """An optimiser's moments and rates.

    Args:
        tensors: "PARAMETER.NAME", the parameter by its number.
        groups: of parameters, with their rates.
    """

    tensors: Tensors
    groups: list[dict[str, Any]]

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer) -> "OptimizerState":
        """Return the state of an optimiser."""
        state = optimizer.state_dict()
        moments = {f"{index}.{name}": value for index, each in state["state"].items() for name, value in each.items()}
        return cls(moments, state["param_groups"])

    def restore(self, optimizer: torch.optim.Optimizer) -> None:
        """Put the state back into an optimiser of the same parameters."""
        state: dict[int, dict[str, Tensor]] = {}
        for place, value in self.tensors.items():
            index, name = place.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        groups = [
            {key: tuple(value) if key == "betas" else value for key, value in each.items()} for each in self.groups
        ]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        for parameter, values in optimizer.state.items():
            for key, value in values.items():
                if value.shape == parameter.shape:
                    # With the parameter's strides, as the optimiser makes them: other strides round otherwise.
                    values[key] = torch.empty_like(parameter).copy_(value)


@dataclass(frozen=True)
class GeneratorState:
    """Every global random generator.

    Args:
        cpu: of torch on the CPU.
        cuda: of torch on the CUDA device; None where there is none.
        python: of `random`.
        numpy: of NumPy.
    """

    cpu: Tensor
    cuda: Tensor | None
    python: list[Any]
    numpy: list[Any]

    @classmethod
    def of(cls, device: torch.device) -> "GeneratorState":
        """Return the state of the generators as they are."""
        version, words, gauss = random.getstate()
        name, keys, *rest = np.random.get_state()
        assert isinstance(keys, np.ndarray)
        return cls(
            torch.get_rng_state(),
            torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            [version, list(words), gauss],
            [name, keys.tolist(), *rest],
        )

    def restore(self, device: torch.device) -> None:
        """Have the generators go on from here."""
        torch.set_rng_state(self.cpu)
        if device.type == "cuda" and self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, device)
        version, words, gauss = self.python
        random.setstate((version, tuple(words), gauss))
        name, keys, *rest = self.numpy
        np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))


@dataclass(frozen=True)
class TrainingState:
    """A training between two epochs, but for the weights, which are a checkpoint's.

    Args:
        description: what the run is, and how far; it stands in the checkpoint itself.
        log: the lines so far.
        optimizer: of all that is trained.
        schedule: `state_dict` of the learning rate's schedule.
        scaler: `state_dict` of the loss's scale.
        generators: random ones.
        labels: pseudo-labels (N,) of the last epoch; None where there are none.
        objective: what the objective has learnt: the cluster memory.
    """

    description: RunDescription
    log: list[dict[str, Any]]
    optimizer: OptimizerState
    schedule: dict[str, Any]
    scaler: dict[str, Any]
    generators: GeneratorState
    labels: Tensor | None
    objective: Tensors

    def tensors(self) -> Tensors:
        """Return every tensor, by the name that it has in the file."""
        maybe = {_CUDA: self.generators.cuda, _LABELS: self.labels}
        return {
            **_prefixed(_OPTIMIZER, self.optimizer.tensors),
            **_prefixed(_OBJECTIVE, self.objective),
            _TORCH: self.generators.cpu,
            **{name: value for name, value in maybe.items() if value is not None},
        }

    def to_json(self) -> dict[str, Any]:
        """Return the rest, but for the description."""
        return {
            "log": self.log,
            "groups": self.optimizer.groups,
            "schedule": self.schedule,
            "scaler": self.scaler,
            "python": self.generators.python,
            "numpy": self.generators.numpy,
        }

    def write(self, path: Path) -> None:
        """Write the tensors and the rest, without the description.

        Raises:
            OSError: the file cannot be written.
        """
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors().items()}
        with replacing(path) as draft:
            try:
                safetensors.torch.save_file(tensors, draft, {_KEY: json.dumps(self.to_json())})
            except SafetensorError as error:
                raise system_error(error, path) from error

    @classmethod
    def read(cls, path: Path, description: RunDescription) -> "TrainingState":
        """Return what was written.

        Raises:
            Damaged: it was not written by `write`.
            OSError: the file cannot be read.
        """
        try:
            with safe_open(path, "pt") as file:
                content = parse_json(file.metadata()[_KEY])
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
            return cls(
                description=description,
                log=list(content["log"]),
                optimizer=OptimizerState(_under(_OPTIMIZER, tensors), list(content["groups"])),
                schedule=dict(content["schedule"]),
                scaler=dict(content["scaler"]),
                generators=GeneratorState(
                    tensors[_TORCH], tensors.get(_CUDA), list(content["python"]), list(content["numpy"])
                ),
                labels=tensors.get(_LABELS),
                objective=_under(_OBJECTIVE, tensors),
            )
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise Damaged(f"{path.name} is no state of a training ({type(error).__name__}: {error})") from None


def seed_generators(seed: int) -> None:
    """Seed every global random generator; a process begins with two of them unseeded.

    Args:
        seed: at least 0 and below 2**32, which is all that NumPy's takes.
    """
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
