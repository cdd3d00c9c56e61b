"""torchvision's ResNets with their weights, ready for attention: last stride set, classifier taken off."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import nn

from attnreid import set_last_stride
from reference_pipelines.config.sections import ModelConfig
from reference_pipelines.errors import UserError, closest
from reference_pipelines.models.weights import StartingWeights, weights_file


@cache
def backbones() -> dict[str, Callable[..., Any]]:
    """Return what builds each backbone, by name; only here is torchvision imported, which takes seconds."""
    from torchvision.models import get_model, list_models

    from reference_pipelines.models.narrow import resnet_demo

    families = ("resnet", "resnext", "wide_resnet")
    named = {name: partial(get_model, name) for name in list_models() if name.startswith(families)}
    return {"resnet_demo": resnet_demo, **named}


def build_backbone(
    config: ModelConfig,
    attach: Callable[[nn.Module], object] | None = None,
    *,
    attention: Any = None,
    say: Callable[[str], object] = print,
) -> tuple[nn.Module, int]:
    """Return the backbone, which maps (N, 3, H, W) to pooled features (N, D), and D.

    Args:
        config: what to build.
        attach: puts attention into the backbone, if there is to be any.
        attention: the attention's config: weights of a run whose attention is the same are loaded into it too.
        say: is given a line on what was taken over from a weights file.

    Raises:
        UserError: an unknown backbone, weights that are missing or do not fit, or attention that does not.
    """
    known = backbones()
    if config.backbone not in known:
        hint = closest(config.backbone, known)
        raise UserError(f"model: backbone must be one of {', '.join(known)}, got {config.backbone!r}{hint}")
    build = known[config.backbone]
    backbone = _with_imagenet_weights(config.backbone, build) if config.weights == "imagenet" else build()
    width = backbone.fc.in_features
    backbone.fc = nn.Identity()
    path = weights_file(config.weights)
    start = None if path is None else StartingWeights.find(path, backbone)
    if start is not None:
        start.into_backbone(backbone)
    set_last_stride(backbone, config.last_stride)
    if attach is not None:
        try:
            attach(backbone)
        except ValueError as error:
            raise UserError(str(error)) from None
    if start is not None:
        start.into_attention(backbone, attention, say)
    return backbone, width


def _with_imagenet_weights(name: str, build: Callable[..., Any]) -> Any:
    from torchvision.models import get_model_weights

    if name == "resnet_demo":
        raise UserError('model: resnet_demo has no ImageNet weights; set --model.weights to "none" or to a file')
    # The papers predate the second set of weights, which starts from another training recipe.
    weights = get_model_weights(name)["IMAGENET1K_V1"]
    try:
        return build(weights=weights)
    except (URLError, OSError, RuntimeError) as error:  # RuntimeError: a file that was cut off
        place = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        raise UserError(
            f"model: torchvision's ImageNet weights of {name} could not be loaded ({error}); place the file "
            f'{Path(weights.url).name} at {place}, give its path with --model.weights, or set it to "none"'
        ) from None
