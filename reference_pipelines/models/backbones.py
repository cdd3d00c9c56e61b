"""torchvision's ResNets with their weights, ready for attention: last stride set, classifier taken off."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from attnreid import set_last_stride
from reference_pipelines.errors import UserError, closest, require
from reference_pipelines.models.weights import StartingWeights, weights_file


@dataclass(frozen=True)
class ModelConfig:
    """The backbone and where its weights come from.

    Args:
        backbone: torchvision's name of a ResNet, or "resnet_demo", torchvision's ResNet class with one narrow
            bottleneck a stage.
        weights: "imagenet" (torchvision's), "none" (random), or where to start from: a run's folder, or a file of
            safetensors or torch.save with this backbone in it, under any names; heads are left aside, and attention
            too unless it is the same.
        last_stride: stride of the last stage; both papers use 1.
        bn_chunks: parts of the batch, over all processes, whose batch norms take statistics of their own, as on that
            many devices; 1 takes them over the whole batch. Any other must divide the batch, and be divided by the
            number of processes.
    """

    backbone: str = "resnet50"
    weights: str = "imagenet"
    last_stride: int = 1
    bn_chunks: int = 1

    def __post_init__(self) -> None:
        require(self.last_stride in (1, 2), "model.last_stride must be 1 or 2", self.last_stride)
        require(self.bn_chunks >= 1, "model.bn_chunks must be at least 1", self.bn_chunks)

    def check_batch(self, images: int) -> None:
        """Refuse batches of so many images if a chunk would have less than two, or not as many as every other.

        One image has no variance, and unequal chunks would be cut otherwise by many processes than by one.

        Raises:
            UserError: they would.
        """
        require(
            images >= 2 * self.bn_chunks,
            f"sampler.ids x sampler.images must be at least 2 for each of the {self.bn_chunks} model.bn_chunks",
            images,
        )
        require(
            images % self.bn_chunks == 0,
            f"sampler.ids x sampler.images must divide into the {self.bn_chunks} model.bn_chunks without a remainder",
            images,
        )


class NarrowBottleneck(Bottleneck):
    """torchvision's bottleneck that does not widen its output: the demo's block."""

    expansion = 1


def _resnet_demo(weights: str | None = None) -> ResNet:
    return ResNet(NarrowBottleneck, [1, 1, 1, 1], width_per_group=32)


def _torchvision_resnet(name: str) -> Callable[..., ResNet]:
    return lambda weights=None: torchvision.models.get_model(name, weights=weights)


BACKBONES: dict[str, Callable[..., ResNet]] = {
    "resnet_demo": _resnet_demo,
    **{
        name: _torchvision_resnet(name)
        for name in torchvision.models.list_models()
        if name.startswith(("resnet", "resnext", "wide_resnet"))
    },
}


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
    if config.backbone not in BACKBONES:
        hint = closest(config.backbone, BACKBONES)
        raise UserError(f"model: backbone must be one of {', '.join(BACKBONES)}, got {config.backbone!r}{hint}")
    build = BACKBONES[config.backbone]
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


def _with_imagenet_weights(name: str, build: Callable[..., ResNet]) -> ResNet:
    if name == "resnet_demo":
        raise UserError('model: resnet_demo has no ImageNet weights; set --model.weights to "none" or to a file')
    # The papers predate the second set of weights, which starts from another training recipe.
    weights = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    try:
        return build(weights=weights)
    except (URLError, OSError, RuntimeError) as error:  # RuntimeError: a file that was cut off
        place = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        raise UserError(
            f"model: torchvision's ImageNet weights of {name} could not be loaded ({error}); place the file "
            f'{Path(weights.url).name} at {place}, give its path with --model.weights, or set it to "none"'
        ) from None
