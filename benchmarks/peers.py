"""The layers of other packages, as they are published, with our weights where the shapes allow it.

Each builder returns the variant with what differs between the two layers in its note.
"""

from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any

import torch
from torch import Tensor, nn

from attnreid import AttentionPyramid, HeadLevelAttention, SqueezeExcitation
from benchmarks.cases import Problem, Skipped, Variant
from benchmarks.ours import make_domain, make_head, make_pyramid, seeded
from benchmarks.work import inference, layer_step


def published(package: str, module: str, name: str) -> tuple[Callable[..., Any], str]:
    """Return the layer of this name from a peer's module, and the package's name and version.

    Raises:
        Skipped: it is not installed, or this version has no such layer.
    """
    try:
        version = f"{package} {metadata.version(package)}"
        return getattr(import_module(module), name), version
    except (ModuleNotFoundError, metadata.PackageNotFoundError):
        raise Skipped(f"{package} is not installed; pip install 'attnreid[benchmarks]'") from None
    except AttributeError:
        raise Skipped(f"{version} has no {name} in {module}; pip install -U 'attnreid[benchmarks]'") from None


def timm_se_variant(problem: Problem) -> Variant:
    """Build one SEModule of timm, beside our pyramid of three levels."""
    build, version = published("timm", "timm.layers", "SEModule")
    peer = seeded(build, problem.channels).to(**problem.factory)
    pyramid = make_pyramid(problem)
    ours = " + ".join(f"{level.parts} x {level.reduce.shape[1]}" for level in _levels(pyramid))
    return _training(
        peer,
        problem,
        f"another layer; ours: 3 levels of {ours} hidden units, no bias; {version}: one of "
        f"{peer.fc1.out_channels} (C/16, rounded to 8s), with bias",
    )


def bottleneck_transformer_variant(problem: Problem) -> Variant:
    """Build the attention of bottleneck-transformer-pytorch with our weights: it computes the same."""
    module = "bottleneck_transformer_pytorch.bottleneck_transformer_pytorch"
    build, version = published("bottleneck-transformer-pytorch", module, "Attention")
    layer = make_shared_head(problem)
    width = layer.channels // layer.heads
    peer = build(dim=layer.channels, fmap_size=problem.size, heads=layer.heads, dim_head=width)
    peer = peer.to(**problem.factory)
    with torch.no_grad():
        peer.to_qkv.weight.copy_(layer.qkv.weight)
        peer.pos_emb.height.copy_(layer.position_height[:width, :, 0].T)
        peer.pos_emb.width.copy_(layer.position_width[:width, 0, :].T)
    note = (
        f"{version}, weights copied, outputs compared; both scale by 1/sqrt(d) here; its position tables are "
        "shared by the heads, ours are each head's own (set equal)"
    )
    return _training(peer, problem, note, agrees=True)


def timm_bottleneck_variant(problem: Problem) -> Variant:
    """Build timm's BottleneckAttn, whose relative positions ours has not."""
    build, version = published("timm", "timm.layers.bottleneck_attn", "BottleneckAttn")
    layer = make_shared_head(problem)
    peer = seeded(build, problem.channels, feat_size=problem.size, num_heads=layer.heads)
    peer = peer.to(**problem.factory)
    with torch.no_grad():
        peer.qkv.weight.copy_(layer.qkv.weight)
    note = f"{version}, qkv's weights copied; another layer: relative positions, ours are absolute; same scale"
    return _training(peer, problem, note)


def external_attention_variant(problem: Problem) -> Variant:
    """Build fightingcv's ExternalAttention with the weights of our folded layer, from map to map."""
    module = "fightingcv_attention.attention.ExternalAttention"
    build, version = published("fightingcv-attention", module, "ExternalAttention")
    layer = make_domain(problem)
    assert layer.query is not None  # only a folded layer has none
    peer = build(layer.channels, S=layer.memory).to(**problem.factory).eval()
    with torch.no_grad():
        peer.mk.weight.copy_(layer.key.flatten(1) @ layer.query.flatten(1))
        peer.mv.weight.copy_(layer.value.flatten(1))
    (x,) = problem.make_maps(1)

    def forward(x: Tensor) -> Tensor:
        attended: Tensor = peer(x.flatten(2).transpose(1, 2))
        return attended.transpose(1, 2).view_as(x)

    note = f"{version}, weights copied, outputs compared; no residual (ours adds it), tokens made from the map"
    return Variant(inference(forward, x), as_ours=lambda y: x + y, note=note)


def make_shared_head(problem: Problem) -> HeadLevelAttention:
    """Return head-level attention of scale 1/sqrt(d) whose heads share one position code."""
    layer = make_head(problem, scale=None)
    with torch.no_grad():
        for table in (layer.position_height, layer.position_width):
            first = table.chunk(layer.heads)[0]
            table.copy_(first.repeat(layer.heads, 1, 1) * (layer.channels // layer.heads) ** -0.5)
    return layer


def _levels(pyramid: AttentionPyramid) -> list[SqueezeExcitation]:
    return [level for level in pyramid.levels if isinstance(level, SqueezeExcitation)]


def _training(peer: nn.Module, problem: Problem, note: str, *, agrees: bool = False) -> Variant:
    return layer_step(peer.train(), list(peer.parameters()), problem, agrees=agrees, note=note)
