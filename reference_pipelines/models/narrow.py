"""The demo's network: torchvision's ResNet with one narrow bottleneck a stage."""

from torchvision.models.resnet import Bottleneck, ResNet


class NarrowBottleneck(Bottleneck):
    """torchvision's bottleneck that does not widen its output."""

    expansion = 1


def resnet_demo() -> ResNet:
    """Return it with random weights."""
    return ResNet(NarrowBottleneck, [1, 1, 1, 1], width_per_group=32)
