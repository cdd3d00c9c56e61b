"""Backbones, their weights, and the head."""

import pickle

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from reference_pipelines.errors import UserError
from reference_pipelines.models import ModelConfig, ReidModel, build_backbone


def test_the_backbone_maps_images_to_pooled_features_with_last_stride_1():
    backbone, width = build_backbone(ModelConfig("resnet_demo", "none"))
    maps = []
    backbone.layer4.register_forward_hook(lambda module, inputs, output: maps.append(output.shape))
    assert backbone(torch.randn(2, 3, 96, 48)).shape == (2, width) == (2, 512)
    assert maps == [(2, 512, 6, 3)]
    assert isinstance(backbone, torchvision.models.ResNet)


def test_the_neck_has_no_trainable_shift_and_the_classifier_no_bias():
    model = ReidModel(nn.Flatten(), 12, classes=5)
    embedding = model(torch.randn(4, 3, 2, 2))
    assert not model.neck.bias.requires_grad
    assert model.classifier.bias is None
    assert torch.equal(embedding.features, model.neck(embedding.pooled)) or model.training
    assert embedding.logits.shape == (4, 5)
    assert ReidModel(nn.Flatten(), 12)(torch.randn(4, 3, 2, 2)).logits is None


def state_of(seed):
    torch.manual_seed(seed)
    return build_backbone(ModelConfig("resnet_demo", "none"))[0]


@pytest.mark.parametrize("kind", ["safetensors of a run", "torch state dict"])
def test_weights_from_a_file(tmp_path, kind):
    source = state_of(1)
    if kind == "safetensors of a run":
        path = tmp_path / "model.safetensors"
        save_file(ReidModel(source, 512, classes=3).state_dict(), path)
    else:
        path = tmp_path / "resnet.pth"
        torch.save({**source.state_dict(), "fc.weight": torch.zeros(10, 512)}, path)
    loaded, _ = build_backbone(ModelConfig("resnet_demo", str(path)))
    for name, tensor in source.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert not torch.equal(state_of(2).conv1.weight, source.conv1.weight)


class Trap:
    def __reduce__(self):
        return (print, ("code ran",))


def test_refusals(tmp_path, capsys):
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    with open(tmp_path / "code.pth", "wb") as file:
        pickle.dump({"w": Trap()}, file)
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "foreign.pth")
    wrong = {
        "nowhere.pth": "there is no weights file",
        "cut.safetensors": "is not a readable checkpoint",
        "code.pth": "holds pickled objects, which could run code, and is refused",
        "other.pth": "must hold a state dict",
        "foreign.pth": "do not fit this backbone",
    }
    for name, message in wrong.items():
        with pytest.raises(UserError, match=message) as caught:
            build_backbone(ModelConfig("resnet_demo", str(tmp_path / name)))
        assert "\n" not in str(caught.value)
    assert "code ran" not in capsys.readouterr().out
    with pytest.raises(UserError, match="got 'resnet51'; did you mean resnet5?"):
        build_backbone(ModelConfig("resnet51", "none"))
    with pytest.raises(UserError, match="resnet_demo has no ImageNet weights"):
        build_backbone(ModelConfig("resnet_demo", "imagenet"))


def test_a_failed_download_says_what_to_place_where(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.models.resnet, "load_state_dict_from_url", fail, raising=False)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fail)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(UserError, match=r"place the file resnet18-\w+\.pth at .*checkpoints"):
        build_backbone(ModelConfig("resnet18", "imagenet"))
