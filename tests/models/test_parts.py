"""The local branch of APNet's experiments on CUHK03."""

import copy

import pytest
import torch

from reference_pipelines.apnet import train as apnet
from reference_pipelines.apnet.config import LossConfig
from reference_pipelines.apnet.losses import SupervisedObjective
from reference_pipelines.commands.cli import main
from reference_pipelines.errors import UserError
from reference_pipelines.models.parts import PartClassifier, WithLocalBranch
from reference_pipelines.pipelines.opening import open_run
from tests.conftest import says
from tests.oracles.losses import batch_hard_triplet, smoothed_cross_entropy
from tests.training.runs import arguments, configured, trained

PARTS = {"model.local_parts": "2"}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return apnet.build_model(configured("apnet", "x", **PARTS), 5).double().eval()


def literally(model, images):
    """Run the stages by hand, twice from the third on, and pool row by row."""
    network, local = model.backbone.network, model.backbone.local
    x = images
    for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2"):
        x = getattr(network, name)(x)
    whole, strips = network.layer4(network.layer3(x)), local[1](local[0](x))
    half = strips.shape[2] // 2
    maps = (whole, strips[:, :, :half], strips[:, :, half:])
    return torch.cat([map_.sum(dim=(2, 3)) / map_.shape[2] / map_.shape[3] for map_ in maps], dim=1)


def test_the_features_are_the_whole_and_the_strips(model):
    images = torch.randn(3, 3, 64, 32, dtype=torch.float64)
    for parameter in model.backbone.local.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    found, expected = model(images), literally(model, images)
    assert torch.allclose(found.pooled, expected, atol=1e-12)
    width = expected.shape[1] // 3
    assert not torch.allclose(expected[:, :width], expected[:, width : 2 * width])
    for feature in range(3):
        of = slice(feature * width, (feature + 1) * width)
        logits = found.features[:, of] @ model.classifier.weight[feature]
        assert torch.allclose(found.logits[:, 5 * feature : 5 * feature + 5], logits, atol=1e-12)


def test_the_branch_has_attention_and_weights_of_its_own(model):
    own, local = model.backbone.network.layer4.state_dict(), model.backbone.local[1].state_dict()
    assert own.keys() == local.keys()
    assert any("attention" in name for name in local)
    assert all(torch.equal(own[name], local[name]) for name in own)
    next(model.backbone.local.parameters()).data.zero_()
    assert not torch.equal(next(model.backbone.local.parameters()), next(model.backbone.network.layer3.parameters()))


def test_the_loss_is_the_mean_over_the_features():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    pooled, logits = (torch.randn(6, width, generator=generator, dtype=torch.float64) for width in (12, 9))
    embedding = type("Embedding", (), {"pooled": pooled, "features": pooled, "logits": logits})
    objective = SupervisedObjective(labels, LossConfig(margin=0.3, smoothing=0.1), features=3)
    losses = [
        batch_hard_triplet(pooled[:, 4 * i : 4 * i + 4].tolist(), labels.tolist(), 0.3)
        + smoothed_cross_entropy(logits[:, 3 * i : 3 * i + 3].tolist(), labels.tolist(), 0.1)
        for i in range(3)
    ]
    assert objective.loss(embedding, torch.arange(6)).item() == pytest.approx(sum(losses) / 3, abs=1e-12)


def test_each_feature_has_a_classifier():
    classifier = PartClassifier(2, 3, 4)
    torch.nn.init.normal_(classifier.weight)
    features = torch.randn(5, 6)
    expected = torch.cat([features[:, :3] @ classifier.weight[0], features[:, 3:] @ classifier.weight[1]], dim=1)
    assert torch.allclose(classifier(features), expected, atol=1e-6)


def test_it_trains_and_is_opened_again(images, tmp_path):
    result = trained("apnet", images, tmp_path / "run", **PARTS)
    assert result["final"]["mAP"] > 0
    run = open_run(tmp_path / "run")
    assert isinstance(run.model.backbone, WithLocalBranch)
    assert run.model.neck.num_features == 3 * apnet.build_model(configured("apnet", "x"), 5).neck.num_features
    states = [
        copy.deepcopy(part.state_dict()) for part in (run.model.backbone.network.layer3, run.model.backbone.local[0])
    ]
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert main(["evaluate", str(tmp_path / "run"), "--workers", "0"]) == 0


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"model.backbone": "mobilenet_v2", "attention.preset": "none"}, ("mobilenet_v2", "ResNet", "local_parts")),
        ({"model.local_parts": "3"}, ("local_parts (3)", "2 rows", "32x16")),
    ],
)
def test_what_has_no_such_branch_is_refused(changes, parts):
    config = configured("apnet", "x", **{**PARTS, **changes})
    with pytest.raises(UserError) as error:
        apnet.build_model(config, 5)
    assert says(str(error.value), *parts)


def test_it_is_refused_before_anything_is_written(images, tmp_path, capsys):
    words = arguments("apnet", images, **{"model.local_parts": "-1"})
    assert main(["train", "apnet", "--out", str(tmp_path / "run"), *words]) == 2
    assert says(capsys.readouterr().err, "model.local_parts", "at least 0")
