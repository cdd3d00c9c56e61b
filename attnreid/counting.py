"""Counted operations, the same with every release of torch: one counter for what layers cost and for benchmarks.

torch's own counter, with formulas of our own where a release has none or counts wrongly. They are keyed by the
operation as a whole and by its default overload: a counter that does not know the latter takes the operation
apart where it can, and counts the pieces.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

Shape = Sequence[int]


def count_multiply_adds(work: Callable[[], object]) -> int:
    """Return the multiply-adds of one call: matrix products, convolutions and attention, forward and backward.

    A multiplication with its addition counts as one. Element-wise work, reductions, pooling, activations and
    normalisations do not count. A fused attention kernel counts as the two products that it stands for
    (backward: five, as it computes the logits again), whatever it masks; on the meta device attention is not fused,
    and its backward is four.
    """
    from torch.utils.flop_counter import FlopCounterMode  # importing it may import a compiler

    with FlopCounterMode(display=False, custom_mapping=_own_formulas()) as counter:
        work()
    return int(counter.get_total_flops()) // 2


def _own_formulas() -> dict[Any, Any]:
    formulas: dict[Any, Any] = {}
    for names, formula in ((_ATTENTION, _attention), (_ATTENTION_BACKWARD, _attention_backward)):
        formulas.update((operation, formula) for name in names for operation in _named(name))
    formulas.update((operation, _convolution_backward) for operation in _named("convolution_backward"))
    return formulas


_KERNELS = (
    "flash_attention_for_cpu",
    "flash_attention",
    "efficient_attention",
    "cudnn_attention",
    "fused_attention_overrideable",
)
_ATTENTION = tuple(f"_scaled_dot_product_{kernel}" for kernel in _KERNELS)
_ATTENTION_BACKWARD = tuple(f"{name}_backward" for name in _ATTENTION)


def _named(name: str) -> tuple[Any, ...]:
    """Return the operation of this name and its default overload; nothing where torch has none."""
    operation = getattr(torch.ops.aten, name, None)
    return () if operation is None else (operation, operation.default)


def _attention(query: Shape, key: Shape, value: Shape, *more: Any, **options: Any) -> int:
    """Logits and mix: each of the queries meets each of the keys, once over d and once over the values' width."""
    *batch, queries, width = query
    return 2 * math.prod(batch) * queries * key[-2] * (width + value[-1])


def _attention_backward(gradient: Shape, query: Shape, key: Shape, value: Shape, *more: Any, **options: Any) -> int:
    """Three products over d (logits again, the queries' and the keys' gradients), two over the values' width."""
    *batch, queries, width = query
    return 2 * math.prod(batch) * queries * key[-2] * (3 * width + 2 * value[-1])


def _convolution_backward(gradient: Shape, x: Shape, weight: Shape, *more: Any, **options: Any) -> int:
    """The forward's count once for each of the gradients of x and weight that is wanted, in groups or not.

    Forward, each number of the output meets those of the weight that lead to it; transposed, of the input.
    """
    transposed, wanted = more[4], more[7]
    forward = 2 * math.prod(x if transposed else gradient) * math.prod(weight[1:])
    return forward * (bool(wanted[0]) + bool(wanted[1]))
