"""Counted operations, by torch's own counter."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from benchmarks.cases import Work


def count_multiply_adds(work: Work) -> int:
    """Return the multiply-adds of one call: matrix products, convolutions and attention, forward and backward.

    Element-wise work, reductions and normalisations are not counted. The fused attention kernel is counted
    as the two products that it stands for (backward: five, as it computes the logits again).
    """
    backward: Any = {torch.ops.aten.convolution_backward: _count_convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=backward) as counter:
        work()
    return int(counter.get_total_flops()) // 2


def _count_convolution_backward(
    grad_shape: Sequence[int],
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    *more: Any,
    out_shape: Sequence[Any] | None = None,
    **options: Any,
) -> int:
    """Return the operations of a convolution's backward pass: the forward's once for each of x and weight.

    torch's own count takes a grouped convolution for a full one here.
    """
    transposed, wanted = more[4], more[7]
    forward: int = conv_flop_count(list(x_shape), list(weight_shape), list(grad_shape), transposed=transposed)
    return forward * (bool(wanted[0]) + bool(wanted[1]))
