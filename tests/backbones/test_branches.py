"""Where residual branches end: blocks written by hand, of every kind, and a published network."""

from collections.abc import Callable

import pytest
import torch
import torchvision.models
from torch import Tensor, nn
from torch.nn import functional

from attnreid.backbones import attach_se, attachments
from attnreid.backbones._branches import _awake
from attnreid.checkpoints import load_checkpoint, save_checkpoint

C = 8
SIZE = (16, 8)


def conv(channels: int = C) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1), nn.BatchNorm2d(channels))


class PostActivation(nn.Module):
    """A ReLU behind the addition, in place, as in a ResNet; the shortcut is projected last."""

    def __init__(self, projected: bool = False) -> None:
        super().__init__()
        self.first, self.act, self.last = conv(), nn.ReLU(inplace=True), conv()
        self.shortcut = nn.Sequential(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C)) if projected else None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.last(self.act(self.first(x)))
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.relu(branch + shortcut)


class FunctionalActivation(nn.Module):
    """As a ResNet's block, with functions for activations."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.first, self.last, self.inplace = conv(), conv(), inplace

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.last(functional.relu(self.first(x))), inplace=self.inplace)


class Scaled(nn.Module):
    """A branch with a scale for each channel that starts at 0, as ReZero and layer scales do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.scale = conv(), conv(), Scale()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale(self.last(self.first(x).relu()))


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(C, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * x


class PreActivation(nn.Module):
    """Nothing behind the addition, which is done in place; the branch passes a dropout at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first, self.last, self.drop = nn.BatchNorm2d(C), conv(), nn.Conv2d(C, C, 1), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.drop(self.last(self.first(self.norm(x)).relu()))
        branch += x
        return branch


class Transformer(nn.Module):
    """Two branches, one after another, on a map."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.mlp = conv(), nn.Sequential(nn.Conv2d(C, C, 1), nn.GELU(), nn.Conv2d(C, C, 1))

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        x = x + scale * self.mix(x)
        return x + self.mlp(x)


class Plain(nn.Module):
    """No addition."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv(), conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())


def network(*blocks: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, C, 3, 1, 1), nn.Sequential(*blocks), nn.Conv2d(C, 4, 1))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model.eval()


KINDS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "activation behind it": (PostActivation, "last"),
    "projected shortcut": (lambda: PostActivation(projected=True), "last"),
    "nothing behind it": (PreActivation, "drop"),
    "two branches": (Transformer, "mlp"),
    "a function behind it": (FunctionalActivation, "last"),
    "a function in place behind it": (lambda: FunctionalActivation(inplace=True), "last"),
    "a scale of 0": (Scaled, "scale"),
}


@pytest.mark.parametrize(("make", "end"), KINDS.values(), ids=KINDS)
def test_the_gate_stands_at_the_end_of_the_last_branch(make: Callable[[], nn.Module], end: str, observe) -> None:
    model = network(Plain(), make(), make())
    before = observe(model)
    attachment = attach_se(model, reduction=2, input_size=SIZE)
    assert [site.name for site in attachment.sites] == [f"1.1.{end}", f"1.2.{end}"]
    attachment.remove()
    assert observe(model) == before


@pytest.mark.parametrize(("make", "end"), KINDS.values(), ids=KINDS)
def test_a_gate_of_zero_leaves_the_rest_of_the_block(make: Callable[[], nn.Module], end: str) -> None:
    model, x = network(make()), torch.randn(2, 3, *SIZE)
    block = model[1][0]
    attach_se(model, reduction=2, input_size=SIZE)
    for name, module in model.named_modules():
        if name.endswith("attention.probe"):
            module.register_forward_hook(lambda _, __, gate: torch.zeros_like(gate))
    shut: list[Tensor] = []
    block.register_forward_hook(lambda _, inputs, output: shut.extend((inputs[0].clone(), output.clone())))
    stem = model[0](x)
    model(x)
    rest = {
        PostActivation: lambda: (stem if block.shortcut is None else block.shortcut(stem)).relu(),
        PreActivation: lambda: stem,
        FunctionalActivation: lambda: stem.relu(),
        Scaled: lambda: stem,
        Transformer: lambda: stem + block.mix(stem),
    }[type(block)]()
    torch.testing.assert_close(shut[1], rest)


def test_a_published_network() -> None:
    torch.manual_seed(0)
    model, x = torchvision.models.mobilenet_v3_small().eval(), torch.randn(2, 3, 64, 64)
    plain = model(x)
    attachment = attach_se(model, input_size=(64, 64))
    assert [site.name for site in attachment.sites] == [f"features.{block}.block" for block in (3, 5, 6, 8, 10, 11)]
    assert not torch.equal(model(x), plain)
    attachment.remove()
    assert torch.equal(model(x), plain)


def test_a_checkpoint_rebuilds_it(tmp_path) -> None:
    model, other = network(Transformer()), network(Transformer())
    attach_se(model, reduction=2, input_size=SIZE)
    save_checkpoint(model, tmp_path / "model.safetensors")
    load_checkpoint(other, tmp_path / "model.safetensors")
    assert attachments(other)[0].call == attachments(model)[0].call
    x = torch.randn(2, 3, *SIZE)
    assert torch.equal(other(x), model(x))


def test_a_network_without_residual_blocks_is_refused(observe) -> None:
    model = network(Plain(), Plain())
    before = observe(model)
    with pytest.raises(ValueError, match=r"attach_se: .*residual blocks.*got Sequential .*attach_pyramid"):
        attach_se(model, input_size=SIZE)
    assert observe(model) == before


def test_a_scale_is_woken_where_all_of_it_is_zero() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    with torch.no_grad():
        model[0].weight.zero_()
        model[1].weight[1] = 0
    _awake(model)
    assert model[0].weight.tolist() == [1, 1, 1]
    assert model[1].weight.tolist() == [1, 0, 1]
    assert model[0].bias.tolist() == [0, 0, 0]
