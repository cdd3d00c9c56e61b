"""The papers' placements, ready to use, and a pyramid at the end of every stage of any backbone.

`families.py` says where the stages of the papers' backbones end, `_stages.py` those of all others.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import nn

from attnreid.backbones._branches import branch_ends
from attnreid.backbones._calls import Call, describe_call
from attnreid.backbones._staged import attach_to_stages
from attnreid.backbones._wrapping import check_plain
from attnreid.backbones.attach import Attachment, Place, Where, put_in
from attnreid.backbones.families import RESNET, blocks_of, check_resnet, is_resnet
from attnreid.backbones.sites import InputSize, look, select
from attnreid.layers.gate import SplitDim
from attnreid.layers.multi_level import LEVELS, Level, MultiLevelAttention
from attnreid.layers.squeeze_excitation import REDUCTION, SqueezeExcitation
from attnreid.pyramid import RADIX, AttentionPyramid, Order
from attnreid.registry import Attention

Variant = Literal["paper", "released"]

_STEM = ("relu", "maxpool")


def attach_pyramid(
    model: nn.Module,
    attention: Attention | Sequence[Attention] = "se",
    *,
    stages: Sequence[int] | None = None,
    levels: int | Sequence[int] = 2,
    radix: int = RADIX,
    order: Order = "coarse_to_fine",
    dim: SplitDim | None = None,
    input_size: InputSize,
    identity_init: bool = False,
) -> Attachment:
    """Put an attention pyramid at the end of a backbone's stages, whatever its class.

    The stages are told from what the modules give: a stage ends at the last block with a map of its size, and the last
    four sizes count. An isotropic network, such as a plain ViT, has its pyramids after the blocks at 1/4, 1/2, 3/4 and
    4/4 of its depth. A block that cannot take attention itself is replaced by the last one inside it that can.

    Args:
        model: the backbone; changed in place.
        attention: what `AttentionPyramid` takes: a name, a class or a callable, or one for each level.
        stages: the numbers of the stages that get a pyramid, from 1; None for all.
        levels: how many levels the pyramids have, or the parts of each level.
        radix: into how many parts each level splits those of the level before.
        order: which level is applied first.
        dim: what an attention that does not split the map itself is split along.
        input_size: (height, width) of an input with 3 channels, or (channels, height, width).
        identity_init: start with pyramids that pass every finite map unchanged.

    Returns:
        The handle that lists the pyramids and takes them out again.

    Raises:
        ValueError: no stage is found, or attention cannot stand at the end of one, it already carries some, or its
            channels or height cannot be split into that many parts. The model is then as it was.

    Example:
        >>> from torchvision.models import mobilenet_v2
        >>> attachment = attach_pyramid(mobilenet_v2(), "se", stages=(3, 4), input_size=(256, 128))
        >>> [(site.name, site.channels, site.size) for site in attachment.sites]
        [('features.13', 96, (16, 8)), ('features.17', 320, (8, 4))]
    """
    who = "attach_pyramid"
    call = describe_call(
        who,
        attention=attention,
        stages=stages,
        levels=levels,
        radix=radix,
        order=order,
        dim=dim,
        input_size=input_size,
        identity_init=identity_init,
    )
    pyramid = partial(AttentionPyramid, attention=attention, levels=levels, radix=radix, order=order, dim=dim)
    return attach_to_stages(who, model, pyramid, stages, input_size, identity_init, call)


def attach_apnet(
    model: nn.Module,
    attention: Attention | Sequence[Attention] = "se",
    *,
    levels: int | Sequence[int] = 2,
    radix: int = RADIX,
    order: Order = "coarse_to_fine",
    input_size: InputSize,
    variant: Variant = "paper",
    identity_init: bool = False,
) -> Attachment:
    """Put an attention pyramid after each of the backbone's four stages, as APNet does.

    In ResNets, DenseNets and Inception-V3, the backbones of APNet's Table V; in others at the ends that
    `attach_pyramid` finds. The paper trains ResNets with a last stride of 1: call `set_last_stride(model)` first.

    The authors' released code differs from the paper: `variant="released"`, for ResNets, has a fifth site
    after the stem, whose ReLU is taken out; SE with 8 hidden units at level 1, split attention with a norm at
    level 2, fine to coarse. Its level 3 does not run (64 channels do not divide by 3) and is refused.

    Args:
        model: the backbone; changed in place.
        attention: "se" for the paper's APNet-C, "rga_s" for APNet-S, or what else `AttentionPyramid` takes.
        levels: how many levels the pyramids have, or the parts of each level.
        radix: into how many parts each level splits those of the level before.
        order: which level is applied first; the released variant has its own.
        input_size: (height, width) of an input with 3 channels, or (channels, height, width).
        variant: "paper", or "released" for the network of the authors' code, with levels 0, 1 or 2.
        identity_init: start with pyramids that pass every finite map unchanged.

    Returns:
        The handle that lists the pyramids and takes them out again.

    Raises:
        ValueError: no stage is found, one already carries attention, its channels or height cannot be split into that
            many parts, or the released variant is given what its code does not have. The model is then as it was.

    Example:
        >>> from torchvision.models import resnet18
        >>> attachment = attach_apnet(resnet18(), "se", levels=3, input_size=(256, 128))
        >>> [site.name for site in attachment.sites]
        ['layer1', 'layer2', 'layer3', 'layer4']
    """
    who = "attach_apnet"
    call = describe_call(
        who,
        attention=attention,
        levels=levels,
        radix=radix,
        order=order,
        input_size=input_size,
        variant=variant,
        identity_init=identity_init,
    )
    if variant == "released":
        return _attach_released(who, model, attention, levels, radix, input_size, identity_init, call)
    if variant != "paper":
        raise ValueError(f"{who}: variant must be 'paper' or 'released', got {variant!r}; choose one.")
    pyramid = partial(AttentionPyramid, attention=attention, levels=levels, radix=radix, order=order)
    return attach_to_stages(who, model, pyramid, None, input_size, identity_init, call)


def attach_mla(
    model: nn.Module,
    *,
    levels: Sequence[Level] = LEVELS,
    input_size: InputSize,
    blocks: Literal["all", "last"] = "all",
    heads: int = 4,
    memory: int = 64,
    where: Where = "instead",
    identity_init: bool = False,
) -> Attachment:
    """Put multi-level attention in the place of the 3x3 convolution `conv2` of a ResNet's last stage, or behind it.

    The batch norm and ReLU after the convolution stay. In its place, average pooling follows the attention where the
    convolution has a stride of 2, and the convolutions' weights leave the state dict and come back with `remove()`.
    The paper has it in their place; behind them the pretrained network is kept whole.

    Args:
        model: a ResNet; changed in place.
        levels: which of "pixel", "head" and "domain" to use.
        input_size: (height, width) of an input with 3 channels, or (channels, height, width).
        blocks: "all" blocks of the last stage, or the "last" one only.
        heads: heads of the head level.
        memory: slots of the domain level's memory.
        where: "instead" of the convolutions, as the paper has it, or "after" them.
        identity_init: start with attention that passes every finite map unchanged; only where it stands "after".

    Returns:
        The handle that lists the attention and takes it out again.

    Raises:
        ValueError: the model is no ResNet, a block already carries attention at this place, the identity is asked for
            in the place of a convolution, or an option does not suit the channels. The model is then as it was.

    Example:
        >>> from torchvision.models import resnet18
        >>> attachment = attach_mla(resnet18(), levels=("pixel",), input_size=(256, 128), blocks="last")
        >>> [(site.name, site.size) for site in attachment.sites]
        [('layer4.1.conv2', (8, 4))]
    """
    who = "attach_mla"
    if blocks not in ("all", "last"):
        raise ValueError(f"{who}: blocks must be 'all' or 'last', got {blocks!r}; pass one of them.")
    if where not in ("instead", "after"):
        raise ValueError(f"{who}: where must be 'instead' or 'after', got {where!r}; pass one of them.")
    if identity_init and where == "instead":
        raise ValueError(
            f"{who}: identity_init must stay False with where='instead': without the convolutions the model is "
            "another; use where='after' to start from the model as it is."
        )
    check_plain(who, model)
    check_resnet(who, model)
    survey = look(who, model, input_size)
    names = [f"layer4.{name}.conv2" for name, _ in blocks_of(model, "layer4")]
    sites = select(who, model, survey, names if blocks == "all" else names[-1:])
    places = [Place(site, "after") for site in sites] if where == "after" else []
    for site in sites if where == "instead" else ():
        stride = _stride_of_3x3(who, site.name, model.get_submodule(site.name))
        taken = survey.seen[site.name].taken or ()
        before = dataclasses.replace(site, size=(taken[2], taken[3]))
        places.append(Place(before, "instead", stride))
    attention = partial(MultiLevelAttention, levels=levels, heads=heads, memory=memory)
    options = {"levels": levels, "input_size": input_size, "blocks": blocks, "heads": heads, "memory": memory}
    call = describe_call(who, **options, where=where, identity_init=identity_init)
    return put_in(who, model, attention, places, survey, call, identity_init=identity_init)


def attach_se(model: nn.Module, *, reduction: int = REDUCTION, input_size: InputSize = (64, 64)) -> Attachment:
    """Put squeeze-and-excitation into every residual block, before the addition: SE-ResNet (Hu et al.).

    APNet's Table II has it as a baseline. In a ResNet the gates stand after each block's last batch norm. In any other
    backbone they stand where the last residual branch of each block ends, which is found by trying what is added: after
    the inverted bottleneck of a MobileNet, after the MLP of a ViT's or Swin's block.

    Args:
        model: a backbone with residual blocks; changed in place.
        reduction: the hidden width is the block's channels divided by this.
        input_size: what the channels are measured with, (height, width) or (channels, height, width); any that the
            model takes will do, since SE suits maps of all sizes, but the sites and the table show the maps' sizes for
            it.

    Returns:
        The handle that lists the gates and takes them out again.

    Raises:
        ValueError: the model has no residual blocks or does not run on this input, or a block already carries attention
            at this place. The model is then as it was.

    Example:
        >>> from torchvision.models import resnet18
        >>> attachment = attach_se(resnet18())
        >>> [site.name for site in attachment.sites][:3]
        ['layer1.0.bn2', 'layer1.1.bn2', 'layer2.0.bn2']
    """
    who = "attach_se"
    check_plain(who, model)
    survey = look(who, model, input_size)
    names = _last_norms(model) if is_resnet(model) else branch_ends(model, survey)
    if not names:
        raise ValueError(
            f"{who}: the model must have residual blocks, with a branch that is added, got {type(model).__name__} "
            "without any that could be found; use attach_pyramid, or attach(model, ..., at=...) with names that "
            "find_sites(model, ...) lists."
        )
    places = [Place(site, "after") for site in select(who, model, survey, names)]
    call = describe_call(who, reduction=reduction, input_size=input_size)
    return put_in(who, model, partial(SqueezeExcitation, reduction=reduction), places, survey, call)


def _last_norms(model: nn.Module) -> list[str]:
    """Return the last batch norm of each block of a ResNet."""
    names = []
    for stage in RESNET.stages:
        for name, block in blocks_of(model, stage):
            norm = "bn3" if isinstance(block._modules.get("bn3"), nn.Module) else "bn2"
            names.append(f"{stage}.{name}.{norm}")
    return names


def _attach_released(
    who: str,
    model: nn.Module,
    attention: Attention | Sequence[Attention],
    levels: int | Sequence[int],
    radix: int,
    input_size: InputSize,
    identity_init: bool,
    call: Call | None,
) -> Attachment:
    if attention != "se" or radix != RADIX or levels not in (0, 1, 2) or isinstance(levels, bool):
        raise ValueError(
            f"{who}: the released variant must have attention='se', levels 0, 1 or 2 and no radix of its own (it is "
            f"the level; its level 3 would split 64 channels in 3), got attention={attention!r}, levels={levels!r}, "
            f"radix={radix!r}; use variant='paper' for others."
        )
    if identity_init:
        raise ValueError(
            f"{who}: identity_init must stay False with variant='released', which takes the stem's ReLU out; use "
            "variant='paper' to start from the model as it is."
        )
    check_plain(who, model)
    check_resnet(who, model)
    survey = look(who, model, input_size)
    missing = [name for name in _STEM if name not in survey.sites]
    if missing:
        raise ValueError(
            f"{who}: the released variant must find the stem's relu and maxpool, got a model without "
            f"{' and '.join(map(repr, missing))}; use variant='paper'."
        )
    [relu] = select(who, model, survey, "relu")
    places = [Place(relu, "instead", attention=lambda channels: nn.Identity())]
    if levels:
        places += [Place(site, "after") for site in select(who, model, survey, ("maxpool", *RESNET.stages))]
    agents = (partial(SqueezeExcitation, hidden=8), "split")[: int(levels)]
    pyramid = partial(AttentionPyramid, attention=agents, levels=levels, order="fine_to_coarse")
    return put_in(who, model, pyramid, places, survey, call)


def _stride_of_3x3(who: str, name: str, conv: nn.Module) -> int:
    is_fit = isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3) and conv.in_channels == conv.out_channels
    if is_fit and conv.stride in ((1, 1), (2, 2)):
        return int(conv.stride[0])
    raise ValueError(
        f"{who}: {name!r} must be a 3x3 convolution with equal channels and stride 1 or 2, got {conv}; "
        "use attach(model, ..., where='instead') at a place that keeps its map's shape."
    )
