"""APNet's Table III: GFLOPs at 224x224 with a last stride of 1, counted and set beside the paper's.

The rule: a multiplication with its addition counts as one; convolutions, linear maps and matrix products
count, pooling, batch norms, activations and gating do not. The network is the features' part, without the
classifier of 1,000 classes, as no re-identification network has one.
"""

import pytest
import torch
from torch import nn
from torchvision.models import resnet50

from attnreid import attach_apnet, attach_se, set_last_stride
from attnreid.backbones._costs import count_multiply_adds, count_parameters
from attnreid.layers import DomainLevelAttention, HeadLevelAttention

PAPER = {0: 6.23, 1: 6.23, 2: 6.24, 3: 6.25}  # GFLOPs, Table III; SE-ResNet has 6.24


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.device("meta"):
        model = resnet50()
    model.fc = nn.Identity()
    set_last_stride(model)
    return model


def count(model: nn.Module) -> float:
    return (count_multiply_adds(model, 3, 224, 224) or 0) / 1e9


def test_the_base_is_the_papers_within_one_per_cent(model: nn.Module) -> None:
    assert count(model) == pytest.approx(PAPER[0], rel=0.01)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_no_level_adds_more_than_the_papers(model: nn.Module, levels: int) -> None:
    totals = []
    for used in (levels - 1, levels):
        with attach_apnet(model, levels=used, input_size=(224, 224)):
            totals.append(count(model))
    # Two linear maps of C/parts to C/parts/16 and back, for each part, at each stage.
    parts = 2 ** (levels - 1)
    by_hand = sum(2 * channels * (channels // parts // 16) for channels in (256, 512, 1024, 2048))
    assert round((totals[1] - totals[0]) * 1e9) == by_hand
    assert totals[1] - totals[0] <= 0.01
    assert totals[1] == pytest.approx(PAPER[levels], rel=0.01)


@pytest.mark.parametrize("levels", [1, 2])
def test_no_level_of_the_released_variant_adds_more(model: nn.Module, levels: int) -> None:
    totals = []
    for used in (levels - 1, levels):
        with attach_apnet(model, levels=used, input_size=(224, 224), variant="released"):
            totals.append(count(model))
    assert 0 < totals[1] - totals[0] <= 0.01


def test_se_in_every_block_is_the_papers(model: nn.Module) -> None:
    with attach_se(model):
        assert count(model) == pytest.approx(6.24, rel=0.01)


def test_counts_by_hand() -> None:
    assert count_multiply_adds(nn.Conv2d(3, 8, 3, padding=1, groups=1), 3, 5, 4) == 5 * 4 * 8 * 3 * 9
    assert count_multiply_adds(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2)), 3, 4, 4) == 0
    assert count_parameters(nn.Conv2d(3, 8, 3)) == 8 * 3 * 9 + 8
    positions = 6
    assert count_multiply_adds(DomainLevelAttention(8, memory=4), 8, 3, 2) == positions * (8 * 8 + 2 * 8 * 4)
    assert count_multiply_adds(HeadLevelAttention(8, size=(3, 2)), 8, 3, 2) == positions * (
        3 * 8 * 8 + 2 * positions * 8
    )


def test_counting_changes_nothing() -> None:
    layer = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    count_multiply_adds(layer, 3, 4, 4)
    assert layer.training
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_what_does_not_run_has_no_count() -> None:
    assert count_multiply_adds(nn.Linear(3, 4), 5, 4, 4) is None
