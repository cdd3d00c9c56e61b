"""The papers' placements, ready to use on torchvision's ResNet family (18 to 152, ResNeXt, Wide).

A ResNet is known by its parts, not by its class: `layer1` to `layer4`, each a row of blocks with `conv1`,
`bn1`, `conv2` and `bn2`.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import nn

from attnreid.backbones._building import Attention
from attnreid.backbones._surgery import CHILD, mark_of
from attnreid.backbones.attach import Attachment, Place, attachments, put_in
from attnreid.backbones.sites import InputSize, Survey, look, select
from attnreid.layers.multi_level import LEVELS, Level, MultiLevelAttention
from attnreid.pyramid import RADIX, AttentionPyramid

_STAGES = ("layer1", "layer2", "layer3", "layer4")
_BLOCK_PARTS = ("conv1", "bn1", "conv2", "bn2")


def attach_apnet(
    model: nn.Module,
    attention: Attention | Sequence[Attention] = "se",
    *,
    levels: int | Sequence[int] = 2,
    radix: int = RADIX,
    input_size: InputSize,
    identity_init: bool = False,
) -> Attachment:
    """Put an attention pyramid after each of a ResNet's four stages, where the APNet paper has them.

    The paper trains with a last stride of 1: call `set_last_stride(model)` first.

    Args:
        model: a ResNet; changed in place.
        attention: "se" for the paper's APNet-C, "rga_s" for APNet-S, or what else `AttentionPyramid` takes.
        levels: how many levels the pyramids have, or the parts of each level.
        radix: into how many parts each level splits those of the level before.
        input_size: (height, width) of an input with 3 channels, or (channels, height, width).
        identity_init: start with pyramids that pass every finite map unchanged.

    Returns:
        The handle that lists the pyramids and takes them out again.

    Raises:
        ValueError: the model is no ResNet, a stage already carries attention, or a stage's channels or height
            cannot be split into that many parts. The model is then as it was.

    Example:
        >>> from torchvision.models import resnet18
        >>> attachment = attach_apnet(resnet18(), "se", levels=3, input_size=(256, 128))
        >>> [site.name for site in attachment.sites]
        ['layer1', 'layer2', 'layer3', 'layer4']
    """
    who = "attach_apnet"
    _check_resnet(who, model)
    pyramid = partial(AttentionPyramid, attention=attention, levels=levels, radix=radix)
    survey = look(who, model, input_size)
    sites = select(who, model, survey, _STAGES)
    try:
        places = [Place(site, "after") for site in sites]
        return put_in(who, model, pyramid, places, survey, identity_init=identity_init)
    except ValueError as error:
        heights = _heights_that_work(model, survey, attention, levels, radix)
        if heights is None:
            raise
        raise ValueError(f"{who}: {heights}") from error


def attach_mla(
    model: nn.Module,
    *,
    levels: Sequence[Level] = LEVELS,
    input_size: InputSize,
    blocks: Literal["all", "last"] = "all",
    heads: int = 4,
    memory: int = 64,
) -> Attachment:
    """Put multi-level attention in the place of the 3x3 convolution `conv2` of a ResNet's last stage.

    The batch norm and ReLU after the convolution stay. Where the convolution has a stride of 2, average
    pooling follows the attention. The convolutions' weights leave the state dict and come back with
    `remove()`.

    Args:
        model: a ResNet; changed in place.
        levels: which of "pixel", "head" and "domain" to use.
        input_size: (height, width) of an input with 3 channels, or (channels, height, width).
        blocks: "all" blocks of the last stage, or the "last" one only.
        heads: heads of the head level.
        memory: slots of the domain level's memory.

    Returns:
        The handle that lists the attention and takes it out again.

    Raises:
        ValueError: the model is no ResNet, a block already carries attention at this place, or an option does
            not suit the channels. The model is then as it was.

    Example:
        >>> from torchvision.models import resnet18
        >>> attachment = attach_mla(resnet18(), levels=("pixel",), input_size=(256, 128), blocks="last")
        >>> [(site.name, site.size) for site in attachment.sites]
        [('layer4.1.conv2', (8, 4))]
    """
    who = "attach_mla"
    if blocks not in ("all", "last"):
        raise ValueError(f"{who}: blocks must be 'all' or 'last', got {blocks!r}; pass one of them.")
    _check_resnet(who, model)
    survey = look(who, model, input_size)
    names = [f"layer4.{name}.conv2" for name, _ in _blocks(model, "layer4")]
    sites = select(who, model, survey, names if blocks == "all" else names[-1:])
    places = []
    for site in sites:
        stride = _stride_of_3x3(who, site.name, model.get_submodule(site.name))
        taken = survey.seen[site.name].taken or ()
        before = dataclasses.replace(site, size=(taken[2], taken[3]))
        places.append(Place(before, "instead", stride))
    attention = partial(MultiLevelAttention, levels=levels, heads=heads, memory=memory)
    return put_in(who, model, attention, places, survey)


def set_last_stride(model: nn.Module, stride: int = 1) -> None:
    """Set the stride of a ResNet's last stage, 1 for the larger last map that re-identification uses.

    Names and weights stay. Nothing changes where the stage has this stride already.

    Args:
        model: a ResNet; changed in place.
        stride: 1 or 2.

    Raises:
        ValueError: the stride is another, the model is no ResNet, or its last stage carries attention that
            was measured at the present stride. The model is then as it was.

    Example:
        >>> from torchvision.models import resnet18
        >>> model = resnet18()
        >>> set_last_stride(model)
        >>> model.layer4[0].conv1.stride
        (1, 1)
    """
    who = "set_last_stride"
    if stride not in (1, 2):
        raise ValueError(f"{who}: stride must be 1 or 2, got {stride!r}; a plain ResNet has 2.")
    _check_resnet(who, model)
    block = _blocks(model, "layer4")[0][1]
    shortcut = _shortcut(who, block)
    if shortcut.stride == (stride, stride):
        return
    carriers = [site.name for one in attachments(model) for site in one.sites if site.name.split(".")[0] == "layer4"]
    if carriers:
        raise ValueError(
            f"{who}: the last stage must carry no attention while its map's size changes, got attention at "
            f"{', '.join(repr(name) for name in carriers)}; remove() it, set the stride and attach it again."
        )
    _main_convolution(block).stride = shortcut.stride = (stride, stride)
    if isinstance(getattr(block, "stride", None), int):
        block.stride = stride  # type: ignore[assignment]


def _check_resnet(who: str, model: nn.Module) -> None:
    if _is_resnet(model):
        return
    children = ", ".join(repr(name) for name, _ in model.named_children()) or "none"
    inside = [name for name, module in model.named_modules() if name and _is_resnet(module)]
    advice = (
        f"pass the ResNet inside it, at {inside[0]!r}"
        if inside
        else "use attach(model, ..., at=...) with names that find_sites(model, ...) lists"
    )
    raise ValueError(
        f"{who}: the model must be a ResNet, with blocks of {', '.join(_BLOCK_PARTS)} in "
        f"{', '.join(_STAGES)}, got {type(model).__name__} with the children {children}; {advice}."
    )


def _is_resnet(model: nn.Module) -> bool:
    return all(isinstance(model._modules.get(stage), nn.Sequential) for stage in _STAGES) and all(
        _blocks(model, stage) and all(_is_block(block) for _, block in _blocks(model, stage)) for stage in _STAGES
    )


def _is_block(module: nn.Module) -> bool:
    return all(isinstance(module._modules.get(part), nn.Module) for part in _BLOCK_PARTS)


def _blocks(model: nn.Module, stage: str) -> list[tuple[str, nn.Module]]:
    row = model.get_submodule(stage)
    return [(name, block) for name, block in row.named_children() if not (name == CHILD and mark_of(row))]


def _stride_of_3x3(who: str, name: str, conv: nn.Module) -> int:
    is_fit = isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3) and conv.in_channels == conv.out_channels
    if is_fit and conv.stride in ((1, 1), (2, 2)):
        return int(conv.stride[0])
    raise ValueError(
        f"{who}: {name!r} must be a 3x3 convolution with equal channels and stride 1 or 2, got {conv}; "
        "use attach(model, ..., where='instead') at a place that keeps its map's shape."
    )


def _shortcut(who: str, block: nn.Module) -> nn.Conv2d:
    """Return the convolution of a block's downsample: it has the block's stride."""
    downsample = block._modules.get("downsample")
    convs = [conv for conv in downsample.modules() if isinstance(conv, nn.Conv2d)] if downsample else []
    if len(convs) != 1:
        raise ValueError(
            f"{who}: the last stage's first block must have a downsample with one convolution, got "
            f"{downsample}; set the strides by hand."
        )
    return convs[0]


def _main_convolution(block: nn.Module) -> nn.Conv2d:
    """Return what has the stride on a block's main path; at stride 1, what torchvision would give it to."""
    children = [block._modules.get(name) for name in ("conv1", "conv2", "conv3")]
    convs = [conv for conv in children if isinstance(conv, nn.Conv2d)]
    strided = [conv for conv in convs if conv.stride != (1, 1)]
    return (strided or convs[len(convs) - 2 :])[0]


def _heights_that_work(
    model: nn.Module,
    survey: Survey,
    attention: Attention | Sequence[Attention],
    levels: int | Sequence[int],
    radix: int,
) -> str | None:
    """Say which input heights suit a pyramid that splits the height; None where that was not the trouble."""
    parts = radix ** (levels - 1) if isinstance(levels, int) else math.lcm(*levels)
    maps = [survey.sites[stage].size or (0, 0) for stage in _STAGES]
    if parts < 1 or all(height % parts == 0 for height, _ in maps):
        return None
    try:
        # A height that divides: what is refused now was refused for another reason.
        probe = AttentionPyramid(
            survey.sites["layer1"].channels or 0,
            attention,
            levels=levels,
            radix=radix,
            size=(parts, 1),
            device="meta",
        )
    except (TypeError, ValueError):
        return None
    if all(level.dim != "height" or level.parts == 1 for level in probe.plan):
        return None
    _, channels, height, width = survey.inputs[0].shape
    tall = look("attach_apnet", model, (channels, 1024, width)).sites["layer4"].size or (1, 1)
    step = 1024 // tall[0] * parts
    below = height // step * step
    return (
        f"every stage's map must have a height that {parts} divides, since the attention splits it, got "
        f"{', '.join(str(map_height) for map_height, _ in maps)} at input height {height}; use an input "
        "height of " + (f"{below} or {below + step}." if below else f"{step}.")
    )
