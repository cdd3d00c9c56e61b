"""The schedules of the papers, epoch by epoch."""

import pytest
import torch
from torch import nn

from reference_pipelines.config.sections import OptimizerConfig
from reference_pipelines.training.optimizer import build_optimizer, rate_factor

APNET_C = OptimizerConfig(4e-4, 1e-3, 160, warmup_epochs=10, warmup_factor=0.01, milestones=(40, 80, 120))


@pytest.mark.parametrize(
    ("epoch", "factor"), [(0, 0.01), (5, 0.505), (10, 1.0), (39, 1.0), (40, 0.1), (80, 0.01), (159, 0.001)]
)
def test_rate_factor(epoch, factor):
    assert rate_factor(APNET_C, epoch) == pytest.approx(factor)


def test_no_warm_up():
    assert rate_factor(OptimizerConfig(1e-3, 0.0, 3), 0) == 1.0


def test_only_what_is_trainable_is_optimised_at_the_schedules_rate():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[1].bias.requires_grad_(False)
    optimizer, schedule = build_optimizer(model, OptimizerConfig(0.1, 0.0, 4, milestones=(1,), gamma=0.5))
    assert len(optimizer.param_groups[0]["params"]) == 3
    rates = []
    for _ in range(3):
        rates.append(optimizer.param_groups[0]["lr"])
        model(torch.randn(4, 2)).sum().backward()
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.1, 0.05, 0.05])
