"""Recording gates: what is seen, under which name, and that nothing stays behind."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from attnreid import _recording
from attnreid.attention_maps import record_attention
from attnreid.backbones import attach, attach_apnet, attach_mla
from attnreid.layers import MultiLevelAttention, SqueezeExcitation

SIZE = (64, 32)


@pytest.fixture
def model() -> ResNet:
    torch.manual_seed(0)
    return ResNet(BasicBlock, [1, 1, 1, 1]).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _nothing_listens():
    yield
    assert _recording.listeners == []


def test_gates_per_site_and_level(model: ResNet, images: Tensor) -> None:
    attach_apnet(model, "se", input_size=SIZE)
    attach_mla(model, input_size=SIZE, memory=8)
    with record_attention(model) as gates:
        model(images)
    assert set(gates) == {"layer1", "layer2", "layer3", "layer4", "layer4.0.conv2"}
    assert {level: gate.shape for level, gate in gates["layer2"].items()} == {
        "level1": (2, 128, 1, 1),
        "level2": (2, 128, 1, 1),
    }
    mla = gates["layer4.0.conv2"]
    assert mla["pixel"].shape == (2, 512, 2, 1)
    assert mla["domain"].shape == (2, 8, 2, 1)
    assert not any(gate.requires_grad for levels in gates.values() for gate in levels.values())


def test_gate_is_the_one_that_was_applied(model: ResNet, images: Tensor) -> None:
    attach(model, "se", "layer1", input_size=SIZE)
    maps: list[Tensor] = []
    model.layer1.attention.register_forward_hook(lambda layer, x, y: maps.extend([x[0], y]))
    with torch.no_grad(), record_attention(model) as gates:
        model(images)
    assert torch.equal(maps[0] * gates["layer1"]["se"], maps[1])


def test_last_pass_wins_and_stays(model: ResNet, images: Tensor) -> None:
    attach(model, "se", "layer1", input_size=SIZE)
    with record_attention(model) as gates:
        assert gates == {}
        model(images)
        first = gates["layer1"]["se"]
        model(images + 1)
    assert not torch.equal(gates["layer1"]["se"], first)
    kept = gates["layer1"]["se"]
    model(images)
    assert gates["layer1"]["se"] is kept


def test_gate_that_is_blended_in_is_seen(model: ResNet, images: Tensor) -> None:
    attach(model, "se", "layer1", input_size=SIZE, identity_init=True)
    with record_attention(model) as gates:
        model(images)
    assert gates["layer1"]["se"].shape == (2, 64, 1, 1)


def test_layers_of_the_models_own_have_their_names(images: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), SqueezeExcitation(8), MultiLevelAttention(8, levels=("pixel",)))
    attach(model, "se", "0", input_size=SIZE)
    with record_attention(model) as gates:
        model(images)
    assert {site: list(levels) for site, levels in gates.items()} == {
        "0": ["se"],
        "1": ["se"],
        "2.pixel": ["pixel"],
    }
    with record_attention(model[1]) as gates:
        model(images)
    assert list(gates) == [""]


def test_models_do_not_hear_each_other(model: ResNet, images: Tensor) -> None:
    attach(model, "se", "layer1", input_size=SIZE)
    double = copy.deepcopy(model)
    with record_attention(model) as gates, record_attention(double) as others:
        double(images)
    assert gates == {}
    assert list(others) == ["layer1"]


def test_nothing_stays_behind_after_an_error(model: ResNet, images: Tensor) -> None:
    attach(model, "se", "layer1", input_size=SIZE)
    before = {name: sorted(vars(module)) for name, module in model.named_modules()}
    with pytest.raises(RuntimeError), record_attention(model):
        model(images[:, :2])
    assert _recording.listeners == []
    with record_attention(model):
        model(images)
    assert {name: sorted(vars(module)) for name, module in model.named_modules()} == before
