"""DomainLevelAttention is MLA's Eq. 4-6."""

import math

import pytest
import torch

from attnreid import fold
from attnreid.layers import DomainLevelAttention
from attnreid.layers.domain import normalise_twice
from tests.layers import support
from tests.oracles.domain import domain, domain_map


def build(**options):
    return support.randomise(DomainLevelAttention(3, **{"memory": 4, **options}))


@pytest.mark.parametrize("memory", [2, 7])
@pytest.mark.parametrize("size", [(2, 3), (5, 1)])
def test_agrees_with_the_formula(memory, size):
    support.assert_agrees(build(memory=memory), domain, support.random_map(2, 3, *size))


def test_the_memory_map_is_the_formulas_and_each_pixel_shares_1():
    layer, x = build().double(), support.random_map(2, 3, 3, 2)
    attention = layer.memory_map(x)
    support.assert_close(attention, domain_map(x, dict(layer.named_parameters())), 1e-12)
    assert attention.shape == (2, 4, 3, 2)
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(2, 3, 2, dtype=torch.float64))
    support.assert_close(fold(layer.eval()).memory_map(x), attention, 1e-12)  # where it is, too


def test_gradcheck():
    support.assert_gradients(build(), support.random_map(2, 3, 2, 2))


def test_by_hand_on_two_by_two():
    layer = DomainLevelAttention(1, memory=2)
    with torch.no_grad():
        layer.query.fill_(1)
        layer.key.copy_(torch.tensor([1.0, 0.0]).view(2, 1, 1, 1))
        layer.value.copy_(torch.tensor([3.0, 0.0]).view(1, 2, 1, 1))
    x = torch.tensor([[[[0.0, math.log(2)], [0.0, math.log(4)]]]])
    # Over positions: slot 0 has (1, 2, 1, 4)/8, slot 1 has 1/4. Then over slots, slot 0: 1/3, 1/2, 1/3, 2/3.
    wanted = x + torch.tensor([[[[1.0, 1.5], [1.0, 2.0]]]])
    torch.testing.assert_close(layer(x), wanted)


def test_a_pixel_whose_softmax_underflows_is_still_a_number():
    logits = torch.tensor([[[[1000.0, 0.0]], [[1000.0, 0.0]]]])
    over_positions = logits.flatten(2).softmax(dim=2)
    assert (over_positions / over_positions.sum(dim=1, keepdim=True)).isnan().any()
    assert torch.equal(normalise_twice(logits), torch.full_like(logits, 0.5))


def test_a_memory_without_values_leaves_the_map_as_it_is():
    layer, x = build().double(), support.random_map(2, 3, 4, 3)
    torch.nn.init.zeros_(layer.value)
    assert torch.equal(layer(x), x)


def test_a_memory_of_one_slot_recalls_it_everywhere():
    layer, x = build(memory=1).double(), support.random_map(2, 3, 4, 3)
    torch.testing.assert_close(layer(x), x + layer.value.view(1, 3, 1, 1))


def test_value_starts_as_a_copy_of_keys_transpose():
    layer = DomainLevelAttention(8, memory=4)
    assert torch.equal(layer.value, layer.key.transpose(0, 1))
    torch.nn.init.zeros_(layer.key)
    assert layer.value.abs().max() > 0
    assert layer.query.abs().max() <= 8**-0.5
    assert not torch.equal(layer.query[:4], layer.value[:4])


def test_the_memory_map_passes_its_probe():
    layer, x = build().double(), support.random_map(1, 3, 2, 2)
    with support.Recorder(layer) as heard:
        layer.memory_map(x)
        assert heard == []
        layer(x)
    [(name, seen)] = heard
    assert name == "probe"
    assert torch.equal(seen, layer.memory_map(x))


@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        (ValueError, {"channels": 0}, r"DomainLevelAttention: channels .*1, got 0"),
        (ValueError, {"channels": 3, "memory": 0}, r"memory .*1, got 0"),
        (TypeError, {"channels": 3, "memory": None}, r"memory .*int, got None"),
    ],
)
def test_refuses_wrong_options(error, options, message):
    with pytest.raises(error, match=message):
        DomainLevelAttention(**options)


@pytest.mark.parametrize(
    ("error", "x", "message"),
    [
        (ValueError, torch.zeros(3, 4), r"DomainLevelAttention: .*input .*4 dimensions .*got"),
        (TypeError, torch.zeros(1, 3, 4, 4, dtype=torch.bool), r"floating point, got torch.bool"),
        (ValueError, torch.zeros(1, 2, 4, 4), r"3 channels, got 2"),
        (ValueError, torch.zeros(1, 3, 4, 0), r"height .*width, got shape \(1, 3, 4, 0\)"),
    ],
)
def test_refuses_wrong_maps(error, x, message):
    with pytest.raises(error, match=message):
        DomainLevelAttention(3)(x)
