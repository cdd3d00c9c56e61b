"""SqueezeExcitation is APNet's Eq. 5, with parts its level of the pyramid."""

import pytest
import torch

from attnreid import AttentionPyramid
from attnreid.layers import SqueezeExcitation
from tests.layers import support
from tests.oracles.squeeze_excitation import squeeze_excitation, squeeze_excitation_gate


def build(**options):
    return support.randomise(SqueezeExcitation(12, **{"reduction": 2, **options}))


@pytest.mark.parametrize("parts", [1, 2, 3, 12])
@pytest.mark.parametrize("size", [(3, 2), (1, 1)])
def test_agrees_with_the_formula(parts, size):
    support.assert_agrees(build(parts=parts), squeeze_excitation, support.random_map(3, 12, *size))


def test_gate_is_the_formulas():
    layer, x = build(parts=3).double(), support.random_map(2, 12, 3, 4)
    gate = layer.gate(x)
    support.assert_close(gate, squeeze_excitation_gate(x, dict(layer.named_parameters())), 1e-12)
    assert gate.shape == (2, 12, 1, 1)


def test_gradcheck():
    support.assert_gradients(build(parts=2), support.random_map(2, 12, 2, 2))


def test_by_hand_on_two_by_two():
    layer = SqueezeExcitation(2, hidden=2)
    with torch.no_grad():
        layer.reduce.copy_(torch.tensor([[[-1.0, 1.0], [1.0, -1.0]]]))
        layer.expand.copy_(torch.tensor([[[1.0, 5.0], [-1.0, 5.0]]]))
    x = torch.tensor([[[[1.0, 0.0], [0.0, 3.0]], [[3.0, 3.0], [1.0, 5.0]]]])
    # Means 1 and 3; hidden units ReLU(2) and ReLU(-2); gates sigmoid(2) = 0.880797, sigmoid(-2) = 0.119203.
    wanted = torch.tensor([0.880797, 0.119203]).view(1, 2, 1, 1) * x
    torch.testing.assert_close(layer(x), wanted, atol=1e-6, rtol=0)


def test_parts_are_separate_layers_side_by_side():
    whole, x = build(parts=3).double(), support.random_map(2, 12, 3, 2)
    pieces = []
    for part, piece in enumerate(x.chunk(3, dim=1)):
        alone = SqueezeExcitation(4, reduction=2).double()
        with torch.no_grad():
            alone.reduce.copy_(whole.reduce[part : part + 1])
            alone.expand.copy_(whole.expand[part : part + 1])
        pieces.append(alone(piece))
    support.assert_close(whole(x), torch.cat(pieces, dim=1), 1e-12)


def test_weights_of_zeros_halve_the_map():
    layer = SqueezeExcitation(12, parts=2)
    torch.nn.init.zeros_(layer.expand)
    x = support.random_map(2, 12, 3, 2, dtype=torch.float32)
    assert torch.equal(layer(x), x / 2)


@pytest.mark.parametrize(
    ("options", "width"),
    [
        ({"channels": 256}, 16),
        ({"channels": 256, "parts": 2}, 8),
        ({"channels": 256, "parts": 32}, 1),
        ({"channels": 8}, 1),
        ({"channels": 40}, 2),
        ({"channels": 64, "reduction": 4}, 16),
        ({"channels": 256, "hidden": 8}, 8),
    ],
)
def test_the_hidden_width(options, width):
    parts, part = options.get("parts", 1), options["channels"] // options.get("parts", 1)
    layer = SqueezeExcitation(**options)
    assert layer.reduce.shape == (parts, width, part)
    assert layer.expand.shape == (parts, part, width)


def test_starts_within_1_over_sqrt_of_the_inputs():
    torch.manual_seed(0)
    layer = SqueezeExcitation(256, parts=4)
    for weight, inputs in ((layer.reduce, 64), (layer.expand, 4)):
        assert 0.95 * inputs**-0.5 < weight.abs().max() <= inputs**-0.5


@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        (ValueError, {"channels": 0}, r"SqueezeExcitation: channels .*1, got 0"),
        (ValueError, {"reduction": 0}, r"reduction .*1, got 0"),
        (TypeError, {"reduction": 0.25}, r"reduction .*int, got 0.25"),
        (ValueError, {"hidden": 0}, r"hidden .*1, got 0"),
        (
            ValueError,
            {"hidden": 8, "reduction": 4},
            r"hidden .*reduction.*got reduction=4 and hidden=8",
        ),
        (ValueError, {"parts": 0}, r"parts .*1, got 0"),
        (
            ValueError,
            {"parts": 5},
            r"channels, .*5 parts, .*multiple of 5, got 12: .* 10 or 15",
        ),
    ],
)
def test_refuses_wrong_options(error, options, message):
    with pytest.raises(error, match=message):
        SqueezeExcitation(**{"channels": 12, **options})


@pytest.mark.parametrize(
    ("error", "x", "message"),
    [
        (ValueError, torch.zeros(1, 12), r"SqueezeExcitation: .*input .*4 dimensions .*\(1, 12\)"),
        (TypeError, torch.zeros(1, 12, 2, 2, dtype=torch.int8), r"floating point, got torch.int8"),
        (ValueError, torch.zeros(1, 6, 2, 2), r"12 channels, got 6"),
        (ValueError, torch.zeros(1, 12, 0, 0), r"height .*width, got shape \(1, 12, 0, 0\)"),
    ],
)
def test_refuses_wrong_maps(error, x, message):
    with pytest.raises(error, match=message):
        SqueezeExcitation(12)(x)


def test_a_subclass_with_a_gate_of_its_own_sees_the_map():
    class Loudest(SqueezeExcitation):
        def gate(self, x):
            return super().gate(x.amax(dim=(2, 3), keepdim=True))

    layer, x = Loudest(4), torch.randn(2, 4, 3, 2)
    torch.testing.assert_close(layer(x), x * layer.gate(x))
    assert not torch.allclose(layer(x), x * SqueezeExcitation.gate(layer, x))
    pyramid = AttentionPyramid(4, (SqueezeExcitation, Loudest), levels=(1, 1))
    first, second = pyramid.levels
    y = x * first.gate(x)
    torch.testing.assert_close(pyramid(x), y * second.gate(y))
