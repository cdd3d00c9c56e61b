"""A plain ResNet-50 becomes the backbone of a released network."""

from functools import partial
from math import prod
from typing import Any

from torch import nn

from attnreid.backbones import Attachment, attach, attach_apnet, attachments, find_sites, set_last_stride
from attnreid.backbones.families import check_resnet
from attnreid.backbones.sites import InputSize
from attnreid.checkpoints._layouts import RGA_SITES, layout_difference, resnet50_shapes
from attnreid.checkpoints._tensors import flat, load_whole
from attnreid.checkpoints.released import ReleasedNetwork
from attnreid.pyramid import AttentionPyramid

_ATTACH = "attach_released"
_HEAD = "fc."  # a ResNet's own classifier, which the released backbones do not have


def attach_released(model: nn.Module, released: ReleasedNetwork, *, input_size: InputSize) -> Attachment:
    """Turn a plain ResNet-50 into the backbone of a released network: its attention and all its weights.

    The last stride becomes 1, as in these networks, and in APNet's the stem's ReLU is taken out. The model's own
    classifier `fc` stays as it is: with `nn.Identity()` in its place the model gives the pooled feature. In
    eval mode the outputs are the released network's, up to rounding; for APNet `remove()` gives the ReLU back, the
    weights and the stride stay.

    Args:
        model: a ResNet-50 with torchvision's names and without attention; changed in place.
        released: what `read_released` returned; it stays as it is.
        input_size: (height, width) of an input with 3 channels, or (channels, height, width). RGA's needs the
            one that it was trained for, (256, 128) in the released files; `Attachment.resize` takes it to others.

    Returns:
        The handle that lists the attention and takes it out again.

    Raises:
        ValueError: the model is no plain ResNet-50, or the input size gives other maps than RGA's attention
            was made for. The model is then as it was.

    Example:
        >>> from torch import nn
        >>> from torchvision.models import resnet50
        >>> def load_backbone(path):
        ...     released = read_released(path)
        ...     model, neck = resnet50(), nn.BatchNorm1d(2048)
        ...     attach_released(model, released, input_size=(256, 128))
        ...     model.fc = nn.Identity()
        ...     neck.load_state_dict(released.neck)
        ...     return nn.Sequential(model, neck).eval()
    """
    check_resnet(_ATTACH, model)
    carried = [site.name for one in attachments(model) for site in one.sites]
    if carried:
        raise ValueError(
            f"{_ATTACH}: the model must carry no attention, got some at {', '.join(map(repr, carried))}; remove() "
            "it first."
        )
    head = {key: value for key, value in model.state_dict().items() if key.startswith(_HEAD)}
    difference = layout_difference(
        {key: value for key, value in model.state_dict().items() if key not in head}, resnet50_shapes()
    )
    if difference:
        raise ValueError(
            f"{_ATTACH}: the model must be a ResNet-50 with torchvision's names, got {difference}; pass one, without a "
            f"head but {_HEAD.rstrip('.')!r}."
        )
    strides = _strides(model)
    attachment: Attachment | None = None
    try:
        set_last_stride(model, 1)
        attachment = _put_attention(model, released, input_size)
        load_whole(model, {**head, **released.backbone}, versions={}, strict=True)
    except BaseException as error:
        if attachment is not None:
            attachment.remove()
        if _strides(model) != strides:
            set_last_stride(model, 2)
        if isinstance(error, RuntimeError):  # of load_state_dict
            raise ValueError(
                f"{_ATTACH}: released must be one of read_released; loading it failed: {flat(error)}"
            ) from error
        raise
    return attachment


def _strides(model: nn.Module) -> list[Any]:
    return [getattr(module, "stride", None) for module in model.get_submodule("layer4").modules()]


def _put_attention(model: nn.Module, released: ReleasedNetwork, input_size: InputSize) -> Attachment:
    if released.layout == "apnet":
        return attach_apnet(model, levels=released.levels, variant="released", input_size=input_size)
    sizes = {site.name: site.size or () for site in find_sites(model, input_size) if site.name in RGA_SITES}
    positions = tuple(prod(sizes[name]) for name in RGA_SITES)
    if positions != released.positions:
        raise ValueError(
            f"{_ATTACH}: the maps must have {', '.join(map(str, released.positions))} positions after the four "
            f"stages, for which this network's attention was made, got {', '.join(map(str, positions))} at input_size="
            f"{tuple(input_size)}; pass the size that it was trained with, (256, 128) in the released files, and "
            "resize() the attachment to this one."
        )
    kinds = [name for name, has in (("rga_s", released.spatial), ("rga_c", released.channel)) if has]
    pyramid = partial(AttentionPyramid, attention=tuple(kinds), levels=(1,) * len(kinds))  # the spatial one first
    return attach(model, pyramid, RGA_SITES, input_size=input_size)
