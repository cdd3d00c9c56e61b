"""Which family a backbone is of: all of the parts must be there."""

import pytest
from torch import nn
from torchvision.models import DenseNet, resnet18

from attnreid.backbones.families import DENSENET, RESNET, family_of


def test_a_densenet_has_four_stages():
    def densenet(*blocks):
        return DenseNet(growth_rate=4, block_config=blocks, num_init_features=4)

    assert family_of(densenet(1, 1, 1, 1)) is DENSENET
    assert family_of(densenet(1, 1, 1)) is None


@pytest.mark.parametrize("part", ["conv1", "bn1", "conv2", "bn2"])
def test_a_resnets_blocks_have_all_their_parts(part):
    model = resnet18()
    assert family_of(model) is RESNET
    delattr(model.layer3[1], part)
    assert family_of(model) is None


def test_a_resnets_stages_are_rows_of_blocks():
    model = resnet18()
    model.layer2 = model.layer2[0]
    assert family_of(model) is None
    model = resnet18()
    model.layer2 = nn.Sequential()
    assert family_of(model) is None
