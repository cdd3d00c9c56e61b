"""AttentionPyramid is APNet's Eq. 1-3; its plan is tested as data."""

from dataclasses import FrozenInstanceError
from functools import partial

import pytest
import torch
from torch import nn

from attnreid import PooledGate, registry
from attnreid.blend import IdentityBlend
from attnreid.layers import (
    PixelLevelAttention,
    RelationAwareChannelAttention,
    RelationAwareSpatialAttention,
    SplitAttention,
    SqueezeExcitation,
)
from attnreid.layers._probe import Probe
from attnreid.pyramid import AttentionPyramid, LevelPlan, plan_pyramid
from tests.layers import support
from tests.layers.own import Efficient, Spotlight
from tests.oracles.pyramid import blended, pyramid

SIZE = (4, 2)
SE = partial(SqueezeExcitation, reduction=2)
RGA = partial(RelationAwareSpatialAttention, reduction=2)
RGA_C = partial(RelationAwareChannelAttention, reduction=2)


class Doubling(nn.Module):
    """A foreign attention: a learnt multiple of the map, different for each channel."""

    def __init__(self, channels):
        super().__init__()
        self.factor = nn.Parameter(torch.randn(channels, 1, 1))

    def forward(self, x):
        return x * self.factor


class Sized(Doubling):
    def __init__(self, channels, *, size):
        super().__init__(channels)
        self.size = size


# The plan


def test_plan_of_channels():
    assert plan_pyramid(64, levels=3, dim="channels") == (
        LevelPlan(level=1, parts=1, dim="channels", channels=64, size=None),
        LevelPlan(level=2, parts=2, dim="channels", channels=32, size=None),
        LevelPlan(level=3, parts=4, dim="channels", channels=16, size=None),
    )


def test_plan_of_the_height():
    assert plan_pyramid(64, levels=2, radix=3, size=(12, 4), dim="height") == (
        LevelPlan(level=1, parts=1, dim="height", channels=64, size=(12, 4)),
        LevelPlan(level=2, parts=3, dim="height", channels=64, size=(4, 4)),
    )


def test_plan_of_both():
    plan = plan_pyramid(6, levels=(3, 2), size=(4, 4), dim=("channels", "height"))
    assert [(level.channels, level.size) for level in plan] == [(2, (4, 4)), (6, (2, 4))]


@pytest.mark.parametrize(
    ("levels", "radix", "parts"),
    [
        (0, 2, []),
        (1, 2, [1]),
        (4, 2, [1, 2, 4, 8]),
        (3, 1, [1, 1, 1]),
        (2, 32, [1, 32]),
        ((1, 3, 2), 2, [1, 3, 2]),
    ],
)
def test_parts_of_each_level(levels, radix, parts):
    assert [level.parts for level in plan_pyramid(96, levels=levels, radix=radix, dim="channels")] == parts


def test_a_plan_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        plan_pyramid(8, levels=1)[0].parts = 2


@pytest.mark.parametrize(
    ("error", "options", "message"),
    [
        (
            ValueError,
            {"channels": 62, "levels": 3, "dim": "channels"},
            r"channels, .*4 parts .*level 3, .*, got 62: .*60 or 64",
        ),
        # The sizes that are named suit all levels: 98 would fail at level 3.
        (
            ValueError,
            {"channels": 99, "levels": 3, "dim": "channels"},
            r"level 2, .* 2, got 99: .*96 or 100",
        ),
        (ValueError, {"channels": 3, "levels": 3, "dim": "channels"}, r"got 3: .* 4$"),
        (
            ValueError,
            {"levels": 3, "size": (10, 4), "dim": "height"},
            r"height, .*4 parts .*level 3, .*, got 10: .*8 or 12",
        ),
        (
            ValueError,
            {"levels": 2, "dim": "height"},
            r"level 2 .*height .*, got size=None",
        ),
        (ValueError, {"levels": 2}, r"level 2 .*2 parts .*, got dim=None"),
        (ValueError, {"dim": "width"}, r"dim .*'channels', 'height' or None, got 'width'"),
        (
            ValueError,
            {"dim": ("height",), "size": (4, 4)},
            r"dim .*one a level, got 1 .*2 levels",
        ),
        (ValueError, {"levels": (1, 2), "radix": 3}, r"got radix=3 and levels=\(1, 2\)"),
        (ValueError, {"levels": (1, 0)}, r"level 2 .*1, got 0"),
        (ValueError, {"levels": ()}, r"levels .*one level, got \(\)"),
        (ValueError, {"levels": -1}, r"levels .*0, got -1"),
        (TypeError, {"levels": True}, r"levels .*int, got True"),
        (TypeError, {"levels": "2"}, r"levels .*count or .*parts .*, got '2'"),
        (TypeError, {"levels": 1.5}, r"levels .*count or .*parts .*, got 1.5"),
        (ValueError, {"radix": 0}, r"radix .*1, got 0"),
        (ValueError, {"channels": 0}, r"AttentionPyramid: channels .*1, got 0"),
        (TypeError, {"size": 4}, r"AttentionPyramid: size .*\(height, width\), got 4"),
    ],
)
def test_the_plan_refuses(error, options, message):
    with pytest.raises(error, match=message):
        plan_pyramid(**{"channels": 64, **options})


# The mathematics


def build(attention=("se", "rga_s"), **options):
    return support.randomise(AttentionPyramid(8, attention, **{"size": SIZE, **options}))


def test_two_random_pyramids_differ():
    x = support.random_map(2, 8, *SIZE, dtype=torch.float32)
    assert not torch.allclose(AttentionPyramid(8)(x), AttentionPyramid(8)(x))


@pytest.mark.parametrize("order", ["coarse_to_fine", "fine_to_coarse"])
@pytest.mark.parametrize(
    ("attention", "kinds", "levels", "parts"),
    [
        (SE, ("se",) * 3, 3, (1, 2, 4)),
        (SE, ("se",) * 2, (2, 4), (2, 4)),
        (RGA, ("rga_s",) * 2, 2, (1, 2)),
        ((SE, RGA), ("se", "rga_s"), 2, (1, 2)),
        ((RGA, SE), ("rga_s", "se"), 2, (1, 2)),
    ],
)
def test_agrees_with_the_formula(attention, kinds, levels, parts, order):
    layer = build(attention, levels=levels, order=order)
    oracle = partial(pyramid, kinds=kinds, parts=parts, order=order, training=True)
    support.assert_agrees(layer, oracle, support.random_map(2, 8, *SIZE))
    oracle = partial(pyramid, kinds=kinds, parts=parts, order=order, training=False)
    support.assert_agrees(layer.eval(), oracle, support.random_map(2, 8, *SIZE))


@pytest.mark.parametrize(("attention", "kinds"), [(SE, ("se", "se")), ((SE, RGA), ("se", "rga_s"))])
def test_the_blend_agrees_with_the_formula(attention, kinds):
    layer = build(attention, identity_init=True)
    options = {"kinds": kinds, "parts": (1, 2), "order": "coarse_to_fine", "training": True}
    support.assert_agrees(layer, partial(blended, **options), support.random_map(2, 8, *SIZE))


@pytest.mark.parametrize("order", ["coarse_to_fine", "fine_to_coarse"])
@pytest.mark.parametrize("blend", [False, True])
@pytest.mark.parametrize(
    ("attention", "kinds", "parts"),
    [
        ((SE, "split"), ("se", "split"), (1, 2)),
        (("split", SE, "split"), ("split", "se", "split"), (1, 2, 4)),
        ((SE, partial(SplitAttention, norm=False)), ("se", "split"), (1, 2)),
        (("split", RGA), ("split", "rga_s"), (1, 2)),
        ((RGA_C, "split"), ("rga_c", "split"), (1, 2)),
    ],
)
def test_with_split_attention_it_agrees_with_the_formula(attention, kinds, parts, order, blend):
    layer = build(attention, levels=len(parts), order=order, identity_init=blend)
    # The hidden bias is left out: the batch norm behind it takes it away, so that it has no gradient to train.
    biases = {f"levels.{index}.reduce.0.bias": torch.zeros(()) for index, kind in enumerate(kinds) if kind == "split"}
    for name in biases:
        layer.get_submodule(name.removesuffix(".bias")).register_parameter("bias", None)
    for training in (True, False):

        def oracle(x, p, training=training):
            formula = blended if blend else pyramid
            return formula(x, {**p, **biases}, kinds=kinds, parts=parts, order=order, training=training)

        support.assert_agrees(layer.train(training), oracle, support.random_map(3, 8, *SIZE))


def test_the_released_variant_by_its_parts():
    """Fine to coarse: split attention and its norm first, SE with 8 hidden units last."""
    layer = AttentionPyramid(16, (partial(SqueezeExcitation, hidden=8), "split"), levels=(1, 2), order="fine_to_coarse")
    layer, x = support.randomise(layer).double(), support.random_map(2, 16, *SIZE)
    se, split = layer.levels
    assert (se.reduce.shape[1], split.parts, split.norm.bias) == (8, 2, None)
    for training in (True, False):
        layer.train(training)
        first = x * split.gate(x)
        norm = torch.nn.functional.batch_norm(
            first, split.norm.running_mean.clone(), split.norm.running_var.clone(), split.norm.weight, training=training
        )
        support.assert_close(layer(x), norm * se.gate(norm), 1e-12)


def test_the_orders_differ():
    one, other = build(SE), build(SE, order="fine_to_coarse")
    other.load_state_dict(one.state_dict())
    x = support.random_map(2, 8, *SIZE, dtype=torch.float32)
    assert not torch.allclose(one(x), other(x))


@pytest.mark.parametrize("attention", [SE, (SE, RGA)])
def test_gradcheck(attention):
    support.assert_gradients(build(attention, identity_init=True), support.random_map(2, 8, *SIZE))


def test_by_hand_on_two_by_two():
    layer = AttentionPyramid(2, partial(SqueezeExcitation, hidden=1))
    with torch.no_grad():
        layer.levels[0].reduce.fill_(1)
        layer.levels[0].expand.fill_(0)
        layer.levels[1].reduce.copy_(torch.tensor([2.0, -1.0]).view(2, 1, 1))
        layer.levels[1].expand.fill_(1)
    x = torch.tensor([[[[1.0, 0.0], [0.0, 3.0]], [[3.0, 3.0], [1.0, 5.0]]]])
    # Level 1 gates both channels by 1/2, their means 1 and 3 become 1/2 and 3/2.
    # Level 2: sigmoid(ReLU(2 * 1/2)) = 0.731059 and sigmoid(ReLU(-3/2)) = 1/2.
    wanted = torch.tensor([0.5 * 0.731059, 0.25]).view(1, 2, 1, 1) * x
    torch.testing.assert_close(layer(x), wanted, atol=1e-6, rtol=0)


def test_one_level_is_the_attention_itself():
    layer, x = build(RGA, levels=1), support.random_map(2, 8, *SIZE, dtype=torch.float32)
    alone = RelationAwareSpatialAttention(8, size=SIZE, reduction=2)
    alone.load_state_dict({name.removeprefix("levels.0."): value for name, value in layer.state_dict().items()})
    assert torch.equal(layer(x), alone(x))


def test_no_levels_are_the_identity():
    layer, x = AttentionPyramid(8, levels=0, identity_init=True), torch.randn(1, 8, 2, 2)
    assert layer(x) is x
    assert list(layer.parameters()) == []


def test_radix_1_stacks_whole_attentions():
    layer = AttentionPyramid(8, levels=3, radix=1)
    assert [each.parts for each in layer.levels] == [1, 1, 1]


class Reads(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the operations that read a tensor of a map's size, and how many of them write one."""

    def __init__(self, numel):
        super().__init__()
        self.numel, self.reads, self.writes = numel, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if any(isinstance(arg, torch.Tensor) and arg.numel() == self.numel for arg in args):
            self.reads += 1
            self.writes += isinstance(out, torch.Tensor) and out.numel() == self.numel
        return out


@pytest.mark.parametrize("attention", ["se", Efficient])
@pytest.mark.parametrize("levels", [1, 2, 4])
@pytest.mark.parametrize("identity_init", [False, True])
def test_a_channel_pyramid_reads_the_map_twice_whatever_its_levels(attention, levels, identity_init):
    layer, x = AttentionPyramid(16, attention, levels=levels, identity_init=identity_init), torch.randn(3, 16, 7, 5)
    with Reads(x.numel()) as count:
        layer(x)
    assert (count.reads, count.writes) == (2, 1)


@pytest.mark.parametrize("identity_init", [False, True])
def test_with_the_norms_of_split_attention_too_in_eval_mode(identity_init):
    layer = AttentionPyramid(16, ("se", "split", "split"), levels=3, identity_init=identity_init).eval()
    x = torch.randn(3, 16, 7, 5)
    with Reads(x.numel()) as count, torch.no_grad():
        layer(x)
    assert (count.reads, count.writes) == (2, 1)


# Gates that a user wrote


def test_a_users_pooled_gates_agree_with_the_levels_one_by_one():
    layer, x = build(Efficient, levels=3).double(), support.random_map(2, 8, *SIZE)
    y = x
    for level in layer.levels:
        gates = []
        parts = getattr(level, "parts", [level])
        for part, piece in zip(parts, y.chunk(len(parts), 1), strict=True):
            mean = torch.nn.functional.pad(piece.mean(dim=(2, 3)), (1, 1))
            (before, at, behind), bias = part.mix.weight.flatten(), part.mix.bias
            gates.append((before * mean[:, :-2] + at * mean[:, 1:-1] + behind * mean[:, 2:] + bias).sigmoid())
        y = y * torch.cat(gates, 1)[..., None, None]
    assert [len(getattr(level, "parts", [level])) for level in layer.levels] == [1, 2, 4]
    support.assert_close(layer(x), y, 1e-12)


@pytest.mark.parametrize(("attention", "dim"), [(Spotlight, "channels"), (Spotlight, "height"), (Efficient, "height")])
def test_a_users_gates_are_split_along_the_dim_that_is_asked_for(attention, dim):
    layer, x = build(attention, dim=dim).double(), support.random_map(2, 8, *SIZE)
    axis = 1 if dim == "channels" else 2
    y = layer.levels[0](x)
    parts = [part(piece) for part, piece in zip(layer.levels[1].parts, y.chunk(2, axis), strict=True)]
    support.assert_close(layer(x), torch.cat(parts, axis), 1e-12)


def test_a_users_gate_that_takes_parts_handles_them_itself():
    class Split(Efficient):
        def __init__(self, channels, *, parts=1):
            super().__init__(channels)
            self.parts = parts

    assert [level.parts for level in AttentionPyramid(8, Split, levels=3).levels] == [1, 2, 4]
    with pytest.raises(ValueError, match=r"dim .*'channels', got 'height'"):
        AttentionPyramid(8, Split, dim="height", size=SIZE)


def test_a_gate_with_a_forward_of_its_own_is_run_as_it_stands():
    class Residual(Efficient):
        def forward(self, x):
            return x + super().forward(x)

    layer, x = build(Residual).double(), support.random_map(2, 8, *SIZE)
    y = layer.levels[0](x)
    parts = [part(piece) for part, piece in zip(layer.levels[1].parts, y.chunk(2, 1), strict=True)]
    support.assert_close(layer(x), torch.cat(parts, 1), 1e-12)
    blend = IdentityBlend(layer.levels[0]).double()
    nn.init.constant_(blend.blend, 0.5)
    support.assert_close(blend(x), (x + y) / 2, 1e-12)


def test_a_users_norm_of_its_own_is_not_taken_for_one_behind_the_gate():
    class Normed(PooledGate):
        def __init__(self, channels):
            super().__init__(channels)
            self.norm = nn.BatchNorm1d(channels)

        def gate_of(self, pooled):
            return self.norm(pooled).sigmoid()

    layer, x = AttentionPyramid(8, Normed, levels=(1, 1)).double(), support.random_map(3, 8, *SIZE)
    y = x
    for _ in layer.levels:
        y = y * nn.functional.batch_norm(y.mean(dim=(2, 3)), None, None, training=True).sigmoid()[..., None, None]
    support.assert_close(layer(x), y, 1e-12)


# Starting as the identity


@pytest.mark.parametrize(
    ("attention", "options"),
    [
        ("se", {}),
        ("rga_s", {}),
        ("rga_c", {}),
        ("split", {}),
        (("se", "rga_s"), {}),
        (("rga_s", "split"), {}),
        ("pixel", {"dim": "height"}),
        ("domain", {"dim": "channels"}),
        (("se", "multi_level"), {"levels": (2, 1)}),
        (Doubling, {"dim": "channels"}),
    ],
)
def test_identity_init_starts_as_the_identity_and_learns(attention, options):
    torch.manual_seed(0)
    layer = AttentionPyramid(8, attention, size=SIZE, identity_init=True, **options)
    x = support.random_map(3, 8, *SIZE, dtype=torch.float32) * 100
    assert torch.equal(layer(x), x)
    (layer(x) * torch.randn(x.shape)).sum().backward()
    assert layer.blend.grad.isfinite()
    assert layer.blend.grad != 0
    with torch.no_grad():
        layer.blend.fill_(0.5)
    assert not torch.allclose(layer(x), x)


def test_a_blend_of_1_is_the_attention_alone():
    for attention in ("se", ("se", "domain")):
        layer = AttentionPyramid(8, attention, levels=(1, 1), identity_init=True).double()
        plain = AttentionPyramid(8, attention, levels=(1, 1)).double()
        plain.load_state_dict({name: value for name, value in layer.state_dict().items() if name != "blend"})
        torch.nn.init.ones_(layer.blend)
        x = support.random_map(2, 8, *SIZE)
        support.assert_close(layer(x), plain(x), 1e-12)


# Foreign attention


@pytest.mark.parametrize(("dim", "axis"), [("channels", 1), ("height", 2)])
def test_a_foreign_attention_runs_part_by_part(dim, axis):
    layer = AttentionPyramid(8, Doubling, dim=dim, size=SIZE)
    whole, (first, second) = layer.levels[0], layer.levels[1].parts
    x = support.random_map(2, 8, *SIZE, dtype=torch.float32)
    one, other = whole(x).chunk(2, axis)
    assert torch.equal(layer(x), torch.cat([first(one), second(other)], axis))
    assert not torch.equal(first.factor, second.factor)


def test_size_is_passed_only_where_the_signature_takes_it():
    layer = AttentionPyramid(8, Sized, dim="height", size=SIZE)
    assert layer.levels[0].size == (4, 2)
    assert [part.size for part in layer.levels[1].parts] == [(2, 2), (2, 2)]
    assert AttentionPyramid(8, Doubling, dim="channels", size=SIZE)(torch.ones(1, 8, 3, 3)).shape == (
        1,
        8,
        3,
        3,
    )
    assert AttentionPyramid(8, lambda channels, **options: nn.Identity(), levels=1, size=SIZE)


def test_a_gate_without_parts_of_its_own_is_merged():
    for options in ({"dim": "height"}, {"dim": "channels"}):
        for shared_map in (False, True):
            layer = AttentionPyramid(8, partial(PixelLevelAttention, shared_map=shared_map), size=SIZE, **options)
            axis = 1 if options["dim"] == "channels" else 2
            x = support.random_map(2, 8, *SIZE, dtype=torch.float32)
            y = layer.levels[0](x)
            parts = [part(piece) for part, piece in zip(layer.levels[1].parts, y.chunk(2, axis), strict=True)]
            support.assert_close(layer(x), torch.cat(parts, axis), 1e-6)


def test_a_name_that_a_user_registered_is_known(monkeypatch):
    monkeypatch.setattr(registry, "_builders", dict(registry._builders))
    registry.register_attention("doubling")(Doubling)
    assert isinstance(AttentionPyramid(8, "doubling", levels=1).levels[0], Doubling)


def test_a_foreign_attribute_called_gate_is_none_of_ours():
    class Activated(Doubling):
        def __init__(self, channels):
            super().__init__(channels)
            self.gate = nn.Sigmoid()

    layer, x = AttentionPyramid(8, Activated, levels=1), torch.randn(1, 8, 2, 2)
    assert torch.equal(layer(x), x * layer.levels[0].factor)


def test_building_keeps_a_foreign_attentions_own_weights():
    class Pretrained(nn.Linear):
        def __init__(self, channels):
            super().__init__(channels, channels)
            nn.init.eye_(self.weight)

        def forward(self, x):
            return x

    assert torch.equal(AttentionPyramid(8, Pretrained, levels=1).levels[0].weight, torch.eye(8))


# Recording


@pytest.mark.parametrize("order", ["coarse_to_fine", "fine_to_coarse"])
def test_each_levels_merged_gate_passes_its_probe_once(order):
    layer, x = build(order=order).double().eval(), support.random_map(2, 8, *SIZE)
    with support.Recorder(layer) as heard:
        y = layer(x)
    names = ["levels.0.probe", "levels.1.probe"]
    assert [name for name, _ in heard] == (names if order == "coarse_to_fine" else names[::-1])
    gates = dict(heard)
    assert gates["levels.0.probe"].shape == (2, 8, 1, 1)
    assert gates["levels.1.probe"].shape == (2, 1, *SIZE)
    support.assert_close(y, x * gates["levels.0.probe"] * gates["levels.1.probe"], 1e-12)


CHANNEL = (2, 8, 1, 1)


@pytest.mark.parametrize(
    ("attention", "options", "shapes"),
    [
        ("se", {}, {"levels.0.probe": CHANNEL, "levels.1.probe": CHANNEL}),
        (("se", "domain"), {"levels": (2, 1)}, {"levels.0.probe": CHANNEL, "levels.1.probe": (2, 64, *SIZE)}),
        (
            Efficient,
            {"levels": (2,)},
            {
                "levels.0.parts.0.probe": (2, 4, 1, 1),
                "levels.0.parts.1.probe": (2, 4, 1, 1),
                "levels.0.probe": CHANNEL,
            },
        ),
        (
            Spotlight,
            {"levels": (2,), "dim": "height"},
            {
                "levels.0.parts.0.probe": (2, 1, 2, 2),
                "levels.0.parts.1.probe": (2, 1, 2, 2),
                "levels.0.probe": (2, 1, 4, 2),
            },
        ),
    ],
)
def test_no_probe_in_a_pyramid_is_passed_by(attention, options, shapes):
    layer, x = build(attention, **options), support.random_map(2, 8, *SIZE, dtype=torch.float32)
    with support.Recorder(layer) as heard:
        layer(x)
    assert {name: tuple(tensor.shape) for name, tensor in heard} == shapes
    assert shapes.keys() == {name for name, module in layer.named_modules() if isinstance(module, Probe)}


# Refusals


@pytest.mark.parametrize(
    ("error", "attention", "options", "message"),
    [
        (ValueError, "see", {}, r"name .*registered .*, got 'see': .*'se'"),
        (ValueError, "see", {"levels": 0}, r"got 'see': .*'se'"),
        (
            TypeError,
            nn.Identity(),
            {},
            r"attention .*layer class or .*callable .*, got Identity: ",
        ),
        (TypeError, 3, {}, r"attention .*layer class or .*callable .*, got 3"),
        (ValueError, ("se",), {}, r"attention .*one a level, got 1 .*2 levels"),
        (ValueError, "se", {"order": "fine"}, r"order .* got 'fine': "),
        (TypeError, "se", {"identity_init": 1}, r"identity_init .*bool, got 1"),
        (
            ValueError,
            "se",
            {"dim": "height"},
            r"dim .*'channels', got 'height'",
        ),
        (ValueError, "se", {"dim": "width"}, r"dim .*'channels', 'height' or None, got 'width'"),
        (ValueError, partial(SqueezeExcitation, parts=2), {}, r"parts .*out of the partial"),
        (
            ValueError,
            "rga_s",
            {"levels": 1},
            r"RelationAwareSpatialAttention .*size, got size=None",
        ),
        (ValueError, Sized, {"levels": 1}, r"Sized .*size, got size=None"),
        (
            ValueError,
            Doubling,
            {},
            r"level 2 .*2 parts .*, got dim=None",
        ),
        (TypeError, lambda channels: 3, {"levels": 1}, r"attention .*nn.Module .*8 channels, got 3"),
        (
            ValueError,
            "se",
            {"levels": 5},
            r"channels, .*16 parts .*level 5, .*multiple of 16, got 8",
        ),
        (ValueError, "se", {"levels": (1, 2), "radix": 4}, r"got radix=4 and levels=\(1, 2\)"),
    ],
)
def test_refuses_wrong_options(error, attention, options, message):
    with pytest.raises(error, match=message):
        AttentionPyramid(8, attention, **options)


def test_refuses_one_module_for_several_parts():
    shared = nn.Identity()
    with pytest.raises(ValueError, match=r"new module .*, got the same .*twice"):
        AttentionPyramid(8, lambda channels: shared, dim="channels")


def test_refuses_an_attention_that_changes_the_shape():
    for levels, dim in ((1, None), (2, "channels")):
        layer = AttentionPyramid(8, lambda channels: nn.MaxPool2d(2), levels=levels, dim=dim)
        with pytest.raises(ValueError, match=r"MaxPool2d .*map .*shape \(1, .* got \(1, "):
            layer(torch.zeros(1, 8, 4, 2))


@pytest.mark.parametrize(
    ("error", "attention", "x", "message"),
    [
        (ValueError, "rga_s", torch.zeros(1, 8, 4, 4), r"AttentionPyramid: .*map .*4x2 .* got 4x4"),
        (
            ValueError,
            "se",
            torch.zeros(1, 4, 4, 2),
            r"AttentionPyramid: .*input .*8 channels, got 4",
        ),
        (ValueError, "se", torch.zeros(8, 4, 2), r"AttentionPyramid: .*input .*4 dimensions .*got"),
        (TypeError, "se", torch.zeros(1, 8, 4, 2, dtype=torch.int64), r"AttentionPyramid: .* floating point"),
        (ValueError, "se", torch.zeros(1, 8, 0, 2), r"AttentionPyramid: .* height .*width, got .*\(1, 8, 0, 2\)"),
    ],
)
def test_refuses_wrong_maps(error, attention, x, message):
    with pytest.raises(error, match=message):
        AttentionPyramid(8, attention, size=SIZE)(x)


def test_a_strip_pyramid_of_any_attention_refuses_another_height():
    with pytest.raises(ValueError, match=r"AttentionPyramid: .*map .*4x2 .*got 6x2"):
        AttentionPyramid(8, Doubling, dim="height", size=SIZE)(torch.zeros(1, 8, 6, 2))


def test_channel_pyramids_take_maps_of_any_size():
    assert AttentionPyramid(8, size=SIZE)(torch.zeros(1, 8, 9, 5)).shape == (1, 8, 9, 5)


def test_it_starts_anew_where_torchs_norms_cannot_without_a_bias(monkeypatch):
    def older(norm):  # as in torch 2.6
        norm.reset_running_stats()
        if norm.affine:
            nn.init.ones_(norm.weight)
            nn.init.zeros_(norm.bias)

    monkeypatch.setattr(torch.nn.modules.batchnorm._NormBase, "reset_parameters", older)
    layer = AttentionPyramid(8, ("se", "split"))
    fresh = {name: value.clone() for name, value in layer.state_dict().items() if "norm" in name or ".1." in name}
    with torch.no_grad():
        for value in layer.state_dict().values():
            value.fill_(7)
    layer.reset_parameters()
    for name, value in layer.state_dict().items():
        assert not (value == 7).all(), name
        if name.startswith("levels.1.norm") or name.startswith("levels.1.reduce.1"):
            assert torch.equal(value, fresh[name]), name
