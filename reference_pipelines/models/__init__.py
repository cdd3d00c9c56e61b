"""Backbones and the embedding head on top of them."""

from reference_pipelines.models.backbones import build_backbone
from reference_pipelines.models.embedding import Embedding, ReidModel

__all__ = ["Embedding", "ReidModel", "build_backbone"]
