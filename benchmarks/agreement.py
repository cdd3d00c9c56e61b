"""Whether two outputs are the same, as far as the dtype can tell."""

import torch
from torch import Tensor

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""The largest difference allowed, as a share of the largest absolute value, by dtype."""


def find_disagreement(ours: Tensor, theirs: Tensor, *, values: bool = True) -> str:
    """Say in what two outputs differ, in shape or by more than the dtype's share of max|theirs|, or "".

    Args:
        ours: the output under test.
        theirs: the output it is compared with.
        values: False to compare the shapes only.
    """
    if ours.shape != theirs.shape:
        return f"the shapes differ, {tuple(ours.shape)} and {tuple(theirs.shape)}"
    if not values:
        return ""
    allowed = TOLERANCES[ours.dtype]
    apart = float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())
    if not apart <= allowed:  # NaN is no agreement
        return f"the outputs differ by {apart:.1e} of the largest value, allowed {allowed:.0e}"
    return ""
