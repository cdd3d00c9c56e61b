"""What a layer becomes for maps of another size, and what of its gates is preserved."""

import copy
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attnreid import (
    AttentionPyramid,
    DomainLevelAttention,
    Gate,
    HeadLevelAttention,
    MultiLevelAttention,
    PixelLevelAttention,
    RelationAwareChannelAttention,
    RelationAwareSpatialAttention,
    SplitAttention,
    SqueezeExcitation,
    fold,
)
from attnreid.blend import IdentityBlend
from attnreid.layers._resizing import averaging, resize_attention, resize_over_positions
from attnreid.registry import build_attention
from tests.layers import support
from tests.oracles import resizing

SIZE, CHANNELS = (4, 3), 8
OTHERS = [(6, 4), (2, 2), (8, 6), (4, 5), (2, 1)]
each_size = pytest.mark.parametrize("size", OTHERS, ids=str)

RGA_S = partial(RelationAwareSpatialAttention, CHANNELS, size=SIZE, reduction=2)
RGA_C = partial(RelationAwareChannelAttention, CHANNELS, size=SIZE, reduction=2)


def build(make, **options):
    return support.randomise(make(**options))


def maps(size, images=2):
    return support.random_map(images, CHANNELS, *size)


def constant_maps(size, images=3, strips=1):
    """Each image has one value a channel; another one in each strip."""
    values = support.random_map(images, CHANNELS, strips, 1)
    return values.repeat_interleave(size[0] // strips, dim=2).expand(-1, -1, -1, size[1])


# Weights over positions ----------------------------------------------------------------------------------------------


def test_the_averages_are_these():
    finer = averaging(4, 2)  # of two new positions: the quarter points between them, held at the ends
    assert torch.equal(finer, torch.tensor([[4, 0], [3, 1], [1, 3], [0, 4]]) / 4.0)
    coarser = averaging(2, 4)  # a triangle two wide on both sides: 3/4, 3/4, 1/4, 0 and its mirror image
    torch.testing.assert_close(coarser, torch.tensor([[3, 3, 1, 0], [0, 1, 3, 3]], dtype=torch.float64) / 7)


@pytest.mark.parametrize(("old", "new"), [((2, 3), (3, 5)), ((4, 3), (2, 2)), ((3, 1), (2, 4)), ((1, 1), (3, 2))])
def test_weights_are_those_of_the_literal_averages(old, new):
    weight = support.random_map(2, 1, 1, old[0] * old[1])
    got = resize_over_positions(weight, old, new)
    wanted = torch.stack([resizing.resized(each.flatten(), old, new) for each in weight]).view(2, 1, 1, -1)
    support.assert_close(got, wanted, 1e-14)
    support.assert_close(got.sum(-1), weight.sum(-1), 1e-14)


@each_size
def test_weights_see_of_a_map_what_they_saw_of_it_resized(size):
    weight, x = support.random_map(5, 2 * 12, 1, 1).flatten(1), maps(size)
    wide = resize_over_positions(weight, SIZE, size)
    averaged = F.interpolate(x, size=SIZE, mode="bilinear", antialias=True)
    for block in range(2):  # rows, then columns
        got = x.flatten(2) @ wide[:, block * size[0] * size[1] : (block + 1) * size[0] * size[1]].mT
        support.assert_close(got, averaged.flatten(2) @ weight[:, block * 12 : (block + 1) * 12].mT, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_keep_their_format_and_are_rounded_once(dtype):
    weight = support.random_map(3, 1, 1, 12).to(dtype)
    got = resize_over_positions(weight, SIZE, (6, 4))
    assert got.dtype == dtype
    wanted = resize_over_positions(weight.double(), SIZE, (6, 4))
    assert (got - wanted).abs().max() <= torch.finfo(dtype).eps * wanted.abs().max()
    assert resize_over_positions(weight.to("meta"), SIZE, (6, 4)).shape == got.shape


# Relation-aware attention --------------------------------------------------------------------------------------------


@each_size
@pytest.mark.parametrize("parts", [1, 2])
def test_spatial_relations_are_those_with_averages(size, parts):
    layer = build(RGA_S, parts=parts).double().eval()
    wanted = resizing.spatial_gate(maps(size), layer.state_dict(), SIZE, parts=parts)
    support.assert_close(layer.resize(size).gate(maps(size)), wanted, 1e-12)


@each_size
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_channel_gate_is_the_one_of_the_map_resized(size, training, parts):
    layer, x = build(RGA_C, parts=parts).double().train(training), maps(size)
    resized = layer.resize(size)
    averaged = torch.stack([resizing.averaged(image, SIZE) for image in x])
    support.assert_close(resized.gate(x), layer.gate(averaged), 1e-11)
    for name, value in layer.named_buffers():
        support.assert_close(resized.get_buffer(name), value.double(), 1e-12)


# name: what it says of the constant map, of which nothing changes with the size
PRESERVED = {
    "rga_s": (RGA_S, lambda layer, x: layer.gate(x)[..., :1, :1]),
    "rga_c": (RGA_C, lambda layer, x: layer.gate(x)),
    "rga_c in parts": (partial(RGA_C, parts=2), lambda layer, x: layer.gate(x)),
    "se": (partial(SqueezeExcitation, CHANNELS), lambda layer, x: layer.gate(x)),
    "split": (partial(SplitAttention, CHANNELS), lambda layer, x: layer.gate(x)),
    "head": (partial(HeadLevelAttention, CHANNELS, size=SIZE), lambda layer, x: layer(x)[..., :1, :1]),
    "domain": (partial(DomainLevelAttention, CHANNELS), lambda layer, x: layer(x)[..., :1, :1]),
    "multi_level": (
        partial(MultiLevelAttention, CHANNELS, size=SIZE, levels=("head", "domain")),
        lambda layer, x: layer(x)[..., :1, :1],
    ),
    "pyramid": (
        partial(AttentionPyramid, CHANNELS, ("rga_s", "rga_c", "se"), size=SIZE, levels=(1, 2, 2)),
        lambda layer, x: layer(x)[..., :1, :1],
    ),
}


@pytest.mark.parametrize("name", PRESERVED)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("size", [(6, 4), (2, 2)], ids=str)
def test_on_a_constant_map_nothing_changes(name, training, size):
    make, said_of = PRESERVED[name]
    single = build(make).train(training)
    for layer, tolerance in ((single, 1e-5), (copy.deepcopy(single).double(), 1e-11)):
        resized, dtype = layer.resize(size), next(layer.parameters()).dtype
        got = said_of(resized, constant_maps(size).to(dtype))
        support.assert_close(got, said_of(layer, constant_maps(SIZE).to(dtype)).double(), tolerance)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_spatial_parts_are_preserved_where_each_is_constant(training):
    layer = build(RGA_S, parts=2).double().train(training)
    resized = layer.resize((6, 5))
    before, after = layer.gate(constant_maps(SIZE, strips=2)), resized.gate(constant_maps((6, 5), strips=2))
    assert not torch.allclose(before[:, :, :1, :1], before[:, :, -1:, :1])
    support.assert_close(after[:, :, :3], before[:, :, :1, :1].expand(-1, -1, 3, 5), 1e-12)
    support.assert_close(after[:, :, 3:], before[:, :, -1:, :1].expand(-1, -1, 3, 5), 1e-12)
    if training:
        # Of a constant map there are more values, of the same mean; the variance is unbiased by their number.
        support.assert_close(resized.joint.norm.running_mean, layer.joint.norm.running_mean, 1e-12)
        start = build(RGA_S, parts=2).double().joint.norm.running_var
        moved = (resized.joint.norm.running_var - 0.9 * start) / (layer.joint.norm.running_var - 0.9 * start)
        support.assert_close(moved, torch.full_like(moved, (45 / 44) / (18 / 17)), 1e-9)


def test_of_other_maps_the_spatial_gate_changes():
    layer = build(RGA_S).double().eval()
    gate = layer.resize((8, 6)).gate(maps(SIZE).repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert not torch.allclose(gate[..., ::2, ::2], layer.gate(maps(SIZE)), atol=1e-3)


@pytest.mark.parametrize(("make", "key"), [(RGA_S, "joint.weight"), (RGA_C, "embed.weight")])
def test_the_hidden_widths_stay_and_are_remembered(make, key):
    layer = build(make, parts=2)
    resized = layer.resize((8, 6))
    shapes = {name: value.shape for name, value in layer.state_dict().items()}
    assert {name for name, value in resized.state_dict().items() if value.shape != shapes[name]} == {key}
    assert (resized.size, resized.made_for, layer.size, layer.made_for) == ((8, 6), SIZE, SIZE, SIZE)
    assert repr(resized).splitlines()[1].strip() == "8, size=(8, 6), reduction=2, parts=2, made_for=(4, 3)"
    assert resized.resize((6, 2)).made_for == SIZE
    assert "made_for" not in repr(resized.resize(SIZE))

    fresh = make(size=(8, 6), parts=2, made_for=SIZE)
    assert repr(fresh) == repr(resized)
    fresh.load_state_dict(resized.state_dict(), strict=True)
    x = maps((8, 6)).float()
    assert torch.equal(fresh.eval()(x), resized.eval()(x))
    for twin in (copy.deepcopy(resized), pickle.loads(pickle.dumps(resized))):
        assert repr(twin) == repr(resized)
        assert torch.equal(twin(x), resized(x))

    resized.reset_parameters()
    inputs = resized.get_parameter(key).shape[2]
    assert 0.8 * inputs**-0.5 < resized.get_parameter(key).abs().max() <= inputs**-0.5


@pytest.mark.parametrize("make", [RGA_S, RGA_C, partial(RGA_S, parts=2), partial(RGA_C, parts=2)])
def test_folding_and_resizing_go_in_any_order(make):
    layer, x = build(make).double().eval(), maps((6, 4))
    resized_last, folded_last = fold(layer).resize((6, 4)), fold(layer.resize((6, 4)))
    support.assert_close(resized_last(x), folded_last(x), 1e-12)
    support.assert_close(resized_last(x), layer.resize((6, 4))(x), 1e-10)
    with pytest.raises(ValueError, match=r"folded .*eval mode"):
        resized_last.train()


# Head-level attention ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_position_tables_of_one_row_or_column_and_of_any_format(dtype):
    layer = build(partial(HeadLevelAttention, CHANNELS, size=(1, 4))).to(dtype)
    back = layer.resize((3, 1))
    assert (back.position_height.shape, back.position_width.shape) == ((CHANNELS, 3, 1), (CHANNELS, 1, 1))
    assert back.position_width.dtype == dtype
    assert torch.equal(back.position_height, layer.position_height.expand(-1, 3, -1))
    wide = back.resize((2, 5))
    assert torch.equal(wide.position_width, back.position_width.expand(-1, -1, 5))


# What is made of layers ----------------------------------------------------------------------------------------------


def test_a_pyramid_resizes_each_level_and_its_plan():
    pyramid = build(
        partial(AttentionPyramid, CHANNELS, ("rga_s", "rga_c", "head"), size=SIZE, levels=(2, 1, 2), dim="height")
    )
    resized = pyramid.double().eval().resize((6, 5))
    assert [level.size for level in resized.plan] == [(3, 5), (6, 5), (3, 5)]
    assert [level.size for level in pyramid.plan] == [(2, 3), (4, 3), (2, 3)]
    assert (resized.size, pyramid.size) == ((6, 5), SIZE)
    assert [part.size for part in resized.levels[2].parts] == [(3, 5)] * 2
    x = maps((6, 5))
    wanted = x
    for level in pyramid.levels[:2]:
        wanted = level.resize((6, 5))(wanted)
    strips = zip(pyramid.levels[2].parts, wanted.chunk(2, dim=2), strict=True)
    wanted = torch.cat([part.resize((3, 5))(strip) for part, strip in strips], dim=2)
    support.assert_close(resized(x), wanted, 1e-12)
    with pytest.raises(ValueError, match=r"map must be 6x5 .*, got 4x3: .*attachment.resize.*layer.resize\(\(4, 3\)\)"):
        resized(maps(SIZE))


def test_a_pyramid_without_a_size_stays_without():
    pyramid = build(partial(AttentionPyramid, CHANNELS, "se", levels=3))
    resized = pyramid.resize((6, 5))
    assert (resized.size, resized.plan) == (None, pyramid.plan)
    assert torch.equal(resized(maps((5, 1)).float()), pyramid(maps((5, 1)).float()))
    assert AttentionPyramid(CHANNELS, levels=0, size=SIZE).resize((6, 5)).plan == ()


@pytest.mark.parametrize(
    ("attention", "options"), [(RelationAwareSpatialAttention, {}), (HeadLevelAttention, {}), (SqueezeExcitation, {})]
)
def test_what_is_blended_in_is_resized_inside(attention, options):
    blended = IdentityBlend(attention(CHANNELS, **({} if attention is SqueezeExcitation else {"size": SIZE})))
    nn.init.constant_(blended.blend, 0.5)
    resized, x = support.randomise(blended).eval().resize((6, 4)), maps((6, 4)).float()
    assert torch.equal(resized.blend, blended.blend)
    alone = x + blended.blend * (resize_attention(blended.layer, (6, 4))(x) - x)
    support.assert_close(resized(x), alone.double(), 1e-6)


class Table(Gate):
    """A user's gate that depends on the size, and says how it becomes one for another."""

    split_dim = "height"

    def __init__(self, channels, *, size):
        super().__init__(channels, size=size)
        self.table = nn.Parameter(torch.randn(1, 1, *size))

    def gate(self, x):
        return self.table.sigmoid()

    def resize(self, size):
        resized = type(self)(self.channels, size=size)
        resized.table = nn.Parameter(F.interpolate(self.table.detach(), size=size))
        return resized


def test_a_users_gate_takes_part_in_parts_and_modes_stay():
    pyramid = AttentionPyramid(CHANNELS, Table, levels=2, size=SIZE).eval()
    resized = pyramid.resize((8, 6))
    assert torch.equal(resized.levels[0].table[..., ::2, ::2], pyramid.levels[0].table)
    assert [part.size for part in resized.levels[1].parts] == [(4, 6)] * 2
    assert not any(module.training for module in resized.modules())
    assert resized(maps((8, 6)).float()).shape == (2, CHANNELS, 8, 6)


# Refusals ------------------------------------------------------------------------------------------------------------


class Sized(nn.Module):
    """A foreign attention for one size, of which nobody knows how it becomes one for another."""

    def __init__(self, channels, *, size):
        super().__init__()
        self.factor = nn.Parameter(torch.rand(channels, *size))

    def forward(self, x):
        return x * self.factor


class SizedGate(Table):
    resize = Gate.resize


class OfLooks(Gate):
    """Takes the size and does not tell its base."""

    def __init__(self, channels, *, size):
        super().__init__(channels)
        self.table = nn.Parameter(torch.randn(1, 1, *size))

    gate = Table.gate


def by_function(channels, size):
    return nn.Sequential(Sized(channels, size=size))


@pytest.mark.parametrize("attention", [Sized, SizedGate, OfLooks, by_function], ids=lambda each: each.__name__)
def test_what_takes_the_size_and_has_no_resize_is_refused_by_its_name(attention):
    layer = build_attention("a test", attention, CHANNELS, size=SIZE)
    match = rf"^{type(layer).__name__}: .*resize\(size\), got one without: .*copy"
    for one in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        with pytest.raises(ValueError, match=match):
            resize_attention(one, (6, 4))
    with pytest.raises(ValueError, match=match):
        AttentionPyramid(CHANNELS, attention, size=SIZE, levels=(1, 2), dim="height").resize((6, 4))


class Odd(Sized):
    returned = None

    def resize(self, size):
        return self.returned(self)


@pytest.mark.parametrize(
    ("returned", "error", "match"),
    [
        (lambda layer: None, TypeError, r"Odd: resize\(size\) must return a module, got None"),
        (lambda layer: layer, ValueError, r"Odd: resize\(size\) must return a copy, got the layer itself"),
        (nn.Sequential, ValueError, r"Odd: resize\(size\) must return a copy"),
        (lambda layer: nn.Conv2d(1, 1, 1), ValueError, r"Odd: .*keep the names .*first 'bias'"),
    ],
)
def test_a_resize_that_does_not_return_a_copy_is_refused(returned, error, match, monkeypatch):
    monkeypatch.setattr(Odd, "returned", staticmethod(returned))
    with pytest.raises(error, match=match):
        resize_attention(Odd(CHANNELS, size=SIZE), (6, 4))


@pytest.mark.parametrize(
    ("make", "size", "error", "match"),
    [
        (RGA_S, 6, TypeError, r"^RelationAwareSpatialAttention: size must be \(height, width\), got 6"),
        (RGA_C, (6, 0), ValueError, r"^RelationAwareChannelAttention: the width in size .*1, got 0"),
        (partial(PixelLevelAttention, CHANNELS), None, TypeError, r"^PixelLevelAttention: size .*got None"),
        (partial(DomainLevelAttention, CHANNELS), (1,), TypeError, r"^DomainLevelAttention: size .*got \(1,\)"),
        (partial(MultiLevelAttention, CHANNELS, size=SIZE), "6", TypeError, r"^MultiLevelAttention: size .*got '6'"),
        (partial(AttentionPyramid, CHANNELS), (0, 1), ValueError, r"^AttentionPyramid: the height in size .*got 0"),
        (partial(RGA_S, parts=2), (7, 4), ValueError, r"height, split into 2 parts, .*got 7: .*6 or 8"),
        (
            partial(AttentionPyramid, CHANNELS, "rga_s", levels=3, size=SIZE),
            (6, 4),
            ValueError,
            r"^AttentionPyramid: the height, split into 4 parts by level 3, .*got 6: .*4 or 8",
        ),
    ],
)
def test_refuses_wrong_sizes(make, size, error, match):
    with pytest.raises(error, match=match):
        make().resize(size)


@pytest.mark.parametrize(
    ("make", "part", "name"),
    [(RGA_S, "joint", "weight"), (RGA_C, "embed", "weight"), (PRESERVED["head"][0], "", "position_width")],
)
def test_refuses_weights_that_something_stands_for(make, part, name):
    layer = make()
    torch.nn.utils.parametrizations.weight_norm(layer.get_submodule(part), name)
    with pytest.raises(ValueError, match=rf"plain parameters, got '{name}' with parametrizations: remove"):
        layer.resize((6, 4))


@pytest.mark.parametrize("make", [RelationAwareSpatialAttention, RelationAwareChannelAttention])
def test_refuses_what_it_cannot_be_made_for(make):
    with pytest.raises(TypeError, match=rf"^{make.__name__}: size must be \(height, width\), got 3"):
        make(CHANNELS, size=SIZE, made_for=3)
    with pytest.raises(ValueError, match=r"height, split into 2 parts, .*got 3"):
        RelationAwareSpatialAttention(CHANNELS, size=SIZE, parts=2, made_for=(3, 3))
