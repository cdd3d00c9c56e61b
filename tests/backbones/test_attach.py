"""Attaching as surgery: what is put in, what stays, how it is undone, and what is refused."""

import copy
import functools
import pickle
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import DenseNet, mobilenet_v3_small, resnet18

from attnreid.backbones import Attachment, attach, attachments, find_sites
from attnreid.layers import RelationAwareSpatialAttention, SqueezeExcitation
from attnreid.pyramid import AttentionPyramid

SIZE = (64, 32)
Observe = Callable[[nn.Module], dict[str, Any]]


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv(x)).relu()


class Net(nn.Module):
    """A stem, a row of two blocks and a head: every kind of host in little."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.stage = nn.Sequential(Block(16), Block(16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage(self.stem(x)).mean((2, 3)))


class Foreign(nn.Module):
    """A user's own layer, not a gate and without a size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(x).tanh()


class TwoLayers(nn.Module):
    """Has several keys and a buffer, so that a state dict can hold a part of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


def small_densenet() -> nn.Module:
    return DenseNet(growth_rate=8, block_config=(2, 2, 2), num_init_features=16)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 8, generator=torch.Generator().manual_seed(1))


AT_ALL_KINDS = ["stem", "stage", "stage.1", "stage.1.conv"]


# What is put in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", AT_ALL_KINDS)
def test_attention_takes_what_the_site_returns(net: Net, images: Tensor, at: str) -> None:
    outputs: dict[str, Tensor] = {}
    hook = net.get_submodule(at).register_forward_hook(lambda module, _, y: outputs.update(plain=y))
    net(images)
    hook.remove()
    attach(net, Foreign, at, input_size=(16, 8))
    layer = net.get_submodule(f"{at}.attention")
    layer.register_forward_hook(lambda module, x, y: outputs.update(taken=x[0], given=y))
    hook = net.get_submodule(at).register_forward_hook(lambda module, _, y: outputs.update(returned=y))
    net(images)
    assert torch.equal(outputs["taken"], outputs["plain"])
    assert torch.equal(outputs["returned"], outputs["given"])
    assert not torch.equal(outputs["taken"], outputs["given"])


def test_keys_are_these(net: Net) -> None:
    plain = list(net.state_dict())
    named = [name for name, _ in net.named_parameters()]
    attach(net, "se", ["stem", "stage"], input_size=(16, 8))
    added = {
        "stem.attention.reduce",
        "stem.attention.expand",
        "stage.attention.reduce",
        "stage.attention.expand",
    }
    assert set(net.state_dict()) == {*plain, *added}
    assert [key for key in net.state_dict() if key not in added] == plain
    assert [name for name, _ in net.named_parameters() if name not in added] == named


def test_keys_under_identity_init_are_these(net: Net) -> None:
    blended = attach(net, "se", "stem", input_size=(16, 8), identity_init=True)
    assert list(blended.state_dict()) == [
        "stem.attention.blend",
        "stem.attention.layer.reduce",
        "stem.attention.layer.expand",
    ]
    pyramid = attach(net, AttentionPyramid, "stage", input_size=(16, 8), identity_init=True)
    assert "stage.attention.blend" in pyramid.state_dict()
    assert isinstance(net.stage.attention, AttentionPyramid)


@pytest.mark.parametrize(
    ("at", "names"),
    [
        ("stage.*", ["stage.0", "stage.1"]),
        ("stage.?.conv", ["stage.0.conv", "stage.1.conv"]),
        ("stage.[1-4]", ["stage.1"]),
        ("**.norm", ["stage.0.norm", "stage.1.norm"]),
        ("stage.**.conv", ["stage.0.conv", "stage.1.conv"]),
        (["stage.1", "stem", "st?m"], ["stem", "stage.1"]),
        (("stage.**",), ["stage", "stage.0", "stage.0.conv", "stage.0.norm"]),
    ],
)
def test_patterns(net: Net, at: str | list[str], names: list[str]) -> None:
    attachment = attach(net, "se", at, input_size=(16, 8))
    assert [site.name for site in attachment.sites][: len(names)] == names
    assert attachment.sites == tuple(
        site for site in find_sites(Net(), (16, 8)) if site.name in {one.name for one in attachment.sites}
    )


@pytest.mark.parametrize(
    "attention",
    [
        "se",
        SqueezeExcitation,
        functools.partial(SqueezeExcitation, reduction=4),
        "rga_s",
        Foreign,
        lambda channels: Foreign(channels),
        lambda channels, *, size: nn.LayerNorm([channels, *size]),
        functools.partial(AttentionPyramid, attention="rga_s", levels=2),
    ],
)
def test_kinds_of_attention(net: Net, images: Tensor, attention: Any) -> None:
    before = net(images)
    attachment = attach(net, attention, ["stem", "stage.0"], input_size=(16, 8))
    assert not torch.equal(net(images), before)
    first, second = net.stem.attention, net.stage[0].attention
    assert type(first) is type(second)
    assert first is not second
    attachment.remove()


def test_size_is_passed_unless_chosen(net: Net) -> None:
    sizes = []

    def build(channels: int, *, size: tuple[int, int] = (0, 0)) -> nn.Module:
        sizes.append((channels, size))
        return nn.Identity()

    attach(net, build, "stem", input_size=(16, 8))
    attach(net, functools.partial(build, size=(3, 3)), "stage", input_size=(16, 8))
    assert sizes == [(16, (8, 4)), (16, (3, 3))]


def test_layer_follows_the_site(net: Net) -> None:
    net.double()
    net.stage.train()
    attach(net, "se", ["stem", "stage.1"], input_size=(16, 8))
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float64}
    assert not net.stem.attention.training
    assert net.stage[1].attention.training
    net.bfloat16()
    assert net.stem.attention.expand.dtype == torch.bfloat16
    meta = Net().to("meta")
    attach(meta, "se", "stem", input_size=(16, 8))
    assert meta.stem.attention.expand.is_meta


def test_site_without_parameters_takes_after_what_is_around_it() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()).double()
    attach(net, "se", "1", input_size=(4, 4))
    assert net[1].attention.expand.dtype == torch.float64


def test_every_new_parameter_gets_a_gradient(net: Net, images: Tensor) -> None:
    attachment = attach(
        net.train(), functools.partial(SqueezeExcitation, reduction=1), AT_ALL_KINDS, input_size=(16, 8)
    )
    net(images).square().sum().backward()
    new = list(attachment.parameters())
    assert len(new) == 8
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in new)


# Identity at first --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["se", "rga_s", "head", "domain", Foreign, AttentionPyramid])
def test_identity_init_changes_no_bit(net: Net, images: Tensor, attention: Any) -> None:
    before = net(images)
    attachment = attach(net, attention, AT_ALL_KINDS, input_size=(16, 8), identity_init=True)
    assert torch.equal(net(images), before)

    net.train()
    net(images).square().sum().backward()
    blends = [parameter for name, parameter in net.named_parameters() if name.endswith("attention.blend")]
    assert len(blends) == len(AT_ALL_KINDS)
    for parameter in attachment.parameters():
        is_blend = any(parameter is blend for blend in blends)
        assert parameter.grad is not None
        assert bool(parameter.grad.any()) == is_blend


@pytest.mark.parametrize("attention", ["se", Foreign])
def test_fully_blended_in_is_the_plain_layer(net: Net, images: Tensor, attention: Any) -> None:
    attach(net, attention, "stem", input_size=(16, 8), identity_init=True)
    blend = net.stem.attention
    x = torch.randn(2, 16, 4, 4)
    with torch.no_grad():
        blend.blend.fill_(1.0)
        torch.testing.assert_close(blend(x), blend.layer(x))
        blend.blend.fill_(0.25)
        torch.testing.assert_close(blend(x), x + 0.25 * (blend.layer(x) - x))


# State dicts --------------------------------------------------------------------------------------------------------


def test_plain_weights_load_strictly_and_leave_the_attention(net: Net) -> None:
    plain = {key: torch.rand_like(value, dtype=torch.float32) for key, value in net.state_dict().items()}
    held = dict(plain)
    attach(net, TwoLayers, ["stem", "stage"], input_size=(16, 8))
    with torch.no_grad():
        net.stem.attention.norm.weight.fill_(3.0)
    objects = [id(parameter) for parameter in net.stem.attention.parameters()]
    for assign in (False, True):
        net.load_state_dict(plain, strict=True, assign=assign)
        assert plain.keys() == held.keys()
        assert all(plain[key] is value for key, value in held.items())
        assert torch.equal(net.stem.weight, plain["stem.weight"])
        assert (net.stem.attention.norm.weight == 3.0).all()
        assert [id(parameter) for parameter in net.stem.attention.parameters()] == objects


def test_weights_with_attention_load_back(net: Net, images: Tensor) -> None:
    attach(net, TwoLayers, "stem", input_size=(16, 8))
    with torch.no_grad():
        net.stem.attention.norm.weight.uniform_()
    other = Net().eval()
    attach(other, TwoLayers, "stem", input_size=(16, 8))
    other.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(other(images), net(images))


class Holder(nn.Module):
    """A model in a model, as DataParallel has it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


AROUND: dict[str, Callable[[nn.Module], nn.Module]] = {
    "alone": lambda net: net,
    "held": Holder,
    "held twice, between others": lambda net: nn.Sequential(nn.Linear(2, 2), Holder(net), nn.BatchNorm2d(3)),
    "copied": copy.deepcopy,
    "copied in a holder": lambda net: copy.deepcopy(Holder(net)),
    "from a pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "a child on its own": lambda net: Holder(net).module,
}


def filled(model: nn.Module, value: float) -> dict[str, Tensor]:
    """A state dict of the model's keys without torch's metadata, as other libraries save it."""
    return {key: torch.full_like(tensor, value) for key, tensor in model.state_dict().items()}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("lacking", ["stem", "stage.0", "stage", ["stem", "stage.0"], ["stage.0", "stage"]])
def test_attention_of_some_sites_only_is_an_error_that_says_how_to_go_on(net: Net, around: str, lacking: Any) -> None:
    attach(net, TwoLayers, ["stem", "stage.0", "stage"], input_size=(16, 8))
    model = AROUND[around](net)
    lacking = [lacking] if isinstance(lacking, str) else lacking
    weights = filled(model, 2)
    missing = [key for key in weights if any(f"{site}.attention." in key for site in lacking)]
    for key in missing:
        del weights[key]
    held = dict(weights)
    with pytest.raises(RuntimeError) as caught:
        model.load_state_dict(weights)
    message = str(caught.value)
    assert sorted(re.findall(r'"(\S+)"', message.partition("\n\tattnreid")[0])) == sorted(missing)
    assert message.count("attnreid: ") == 1
    assert f"' and not '{missing[0]}'; load " in message

    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(1)
    result = model.load_state_dict(weights, strict=False)
    assert sorted(result.missing_keys) == sorted(missing)
    assert not result.unexpected_keys
    for key, tensor in model.state_dict().items():
        assert (tensor == (1 if key in missing else 2)).all(), key
    assert list(weights) == list(held)
    assert all(weights[key] is tensor for key, tensor in held.items())


@pytest.mark.parametrize("around", AROUND)
def test_plain_weights_load_strictly_wherever_the_model_stands(net: Net, around: str) -> None:
    attach(net, TwoLayers, ["stem", "stage.0", "stage"], input_size=(16, 8))
    attach(net, Foreign, "stage.1.conv", where="instead", input_size=(16, 8))
    model = AROUND[around](net)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items() if ".attention." in key}
    weights = {key: tensor for key, tensor in filled(model, 2).items() if key not in before}
    for strict in (True, False):
        result = model.load_state_dict(weights, strict=strict)
        assert (result.missing_keys, result.unexpected_keys) == ([], [])
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]) if key in before else (tensor == 2).all(), key


def test_the_advice_helps(net: Net) -> None:
    attach(net, TwoLayers, "stem", input_size=(16, 8))
    weights = filled(net, 2)
    net.load_state_dict(weights)
    attach(net, TwoLayers, "stage", input_size=(16, 8))
    with pytest.raises(RuntimeError, match=r"some of 'stem.attention' and not 'stage.attention.norm.*; load"):
        net.load_state_dict(weights)
    assert (net.stem.attention.norm.weight == 2).all()


def test_two_attended_models_in_one_are_judged_together(net: Net) -> None:
    attach(net, TwoLayers, "stem", input_size=(16, 8))
    for names in (["first", "second"], ["second", "first"]):
        pair = nn.ModuleDict({name: copy.deepcopy(net) for name in names})
        weights = filled(pair, 2)
        del weights["first.stem.attention.norm.bias"]
        with pytest.raises(RuntimeError, match=r"not 'first.stem.attention.norm.bias'; load"):
            pair.load_state_dict(weights)
        weights = {key: tensor for key, tensor in weights.items() if not key.startswith("first.stem.attention")}
        with pytest.raises(RuntimeError, match=r"some of 'second.stem.attention' and not 'first.stem.attention.norm"):
            pair.load_state_dict(weights)


@pytest.mark.parametrize("kept", range(5))
def test_a_part_of_one_attention_is_no_whole_one(net: Net, kept: int) -> None:
    attach(net, TwoLayers, "stem", input_size=(16, 8))
    weights = net.state_dict()
    own = [key for key in weights if ".attention." in key]
    missing = [key for number, key in enumerate(own) if number != kept]
    for key in missing:
        del weights[key]
    with pytest.raises(RuntimeError, match=r"some of 'stem.attention' and not 'stem.attention.norm.*; load"):
        net.load_state_dict(weights)
    assert net.load_state_dict(weights, strict=False).missing_keys == missing


def test_counters_may_be_missing_as_torch_lets_them(net: Net) -> None:
    attach(net, TwoLayers, ["stem", "stage"], input_size=(16, 8))
    weights = {key: tensor for key, tensor in filled(net, 2).items() if "num_batches_tracked" not in key}
    assert not net.load_state_dict(weights).missing_keys
    assert (net.stem.attention.norm.weight == 2).all()


def test_a_part_of_a_model_is_judged_by_what_it_is_given(net: Net) -> None:
    attach(net, TwoLayers, ["stem", "stage.0", "stage"], input_size=(16, 8))
    stage = filled(net.stage, 2)
    net.stage.load_state_dict(stage)  # whole, without the stem's
    assert (net.stage[0].attention.norm.weight == 2).all()
    net.stage.load_state_dict({key: tensor for key, tensor in stage.items() if "attention" not in key})
    with pytest.raises(RuntimeError, match=r"some of '0.attention' and not 'attention.norm.weight'; load"):
        net.stage.load_state_dict({key: tensor for key, tensor in stage.items() if not key.startswith("attention.")})
    # The attention itself is torch's own matter.
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"norm.weight\"") as caught:
        net.stem.attention.load_state_dict({})
    assert "attnreid" not in str(caught.value)


def test_one_call_says_nothing_of_the_next(net: Net) -> None:
    attach(net, TwoLayers, ["stem", "stage"], input_size=(16, 8))
    whole = filled(net, 2)
    plain = {key: tensor for key, tensor in whole.items() if ".attention." not in key}
    part = {key: tensor for key, tensor in whole.items() if not key.startswith("stage.attention.")}
    left = [key for key in whole if key.startswith("stage.attention.")]
    for _ in range(20):  # torch's lists come back at the same addresses
        for weights, missing in ((plain, []), (whole, []), (part, left), (plain, [])):
            assert net.load_state_dict(weights, strict=False).missing_keys == missing
        with pytest.raises(RuntimeError, match="stage.attention"):
            net.load_state_dict(part)


class LoadsAnother(nn.Module):
    """Loads another model whenever it is loaded itself."""

    def __init__(self, other: nn.Module, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(lambda *_: other.load_state_dict(weights))  # type: ignore[no-untyped-call]


def test_a_call_within_a_call_does_not_mix_them_up(net: Net) -> None:
    attach(net, TwoLayers, ["stem", "stage"], input_size=(16, 8))
    other = copy.deepcopy(net)
    whole = filled(net, 2)
    net.add_module("stage", nn.Sequential(LoadsAnother(other, whole), net.stage))
    weights = {key: tensor for key, tensor in filled(net, 2).items() if not key.startswith("stem.attention.")}
    with pytest.raises(RuntimeError, match=r"some of 'stage.1.attention' and not 'stem.attention.norm.weight'; load"):
        net.load_state_dict(weights)
    assert (other.stem.attention.norm.weight == 2).all()


def test_threads_load_at_the_same_time(net: Net) -> None:
    attach(net, TwoLayers, ["stem", "stage"], input_size=(16, 8))
    models = [copy.deepcopy(net) for _ in range(12)]
    together = threading.Barrier(len(models), timeout=60)
    for model in models:  # all have seen their stem before one sees its stage
        model.stage.register_load_state_dict_pre_hook(lambda *_: together.wait())  # type: ignore[no-untyped-call]
    weights = {key: tensor for key, tensor in filled(net, 2).items() if not key.startswith("stem.attention.")}
    with ThreadPoolExecutor(len(models)) as pool:
        results = list(pool.map(lambda model: model.load_state_dict(weights, strict=False), models))
    assert [len(result.missing_keys) for result in results] == [5] * len(models)


def test_a_layer_that_has_attention_inside_is_left_whole(net: Net) -> None:
    def build(channels: int) -> nn.Module:
        layer = Foreign(channels)
        attach(layer, TwoLayers, "mix", example_inputs=(torch.rand(2, channels, 8, 4),))
        return layer

    attach(net, build, ["stem", "stage"], input_size=(16, 8))
    whole = filled(net, 2)
    plain = {key: tensor for key, tensor in whole.items() if ".attention." not in key}
    assert net.load_state_dict(plain) == ([], [])
    assert net.load_state_dict(whole) == ([], [])
    outer = {key: tensor for key, tensor in whole.items() if "mix.attention" not in key}
    with pytest.raises(RuntimeError, match=r"some of 'stem.attention' and not 'stem.attention.mix.attention.norm"):
        net.load_state_dict(outer)


@pytest.mark.parametrize("assign", [False, True])
def test_a_part_is_assigned_as_it_is_copied(net: Net, assign: bool) -> None:
    attach(net, TwoLayers, ["stem", "stage"], input_size=(16, 8))
    weights = {key: tensor for key, tensor in filled(net, 2).items() if not key.startswith("stem.attention.")}
    objects = [id(parameter) for parameter in net.stem.attention.parameters()]
    assert len(net.load_state_dict(weights, strict=False, assign=assign).missing_keys) == 5
    assert [id(parameter) for parameter in net.stem.attention.parameters()] == objects
    assert (net.stage.attention.norm.weight == 2).all()


def test_foreign_keys_stay_an_error(net: Net) -> None:
    weights = {**net.state_dict(), "stem.attention.stranger": torch.zeros(1)}
    attach(net, TwoLayers, "stem", input_size=(16, 8))
    with pytest.raises(RuntimeError, match=r"Unexpected key.*stem.attention.stranger"):
        net.load_state_dict(weights)


def test_attachment_state_dict(net: Net, images: Tensor) -> None:
    attachment = attach(net, TwoLayers, ["stem", "stage"], input_size=(16, 8))
    own = attachment.state_dict()
    assert list(own) == [key for key in net.state_dict() if ".attention." in key]
    new = {key: torch.full_like(value, 2) for key, value in own.items()}
    with pytest.raises(ValueError, match=r"keys .* 10, got 9; 1 .*'stage"):
        attachment.load_state_dict({key: new[key] for key in list(new)[:-1]})
    with pytest.raises(ValueError, match=r"'stage.attention.norm.bias' .* \(16,\), got \(3,\)"):
        attachment.load_state_dict({**new, "stage.attention.norm.bias": torch.zeros(3)})
    assert torch.equal(net.stem.attention.norm.weight, torch.ones(16))
    attachment.load_state_dict(new)
    assert torch.equal(net.stem.attention.norm.weight, torch.full((16,), 2.0))
    assert torch.equal(net.stage.attention.norm.running_var, torch.full((16,), 2.0))


# Taking it out ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_stacked_attention_comes_out_in_any_order(net: Net, images: Tensor, observe: Observe, order: Any) -> None:
    before, output = observe(net), net(images)
    handles = [
        attach(net, Foreign, "stage", input_size=(16, 8)),
        attach(net, "rga_s", ["stage.0", "stage.1"], input_size=(16, 8)),
        attach(net, Foreign, "stage.1.norm", where="instead", input_size=(16, 8)),
        attach(net, "se", "stage.1.conv", input_size=(16, 8)),
    ]
    assert [repr(handle) for handle in attachments(net)] == [repr(handle) for handle in handles]
    for index in order:
        assert not torch.equal(net(images), output)
        handles[index].remove()
        handles[index].remove()
    assert observe(net) == before
    assert torch.equal(net(images), output)
    assert attachments(net) == []


def test_replacing_what_holds_attention(net: Net, images: Tensor, observe: Observe) -> None:
    before = observe(net)
    inner = attach(net, nn.Identity, "stage.1.conv", input_size=(16, 8), where="instead")
    outer = attach(net, nn.Identity, "stage.1", input_size=(16, 8), where="instead")
    inner.remove()
    outer.remove()
    assert observe(net) == before


def test_context_manager(net: Net, observe: Observe) -> None:
    before = observe(net)
    with attach(net, "se", "stage", input_size=(16, 8)) as attachment:
        assert isinstance(attachment, Attachment)
        assert "attention" in dict(net.stage.named_children())
    assert observe(net) == before
    with pytest.raises(RuntimeError), attach(net, "se", "stage", input_size=(16, 8)):
        net(torch.rand(1))
    assert observe(net) == before


def test_table(net: Net) -> None:
    attachment = attach(net, "se", ["stem", "stage"], input_size=(16, 8), identity_init=True)
    assert str(attachment).splitlines() == [
        "site   layer                           map size    parameters  multiply-adds",
        "stem   SqueezeExcitation (blended in)  16 x 8 x 4         +33            +32",
        "stage  SqueezeExcitation (blended in)  16 x 8 x 4         +33            +32",
        "total                                                     +66            +64",
    ]
    assert repr(attachment) == "<Attachment at stem, stage>"


def test_the_table_of_what_replaces_has_the_difference() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, bias=False))
    attachment = attach(model, "pixel", "1", input_size=(4, 2), where="instead")
    assert str(attachment).splitlines()[1].split() == ["1", "PixelLevelAttention", "8", "x", "4", "x", "2", "+8", "+0"]
    attachment.remove()
    attachment = attach(model, "se", "1", input_size=(4, 2), where="instead")
    assert str(attachment).splitlines()[1].endswith("-560         -4,592")


def test_the_table_says_what_it_cannot_count(net: Net) -> None:
    class Awkward(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[0] == 1:
                raise RuntimeError("no single image")
            return x

    attachment = attach(net, Awkward, "stem", input_size=(16, 8))
    assert [line.split()[-2:] for line in str(attachment).splitlines()[1:]] == [["+0", "?"], ["+0", "?"]]


# Copies -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_independent(net: Net, images: Tensor, copied: Callable[[nn.Module], nn.Module]) -> None:
    plain = net(images)
    attach(net, Foreign, ["stem", "stage", "stage.1"], input_size=(16, 8))
    attach(net, Foreign, "stage.0.conv", where="instead", input_size=(16, 8))
    double = copied(net)
    attended = net(images)
    assert torch.equal(double(images), attended)
    assert list(double.state_dict()) == list(net.state_dict())
    assert isinstance(double.stem, nn.Conv2d)

    with torch.no_grad():
        double.stem.attention.mix.weight.add_(1)
    assert torch.equal(net(images), attended)
    assert not torch.equal(double(images), attended)
    assert [len(handle.sites) for handle in attachments(double)] == [3, 1]
    for handle in attachments(double):
        handle.remove()
    assert torch.equal(double(images), plain)
    assert type(double.stem) is nn.Conv2d
    assert torch.equal(net(images), attended)
    assert len(attachments(net)) == 2


def test_attachments_inside_another_model_are_named_from_it(net: Net) -> None:
    attach(net, "se", "stage", input_size=(16, 8))
    (handle,) = attachments(nn.ModuleDict({"backbone": net}))
    assert handle.sites[0].name == "backbone.stage"
    assert "backbone.stage.attention.reduce" in handle.state_dict()


@pytest.mark.parametrize("training", [True, False])
def test_compiles_whole(net: Net, images: Tensor, training: bool) -> None:
    attach(net, "se", AT_ALL_KINDS, input_size=(16, 8))
    attach(net, Foreign, "stage.0.norm", where="instead", input_size=(16, 8))
    net.train(training)
    compiled = torch.compile(copy.deepcopy(net), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images), net(images))


@pytest.mark.parametrize(
    ("make", "at"),
    [(resnet18, "layer[1-4]"), (small_densenet, "features.denseblock*"), (mobilenet_v3_small, "features.*")],
)
def test_real_backbones(make: Callable[[], nn.Module], at: str) -> None:
    model = make().eval()
    x = torch.rand(2, 3, *SIZE)
    plain, weights = model(x), {key: value.clone() for key, value in model.state_dict().items()}
    objects = dict(model.named_modules())
    attachment = attach(model, "se", at, input_size=SIZE, identity_init=True)
    assert torch.equal(model(x), plain)
    model.load_state_dict(weights, strict=True)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), plain)
    attachment.remove()
    assert torch.equal(model(x), plain)
    assert dict(model.named_modules()) == objects
    assert list(model.state_dict()) == list(weights)


# A container that loops over itself ---------------------------------------------------------------------------------


class Row(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return self[-1](x) * len(self)


class Table(nn.ModuleDict):
    def forward(self, x: Tensor) -> Tensor:
        for (name, layer), same in zip(self.items(), self.values(), strict=True):
            assert self[name] is layer is same
            x = layer(x)
        return x * len(self) * len(list(self)) * len(self.keys())


class Walk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x


@pytest.mark.parametrize(
    "container",
    [Row(nn.Conv2d(3, 3, 1), nn.ReLU()), Table({"a": nn.Conv2d(3, 3, 1), "b": nn.ReLU()})],
)
def test_container_does_not_see_its_attention(container: nn.Module) -> None:
    model = nn.Sequential(container)
    x = torch.rand(2, 3, 4, 4)
    plain = model(x)
    attachment = attach(model, Foreign, "0", input_size=(4, 4))
    assert torch.equal(model(x), container.attention(plain))
    attachment.remove()
    assert torch.equal(model(x), plain)


def test_module_that_walks_over_its_children_is_refused(observe: Observe) -> None:
    model = nn.Sequential(Walk())
    before = observe(model)
    with pytest.raises(ValueError, match=r"'0' \(Walk\) .*once.* 2 times"):
        attach(model, lambda channels: nn.Identity(), "0", input_size=(4, 4))
    assert observe(model) == before


def test_forward_set_on_the_object_is_refused(net: Net, observe: Observe) -> None:
    net.stem.forward = functools.partial(nn.Conv2d.forward, net.stem)
    before = observe(net)
    with pytest.raises(ValueError, match="'stem' .*once.* 0 times"):
        attach(net, lambda channels: nn.Identity(), "stem", input_size=(16, 8))
    assert observe(net) == before


# Instead of a module ------------------------------------------------------------------------------------------------


def test_instead_replaces(net: Net, images: Tensor) -> None:
    plain, conv = dict(net.state_dict()), net.stage[0].conv
    attachment = attach(net, Foreign, "stage.0.conv", where="instead", input_size=(16, 8))
    assert "stage.0.conv.weight" not in net.state_dict()
    assert [key for key in net.state_dict() if key not in plain] == [
        "stage.0.conv.attention.mix.weight",
        "stage.0.conv.attention.mix.bias",
    ]
    x = torch.rand(2, 16, 8, 4)
    assert torch.equal(net.stage[0].conv(x), net.stage[0].conv.attention(x))
    assert repr(net.stage[0].conv).splitlines()[1].strip() == "in place of Conv2d"
    attachment.remove()
    assert net.stage[0].conv is conv


def test_exactly_the_replaced_keys_are_ignored(net: Net) -> None:
    plain = dict(net.state_dict())
    attach(net, Foreign, "stage.0.conv", where="instead", input_size=(16, 8))
    held = dict(plain)
    net.load_state_dict(plain, strict=True)
    assert plain.keys() == held.keys()
    net.load_state_dict({key: value for key, value in plain.items() if not key.startswith("stage.0.conv")})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*stage\.0\.conv\.gamma"):
        net.load_state_dict({**plain, "stage.0.conv.gamma": torch.zeros(1)})


def test_the_new_keys_win_where_the_replaced_module_had_the_same(net: Net) -> None:
    net.stem = nn.Sequential(net.stem, Holder(nn.Conv2d(16, 16, 1)))
    net.stem[1].attention, net.stem[1].forward = nn.Conv2d(16, 16, 1), lambda x: x  # type: ignore[method-assign]
    attach(net, lambda channels: nn.Conv2d(channels, channels, 1), "stem.1", where="instead", input_size=(16, 8))
    weights = filled(net, 2)
    assert "stem.1.attention.weight" in weights
    net.load_state_dict(weights)
    assert (net.stem[1].attention.weight == 2).all()


def test_replaced_module_follows_the_model(net: Net) -> None:
    conv = net.stage[0].conv
    attachment = attach(net, nn.Identity, "stage.0.conv", where="instead", input_size=(16, 8))
    net.double().train()
    attachment.remove()
    assert conv.weight.dtype == torch.float64
    assert conv.training


def test_instead_refusals(net: Net) -> None:
    with pytest.raises(ValueError, match=r"'stem' \(Conv2d\) .*\(2, 3, 16, 8\).*\(2, 16, 8, 4\)"):
        attach(net, "se", "stem", where="instead", input_size=(16, 8))
    with pytest.raises(ValueError, match="identity_init .*False .*where='instead'"):
        attach(net, "se", "stage", where="instead", input_size=(16, 8), identity_init=True)
    with pytest.raises(ValueError, match="where .*'after' or 'instead', got 'before'"):
        attach(net, "se", "stage", where="before", input_size=(16, 8))  # type: ignore[arg-type]


# All or nothing -----------------------------------------------------------------------------------------------------


class Grows(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels + 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Breaks(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no such luck")


def shared_layer() -> Callable[[int], nn.Module]:
    layer = nn.Identity()
    return lambda channels: layer


REFUSED = [
    (
        "se",
        "stages",
        ValueError,
        r"attach: 'stages' .*module of Net .*; .*'stage'",
    ),
    ("se", "qqqq", ValueError, r"'qqqq' .*module of Net .*; find_sites"),
    (
        "se",
        "block*",
        ValueError,
        r"attach: .*pattern 'block\*' .*module of Net .*none",
    ),
    ("se", ["stem", "layer9.*"], ValueError, r"pattern 'layer9.\*' .*Net .*none"),
    ("se", "stage*.conv", ValueError, r"pattern 'stage\*.conv' .*Net .*none"),  # * stays inside a segment
    ("se", [], ValueError, "at .*one name or pattern, got none"),
    ("see", "stem", ValueError, "got 'see': .*'se'"),
    (SqueezeExcitation(16), "stem", TypeError, "attention .*registered name, .* pass the class"),
    (7, "stem", TypeError, "attention .*registered name.* got 7"),
    (lambda channels: 3, "stem", TypeError, "attention .*nn.Module .*16 channels, got 3"),
    (
        Grows,
        "stage",
        ValueError,
        r"Grows .*shape .*\(2, 16, 8, 4\).* \(2, 17",
    ),
    (
        Breaks,
        "stage",
        ValueError,
        r"Breaks .*'stage' \(16 channels, 8x4\); .* no such luck",
    ),
    (
        functools.partial(SqueezeExcitation, parts=3),
        "stem",
        ValueError,
        r"no attention for 'stem' \(16 channels, 8x4\)",
    ),
    (shared_layer(), "stage.*", ValueError, "fresh layer .*'stage.1'"),
]


@pytest.mark.parametrize(("attention", "at", "error", "match"), REFUSED)
def test_refusals_leave_the_model_untouched(
    net: Net, observe: Observe, attention: Any, at: Any, error: type[Exception], match: str
) -> None:
    before = observe(net)
    with pytest.raises(error, match=match):
        attach(net, attention, at, input_size=(16, 8))
    assert observe(net) == before


def test_input_that_does_not_run(net: Net, observe: Observe) -> None:
    before = observe(net)
    with pytest.raises(ValueError, match=r"attach: .*model .*input of shape \(2, 4, 16, 8\)"):
        attach(net, "se", "stem", input_size=(4, 16, 8))
    assert observe(net) == before


@pytest.mark.parametrize("where", ["after", "instead"])
def test_same_site_twice(net: Net, where: Any) -> None:
    for site in ("stage", "stage.1.conv"):
        attach(net, nn.Identity, site, input_size=(16, 8), where=where)
        with pytest.raises(ValueError, match=f"'{site}' .*already carries attention; remove\\(\\)"):
            attach(net, "se", site, input_size=(16, 8))
        attachments(net)[-1].remove()
    attach(net, "se", "stage", input_size=(16, 8))


def test_attention_is_no_site(net: Net) -> None:
    names = {site.name for site in find_sites(net, (16, 8))}
    attach(net, RelationAwareSpatialAttention, ["stage", "stage.0"], input_size=(16, 8))
    assert {site.name for site in find_sites(net, (16, 8))} == names


def test_attribute_in_the_way(net: Net, observe: Observe) -> None:
    net.stage[1].attention = None
    before = observe(net)
    with pytest.raises(ValueError, match=r"attribute .*'attention' .*'stage.1' \(Block\)"):
        attach(net, lambda channels: nn.Identity(), "stage.*", input_size=(16, 8))
    assert observe(net) == before


def test_failure_half_way_leaves_the_model_untouched(
    net: Net, observe: Observe, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = observe(net)
    add_module = Block.add_module

    def fail_at_the_last(self: nn.Module, name: str, module: nn.Module | None) -> None:
        if self is net.stage[1]:
            raise MemoryError
        add_module(self, name, module)

    monkeypatch.setattr(Block, "add_module", fail_at_the_last)
    with pytest.raises(MemoryError):
        attach(net, Foreign, ["stem", "stage", "stage.0", "stage.1"], input_size=(16, 8))
    assert observe(net) == before


def test_layer_that_runs_only_off_meta(net: Net, images: Tensor) -> None:
    class Asks(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()

        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum().item() > -1e9 else x

    plain = net(images)
    attach(net, Asks, "stem", input_size=(16, 8))
    assert not torch.equal(net(images), plain)


def test_a_module_where_a_name_is_asked_for_is_answered_with_its_name() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Sequential(nn.ReLU()))
    for at in (model[1], [model[1]], ["0", model[1]]):
        with pytest.raises(TypeError, match=r"attach: at .*dotted name .*, got .*'1'; pass .*name"):
            attach(model, "se", at, input_size=(8, 8))  # type: ignore[arg-type]
    for wrong, kind in ((nn.ReLU(), "ReLU"), (3, "int"), (None, "NoneType"), (["0", 1], "int")):
        with pytest.raises(TypeError, match=f"attach: at .*dotted name .*, got {kind}; pass .*name"):
            attach(model, "se", wrong, input_size=(8, 8))  # type: ignore[arg-type]
    assert not attachments(model)


def test_a_layers_option_is_answered_with_how_to_give_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3))
    for attention in ("se", SqueezeExcitation):
        with pytest.raises(
            TypeError, match=r"got reduction=8; .* functools\.partial\(SqueezeExcitation, reduction=8\)"
        ):
            attach(model, attention, "0", input_size=(8, 8), reduction=8)  # type: ignore[arg-type]
    attach(model, functools.partial(SqueezeExcitation, reduction=8), "0", input_size=(8, 8)).remove()
    with pytest.raises(TypeError, match="attach: .*no option 'input_sise': .* 'input_size'"):
        attach(model, "se", "0", input_sise=(8, 8))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="attach: .*no option 'redction': .* 'reduction'"):
        attach(model, "se", "0", input_size=(8, 8), redction=8)  # type: ignore[arg-type]
    assert not attachments(model)
