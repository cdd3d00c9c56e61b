"""A ResNet with a branch for parts of the body beside the one for all of it (APNet, Section IV-C, for CUHK03)."""

from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from reference_pipelines.errors import UserError

if TYPE_CHECKING:
    from torchvision.models import ResNet


class WithLocalBranch(nn.Module):
    """A network whose third and fourth stage are there twice: for the whole map, and for strips of it.

    The paper says that the local branch begins with the third stage, that it is split in two along the height, and that
    its features are concatenated with the global one for matching. The branch starts as a copy of the network's own
    stages, attention and all, and is trained apart.

    Args:
        network: torchvision's ResNet without its last layer.
        parts: strips, from top to bottom.

    Shape:
        Input `(N, 3, H, W)`; output `(N, (1 + parts) * D)`: the global feature, then those of the strips.
    """

    def __init__(self, network: "ResNet", parts: int) -> None:
        super().__init__()
        self.network = network
        self.local = nn.Sequential(deepcopy(network.layer3), deepcopy(network.layer4))
        self.parts = parts

    def forward(self, images: Tensor) -> Tensor:
        """Return the features."""
        network = self.network
        shared = network.maxpool(network.relu(network.bn1(network.conv1(images))))
        shared = network.layer2(network.layer1(shared))
        whole = network.layer4(network.layer3(shared))
        strips = self.local(shared).chunk(self.parts, dim=2)
        return torch.cat([network.avgpool(map_).flatten(1) for map_ in (whole, *strips)], dim=1)


class PartClassifier(nn.Module):
    """A linear classifier without bias for each of several features.

    Shape:
        Input `(N, features * D)`; output `(N, features * out_features)`, the first feature's logits first.
    """

    def __init__(self, features: int, width: int, classes: int) -> None:
        super().__init__()
        self.out_features = classes
        self.weight = nn.Parameter(torch.empty(features, width, classes))

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits."""
        count, width, _ = self.weight.shape
        logits = torch.einsum("nfd,fdc->nfc", features.unflatten(1, (count, width)), self.weight)
        return logits.flatten(1)


def with_local_branch(network: nn.Module, name: str, parts: int, image_size: tuple[int, int]) -> WithLocalBranch:
    """Return a backbone with its local branch.

    Args:
        network: the backbone, attention and all.
        name: how the config calls it.
        parts: strips of the last map.
        image_size: (height, width) of the images.

    Raises:
        UserError: it is no ResNet of torchvision's, or the height of its last map does not divide into the parts.
    """
    from torchvision.models import ResNet  # takes a second, and no other network needs it

    if not isinstance(network, ResNet):
        raise UserError(
            f"model: {name} must be a ResNet of torchvision's for model.local_parts, whose third and fourth stage are "
            "there twice then; choose one, or leave the parts out"
        )
    heights: list[int] = []
    handle = network.layer4.register_forward_hook(lambda _module, _inputs, output: heights.append(output.shape[2]))
    training = network.training
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, *image_size, device=network.conv1.weight.device))
    network.train(training)
    handle.remove()
    if heights[0] % parts:
        raise UserError(
            f"model: the last map must divide into model.local_parts ({parts}) along its height, got {heights[0]} rows "
            f"at {image_size[0]}x{image_size[1]}; choose another height, or other parts"
        )
    return WithLocalBranch(network, parts)
