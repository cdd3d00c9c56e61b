"""RelationAwareChannelAttention is RGA-C; what it shares with RGA-S is tested there too."""

from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attnreid.layers import RelationAwareChannelAttention, RelationAwareSpatialAttention
from tests.layers import support
from tests.oracles.relation_aware import relation_aware_channel, relation_aware_channel_gate

SIZE = (3, 2)


def build(**options):
    return support.randomise(RelationAwareChannelAttention(4, **{"size": SIZE, "reduction": 2, **options}))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("channels", "parts", "reduction"), [(4, 1, 2), (4, 1, 8), (4, 2, 2), (8, 4, 1)])
def test_agrees_with_the_formula(training, channels, parts, reduction):
    layer = RelationAwareChannelAttention(channels, size=SIZE, parts=parts, reduction=reduction)
    oracle = partial(relation_aware_channel, parts=parts, training=training)
    support.assert_agrees(
        support.randomise(layer, seed=1).train(training), oracle, support.random_map(3, channels, *SIZE)
    )


@pytest.mark.parametrize("parts", [1, 2])
def test_gate_is_the_formulas_and_lies_between_0_and_1(parts):
    layer, x = build(parts=parts).double().eval(), support.random_map(2, 4, *SIZE)
    gate = layer.gate(x)
    wanted = relation_aware_channel_gate(x, layer.state_dict(), parts=parts, training=False)
    support.assert_close(gate, wanted, 1e-12)
    assert gate.shape == (2, 4, 1, 1)
    assert gate.min() > 0
    assert gate.max() < 1


@pytest.mark.parametrize("training", [True, False])
def test_gradcheck(training):
    support.assert_gradients(build(parts=2).train(training), support.random_map(2, 4, *SIZE))


def test_it_is_the_spatial_form_of_the_transposed_map():
    channel, spatial = build().double().eval(), RelationAwareSpatialAttention(6, size=(4, 1), reduction=2)
    spatial = spatial.double().eval()
    spatial.load_state_dict(channel.state_dict(), strict=True)
    x = support.random_map(2, 4, *SIZE)
    transposed = x.flatten(2).transpose(1, 2)[..., None]
    support.assert_close(channel.gate(x), spatial.gate(transposed).transpose(1, 2), 1e-12)


def test_by_hand_on_two_by_two():
    layer = RelationAwareChannelAttention(2, size=(2, 2)).eval()
    with torch.no_grad():
        for name, value in layer.named_buffers():
            if name.endswith("running_var"):
                value.fill_(1 - 1e-5)  # plus BN's epsilon: 1
        layer.embed.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0]])[None])
        layer.joint.weight.copy_(torch.tensor([[[1.0, 0, 0, 0.5]]]))
        layer.hidden.weight.copy_(torch.tensor([[[1.0, -0.25]]]))
        layer.score.weight.fill_(1)
    x = torch.tensor([[[[1.0, 2.0], [3.0, 0.0]], [[3.0, 4.0], [0.5, 0.0]]]])
    # theta = (1, 3), phi = (2, 4), psi = (3, 1/2), G[p, q] = theta_p phi_q.
    # Joint: G[p, 0] + G[1, p] / 2 = 2 theta_p + 3 phi_p / 2 = (5, 12).
    # Score: psi - joint / 4 = (1.75, -2.5), ReLU, then the sigmoid.
    wanted = torch.tensor([0.851953, 0.5]).view(1, 2, 1, 1)
    torch.testing.assert_close(layer.gate(x), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(layer(x), wanted * x, atol=1e-5, rtol=0)


def test_parts_are_separate_layers_side_by_side():
    whole, x = build(parts=2).double().eval(), support.random_map(2, 4, *SIZE)
    gates = []
    for part, piece in enumerate(x.chunk(2, dim=1)):
        alone = RelationAwareChannelAttention(2, size=SIZE, reduction=2).double().eval()
        share = {name: value.chunk(2)[part] if value.ndim else value for name, value in whole.state_dict().items()}
        alone.load_state_dict(share, strict=True)
        gates.append(alone.gate(piece))
    support.assert_close(whole.gate(x), torch.cat(gates, dim=1), 1e-12)


def test_shapes_at_the_released_networks_stages():
    for channels, size in ((256, (64, 32)), (2048, (16, 8))):
        positions = size[0] * size[1]
        layer = RelationAwareChannelAttention(channels, size=size, device="meta")
        shapes = {name: tuple(value.shape) for name, value in layer.named_parameters()}
        assert shapes["embed.weight"] == (1, 3 * positions // 8, positions)
        assert shapes["joint.weight"] == (1, channels // 8, 2 * channels)
        assert shapes["hidden.weight"] == (1, (1 + channels // 8) // 8, 1 + channels // 8)


def test_one_channel_of_one_image_cannot_train_the_norms():
    layer = RelationAwareChannelAttention(2, size=SIZE, parts=2)
    with pytest.raises(ValueError, match=r"RelationAwareChannelAttention: in train mode .* got 1: pass"):
        layer(torch.randn(1, 2, *SIZE))
    assert layer(torch.randn(2, 2, *SIZE)).shape == (2, 2, *SIZE)
    assert layer.eval()(torch.randn(1, 2, *SIZE)).shape == (1, 2, *SIZE)


@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        (ValueError, {"channels": 0}, r"RelationAwareChannelAttention: channels .*1, got 0"),
        (TypeError, {"size": None}, r"size .*\(height, width\), got None"),
        (ValueError, {"parts": 3}, r"channels, .*3 parts, .*multiple of 3, got 4: .* 3 or 6"),
    ],
)
def test_refuses_wrong_options(error, options, message):
    with pytest.raises(error, match=message):
        RelationAwareChannelAttention(**{"channels": 4, "size": SIZE, **options})


def test_refuses_a_map_of_another_size():
    with pytest.raises(ValueError, match=r"RelationAwareChannelAttention: .*map .*3x2 .* got 2x3"):
        build()(torch.zeros(1, 4, 2, 3))


@pytest.mark.parametrize("parts", [1, 2])
def test_no_image_has_a_gradient_of_the_weight_of_its_own(parts):
    class Largest(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for each in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(each, torch.Tensor):
                    self.count = max(self.count, each.untyped_storage().nbytes() // each.itemsize)
            return result

    layer = RelationAwareChannelAttention(16, size=(16, 16), parts=parts)
    x = torch.randn(8, 16, 16, 16, requires_grad=True)
    with Largest() as largest:
        layer(x).sum().backward()
    weight = layer.embed.weight
    assert largest.count <= max(x.numel(), weight.numel()) < 8 * weight.numel()
