"""The published backbones that attaching is held to, and where attention goes in each."""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torchvision.models
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attnreid import SqueezeExcitation
from attnreid.backbones import Attachment, attach

HAS_TIMM = importlib.util.find_spec("timm") is not None
IMAGES = 4
# Enough hidden units that some are alive whatever the seed: the input is all positive, so a unit is on or off for good.
CHANNEL_GATE = functools.partial(SqueezeExcitation, hidden=16)


@dataclass(frozen=True)
class Backbone:
    """A model, and three places for attention that lie in one another.

    `stages` are the ends of its stages; `inner` are parts inside them, of other classes; `replaced` is one part
    that keeps its map's shape. Between them they meet rows of modules, containers that loop over themselves,
    modules with a forward of their own, and parents of each of these kinds.
    """

    make: Callable[[], nn.Module]
    stages: tuple[str, ...]
    inner: tuple[str, ...]
    replaced: str
    size: tuple[int, int] = (64, 32)

    def build(self, seed: int = 0) -> nn.Module:
        """Return the model with the statistics of a batch in its norms: untrained, its maps would fade in eval mode."""
        torch.manual_seed(seed)
        model = self.make()
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            model.train()(self.images(8, seed=7))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        return model

    def images(self, count: int = IMAGES, seed: int = 1) -> Tensor:
        return torch.randn(count, 3, *self.size, generator=torch.Generator().manual_seed(seed))

    def attach_after(self, model: nn.Module, **options: Any) -> list[Attachment]:
        """Put a channel gate behind the stages, and a spatial gate behind the parts inside."""
        ends = attach(model, CHANNEL_GATE, self.stages, input_size=self.size, **options)
        return [ends, attach(model, "rga_s", self.inner, input_size=self.size, **options)]

    def attach_instead(self, model: nn.Module) -> Attachment:
        return attach(model, "pixel", self.replaced, where="instead", input_size=self.size)

    def attach(self, model: nn.Module) -> list[Attachment]:
        return [*self.attach_after(model), self.attach_instead(model)]


def _torchvision(name: str, *places: Any, **options: Any) -> Backbone:
    extra = {key: options.pop(key) for key in list(options) if key != "size"}
    return Backbone(lambda: getattr(torchvision.models, name)(**extra), *places, **options)


def _timm(name: str, *places: Any, size: tuple[int, int] = (64, 32), **options: Any) -> Backbone:
    def make() -> nn.Module:
        return pytest.importorskip("timm", reason="timm's models need timm").create_model(name, **options)

    return Backbone(make, *places, size=size)


def _vit(name: str, size: tuple[int, int], **options: Any) -> Backbone:
    """A vision transformer of timm's, whose blocks give tokens; made for images of this size.

    Its last block is left out: what reads the class token alone does not read its map.
    """
    places = ("blocks.2", "blocks.5", "blocks.8", "blocks.10"), ("blocks.1.mlp", "blocks.4.norm1"), "blocks.6.mlp"
    return _timm(name, *places, size=size, img_size=size, **options)


_RESNET = (("layer[1-4]",), ("layer2.1", "layer3.0.conv1"), "layer4.1.conv2")
_DENSENET = (
    ("features.denseblock[1-4]",),
    ("features.transition[12]", "features.denseblock3.denselayer2"),
    "features.transition2.norm",
)
BACKBONES = {
    "resnet18": _torchvision("resnet18", *_RESNET),
    # torchvision's class with DenseNet-121's containers, and a tenth of its layers.
    "small densenet": _torchvision(
        "DenseNet", *_DENSENET, growth_rate=8, block_config=(3, 3, 3, 2), num_init_features=16
    ),
    "timm mobilenetv4": _timm(
        "mobilenetv4_conv_small", ("blocks.*",), ("bn1", "blocks.2.1", "blocks.3.1.pw_exp"), "blocks.2.1.dw_mid"
    ),
    "resnet50": _torchvision("resnet50", *_RESNET),
    "densenet121": _torchvision("densenet121", *_DENSENET),
    "resnext50": _torchvision("resnext50_32x4d", *_RESNET),
    "wide_resnet50": _torchvision("wide_resnet50_2", *_RESNET),
    "densenet169": _torchvision("densenet169", *_DENSENET),
    "inception_v3": _torchvision(
        "inception_v3",
        ("Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"),
        ("Mixed_5c.branch_pool", "Mixed_6b.branch7x7_3.conv"),
        "Mixed_6c.branch7x7_2",
        aux_logits=False,
        init_weights=False,
        size=(128, 96),
    ),
    "convnext_tiny": _torchvision(
        "convnext_tiny", ("features.[1357]",), ("features.5.0", "features.3.1.block.2"), "features.5.1.block.0"
    ),
    "efficientnet_b0": _torchvision(
        "efficientnet_b0", ("features.[2-6]",), ("features.4.1", "features.3.1.block"), "features.4.2.block.1"
    ),
    "mobilenet_v3_large": _torchvision(
        "mobilenet_v3_large",
        ("features.3", "features.6", "features.12", "features.15"),
        ("features.5", "features.10.block"),
        "features.11.block.1.0",
    ),
    "timm resnetv2": _timm(
        "resnetv2_50", ("stages.*",), ("stem", "stages.1.blocks.1", "stages.2.blocks.0"), "stages.2.blocks.1.conv2"
    ),
    "timm convnextv2": _timm(
        "convnextv2_atto", ("stages.?",), ("stem", "stages.2.blocks.1"), "stages.2.blocks.2.conv_dw"
    ),
    "small vit": _timm(
        "vit_tiny_patch16_224",
        ("blocks.1", "blocks.3"),
        ("blocks.0.mlp", "blocks.2.norm1"),
        "blocks.2.mlp",
        global_pool="avg",
        img_size=(64, 32),
        patch_size=8,
        embed_dim=32,
        depth=4,
        num_heads=2,
    ),
    "small swin": _torchvision(
        "SwinTransformer",
        ("features.1", "features.3"),
        ("features.0.2", "features.3.0.mlp"),
        "features.1.1.mlp",
        patch_size=[4, 4],
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=[4, 4],
    ),
    "timm vit_small": _vit("vit_small_patch16_224", (64, 32)),
    "timm deit_small_distilled": _vit("deit_small_distilled_patch16_224", (64, 32)),
    "timm dinov2 with registers": _vit("vit_small_patch14_reg4_dinov2", (56, 28)),
    "timm clip": _vit("vit_medium_patch16_clip_224", (64, 32)),
    "swin_t": _torchvision(
        "swin_t", ("features.1", "features.3", "features.5", "features.7"), ("features.3.1.mlp",), "features.5.1.mlp"
    ),
    "timm maxvit_tiny": _timm(
        "maxvit_tiny_tf_224",
        ("stages.*",),
        ("stages.1.blocks.0.attn_block", "stages.2.blocks.1.conv"),
        "stages.2.blocks.1.conv.conv2_kxk",
        size=(64, 64),
        img_size=64,
    ),
    "timm hrnet_w18": _timm(
        "hrnet_w18",
        ("incre_modules.*",),
        ("layer1.1", "stage3.0.branches.1.0"),
        "stage3.1.branches.2.1.conv1",
    ),
}
# `make test` holds these to every check; `make test-slow` the others, too.
FAST = ("resnet18", "small vit")


def available(names: tuple[str, ...]) -> list[str]:
    """Return those of `names` whose library is installed."""
    return [name for name in names if HAS_TIMM or not name.startswith("timm")]


def as_parameters(fast: tuple[str, ...] = FAST) -> list[Any]:
    """Return the backbones as pytest's parameters: those that `make test` leaves out are marked slow."""
    return [
        pytest.param(backbone, id=name, marks=() if name in fast else pytest.mark.slow)
        for name, backbone in BACKBONES.items()
    ]
