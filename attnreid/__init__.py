"""Attention layers for person re-identification that drop into any pretrained backbone and come out again."""

from attnreid.attention_maps import explain_levels, record_attention
from attnreid.backbones import (
    Attachment,
    Site,
    attach,
    attach_apnet,
    attach_mla,
    attach_se,
    attachments,
    find_sites,
    set_last_stride,
)
from attnreid.checkpoints import (
    Difference,
    ReleasedCheckpoint,
    Weights,
    attach_released,
    load_checkpoint,
    read_released,
    read_weights,
    save_checkpoint,
)
from attnreid.inference import fold
from attnreid.layers import (
    DomainLevelAttention,
    HeadLevelAttention,
    MultiLevelAttention,
    PixelLevelAttention,
    RelationAwareChannelAttention,
    RelationAwareSpatialAttention,
    SplitAttention,
    SqueezeExcitation,
)
from attnreid.layers.gate import Gate, PooledGate
from attnreid.pyramid import AttentionPyramid, LevelPlan, plan_pyramid
from attnreid.registry import create_attention, list_attention, register_attention

__version__ = "0.1.0"

__all__ = [
    "Attachment",
    "AttentionPyramid",
    "Difference",
    "DomainLevelAttention",
    "Gate",
    "HeadLevelAttention",
    "LevelPlan",
    "MultiLevelAttention",
    "PixelLevelAttention",
    "PooledGate",
    "RelationAwareChannelAttention",
    "RelationAwareSpatialAttention",
    "ReleasedCheckpoint",
    "Site",
    "SplitAttention",
    "SqueezeExcitation",
    "Weights",
    "attach",
    "attach_apnet",
    "attach_mla",
    "attach_released",
    "attach_se",
    "attachments",
    "create_attention",
    "explain_levels",
    "find_sites",
    "fold",
    "list_attention",
    "load_checkpoint",
    "plan_pyramid",
    "read_released",
    "read_weights",
    "record_attention",
    "register_attention",
    "save_checkpoint",
    "set_last_stride",
]
