"""APNet's experiment: P x K batches, triplet and cross-entropy, BN neck, step schedule, flip-averaged test."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from attnreid import attach_apnet
from reference_pipelines.apnet.losses import LossConfig, SupervisedObjective
from reference_pipelines.config import DataConfig, Device, EvaluationConfig, OptimizerConfig
from reference_pipelines.data.dataset import load_batches
from reference_pipelines.data.sampler import SamplerConfig, identity_batches
from reference_pipelines.data.transforms import AugmentConfig, train_transform
from reference_pipelines.errors import UserError, require
from reference_pipelines.models import ModelConfig, ReidModel, build_backbone
from reference_pipelines.training.loop import train_epoch
from reference_pipelines.training.optimizer import build_optimizer
from reference_pipelines.training.session import Session


@dataclass(frozen=True)
class AttentionConfig:
    """The attention pyramid after each residual stage.

    Args:
        kind: "se" (APNet-C), "rga_s" (APNet-S) or "none" (APNet_0).
        levels: levels of the pyramid; 1 is the plain attention.
        radix: parts at level i are radix ** (i - 1); 1 stacks unsplit attention.
    """

    kind: Literal["none", "se", "rga_s"] = "se"
    levels: int = 2
    radix: int = 2


@dataclass(frozen=True)
class ApnetConfig:
    """Supervised training of APNet.

    Args:
        title: the row's name in tables.
        data: the images.
        optimizer: Adam and its schedule.
        model: the backbone.
        attention: what is put into it.
        augment: random changes of a training image.
        sampler: the batches.
        loss: triplet and cross-entropy.
        evaluation: how the features are tested.
        seed: of everything random.
        device: where to compute.
    """

    title: str
    data: DataConfig
    optimizer: OptimizerConfig
    model: ModelConfig = ModelConfig()
    attention: AttentionConfig = AttentionConfig()
    augment: AugmentConfig = AugmentConfig()
    sampler: SamplerConfig = SamplerConfig()
    loss: LossConfig = LossConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    seed: int = 1
    device: Device = "auto"

    def __post_init__(self) -> None:
        require(self.title.strip() != "", "title must not be empty", repr(self.title))
        require(self.sampler.ids >= 2, "sampler.ids must be at least 2, for the triplet", self.sampler.ids)
        require(self.seed >= 0, "seed must be at least 0", self.seed)


def build_model(config: ApnetConfig, classes: int | None = None) -> ReidModel:
    """Return the network with its attention, and with a classifier if there are `classes`.

    Raises:
        UserError: the attention does not fit the backbone at this image size.
    """
    backbone, width = build_backbone(config.model)
    attention = config.attention
    if attention.kind != "none":
        try:
            attach_apnet(
                backbone,
                attention.kind,
                levels=attention.levels,
                radix=attention.radix,
                input_size=config.data.image_size,
            )
        except ValueError as error:
            raise UserError(str(error)) from None
    return ReidModel(backbone, width, classes=classes)


def train(config: ApnetConfig, out: Path) -> dict[str, Any]:
    """Train, evaluate and write the run folder `out`; return what stands in its result.json."""
    with Session("apnet", config, out) as session:
        images = session.data.train
        labels = images.labels()
        model: nn.Module = session.place(build_model(config, classes=int(labels.max()) + 1))
        optimizer, schedule = build_optimizer(model, config.optimizer)
        objective = SupervisedObjective(torch.as_tensor(labels, device=session.device), config.loss)
        transform = train_transform(config.data.image_size, config.augment, config.data.interpolation)
        for epoch in range(1, config.optimizer.epochs + 1):
            batches = identity_batches(labels, config.sampler, (config.seed, epoch))
            loaded = load_batches(images.paths, transform, batches, workers=config.data.workers)
            title = f"epoch {epoch}/{config.optimizer.epochs}"
            loss = train_epoch(model, optimizer, loaded, objective, steps=len(batches), title=title)
            session.end_epoch(model, epoch, loss=loss, learning_rate=schedule.get_last_lr()[0])
            schedule.step()
        return session.finish(model)
