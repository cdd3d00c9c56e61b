"""Any network as a backbone: torchvision's, timm's or one's own, its head taken off, its last stride set."""

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from torch import nn

from attnreid import set_last_stride
from reference_pipelines.config.attention import AttentionConfig
from reference_pipelines.config.sections import ModelConfig
from reference_pipelines.errors import UserError
from reference_pipelines.models.attention import put_attention
from reference_pipelines.models.heads import take_head_off
from reference_pipelines.models.parts import with_local_branch
from reference_pipelines.models.pooling import pool_of
from reference_pipelines.models.sources import build_network
from reference_pipelines.models.weights import StartingWeights, weights_file

Size = tuple[int, int]


class Backbone(NamedTuple):
    """A network without a head, and how a feature is made of what it returns.

    Args:
        network: maps (N, 3, H, W) to features (N, D), to maps or to tokens.
        width: D.
        pool: maps what the network returns to (N, D); None where it returns that itself.
        features: of which the D are the concatenation.
    """

    network: nn.Module
    width: int
    pool: nn.Module | None
    features: int = 1


def build_backbone(
    config: ModelConfig,
    attention: AttentionConfig | None = None,
    *,
    image_size: Size = (256, 128),
    say: Callable[[str], object] = print,
) -> Backbone:
    """Return a backbone with its weights and its attention.

    Args:
        config: what to build.
        attention: what is put into it. Weights of a run whose attention is the same are loaded into it too.
        image_size: (height, width) of the images.
        say: is given a line on a head that was taken off, and on what was taken over from a weights file.

    Raises:
        UserError: an unknown backbone, one that does not run on such images, has no last stride or does not pool as it
            should; weights that are missing or do not fit, or attention that does not.
    """
    network = build_network(config, image_size, say)
    if not config.backbone.startswith("timm:"):  # timm leaves the head out itself
        take_head_off(network, config.backbone, image_size, say)
    path = weights_file(config.weights)
    start = None if path is None else StartingWeights.find(path, network)
    if start is not None:
        start.into_backbone(network)
    if config.last_stride is not None:
        _set_last_stride(network, config, image_size)
    pool, width = pool_of(network, config, image_size)
    if attention is not None:
        put_attention(network, attention, image_size)
    if start is not None:
        start.into_attention(network, attention, say)
    if not config.local_parts:
        return Backbone(network, width, pool)
    features = 1 + config.local_parts
    branched = with_local_branch(network, config.backbone, config.local_parts, image_size)
    return Backbone(branched, features * width, pool, features)


def _set_last_stride(network: nn.Module, config: ModelConfig, image_size: Size) -> None:
    assert config.last_stride is not None
    with suppress(ValueError):
        set_last_stride(network, config.last_stride)  # at its own size, where the maps are large enough to tell
        return
    try:
        set_last_stride(network, config.last_stride, input_size=image_size)
    except ValueError as error:
        raise UserError(
            f"model: {config.backbone} must have a last stride that can be set to {config.last_stride}: {error} "
            "--model.last_stride null leaves it as it is"
        ) from None
