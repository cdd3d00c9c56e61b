"""Attention that a config names, in the places that the library's own presets choose."""

from functools import partial

import pytest
import torch
from torchvision.models import resnet18

from attnreid import (
    AttentionPyramid,
    MultiLevelAttention,
    SqueezeExcitation,
    attach,
    attach_apnet,
    attach_mla,
    attach_pyramid,
    attach_se,
)
from reference_pipelines.config.attention import AttentionConfig
from reference_pipelines.errors import UserError
from reference_pipelines.models.attention import put_attention

SIZE = (64, 32)

CASES = {
    "apnet": (
        AttentionConfig("apnet", layer=("se", "split"), order="fine_to_coarse", hidden=8),
        lambda model: attach_apnet(
            model, [partial(SqueezeExcitation, hidden=8), "split"], order="fine_to_coarse", input_size=SIZE
        ),
    ),
    "released": (
        AttentionConfig("apnet", variant="released"),
        lambda model: attach_apnet(model, "se", variant="released", input_size=SIZE),
    ),
    "pyramid": (
        AttentionConfig("pyramid", stages=(3, 4), levels=3, identity_init=True),
        lambda model: attach_pyramid(model, "se", stages=(3, 4), levels=3, identity_init=True, input_size=SIZE),
    ),
    "se": (AttentionConfig("se", reduction=8), lambda model: attach_se(model, reduction=8, input_size=SIZE)),
    "mla": (
        AttentionConfig("mla", parts=("pixel",), blocks="last"),
        lambda model: attach_mla(model, levels=("pixel",), blocks="last", input_size=SIZE),
    ),
    "mla behind": (
        AttentionConfig("mla", heads=2, memory=8, where="after", identity_init=True),
        lambda model: attach(
            model,
            partial(MultiLevelAttention, heads=2, memory=8),
            "layer4.*.conv2",
            input_size=SIZE,
            identity_init=True,
        ),
    ),
    "a layer at sites": (
        AttentionConfig("sites", layer=("rga_c",), levels=1, at=("layer[34]",)),
        lambda model: attach(model, "rga_c", "layer[34]", input_size=SIZE),
    ),
    "a pyramid at sites": (
        AttentionConfig("sites", at=("layer1.0.bn2", "layer2"), radix=4),
        lambda model: attach(model, partial(AttentionPyramid, radix=4), ("layer1.0.bn2", "layer2"), input_size=SIZE),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_config_puts_in_what_the_library_does(case):
    config, put = CASES[case]
    torch.manual_seed(0)
    model, other = resnet18(), resnet18()
    torch.manual_seed(1)
    attachment = put_attention(model, config, SIZE)
    torch.manual_seed(1)
    expected = put(other)
    assert [(site.name, site.layer) if hasattr(site, "layer") else site for site in attachment.sites] == [
        (site.name, site.layer) if hasattr(site, "layer") else site for site in expected.sites
    ]
    ours, theirs = attachment.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_none_is_none():
    model = resnet18()
    assert put_attention(model, AttentionConfig(), SIZE) is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AttentionConfig("apnet", layer=("sse",)), "sse"),
        (AttentionConfig("sites", at=("layer9",)), "layer9"),
        (AttentionConfig("apnet", levels=8), "128 parts .*64"),
    ],
)
def test_what_does_not_fit_is_one_sentence(config, message):
    with pytest.raises(UserError, match=message):
        put_attention(resnet18(), config, SIZE)
