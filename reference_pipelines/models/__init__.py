"""Backbones and the embedding head on top of them."""

from reference_pipelines.distributed.batch_statistics import set_batch_statistics, share_running_statistics
from reference_pipelines.models.backbones import build_backbone
from reference_pipelines.models.embedding import Embedding, ReidModel

__all__ = [
    "Embedding",
    "ReidModel",
    "build_backbone",
    "set_batch_statistics",
    "share_running_statistics",
]
