"""Attention as a config names it, into a backbone."""

from functools import partial
from typing import Any

from torch import nn

from attnreid import (
    Attachment,
    AttentionPyramid,
    SqueezeExcitation,
    attach,
    attach_apnet,
    attach_mla,
    attach_pyramid,
    attach_se,
)
from reference_pipelines.config.attention import AttentionConfig
from reference_pipelines.errors import UserError


def put_attention(backbone: nn.Module, config: AttentionConfig, image_size: tuple[int, int]) -> Attachment | None:
    """Put attention into a backbone; return its handle, or None where the config has none.

    Args:
        backbone: changed in place.
        config: what is put in, and where.
        image_size: (height, width) of the images.

    Raises:
        UserError: the backbone has no such places, or the attention does not fit them. It is as it was then.
    """
    try:
        return _put(backbone, config, image_size)
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from None


def _put(backbone: nn.Module, config: AttentionConfig, size: tuple[int, int]) -> Attachment | None:
    layers: list[Any] = [
        partial(SqueezeExcitation, hidden=config.hidden) if name == "se" and config.hidden is not None else name
        for name in config.layer
    ]
    attention = layers[0] if len(layers) == 1 else layers
    match config.preset:
        case "none":
            return None
        case "apnet":
            return attach_apnet(
                backbone,
                attention,
                levels=config.levels,
                radix=config.radix,
                order=config.order,
                input_size=size,
                variant=config.variant,
                identity_init=config.identity_init,
            )
        case "pyramid":
            return attach_pyramid(
                backbone,
                attention,
                stages=config.stages or None,
                levels=config.levels,
                radix=config.radix,
                order=config.order,
                input_size=size,
                identity_init=config.identity_init,
            )
        case "se":
            return attach_se(backbone, reduction=config.reduction, input_size=size)
        case "mla":
            return attach_mla(
                backbone,
                levels=config.parts,
                input_size=size,
                blocks=config.blocks,
                heads=config.heads,
                memory=config.memory,
                where=config.place,
                identity_init=config.identity_init,
            )
        case "sites":
            pyramid = partial(
                AttentionPyramid, attention=attention, levels=config.levels, radix=config.radix, order=config.order
            )
            return attach(
                backbone,
                layers[0] if config.levels == 1 else pyramid,
                config.at,
                input_size=size,
                where=config.place,
                identity_init=config.identity_init,
            )
