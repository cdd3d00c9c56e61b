"""SplitAttention is the agent of APNet's released code."""

from functools import partial

import pytest
import torch

from attnreid.layers import SplitAttention
from tests.layers import support
from tests.oracles.split_attention import split_attention, split_attention_gate

SIZE = (3, 2)


def build(**options):
    return support.randomise(SplitAttention(8, **options))


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("norm", [True, False])
def test_agrees_with_the_formula_in_eval_mode(parts, norm):
    oracle = partial(split_attention, parts=parts, training=False)
    support.assert_agrees(build(parts=parts, norm=norm).eval(), oracle, support.random_map(3, 8, *SIZE))


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("norm", [True, False])
def test_agrees_with_the_formula_in_train_mode(parts, norm):
    # The hidden bias is left out: the batch norm behind it takes it away, so that it has no gradient.
    layer = build(parts=parts, norm=norm)
    layer.reduce[0].register_parameter("bias", None)

    def oracle(x, p):
        p = {**p, "reduce.0.bias": torch.zeros(())}
        return split_attention(x, p, parts=parts, training=True)

    support.assert_agrees(layer, oracle, support.random_map(3, 8, *SIZE))


@pytest.mark.parametrize("parts", [1, 2])
def test_gate_is_the_formulas_and_lies_between_0_and_1(parts):
    layer, x = build(parts=parts).double().eval(), support.random_map(2, 8, *SIZE)
    gate = layer.gate(x)
    support.assert_close(gate, split_attention_gate(x, layer.state_dict(), parts=parts, training=False), 1e-12)
    assert gate.shape == (2, 8, 1, 1)
    assert gate.min() > 0
    assert gate.max() < 1


def test_the_parts_share_what_passes():
    gate = build(parts=4).double().eval().gate(support.random_map(2, 8, *SIZE))
    torch.testing.assert_close(gate.view(2, 4, 2).sum(dim=1), torch.ones(2, 2, dtype=torch.float64))


def test_one_part_is_no_constant():
    layer = build(parts=1).double().eval()
    assert layer.gate(support.random_map(2, 8, *SIZE)).std() > 0.01


@pytest.mark.parametrize("training", [True, False])
def test_gradcheck(training):
    support.assert_gradients(build().train(training), support.random_map(3, 8, *SIZE))


def test_by_hand_on_two_by_two():
    layer = SplitAttention(2).eval()
    with torch.no_grad():
        for name, value in layer.named_buffers():
            if name.endswith("running_var"):
                value.fill_(1 - 1e-5)  # plus BN's epsilon: 1
        layer.reduce[0].weight.zero_()[0] = 1
        layer.reduce[0].bias.zero_()[0] = -1
        layer.expand.weight.zero_()[1, 0] = 1
        layer.expand.bias.copy_(torch.tensor([1.0, 0.0]))
        layer.norm.weight.copy_(torch.tensor([1.0, 2.0]))
        layer.norm.running_mean.copy_(torch.tensor([0.0, 1.0]))
    x = torch.tensor([[[[1.0, 0.0], [0.0, 3.0]], [[3.0, 3.0], [1.0, 1.0]]]])
    # Averages 1 and 2, their sum less 1 is the hidden 2: scores 1 and 2, softmax 0.268941 and 0.731059.
    # The norm leaves the first channel and maps the second to 2 (y - 1).
    wanted = torch.stack([0.268941 * x[0, 0], 2 * (0.731059 * x[0, 1] - 1)])[None]
    torch.testing.assert_close(layer(x), wanted, atol=1e-5, rtol=0)


def test_the_norm_has_no_shift():
    assert build().norm.bias is None
    assert build(norm=False).norm is None


def test_training_moves_the_statistics_and_eval_does_not():
    layer, x = build().double(), support.random_map(2, 8, *SIZE)
    before = {name: value.clone() for name, value in layer.named_buffers()}
    layer.eval()(x)
    assert all(torch.equal(value, before[name]) for name, value in layer.named_buffers())
    layer.train()(x)
    assert not any(torch.equal(value, before[name]) for name, value in layer.named_buffers())


def by_the_norm(layer, x):
    """The layer with its norm as a module of its own behind the gate."""
    return layer.norm(x * layer.gate(x))


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
def test_the_norm_joined_in_is_the_norm_itself(momentum):
    layer, twin = build().double(), build().double()
    layer.norm.momentum = twin.norm.momentum = momentum
    for step in range(3):
        x = support.random_map(3, 8, *SIZE, seed=step)
        support.assert_close(layer(x), by_the_norm(twin, x), 1e-12)
    for (name, got), wanted in zip(layer.named_buffers(), twin.buffers(), strict=True):
        support.assert_close(got.double(), wanted.double(), 1e-12)
        assert got.dtype == wanted.dtype, name
    x = support.random_map(3, 8, *SIZE, seed=7)
    support.assert_close(layer.eval()(x), by_the_norm(twin.eval(), x), 1e-12)


def test_a_frozen_norm_keeps_its_statistics_in_train_mode():
    layer = build().double()
    layer.norm.eval()
    before, x = copy_of_state(layer.norm), support.random_map(3, 8, *SIZE)
    support.assert_close(layer(x), by_the_norm(layer, x), 1e-12)
    assert all(torch.equal(value, before[name]) for name, value in layer.norm.state_dict().items())


def test_a_norm_put_in_the_place_of_torchs_own_sees_the_map():
    class Halving(torch.nn.BatchNorm2d):
        def forward(self, x):
            return x / 2

    layer, x = build(), torch.randn(3, 8, *SIZE)
    layer.norm = Halving(8)
    for training in (True, False):
        layer.train(training)
        torch.testing.assert_close(layer(x), x * layer.gate(x) / 2)


def plain_bias(layer):
    layer.norm = torch.nn.BatchNorm2d(8)
    torch.nn.init.ones_(layer.norm.bias)


def no_weight(layer):
    layer.norm = torch.nn.BatchNorm2d(8, affine=False)


def no_statistics(layer):
    layer.norm = torch.nn.BatchNorm2d(8, track_running_stats=False)


def hooked(layer):
    layer.norm.register_forward_hook(lambda norm, inputs, y: y + 1)


@pytest.mark.parametrize("change", [plain_bias, no_weight, no_statistics, hooked])
@pytest.mark.parametrize("training", [True, False])
def test_a_changed_norm_is_called(change, training):
    layer = build().double()
    change(layer)
    layer = layer.double().train(training)
    x = support.random_map(3, 8, *SIZE)
    support.assert_close(layer(x), by_the_norm(layer, x), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
def test_half_precision_trains_as_with_a_norm_of_its_own(dtype, scale):
    torch.manual_seed(0)
    layer, twin = SplitAttention(8), SplitAttention(8)
    twin.load_state_dict(layer.state_dict())
    x = (torch.randn(4, 8, 6, 5) * scale).to(dtype)
    results = []
    for one, forward in ((layer, layer), (twin, lambda x: by_the_norm(twin, x))):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype=dtype):
            y = forward(leaf)
        torch.autograd.backward(y.float().square().mean())
        gradients = [value.grad for value in one.parameters()]
        assert all(gradient.isfinite().all() for gradient in [leaf.grad, *gradients])
        results.append((y, leaf.grad, one.norm.running_var, one.norm.running_mean))
    for got, wanted in zip(*results, strict=True):
        assert got.dtype == wanted.dtype
    support.assert_close(results[0][0], results[1][0].double(), 2**-5)
    for got, wanted in zip(results[0][2:], results[1][2:], strict=True):
        support.assert_close(got, wanted.double(), 2**-6, least=scale)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-4, 1, 1e3])
def test_half_precision_in_eval_mode_is_as_with_a_norm_of_its_own(dtype, scale):
    torch.manual_seed(0)
    layer = SplitAttention(8).eval()
    layer.norm.running_mean.fill_(scale / 2)
    layer.norm.running_var.fill_(scale**2)  # at 1e3 more than float16 can hold, at 1e-4 less
    x = (torch.randn(4, 8, 6, 5) * scale).to(dtype)
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        got, wanted = layer(x), by_the_norm(layer, x)
    assert got.dtype == wanted.dtype == dtype
    support.assert_close(got, wanted.double(), 2**-5)


def test_one_image_may_pass_frozen_norms_and_one_value_may_not_pass_a_learning_one():
    layer = build()
    layer.reduce[1].eval()
    layer.norm.eval()
    assert layer(torch.randn(1, 8, *SIZE)).shape == (1, 8, *SIZE)
    layer.eval().norm.train()
    assert layer(torch.randn(1, 8, *SIZE)).shape == (1, 8, *SIZE)
    with pytest.raises(ValueError, match=r"SplitAttention: in train mode .* 2 values a channel, got 1"):
        layer(torch.randn(1, 8, 1, 1))


def test_shapes_of_the_released_network():
    for channels, hidden in ((64, 32), (256, 128), (2048, 1024)):
        layer = SplitAttention(channels, device="meta")
        assert layer.reduce[0].weight.shape == (hidden, channels // 2)
        assert layer.expand.weight.shape == (channels, hidden)


def test_starts_as_documented():
    torch.manual_seed(0)
    layer = SplitAttention(256)
    for linear, inputs in ((layer.reduce[0], 128), (layer.expand, 128)):
        for value in (linear.weight, linear.bias):
            assert 0.8 * inputs**-0.5 < value.abs().max() <= inputs**-0.5
    assert torch.equal(layer.norm.weight, torch.ones(256))


def test_one_image_cannot_train_the_norm():
    layer, x = build(), torch.randn(1, 8, *SIZE)
    before = copy_of_state(layer)
    with pytest.raises(ValueError, match=r"SplitAttention: in train mode .* 2 values a channel, got 1: "):
        layer(x)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert layer.eval()(x).shape == x.shape


def copy_of_state(layer):
    return {name: value.clone() for name, value in layer.state_dict().items()}


@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        (ValueError, {"channels": 0}, r"SplitAttention: channels .*1, got 0"),
        (ValueError, {"parts": 0}, r"parts .*1, got 0"),
        (ValueError, {"parts": 3}, r"channels, .*3 parts, .*multiple of 3, got 8: .* 6 or 9"),
        (ValueError, {"reduction": 0}, r"reduction .*1, got 0"),
        (TypeError, {"norm": 1}, r"norm .*bool, got 1"),
    ],
)
def test_refuses_wrong_options(error, options, message):
    with pytest.raises(error, match=message):
        SplitAttention(**{"channels": 8, **options})


@pytest.mark.parametrize(
    ("error", "x", "message"),
    [
        (ValueError, torch.zeros(1, 3, 4, 3), r"SplitAttention: .*input .*8 channels, got 3"),
        (ValueError, torch.zeros(8, 4, 3), r"4 dimensions .*got"),
        (TypeError, torch.zeros(1, 8, 4, 3, dtype=torch.int64), r"floating point, got torch.int64"),
        (ValueError, torch.zeros(1, 8, 4, 0), r"height .*width, got shape \(1, 8, 4, 0\)"),
    ],
)
def test_refuses_wrong_maps(error, x, message):
    with pytest.raises(error, match=message):
        build()(x)
