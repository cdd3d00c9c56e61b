"""RelationAwareSpatialAttention is RGA-S, APNet's Eq. 4."""

from functools import partial

import pytest
import torch

from attnreid.layers import RelationAwareSpatialAttention
from tests.layers import support
from tests.oracles.relation_aware import relation_aware_spatial, relation_aware_spatial_gate

SIZE = (4, 3)


def build(**options):
    return support.randomise(RelationAwareSpatialAttention(4, **{"size": SIZE, "reduction": 2, **options}))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("parts", "reduction"), [(1, 2), (1, 8), (2, 2), (4, 1)])
def test_agrees_with_the_formula(training, parts, reduction):
    layer = support.randomise(
        RelationAwareSpatialAttention(4, size=SIZE, parts=parts, reduction=reduction), seed=0
    ).train(training)
    oracle = partial(relation_aware_spatial, parts=parts, training=training)
    support.assert_agrees(layer, oracle, support.random_map(3, 4, *SIZE))


@pytest.mark.parametrize("parts", [1, 2])
def test_gate_is_the_formulas(parts):
    layer, x = build(parts=parts).double().eval(), support.random_map(2, 4, *SIZE)
    gate = layer.gate(x)
    wanted = relation_aware_spatial_gate(x, layer.state_dict(), parts=parts, training=False)
    support.assert_close(gate, wanted, 1e-12)
    assert gate.shape == (2, 1, *SIZE)


def test_training_moves_the_statistics_and_eval_does_not():
    layer, x = build().double(), support.random_map(2, 4, *SIZE)
    before = {name: value.clone() for name, value in layer.named_buffers()}
    layer.eval()(x)
    assert all(torch.equal(value, before[name]) for name, value in layer.named_buffers())
    layer.train()(x)
    assert not any(torch.equal(value, before[name]) for name, value in layer.named_buffers())


@pytest.mark.parametrize("training", [True, False])
def test_gradcheck(training):
    layer = build(size=(2, 2), parts=2).train(training)
    support.assert_gradients(layer, support.random_map(2, 4, 2, 2))


def test_by_hand_on_two_by_two():
    layer = RelationAwareSpatialAttention(1, size=(2, 2)).eval()
    with torch.no_grad():
        for name, value in layer.named_buffers():
            if name.endswith("running_var"):
                value.fill_(1 - 1e-5)  # plus BN's epsilon: 1
        layer.embed.weight.copy_(torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1))
        layer.embed.norm.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
        layer.joint.weight.copy_(torch.tensor([[[1.0, 0, 0, 0, 0, 0.5, 0, 0]]]))
        layer.hidden.weight.copy_(torch.tensor([[[1.0, -0.25]]]))
        layer.score.weight.fill_(1)
    x = torch.tensor([[[[1.0, 2.0], [0.0, 1.0]]]])
    # theta = x = (1, 2, 0, 1), phi = 2x + 1 = (3, 5, 1, 3), psi = 3x = (3, 6, 0, 3), G[p, q] = theta_p phi_q.
    # Joint: G[p, 0] + G[1, p] / 2 = 3 theta_p + phi_p = (6, 11, 1, 6).
    # Score: psi - joint / 4 = (1.5, 3.25, -0.25, 1.5), ReLU, then the sigmoid.
    wanted = torch.tensor([[[[0.817574, 0.962673], [0.5, 0.817574]]]])
    torch.testing.assert_close(layer.gate(x), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(layer(x), wanted * x, atol=1e-5, rtol=0)


def test_strips_are_separate_layers_one_above_the_other():
    whole, x = build(parts=2).double().eval(), support.random_map(2, 4, *SIZE)
    gates = []
    for part, strip in enumerate(x.chunk(2, dim=2)):
        alone = RelationAwareSpatialAttention(4, size=(2, 3), reduction=2).double().eval()
        share = {}
        for name, value in whole.state_dict().items():
            share[name] = value.chunk(2)[part] if value.ndim else value
        alone.load_state_dict(share, strict=True)
        gates.append(alone.gate(strip))
    support.assert_close(whole.gate(x), torch.cat(gates, dim=2), 1e-12)


def test_a_last_norm_of_zeros_halves_the_map():
    layer, x = build().double(), support.random_map(2, 4, *SIZE)
    torch.nn.init.zeros_(layer.score.norm.weight)
    torch.nn.init.zeros_(layer.score.norm.bias)
    assert torch.equal(layer(x), x / 2)


def test_nothing_of_size_positions_by_positions_is_made():
    layer = RelationAwareSpatialAttention(8, size=(16, 16), reduction=8)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    with Watch():
        layer(torch.rand(1, 8, 16, 16)).sum().backward()
    assert largest < 256 * 256 / 2


def test_starts_as_documented():
    torch.manual_seed(0)
    layer = RelationAwareSpatialAttention(64, size=(8, 8), parts=2)
    for weight, inputs in ((layer.embed.weight, 64), (layer.joint.weight, 64), (layer.hidden.weight, 5)):
        assert 0.8 * inputs**-0.5 < weight.abs().max() <= inputs**-0.5


def test_shapes_at_the_released_networks_first_stage():
    layer = RelationAwareSpatialAttention(256, size=(64, 32), device="meta")
    shapes = {name: tuple(value.shape) for name, value in layer.named_parameters()}
    assert shapes["embed.weight"] == (1, 3 * 32, 256)
    assert shapes["joint.weight"] == (1, 256, 4096)
    assert shapes["hidden.weight"] == (1, 32, 257)
    assert shapes["score.weight"] == (1, 1, 32)


@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        (ValueError, {"channels": 0}, r"RelationAwareSpatialAttention: channels .*1, got 0"),
        (TypeError, {"size": None}, r"size .*\(height, width\), got None"),
        (ValueError, {"reduction": 0}, r"reduction .*1, got 0"),
        (ValueError, {"parts": 0}, r"parts .*1, got 0"),
        (
            ValueError,
            {"parts": 3},
            r"height, .*3 parts, .*multiple of 3, got 4: .* 3 or 6",
        ),
    ],
)
def test_refuses_wrong_options(error, options, message):
    with pytest.raises(error, match=message):
        RelationAwareSpatialAttention(**{"channels": 4, "size": SIZE, **options})


@pytest.mark.parametrize(
    ("error", "x", "message"),
    [
        (
            ValueError,
            torch.zeros(1, 4, 3, 4),
            r"RelationAwareSpatialAttention: .*map .*4x3 .* got 3x4",
        ),
        (ValueError, torch.zeros(1, 3, 4, 3), r"4 channels, got 3"),
        (ValueError, torch.zeros(1, 1, 4, 4, 3), r"4 dimensions .*got"),
        (TypeError, torch.zeros(1, 4, 4, 3, dtype=torch.int64), r"floating point, got torch.int64"),
        (ValueError, torch.zeros(1, 4, 0, 3), r"map .*4x3 .*, got 0x3"),
    ],
)
def test_refuses_wrong_maps(error, x, message):
    with pytest.raises(error, match=message):
        build()(x)
