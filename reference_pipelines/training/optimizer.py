"""Adam with linear warm-up and steps, as both papers use it."""

import torch
from torch import nn

from reference_pipelines.config.sections import OptimizerConfig


def rate_factor(config: OptimizerConfig, epoch: int) -> float:
    """Return what the learning rate is multiplied by in `epoch` (0-based)."""
    factor = config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
    if epoch < config.warmup_epochs:
        progress = epoch / config.warmup_epochs
        factor *= config.warmup_factor * (1 - progress) + progress
    return factor


def build_optimizer(
    model: nn.Module, config: OptimizerConfig
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Return Adam over what is trainable, and its schedule, stepped once an epoch."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: rate_factor(config, epoch))
    return optimizer, schedule
