"""The stride of a backbone's last stage, which re-identification sets to 1.

| family | where the last stride is |
|---|---|
| ResNet | what has a stride of 2 in the first block of `layer4`: convolutions, pooling, blurring |
| DenseNet | the pooling in `features.transition3`, before the last block |
| Inception-V3 | two convolutions and a pooling in `Mixed_7a` |
| any other staged network | what halves the map between the last two stages that looking finds (`_last_stage.py`) |

What to change is written down first, as data, and tried on a copy; the model is changed if the copy's map has
the size that it should have.
"""

import os.path
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnreid.backbones._last_stage import Edit, check_last_stage, find_last_stage
from attnreid.backbones._measuring import Observation, Seen, observe, stand_in
from attnreid.backbones._wrapping import check_python
from attnreid.backbones.attach import attachments
from attnreid.backbones.families import DENSENET, INCEPTION_V3, RESNET, Family, blocks_of, family_of
from attnreid.backbones.sites import InputSize, is_input_size, look

_UNDO = "_attnreid_last_stride"
_HEIGHT, _WIDTH = 256, 128
_STAGE = {RESNET: "layer4", DENSENET: "features.transition3", INCEPTION_V3: "Mixed_7a"}
_UNPADDED = {INCEPTION_V3: 2}  # rows that its convolutions lose at stride 1


def set_last_stride(model: nn.Module, stride: int = 1, *, input_size: InputSize | None = None) -> None:
    """Set the stride of a backbone's last stage, 1 for the larger last map that re-identification uses.

    For ResNets (torchvision's, and timm's with average pooling or blurring in the shortcut), DenseNets, Inception-V3
    and any other network whose last stage has a map half as high and wide as the one before, by the strides of
    convolutions, pooling or blurring. Names and weights stay. Nothing changes where the stage has this stride already.
    Inception's convolutions are not padded: at stride 1 its last map is two rows smaller than the one before it.

    In a network of no family the last stage is where the map gets smaller for the last time. One that was built with a
    stride of 1 in its last stage is not told apart: its last stride is that of the stage before.

    Args:
        model: the backbone; changed in place.
        stride: 1 or 2.
        input_size: what the maps are measured with, (height, width) or (channels, height, width); 256x128 if it is left
            out, with the channels of the first convolution.

    Raises:
        ValueError: the stride is another, the model does not run, has maps of one size or makes the last one smaller by
            other means than a stride (Swin merges patches), its last stage gives a map of another size than this
            stride should, the images are too small to see a stride there, or attention was measured at the present
            stride. The model is then as it was.

    Example:
        >>> from torchvision.models import resnet18
        >>> model = resnet18()
        >>> set_last_stride(model)
        >>> model.layer4[0].conv1.stride
        (1, 1)
    """
    who = "set_last_stride"
    if stride not in (1, 2):
        raise ValueError(f"{who}: stride must be 1 or 2, got {stride!r}; a plain backbone has 2.")
    check_python(who, model)
    if input_size is not None and not is_input_size(input_size):
        raise ValueError(
            f"{who}: input_size must be (height, width) or (channels, height, width) of positive integers, got "
            f"{input_size!r}."
        )
    channels = next((module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), 3)
    size = (channels, _HEIGHT, _WIDTH) if input_size is None else (3, *input_size)[-3:]
    family = family_of(model)
    if family is None:
        _set_where_it_is_found(who, model, stride, size)
        return
    stage = _STAGE[family]
    double = _stand_in(who, model, size)
    before = _observe(double, size)
    now = _stride_of(who, before, family, size)
    if now == stride:
        return
    region = f"layer4.{blocks_of(model, 'layer4')[0][0]}" if family is RESNET else stage
    edits = _edits(who, family, model.get_submodule(region), stride)
    _edit(double.get_submodule(region), edits)
    after = _observe(double, size)
    if after.error is not None and before.error is None:
        raise ValueError(
            f"{who}: the model must run with a last stride of {stride}; it failed with: {after.error}. Set the stride "
            "where the model is built."
        )
    if _stride_of(who, after, family, size) != stride:
        raise ValueError(
            f"{who}: {stage!r} must give a map of the size for a stride of {stride}, got {after.seen[stage].given} "
            f"from {after.seen[stage].taken}; set the stride where the model is built."
        )
    _check_no_attention(who, model, stage, before.seen, after.seen)
    _change(model.get_submodule(region), edits)


def _set_where_it_is_found(who: str, model: nn.Module, stride: int, input_size: InputSize) -> None:
    """Do it in a network of no family."""
    changed = next((name for name, module in model.named_modules() if _UNDO in vars(module)), None)
    if changed is not None and stride == 1:
        return
    survey = look(who, model, input_size)
    if changed is not None:
        region, edits = changed, vars(model.get_submodule(changed))[_UNDO]
    else:
        stage = find_last_stage(who, model, survey)
        if stride == 2:
            return
        region, edits = _together(stage.edits)
    _edit(survey.double.get_submodule(region), edits)
    after = observe(survey.double, [tensor.to("meta") if survey.meta else tensor for tensor in survey.inputs])
    if changed is None:
        check_last_stage(who, stage, survey, after)
    _check_no_attention(who, model, None, survey.seen, after.seen)
    _change(model.get_submodule(region), edits)


def _together(edits: Iterable[Edit]) -> tuple[str, list[Edit]]:
    """Return the innermost module around all that is edited, and the edits with names inside it."""
    region = os.path.commonpath([name.replace(".", "/") for name, _, _ in edits]).replace("/", ".")
    return region, [(name.removeprefix(region).removeprefix("."), key, value) for name, key, value in edits]


class ReductionOfStride1(nn.Module):
    """Inception-V3's `Mixed_7a` at stride 1: its own forward has the pooling's stride of 2 in its code."""

    branch3x3_1: nn.Module
    branch3x3_2: nn.Module
    branch7x7x3_1: nn.Module
    branch7x7x3_2: nn.Module
    branch7x7x3_3: nn.Module
    branch7x7x3_4: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 768, H, W) to (N, 1280, H - 2, W - 2)."""
        narrow = self.branch3x3_2(self.branch3x3_1(x))
        wide = self.branch7x7x3_2(self.branch7x7x3_1(x))
        wide = self.branch7x7x3_4(self.branch7x7x3_3(wide))
        return torch.cat([narrow, wide, F.max_pool2d(x, kernel_size=3, stride=1)], 1)


def _edits(who: str, family: Family, part: nn.Module, stride: int) -> list[Edit]:
    undo: list[Edit] | None = vars(part).get(_UNDO)
    if undo is not None:
        return undo
    if stride == 2:
        if family is RESNET:
            return _as_torchvision_builds_it(who, part)
        raise ValueError(
            f"{who}: a stride of 2 must have been there before, to be set again, got a {family.name} that was built "
            "with 1; set the stride where the model is built."
        )
    edits: list[Edit] = []
    for name, module in part.named_modules():
        for key in ("stride", "kernel_size"):
            value = getattr(module, key, None)
            if not isinstance(value, int | tuple):
                continue
            # A window as large as its stride is for the stride alone; as large as the new one, it passes the map.
            if key == "kernel_size" and not (isinstance(module, nn.AvgPool2d) and value == module.stride):
                continue
            if value in (2, (2, 2)):
                edits.append((name, key, 1 if value == 2 else (1, 1)))
    if family is INCEPTION_V3:
        edits.append(("", "__class__", ReductionOfStride1))
    return edits


def _as_torchvision_builds_it(who: str, block: nn.Module) -> list[Edit]:
    """Return the edits for a stride of 2, for a block that never had one."""
    downsample = block._modules.get("downsample")
    shortcuts = [name for name, module in block.named_modules() if name.startswith("downsample") and _is_conv(module)]
    if len(shortcuts) != 1:
        raise ValueError(
            f"{who}: the last stage's first block must have a downsample with one convolution, got "
            f"{downsample}; set the strides where the model is built."
        )
    names = [name for name in ("conv1", "conv2", "conv3") if _is_conv(block._modules.get(name))]
    edits: list[Edit] = [(name, "stride", (2, 2)) for name in (names[len(names) - 2], shortcuts[0])]
    return [*edits, ("", "stride", 2)] if isinstance(getattr(block, "stride", None), int) else edits


def _is_conv(module: nn.Module | None) -> bool:
    return isinstance(module, nn.Conv2d)


def _change(part: nn.Module, edits: Iterable[Edit]) -> None:
    """Edit a part of the model, leaving on it how to undo that, or taking that away where this undoes it."""
    undo = [(name, key, getattr(part.get_submodule(name), key)) for name, key, _ in edits]
    _edit(part, edits)
    if vars(part).pop(_UNDO, None) is None:
        part.__dict__[_UNDO] = undo


def _edit(part: nn.Module, edits: Iterable[Edit]) -> None:
    for name, key, value in edits:
        setattr(part.get_submodule(name), key, value)


def _stand_in(who: str, model: nn.Module, size: tuple[int, ...]) -> nn.Module:
    try:
        double = stand_in(model, meta=True, bypass=True)
        return double if _observe(double, size).error is None else stand_in(model, meta=False, bypass=True)
    except ValueError as error:
        raise ValueError(f"{who}: {error}") from error


def _observe(double: nn.Module, size: tuple[int, ...]) -> Observation:
    like = next(double.parameters())
    return observe(double, [torch.zeros((2, *size), dtype=like.dtype, device=like.device)])


def _stride_of(who: str, observed: Observation, family: Family, size: tuple[int, ...]) -> int:
    """Return the stride of the last stage by the sizes of its maps; one that is neither 1 nor 2 is rounded."""
    stage = _STAGE[family]
    taken, given = observed.seen[stage].taken, observed.seen[stage].given
    if taken is None or given is None or len(taken) != 4 or len(given) != 4:
        raise ValueError(
            f"{who}: {stage!r} must map one map to another when the model runs on {size[1]}x{size[2]} images, and does "
            f"not{f'; it failed with: {observed.error}' if observed.error else ''}. Set the stride where the model is "
            "built."
        )
    pairs = [(large - _UNPADDED.get(family, 0), small) for large, small in zip(taken[2:], given[2:], strict=True)]
    told = [pair for pair in pairs if pair[0] > 1]
    if not told:
        raise ValueError(
            f"{who}: the images must be so large that {stage!r} takes a map whose size tells a stride of 1 from one of "
            f"2, got {size[1]}x{size[2]} images and a map of {taken[2]}x{taken[3]}; pass a larger input_size, such as "
            f"({_HEIGHT}, {_WIDTH})."
        )
    large, small = told[0]
    return next((stride for stride in (1, 2) if large // stride == small), round(large / small))


def _check_no_attention(
    who: str, model: nn.Module, stage: str | None, before: Mapping[str, Seen], after: Mapping[str, Seen]
) -> None:
    """Refuse attention in the last stage, where that has a name, and wherever the map's size changes."""
    sites = [site.name for one in attachments(model) for site in one.sites]
    carriers = [
        name
        for name in sites
        if (stage is not None and f"{name}.".startswith(f"{stage}.")) or before[name].given != after[name].given
    ]
    if carriers:
        raise ValueError(
            f"{who}: the last stage must carry no attention while its map's size changes, got attention at "
            f"{', '.join(repr(name) for name in carriers)}; remove() it, set the stride and attach it again."
        )
