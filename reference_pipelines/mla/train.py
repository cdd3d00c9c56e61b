"""MLA's experiment: cluster the features, train against the clusters, again each epoch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from attnreid import attach_mla
from reference_pipelines.clustering import ClusteringConfig, ClusterMemory, MemoryConfig, cluster, describe_clusters
from reference_pipelines.config import DataConfig, Device, EvaluationConfig, OptimizerConfig
from reference_pipelines.data.dataset import load_batches
from reference_pipelines.data.sampler import ClusterSamplerConfig, cluster_batches
from reference_pipelines.data.transforms import AugmentConfig, train_transform
from reference_pipelines.errors import UserError, require
from reference_pipelines.mla.objective import ClusterObjective
from reference_pipelines.models import ModelConfig, ReidModel, build_backbone
from reference_pipelines.training.loop import extract_features, train_epoch
from reference_pipelines.training.optimizer import build_optimizer
from reference_pipelines.training.session import Session


@dataclass(frozen=True)
class AttentionConfig:
    """The multi-level attention in the last stage's bottlenecks.

    Args:
        levels: any of "pixel", "head" and "domain", in this order; none is the cluster-contrast baseline.
        blocks: all blocks of the last stage, or its last one.
        heads: of the head-level attention.
        memory: slots of the domain-level attention.
    """

    levels: tuple[Literal["pixel", "head", "domain"], ...] = ("pixel", "head", "domain")
    blocks: Literal["all", "last"] = "all"
    heads: int = 4
    memory: int = 64


@dataclass(frozen=True)
class MlaConfig:
    """Unsupervised training of MLA.

    Args:
        title: the row's name in tables.
        data: the images.
        optimizer: Adam and its schedule.
        iterations: batches an epoch.
        model: the backbone.
        attention: what is put into it.
        clustering: how pseudo-labels are made.
        memory: the cluster memory.
        augment: random changes of a training image.
        sampler: the batches.
        evaluation: how the features are tested.
        seed: of everything random.
        device: where to compute.
    """

    title: str
    data: DataConfig
    optimizer: OptimizerConfig
    iterations: int = 400
    model: ModelConfig = ModelConfig()
    attention: AttentionConfig = AttentionConfig()
    clustering: ClusteringConfig = ClusteringConfig()
    memory: MemoryConfig = MemoryConfig()
    augment: AugmentConfig = AugmentConfig()
    sampler: ClusterSamplerConfig = ClusterSamplerConfig()
    evaluation: EvaluationConfig = EvaluationConfig(flip=False)
    seed: int = 1
    device: Device = "auto"

    def __post_init__(self) -> None:
        require(self.title.strip() != "", "title must not be empty", repr(self.title))
        require(self.iterations >= 1, "iterations must be at least 1", self.iterations)
        require(self.seed >= 0, "seed must be at least 0", self.seed)


def build_model(config: MlaConfig) -> ReidModel:
    """Return the network with its attention.

    Raises:
        UserError: the attention does not fit the backbone at this image size.
    """
    backbone, width = build_backbone(config.model)
    attention = config.attention
    if attention.levels:
        try:
            attach_mla(
                backbone,
                levels=attention.levels,
                input_size=config.data.image_size,
                blocks=attention.blocks,
                heads=attention.heads,
                memory=attention.memory,
            )
        except ValueError as error:
            raise UserError(str(error)) from None
    return ReidModel(backbone, width)


def train(config: MlaConfig, out: Path) -> dict[str, Any]:
    """Train, evaluate and write the run folder `out`; return what stands in its result.json."""
    with Session("mla", config, out) as session:
        images = session.data.train
        model: nn.Module = session.place(build_model(config))
        optimizer, schedule = build_optimizer(model, config.optimizer)
        transform = train_transform(config.data.image_size, config.augment, config.data.interpolation)
        generator = torch.Generator().manual_seed(config.seed)
        measured: dict[str, Any] = {}
        for epoch in range(1, config.optimizer.epochs + 1):
            title = f"epoch {epoch}/{config.optimizer.epochs}"
            model.eval()
            features = extract_features(
                model,
                images,
                config.data,
                batch_size=config.evaluation.batch_size,
                flip=False,
                device=session.device,
                title=f"{title} features",
            )
            clusters = cluster(features, config.clustering)
            measured = describe_clusters(clusters, images.ids, images.cameras)
            memory = ClusterMemory.from_clusters(features, torch.as_tensor(clusters), config.memory, generator)
            objective = ClusterObjective(torch.as_tensor(clusters, device=session.device), memory.to(session.device))
            batches = cluster_batches(clusters, images.cameras, config.sampler, config.iterations, (config.seed, epoch))
            loaded = load_batches(images.paths, transform, batches, workers=config.data.workers)
            loss = train_epoch(model, optimizer, loaded, objective, steps=len(batches), title=title)
            session.end_epoch(model, epoch, loss=loss, learning_rate=schedule.get_last_lr()[0], **measured)
            schedule.step()
        return session.finish(model, clustering=measured)
