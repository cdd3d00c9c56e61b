"""Networks whose evidence is known: they add up one colour, wherever it is in the image."""

import torch
from torch import Tensor, nn

from reference_pipelines.models import ReidModel

SIZE = (32, 16)  # of the images; the last map is a quarter of it
COLOURS = 3  # class 0 is how much red there is, class 1 green, class 2 blue


class ChannelsLast(nn.Module):
    """Runs a layer on (N, C, H, W) and hands on (N, H, W, C)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Tokens(nn.Module):
    """A block on tokens behind one that stands for the class, of the patches row by row."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).relu()


class WithMaps(nn.Module):
    """Two stages of maps in either memory order."""

    def __init__(self, *, channels_last: bool = False) -> None:
        super().__init__()
        self.channels_last = channels_last
        around = ChannelsLast if channels_last else nn.Sequential
        self.first = around(nn.Sequential(_planted(nn.Conv2d(3, 4, 3, 2, 1)), nn.ReLU(), _same(nn.Conv2d(4, 4, 1))))
        self.second = around(nn.Sequential(_same(nn.Conv2d(4, 4, 3, 2, 1)), nn.ReLU(), _same(nn.Conv2d(4, 4, 1))))

    def forward(self, x: Tensor) -> Tensor:
        if self.channels_last:
            return self.second(self.first(x.permute(0, 2, 3, 1))).mean(dim=(1, 2))
        return self.second(self.first(x)).mean(dim=(2, 3))


class WithTokens(nn.Module):
    """Patches of 4x4, then two blocks, and the mean of the patches' tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = _planted(nn.Conv2d(3, 4, 4, 4))
        self.front = nn.Parameter(torch.zeros(1, 1, 4))
        self.blocks = nn.Sequential(*(Tokens(_same(nn.Linear(4, 4))) for _ in range(4)))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.blocks(torch.cat([self.front.expand(len(x), -1, -1), tokens], dim=1))[:, 1:].mean(dim=1)


class NoMaps(nn.Module):
    """Has no place in the image left after its first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE[0] * SIZE[1], 4), nn.ReLU(), nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def model_of(backbone: nn.Module) -> ReidModel:
    """Return a network whose class k is the amount of colour k."""
    model = ReidModel(backbone, 4, classes=COLOURS).eval()
    with torch.no_grad():
        model.classifier.weight.copy_(torch.eye(COLOURS, 4))
    return model


def painted(*squares: tuple[int, int, int]) -> Tensor:
    """Return a grey image (3, 32, 16) with squares of 8 pixels: colour, top, left."""
    image = torch.full((3, *SIZE), 0.3)
    for colour, top, left in squares:
        image[:, top : top + 8, left : left + 8] = 0
        image[colour, top : top + 8, left : left + 8] = 1
    return image


def _planted(layer: nn.Conv2d) -> nn.Conv2d:
    """Make channel k of 4 react to colour k where the other two are less."""
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
        height, width = layer.kernel_size
        for colour in range(COLOURS):
            layer.weight[colour] = -1.0 / (height * width)
            layer.weight[colour, colour] = 1.0 / (height * width)
        layer.bias.fill_(-0.05)
    return layer


def _same(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """Make a layer hand on each channel as it is."""
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
        for channel in range(4):
            if isinstance(layer, nn.Linear):
                layer.weight[channel, channel] = 1.0
            else:
                layer.weight[channel, channel, layer.kernel_size[0] // 2, layer.kernel_size[1] // 2] = 1.0
    return layer
