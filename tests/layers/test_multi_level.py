"""MultiLevelAttention is the MLA block: pixel, head and domain level in a row."""

from functools import partial
from itertools import combinations

import pytest
import torch

from attnreid.layers import MultiLevelAttention
from tests.layers import support
from tests.oracles.multi_level import multi_level

ALL = ("pixel", "head", "domain")
SUBSETS = [subset for count in (1, 2, 3) for subset in combinations(ALL, count)]


def build(**options):
    return support.randomise(MultiLevelAttention(4, **{"size": (2, 3), "heads": 2, "memory": 3, **options}))


@pytest.mark.parametrize("levels", SUBSETS)
def test_agrees_with_the_formula(levels):
    oracle = partial(multi_level, levels=levels, heads=2)
    support.assert_agrees(build(levels=levels), oracle, support.random_map(2, 4, 2, 3))


def test_gradcheck():
    support.assert_gradients(build(), support.random_map(2, 4, 2, 3))


def test_by_hand_on_two_by_two():
    layer = MultiLevelAttention(1, size=(2, 2), heads=1, memory=1)
    with torch.no_grad():
        for value in layer.parameters():
            value.zero_()
        layer.head.qkv.weight[2] = 1
        layer.domain.value.fill_(0.5)
    x = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    # Pixel: half of the map. Head, without q: the mean of it, 12/8. Domain, one slot: its value on top.
    torch.testing.assert_close(layer(x), torch.full((1, 1, 2, 2), 2.0))


def test_the_order_of_the_names_does_not_matter():
    layer, shuffled = build(), build(levels=("domain", "head", "pixel"))
    x = support.random_map(2, 4, 2, 3, dtype=torch.float32)
    assert shuffled.levels == ALL
    assert torch.equal(layer(x), shuffled(x))


def test_without_the_head_level_any_size_will_do():
    layer = MultiLevelAttention(4, levels=("pixel", "domain"))
    assert layer(torch.zeros(1, 4, 5, 7)).shape == (1, 4, 5, 7)


def test_resize_gives_an_adapted_copy():
    layer = build()
    x = support.random_map(2, 4, 2, 3, dtype=torch.float32)
    assert torch.equal(layer.resize((2, 3))(x), layer(x))
    wider = layer.resize((2, 5))
    assert wider.size == wider.head.size == (2, 5)
    assert wider(torch.ones(1, 4, 2, 5)).shape == (1, 4, 2, 5)
    assert layer.size == layer.head.size == (2, 3)
    assert wider.pixel.conv.weight is not layer.pixel.conv.weight
    assert build(levels=("pixel",)).resize((4, 4)).size == (4, 4)


def test_what_the_levels_apply_passes_their_probes():
    layer, x = build().double(), support.random_map(2, 4, 2, 3)
    with support.Recorder(layer) as heard:
        layer(x)
    assert [name for name, _ in heard] == ["pixel.probe", "head.probe", "domain.probe"]
    gate = layer.pixel.gate(x)
    assert torch.equal(heard[0][1], gate)
    assert torch.equal(heard[1][1], layer.head.attention_weights(x * gate, gate))
    assert heard[2][1].shape == (2, 3, 2, 3)


def test_options_reach_the_levels():
    layer = build(heads=4, memory=5)
    assert layer.head.heads == 4
    assert layer.domain.memory == 5


@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        (ValueError, {"levels": ()}, r"MultiLevelAttention: levels .*one level, got \(\)"),
        (ValueError, {"levels": ("pixle",)}, r"levels .*got 'pixle': .*'pixel'\?"),
        (ValueError, {"levels": ("pixel", "pixel")}, r"level .*once only, got \('pixel', 'pixel'\)"),
        (TypeError, {"levels": "pixel"}, r"levels .*sequence of names, got 'pixel'"),
        (TypeError, {"levels": 3}, r"levels .*sequence of names, got 3"),
        (ValueError, {"size": None}, r"head level .*size, got size=None"),
        (TypeError, {"size": 3}, r"MultiLevelAttention: size .*\(height, width\), got 3"),
        (ValueError, {"channels": 0}, r"MultiLevelAttention: channels .*1, got 0"),
        (ValueError, {"channels": 6}, r"channels .*multiple of 4, got 6"),
        (ValueError, {"heads": 0, "levels": ("pixel",)}, r"MultiLevelAttention: heads .*1, got 0"),
        (ValueError, {"memory": 0, "levels": ("pixel",)}, r"MultiLevelAttention: memory .*1, got 0"),
    ],
)
def test_refuses_wrong_options(error, options, message):
    with pytest.raises(error, match=message):
        MultiLevelAttention(**{"channels": 4, "size": (2, 3), **options})


@pytest.mark.parametrize(
    ("error", "x", "message"),
    [
        (ValueError, torch.zeros(1, 4, 3, 3), r"MultiLevelAttention: .*map .*2x3 .* got 3x3"),
        (ValueError, torch.zeros(1, 3, 2, 3), r"MultiLevelAttention: .*input .*4 channels, got 3"),
        (ValueError, torch.zeros(4, 2, 3), r"4 dimensions .*got"),
        (TypeError, torch.zeros(1, 4, 2, 3, dtype=torch.int32), r"floating point, got torch.int32"),
        (ValueError, torch.zeros(1, 4, 2, 0), r"map .*2x3 .*, got 2x0"),
    ],
)
def test_refuses_wrong_maps(error, x, message):
    with pytest.raises(error, match=message):
        build()(x)
