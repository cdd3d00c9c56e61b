"""Gates as pictures can show them."""

import numpy as np
import pytest
import torch
from torch import nn

from attnreid import attach, attach_apnet, attach_mla, record_attention
from reference_pipelines.explaining.gates import STRONGEST_SLOTS, as_maps, gates_of
from reference_pipelines.models.narrow import resnet_demo

SIZE = (64, 32)
IMAGES = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def narrow():
    torch.manual_seed(0)
    return resnet_demo().eval()


def test_channel_and_spatial_gates_are_as_recorded():
    network = narrow()
    attach_apnet(network, ("se", "rga_s"), input_size=SIZE)
    with record_attention(network) as recorded, torch.no_grad():
        network(IMAGES)
    names = [name for name, module in network.named_modules() if module._forward_hooks]
    found = as_maps(gates_of(network, IMAGES), 2.0)
    assert [(each.site, each.level) for each in found] == [
        (f"layer{n}", level) for n in (1, 2, 3, 4) for level in ("level1", "level2")
    ]
    assert [each.kind for each in found[:2]] == ["channels", "map"]
    for each in found:
        gate = recorded[each.site][each.level].numpy()
        np.testing.assert_array_equal(each.values, gate[:, :, 0, 0] if each.kind == "channels" else gate[:, 0])
    assert found[1].values.std(axis=(1, 2)).min() > 0
    assert names == [name for name, module in network.named_modules() if module._forward_hooks]


def test_mlas_levels_are_a_mean_what_is_looked_at_and_the_slots_that_vary():
    network = narrow()
    attach_mla(network, input_size=SIZE)
    raw = gates_of(network, IMAGES)
    pixel, head, *slots = as_maps(raw, 2.0)
    site = "layer4.0.conv2"
    np.testing.assert_allclose(pixel.values, raw[site, "pixel"].mean(axis=1))
    # The head's weights: a row for each position that looks, over those that are looked at.
    weights = raw[site, "head"]
    assert head.values.shape == (2, 4, 2)
    received = weights.sum(axis=(1, 2)) / weights.shape[1]
    np.testing.assert_allclose(head.values.reshape(2, -1), received, rtol=1e-5)
    np.testing.assert_allclose(head.values.mean(axis=(1, 2)), 1, rtol=1e-5)
    spread = raw[site, "domain"].std(axis=(0, 2, 3))
    best = np.argsort(spread)[::-1][:STRONGEST_SLOTS]
    assert [each.note for each in slots] == [f"memory slot {slot + 1} of 64" for slot in best]
    np.testing.assert_array_equal(slots[0].values, raw[site, "domain"][:, best[0]])


@pytest.mark.parametrize(("positions", "shape"), [(8, (4, 2)), (128, (16, 8)), (7, None)])
def test_positions_become_a_grid_like_the_image_or_nothing(positions, shape):
    weights = np.full((1, 4, positions, positions), 1 / positions, np.float32)
    found = as_maps({("layer4", "levels.0.head"): weights}, 2.0)
    assert [each.values.shape[1:] for each in found] == ([] if shape is None else [shape])


def test_a_network_without_attention_has_no_gates():
    assert gates_of(narrow(), IMAGES) == {}


def test_a_gate_that_is_damaged_is_drawn_as_nothing():
    network = nn.Sequential(nn.Conv2d(3, 4, 1)).eval()
    attach(network, "rga_s", "0", input_size=(8, 4))
    found = as_maps(gates_of(network, torch.full((1, 3, 8, 4), torch.nan)), 2.0)
    assert np.isfinite(found[0].values).all()
