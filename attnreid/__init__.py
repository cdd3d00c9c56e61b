"""Attention layers for person re-identification that drop into any pretrained backbone and come out again.

The names are imported when they are asked for, so that the commands can answer before torch is there.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnreid.attention_maps import explain_levels, record_attention
    from attnreid.backbones.attach import Attachment, attach, attachments
    from attnreid.backbones.presets import attach_apnet, attach_mla, attach_pyramid, attach_se
    from attnreid.backbones.sites import Site, find_sites
    from attnreid.backbones.strides import set_last_stride
    from attnreid.checkpoints import (
        Difference,
        ReleasedNetwork,
        Weights,
        attach_released,
        load_checkpoint,
        read_description,
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
    "ReleasedNetwork",
    "Site",
    "SplitAttention",
    "SqueezeExcitation",
    "Weights",
    "attach",
    "attach_apnet",
    "attach_mla",
    "attach_pyramid",
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
    "read_description",
    "read_released",
    "read_weights",
    "record_attention",
    "register_attention",
    "save_checkpoint",
    "set_last_stride",
]

# Where each is defined.
_HOME_OF = {
    "explain_levels": "attnreid.attention_maps",
    "record_attention": "attnreid.attention_maps",
    "Attachment": "attnreid.backbones",
    "Site": "attnreid.backbones",
    "attach": "attnreid.backbones",
    "attach_apnet": "attnreid.backbones",
    "attach_mla": "attnreid.backbones",
    "attach_pyramid": "attnreid.backbones",
    "attach_se": "attnreid.backbones",
    "attachments": "attnreid.backbones",
    "find_sites": "attnreid.backbones",
    "set_last_stride": "attnreid.backbones",
    "Difference": "attnreid.checkpoints",
    "ReleasedNetwork": "attnreid.checkpoints",
    "Weights": "attnreid.checkpoints",
    "attach_released": "attnreid.checkpoints",
    "load_checkpoint": "attnreid.checkpoints",
    "read_description": "attnreid.checkpoints",
    "read_released": "attnreid.checkpoints",
    "read_weights": "attnreid.checkpoints",
    "save_checkpoint": "attnreid.checkpoints",
    "fold": "attnreid.inference",
    "DomainLevelAttention": "attnreid.layers",
    "HeadLevelAttention": "attnreid.layers",
    "MultiLevelAttention": "attnreid.layers",
    "PixelLevelAttention": "attnreid.layers",
    "RelationAwareChannelAttention": "attnreid.layers",
    "RelationAwareSpatialAttention": "attnreid.layers",
    "SplitAttention": "attnreid.layers",
    "SqueezeExcitation": "attnreid.layers",
    "Gate": "attnreid.layers.gate",
    "PooledGate": "attnreid.layers.gate",
    "AttentionPyramid": "attnreid.pyramid",
    "LevelPlan": "attnreid.pyramid",
    "plan_pyramid": "attnreid.pyramid",
    "create_attention": "attnreid.registry",
    "list_attention": "attnreid.registry",
    "register_attention": "attnreid.registry",
}
_ROOMS = ("attention_maps", "backbones", "checkpoints", "inference", "layers", "pyramid", "registry")


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(import_module(_HOME_OF[name]), name)
        globals()[name] = value  # the next look finds it here
        return value
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
