"""PixelLevelAttention is MLA's Eq. 3."""

from functools import partial

import pytest
import torch

from attnreid.layers import PixelLevelAttention
from tests.layers import support
from tests.oracles.pixel import pixel, pixel_gate


def build(**options):
    return support.randomise(PixelLevelAttention(3, **options))


def test_two_random_layers_differ():
    x = support.random_map(2, 3, 4, 5, dtype=torch.float32)
    assert not torch.allclose(PixelLevelAttention(3)(x), PixelLevelAttention(3)(x))


@pytest.mark.parametrize("shared_map", [False, True])
@pytest.mark.parametrize("size", [(4, 3), (1, 5), (1, 1)])
def test_agrees_with_the_formula(shared_map, size):
    support.assert_agrees(build(shared_map=shared_map), pixel, support.random_map(2, 3, *size))


def test_gate_is_the_formulas_and_lies_between_0_and_1():
    layer, x = build().double(), support.random_map(2, 3, 3, 4)
    own = dict(layer.named_parameters())
    support.assert_close(layer.gate(x), pixel_gate(x, own["conv.weight"], own["conv.bias"]), 1e-12)
    assert layer.gate(x).min() > 0
    assert layer.gate(x).max() < 1
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


def test_housekeeping():
    x = support.random_map(2, 3, 5, 3)
    support.assert_layouts_do_not_matter(build(), x)
    support.assert_copies_are_independent(build(), x)
    support.assert_starts_from_meta(partial(PixelLevelAttention, 3))
    support.assert_compiles(build(), x.float())
    assert list(build().state_dict()) == ["conv.weight", "conv.bias"]
    assert build().conv.weight.shape == (3, 3, 3, 3)
    assert build(shared_map=True).conv.weight.shape == (1, 3, 3, 3)
    assert PixelLevelAttention(3, dtype=torch.float64).conv.bias.dtype == torch.float64


def test_repr_shows_what_was_changed():
    assert PixelLevelAttention(3).extra_repr() == "3"
    assert PixelLevelAttention(3, shared_map=True).extra_repr() == "3, shared_map=True"


def test_forward_records_its_gate_and_gate_records_nothing():
    layer, x = build().double(), support.random_map(1, 3, 2, 2)
    with support.Recorder() as heard:
        gate = layer.gate(x)
        assert heard == []
        y = layer(x)
    [(who, level, recorded)] = heard
    assert who is layer
    assert level == "pixel"
    assert torch.equal(recorded, gate)
    assert torch.equal(y, x * gate)


@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        (ValueError, {"channels": 0}, r"PixelLevelAttention: channels must be at least 1, got 0"),
        (
            TypeError,
            {"channels": 2.0},
            r"PixelLevelAttention: channels must be an int, got 2.0 of type float",
        ),
        (TypeError, {"channels": True}, r"channels must be an int, got True"),
        (TypeError, {"channels": 3, "shared_map": 1}, r"shared_map must be a bool, got 1"),
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
            r"PixelLevelAttention: the input must have 4 dimensions .*\(3, 4, 4\)",
        ),
        (TypeError, torch.zeros(1, 3, 4, 4, dtype=torch.uint8), r"must be floating point, got torch.uint8"),
        (ValueError, torch.zeros(1, 5, 4, 4), r"must have 3 channels, got 5"),
        (ValueError, torch.zeros(0, 3, 4, 4), r"must not be empty, got shape \(0, 3, 4, 4\)"),
        (ValueError, torch.zeros(1, 3, 0, 4), r"must not be empty"),
    ],
)
def test_refuses_wrong_maps(error, x, message):
    with pytest.raises(error, match=message):
        PixelLevelAttention(3)(x)
    with pytest.raises(error, match=message):
        PixelLevelAttention(3).gate(x)
