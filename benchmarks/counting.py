"""Counted operations, by torch's own counter."""

from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases import Work


def count_multiply_adds(work: Work) -> int:
    """Return the multiply-adds of one call: matrix products, convolutions and attention, forward and backward.

    Element-wise work, reductions and normalisations are not counted. The fused attention kernel is counted
    as the two products that it stands for (backward: five, as it computes the logits again).
    """
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops()) // 2
