"""APNet's experiment: P x K batches, triplet and cross-entropy, BN neck, step schedule, flip-averaged test."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from attnreid import attach_apnet
from reference_pipelines.apnet.losses import LossConfig, SupervisedObjective
from reference_pipelines.config import Amp, DataConfig, Device, EvaluationConfig, OptimizerConfig
from reference_pipelines.data import ReidData
from reference_pipelines.data.sampler import SamplerConfig, check_people, identity_batches
from reference_pipelines.data.transforms import AugmentConfig
from reference_pipelines.errors import UserError, require
from reference_pipelines.models import ModelConfig, ReidModel, build_backbone
from reference_pipelines.reporting.examples import save_examples
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
        amp: what the forward pass of training computes in.
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
    amp: Amp = "none"

    def __post_init__(self) -> None:
        require(self.title.strip() != "", "title must not be empty", repr(self.title))
        if self.loss.triplet_weight > 0:
            need = "must be at least 2, for the triplet (or set loss.triplet_weight to 0)"
            require(self.sampler.ids >= 2, f"sampler.ids {need}", self.sampler.ids)
            require(self.sampler.images >= 2, f"sampler.images {need}", self.sampler.images)
        self.model.check_batch(self.sampler.ids * self.sampler.images)
        require(0 <= self.seed < 2**32, "seed must be at least 0 and below 2**32", self.seed)

    def check_data(self, data: ReidData) -> None:
        """Refuse images that this cannot be trained on.

        Raises:
            UserError: there are fewer people than a batch has, or no two, or the triplet has no two images of anybody.
        """
        images = np.unique(data.train.ids, return_counts=True)[1]
        if len(images) < 2:
            raise UserError(
                f"train: {data.name} must have at least two people to tell apart in train, it has {len(images)}; check "
                "the ids, or train without them: train mla"
            )
        check_people(len(images), self.sampler)
        if self.loss.triplet_weight > 0 and images.max() < 2:
            raise UserError(
                f"train: some of the {len(images)} people of train must have two images for the triplet, all have one; "
                "check the ids, or set --loss.triplet_weight 0"
            )


def build_model(config: ApnetConfig, classes: int | None = None, *, say: Callable[[str], object] = print) -> ReidModel:
    """Return the network with its attention, and with a classifier if there are `classes`.

    Args:
        config: the recipe.
        classes: of the classifier.
        say: is given a line on what was taken over from a weights file.

    Raises:
        UserError: the attention does not fit the backbone at this image size.
    """
    attention = config.attention
    attach = partial(
        attach_apnet,
        attention=attention.kind,
        levels=attention.levels,
        radix=attention.radix,
        input_size=config.data.image_size,
    )
    backbone, width = build_backbone(
        config.model, None if attention.kind == "none" else attach, attention=attention, say=say
    )
    return ReidModel(backbone, width, classes=classes)


def train(config: ApnetConfig, out: Path, **options: Any) -> dict[str, Any]:
    """Train, evaluate and write the run folder `out`; return what stands in its result.json.

    Args:
        config: the recipe.
        out: the run folder.
        options: of `Session`: with which processes, and from which checkpoint.
    """
    with Session("apnet", config, out, **options) as session:
        labels = session.data.train.labels()
        session.place(build_model(session.network_config, classes=int(labels.max()) + 1, say=session.record.say))
        objective = SupervisedObjective(torch.as_tensor(labels, device=session.device), config.loss)
        for epoch in range(session.epoch + 1, config.optimizer.epochs + 1):
            batches = identity_batches(labels, config.sampler, (config.seed, epoch))
            session.train_epoch(batches, objective)
        session.processes.once(partial(save_examples, out, session.model, session.evaluator, *session.test()))
        return session.finish()
