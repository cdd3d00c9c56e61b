"""PixelLevelAttention is MLA's Eq. 3."""

import pytest
import torch

from attnreid.layers import PixelLevelAttention
from tests.layers import support
from tests.oracles.pixel import pixel, pixel_gate


def build(**options):
    return support.randomise(PixelLevelAttention(3, **options))


@pytest.mark.parametrize("shared_map", [False, True])
@pytest.mark.parametrize("size", [(4, 3), (1, 5), (1, 1)])
def test_agrees_with_the_formula(shared_map, size):
    support.assert_agrees(build(shared_map=shared_map), pixel, support.random_map(2, 3, *size))


def test_gate_is_the_formulas():
    layer, x = build().double(), support.random_map(2, 3, 3, 4)
    own = dict(layer.named_parameters())
    support.assert_close(layer.gate(x), pixel_gate(x, own["conv.weight"], own["conv.bias"]), 1e-12)
    assert build(shared_map=True).double().gate(x).shape == (2, 1, 3, 4)


def test_gradcheck():
    support.assert_gradients(build(), support.random_map(2, 3, 3, 2))


def test_by_hand_the_right_neighbour_decides():
    layer = PixelLevelAttention(1)
    with torch.no_grad():
        layer.conv.weight.zero_()[0, 0, 1, 2] = 1
        layer.conv.bias.zero_()
    y = layer(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
    # sigmoid(2) = 0.880797 and sigmoid(4) = 0.982014; outside the map there are zeros, sigmoid(0) = 1/2
    torch.testing.assert_close(y, torch.tensor([[[[0.880797, 1.0], [2.946041, 2.0]]]]), atol=1e-6, rtol=0)


def test_a_conv_of_zeros_halves_the_map():
    layer = PixelLevelAttention(3)
    torch.nn.init.zeros_(layer.conv.weight)
    torch.nn.init.zeros_(layer.conv.bias)
    x = support.random_map(2, 3, 4, 5, dtype=torch.float32)
    assert torch.equal(layer(x), x / 2)


@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        (ValueError, {"channels": 0}, r"PixelLevelAttention: channels .*1, got 0"),
        (
            TypeError,
            {"channels": 2.0},
            r"PixelLevelAttention: channels .*int, got 2.0 of type float",
        ),
        (TypeError, {"channels": True}, r"channels .*int, got True"),
        (TypeError, {"channels": 3, "shared_map": 1}, r"shared_map .*bool, got 1"),
    ],
)
def test_refuses_wrong_options(error, options, message):
    with pytest.raises(error, match=message):
        PixelLevelAttention(**options)


@pytest.mark.parametrize(
    ("error", "x", "message"),
    [
        (
            ValueError,
            torch.zeros(3, 4, 4),
            r"PixelLevelAttention: .*input .*4 dimensions .*\(3, 4, 4\)",
        ),
        (TypeError, torch.zeros(1, 3, 4, 4, dtype=torch.uint8), r"floating point, got torch.uint8"),
        (ValueError, torch.zeros(1, 5, 4, 4), r"3 channels, got 5"),
        (ValueError, torch.zeros(1, 3, 0, 4), r"height .*width, got shape \(1, 3, 0, 4\): .*larger"),
    ],
)
def test_refuses_wrong_maps(error, x, message):
    with pytest.raises(error, match=message):
        PixelLevelAttention(3)(x)
    with pytest.raises(error, match=message):
        PixelLevelAttention(3).gate(x)
