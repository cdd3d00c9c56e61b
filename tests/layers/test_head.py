"""HeadLevelAttention is MLA's Fig. 2."""

import math
from functools import partial

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from attnreid.layers import HeadLevelAttention
from tests.layers import support
from tests.oracles.head import head


def build(**options):
    return support.randomise(HeadLevelAttention(4, **{"size": (2, 3), "heads": 2, **options}))


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("scale", [1.0, 0.3, None])
def test_agrees_with_the_formula(heads, scale):
    layer = build(heads=heads, scale=scale)
    support.assert_agrees(layer, partial(head, heads=heads, scale=scale), support.random_map(2, 4, 2, 3))


@pytest.mark.parametrize("maps", [1, 4])
def test_agrees_with_the_formula_under_a_gate(maps):
    layer, gate = build().double(), support.random_map(2, maps, 2, 3, seed=4).sigmoid()
    x = support.random_map(2, 4, 2, 3)
    wanted = head(x, dict(layer.named_parameters()), heads=2, gate=gate)
    support.assert_close(layer(x, gate), wanted, 1e-12)
    assert not torch.allclose(layer(x, gate), layer(x))


def test_gradcheck_with_gate():
    layer, gate = build().double(), support.random_map(2, 1, 2, 3, seed=4).sigmoid().requires_grad_()
    x = support.random_map(2, 4, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(layer, (x, gate), fast_mode=True)


@pytest.mark.parametrize(
    ("gate", "first"),
    [
        # Logits of the first pixel, q = 1: k + pos = (ln 2, ln 3, 0, ln 3), its share of itself 2 / (2+3+1+3).
        (None, 2 / 9),
        # The gate takes the position code away from the second pixel: (ln 2, 0, 0, ln 3), 2 / (2+1+1+3).
        ([[1.0, 0.0], [1.0, 1.0]], 2 / 7),
    ],
)
def test_by_hand_on_two_by_two(gate, first):
    layer = HeadLevelAttention(1, size=(2, 2), heads=1)
    with torch.no_grad():
        layer.qkv.weight.copy_(torch.tensor([1.0, math.log(2), 1.0]).view(3, 1, 1, 1))
        layer.position_height.zero_()
        layer.position_width.copy_(torch.tensor([[[0.0, math.log(3)]]]))
    x = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    y = layer(x, None if gate is None else torch.tensor(gate)[None, None])
    # The other pixels' q is 0, so all four pixels weigh the same: 1/4 of the only value that is not 0.
    wanted = torch.tensor([[[[first, 0.25], [0.25, 0.25]]]])
    torch.testing.assert_close(y, wanted, atol=1e-6, rtol=0)


def test_without_position_code_it_does_not_know_where_pixels_are():
    layer = build().double()
    with torch.no_grad():
        layer.position_height.zero_()
        layer.position_width.zero_()
    x, order = support.random_map(2, 4, 2, 3), torch.tensor([4, 0, 5, 2, 1, 3])
    moved = layer(x.flatten(2)[..., order].view_as(x))
    support.assert_close(moved, layer(x).flatten(2)[..., order].view_as(x), 1e-12)
    assert not torch.allclose(layer(x).flatten(2)[..., order], layer(x).flatten(2))


def test_a_gate_of_ones_changes_nothing_and_of_zeros_removes_the_position_code():
    layer, x = build().double(), support.random_map(2, 4, 2, 3)
    assert torch.equal(layer(x, torch.ones_like(x)), layer(x))
    ungated = layer(x, torch.zeros_like(x))
    with torch.no_grad():
        layer.position_height.zero_()
        layer.position_width.zero_()
    assert torch.equal(ungated, layer(x))


def test_runs_on_the_fused_kernel_whatever_the_layout():
    layer = HeadLevelAttention(32, size=(4, 4))
    x = support.random_map(2, 32, 4, 4, dtype=torch.float32)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # raises where this kernel cannot run
        support.assert_close(layer(x.contiguous(memory_format=torch.channels_last)), layer(x), 1e-6)


def test_resize_gives_an_adapted_copy():
    layer = build()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    x = support.random_map(2, 4, 2, 3, dtype=torch.float32)
    assert torch.equal(layer.resize((2, 3))(x), layer(x))

    taller = layer.resize((4, 3))
    assert taller.size == (4, 3)
    assert taller(support.random_map(2, 4, 4, 3, dtype=torch.float32)).shape == (2, 4, 4, 3)
    assert torch.equal(taller.position_width, layer.position_width)
    # Twice as fine, sampled at pixel centres: the quarter points between the two rows, the ends held.
    top, bottom = layer.position_height[:, 0], layer.position_height[:, 1]
    wanted = torch.stack([top, 0.75 * top + 0.25 * bottom, 0.25 * top + 0.75 * bottom, bottom], dim=1)
    torch.testing.assert_close(taller.position_height, wanted)

    torch.nn.init.zeros_(taller.qkv.weight)
    assert layer.size == (2, 3)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


def test_starts_as_documented():
    torch.manual_seed(0)
    layer = HeadLevelAttention(64, size=(32, 32))
    for table in (layer.position_height, layer.position_width):
        assert abs(table.mean()) < 0.1
        assert abs(table.std() - 1) < 0.1
    assert layer.qkv.weight.abs().max() <= 1 / 8
    assert layer.qkv.bias is None


def test_records_nothing():
    with support.Recorder() as heard:
        build().double()(support.random_map(1, 4, 2, 3))
    assert heard == []


@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        (ValueError, {"channels": -4}, r"HeadLevelAttention: channels .*1, got -4"),
        (ValueError, {"heads": 0}, r"heads .*1, got 0"),
        (ValueError, {"channels": 10}, r"channels .*multiple of 4, got 10: .*8 or 12"),
        (ValueError, {"channels": 3}, r"channels .*multiple of 4, got 3: .*4$"),
        (TypeError, {"size": 16}, r"size .*\(height, width\), got 16"),
        (TypeError, {"size": (16, 8, 3)}, r"size .*\(height, width\), got \(16, 8, 3\)"),
        (ValueError, {"size": (16, 0)}, r"the width in size .*1, got 0"),
        (TypeError, {"size": (1.5, 2)}, r"the height in size .*int, got 1.5"),
        (TypeError, {"scale": "d"}, r"scale .*number or None, got 'd'"),
        (TypeError, {"scale": True}, r"scale .*number or None, got True"),
        (ValueError, {"scale": 0.0}, r"scale .*finite, got 0.0"),
        (ValueError, {"scale": math.nan}, r"scale .*finite, got nan"),
        (ValueError, {"scale": math.inf}, r"scale .*finite, got inf"),
    ],
)
def test_refuses_wrong_options(error, options, message):
    with pytest.raises(error, match=message):
        HeadLevelAttention(**{"channels": 4, "size": (2, 3), **options})


@pytest.mark.parametrize(
    ("error", "x", "gate", "message"),
    [
        (ValueError, torch.zeros(1, 4, 3, 2), None, r"map .*2x3 \(height x width\), got 3x2"),
        (ValueError, torch.zeros(1, 8, 2, 3), None, r"4 channels, got 8"),
        (ValueError, torch.zeros(4, 2, 3), None, r"4 dimensions .*got"),
        (
            TypeError,
            torch.zeros(1, 4, 2, 3, dtype=torch.int64),
            None,
            r"floating point, got torch.int64",
        ),
        (ValueError, torch.zeros(1, 4, 2, 0), None, r"map .*2x3 .*, got 2x0"),
        (ValueError, torch.zeros(2, 4, 2, 3), torch.zeros(1, 4, 2, 3), r"gate .* \(2, 4, 2, 3\) or"),
        (
            ValueError,
            torch.zeros(2, 4, 2, 3),
            torch.zeros(2, 4, 1, 1),
            r"got \(2, 4, 1, 1\): .*pixel-level",
        ),
        (
            TypeError,
            torch.zeros(2, 4, 2, 3),
            torch.zeros(2, 4, 2, 3, dtype=torch.float64),
            r"the gate .* torch.float32, got torch.float64: convert it ",
        ),
    ],
)
def test_refuses_wrong_maps_and_gates(error, x, gate, message):
    with pytest.raises(error, match=message):
        build()(x, gate)
