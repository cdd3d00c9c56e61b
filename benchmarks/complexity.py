"""The counted operations of APNet-C, beside those that the paper's Table III gives."""

from dataclasses import dataclass

import torch
from torch import nn

from attnreid import attach_apnet
from attnreid.counting import count_multiply_adds
from benchmarks.cases import Problem
from benchmarks.models import make_resnet
from benchmarks.work import inference

NAME = "gflops"
PAPER = (6.23, 6.23, 6.24, 6.25)
"""Table III's GFLOPs of APNet-C with 0 to 3 levels, at 224x224 with a last stride of 1: multiply-adds in billions."""

_WITHIN = 0.01  # of the paper's, without attention
_MOST_ADDED = 0.01  # by a level, in billions


@dataclass(frozen=True)
class ComplexityRow:
    """One model: the paper's figure and ours, in billions of multiply-adds, and what its last level added."""

    levels: int
    paper: float
    counted: float
    added: float | None
    met: bool

    @property
    def target(self) -> str:
        """Say what the row is to reach."""
        return f"added <= {_MOST_ADDED}" if self.levels else f"within {_WITHIN:.0%} of the paper's"


def count_apnet() -> list[ComplexityRow]:
    """Count APNet-C of 0 to 3 levels; nothing is computed, only shapes pass.

    Raises:
        Skipped: torchvision is not installed.
    """
    rows: list[ComplexityRow] = []
    for levels, paper in enumerate(PAPER):
        counted = _count(levels)
        if rows:
            added = counted - rows[-1].counted
            rows.append(ComplexityRow(levels, paper, counted, added, added <= _MOST_ADDED))
        else:
            rows.append(ComplexityRow(levels, paper, counted, None, abs(counted / paper - 1) <= _WITHIN))
    return rows


def _count(levels: int) -> float:
    problem = Problem(torch.device("meta"), torch.float32, 1, (3, 224, 224))

    def attach(model: nn.Module, input_size: tuple[int, int]) -> None:
        attach_apnet(model, "se", levels=levels, input_size=input_size)

    model = make_resnet(problem, attach).eval()
    return count_multiply_adds(inference(model, torch.empty(1, *problem.shape, **problem.factory))) / 1e9
