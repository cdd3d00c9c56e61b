"""Backbones and the embedding head on top of them."""

from reference_pipelines.models.backbones import Backbone, build_backbone
from reference_pipelines.models.embedding import Embedding, ReidModel

__all__ = ["Backbone", "Embedding", "ReidModel", "build_backbone"]
