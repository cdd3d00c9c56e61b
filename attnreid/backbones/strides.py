"""The stride of a ResNet's last stage, which re-identification sets to 1."""

from torch import nn

from attnreid.backbones.attach import attachments
from attnreid.backbones.families import blocks_of, check_resnet


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
    check_resnet(who, model)
    block = blocks_of(model, "layer4")[0][1]
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
