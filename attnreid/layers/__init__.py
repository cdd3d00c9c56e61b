"""The attention layers, one idea a file."""

from attnreid.layers.domain import DomainLevelAttention
from attnreid.layers.head import HeadLevelAttention
from attnreid.layers.multi_level import MultiLevelAttention
from attnreid.layers.pixel import PixelLevelAttention
from attnreid.layers.relation_aware import RelationAwareChannelAttention, RelationAwareSpatialAttention
from attnreid.layers.split_attention import SplitAttention
from attnreid.layers.squeeze_excitation import SqueezeExcitation

__all__ = [
    "DomainLevelAttention",
    "HeadLevelAttention",
    "MultiLevelAttention",
    "PixelLevelAttention",
    "RelationAwareChannelAttention",
    "RelationAwareSpatialAttention",
    "SplitAttention",
    "SqueezeExcitation",
]
