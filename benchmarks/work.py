"""The two kinds of work that rows are about: a training step and an inference call."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.cases import Problem, Variant, Work

Forward = Callable[[Tensor], Tensor]


def training_step(forward: Forward, x: Tensor, parameters: Sequence[Tensor], cotangent: Tensor) -> Work:
    """Return the work of one forward and backward pass, to the input and all parameters; it returns the output."""
    x = x.detach().requires_grad_()  # the map itself is shared with inference

    def step() -> Tensor:
        y = forward(x.view_as(x))  # torch's operation counter cannot follow a leaf into a module
        torch.autograd.grad(y, (x, *parameters), cotangent)
        return y.detach()

    return step


def layer_step(
    forward: Forward, parameters: Sequence[Tensor], problem: Problem, *, agrees: bool = True, note: str = ""
) -> Variant:
    """Return one forward and backward pass of a layer on the problem's map."""
    x, cotangent = problem.make_maps(2)
    left = 2 * x.nbytes + sum(parameter.nbytes for parameter in parameters)
    return Variant(training_step(forward, x, parameters, cotangent), left=left, agrees=agrees, note=note)


def inference(forward: Forward, x: Tensor) -> Work:
    """Return the work of one forward pass without gradients; it returns the output."""

    def call() -> Tensor:
        with torch.inference_mode():
            return forward(x)

    return call
