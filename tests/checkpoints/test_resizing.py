"""Checkpoints of attention at other sizes: saved after a resize, and resized as they are loaded."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from attnreid import (
    AttentionPyramid,
    Difference,
    RelationAwareSpatialAttention,
    SqueezeExcitation,
    attach,
    attach_apnet,
    attach_mla,
    attach_se,
    attachments,
    load_checkpoint,
    save_checkpoint,
    set_last_stride,
)
from tests.backbones.stages import Stages
from tests.checkpoints.forging import forge_file
from tests.layers.support import randomise

OLD, NEW, THIRD = (64, 32), (128, 96), (128, 32)


def resnet(seed=0):
    torch.manual_seed(seed)
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3).eval()


def images(size):
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))


def carriers(model):
    return [model.get_submodule(site.name) for one in attachments(model) for site in one.sites]


def attached(preset, seed=0, size=OLD, make=Stages):
    model = make(seed)
    preset(model, size)
    for host in carriers(model):
        randomise(host.attention, seed=seed)
    return model


def resized(model, size):
    for one in attachments(model):
        one.resize(size)
    return model


def assert_equal(model, wanted, size):
    state = wanted.state_dict()
    assert list(model.state_dict()) == list(state)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert torch.equal(model.eval()(images(size)), wanted.eval()(images(size)))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


MIXED = partial(
    AttentionPyramid,
    attention=(partial(RelationAwareSpatialAttention, reduction=4), "rga_c", "head"),
    levels=(2, 1, 1),
    identity_init=True,
)
PRESETS = {
    "apnet, strips": lambda model, size: attach_apnet(model, "rga_s", input_size=size),
    "apnet, released": lambda model, size: attach_apnet(model, input_size=size, variant="released"),
    "mla": lambda model, size: attach_mla(model, input_size=size, memory=4),
    "se": lambda model, size: attach_se(model, input_size=size),
    "a mixed pyramid": lambda model, size: attach(model, MIXED, ["layer3", "layer4.0"], input_size=size),
    "blended in": lambda model, size: attach(model, "rga_c", "layer[34]", input_size=size, identity_init=True),
    "instead": lambda model, size: attach(model, "rga_s", "layer4.0.bn1", input_size=size, where="instead"),
    "two": lambda model, size: (attach_apnet(model, "rga_s", input_size=size), attach_mla(model, input_size=size)),
}
FAST = ("apnet, strips", "mla", "a mixed pyramid", "instead")
each_preset = pytest.mark.parametrize(
    "preset",
    [pytest.param(preset, id=name, marks=() if name in FAST else pytest.mark.slow) for name, preset in PRESETS.items()],
)


def two_strips(model, size):
    return attach(model, partial(AttentionPyramid, attention="rga_s"), "layer[34]", input_size=size)


# Saved after a resize ------------------------------------------------------------------------------------------------


@each_preset
def test_a_resized_model_comes_back(preset, path):
    model = resized(attached(preset, make=resnet), NEW)
    save_checkpoint(model, path)
    fresh = resnet(seed=1)
    assert load_checkpoint(fresh, path) == Difference()
    assert_equal(fresh, model, NEW)
    assert [one.call for one in attachments(fresh)] == [one.call for one in attachments(model)]
    assert [one.sites for one in attachments(fresh)] == [one.sites for one in attachments(model)]
    assert [repr(host.attention) for host in carriers(fresh)] == [repr(host.attention) for host in carriers(model)]
    load_checkpoint(fresh, path)  # onto the same attention
    for one in (*attachments(fresh), *attachments(model)):
        one.resize(THIRD)  # and from there on both are the same still
    assert_equal(fresh, model, THIRD)


def test_the_file_has_both_sizes(path):
    model = attached(two_strips)
    resized(model, NEW)
    save_checkpoint(model, path)
    seen = []
    forge_file(path, header=lambda header: seen.append(header) or header)
    [described] = seen[0]["attachments"]
    assert described["sites"]["layer3"] == [32, 8, 6]
    assert described["call"]["options"]["input_size"] == [128, 96]
    assert described["call"]["made_for"]["layer3"] == [4, 2]


# Resized as it is loaded ---------------------------------------------------------------------------------------------


@each_preset
def test_a_plain_model_gets_the_attention_at_another_input_size(preset, path):
    model = attached(preset, make=resnet)
    save_checkpoint(model, path)
    fresh = resnet(seed=1)
    assert load_checkpoint(fresh, path, resize=NEW) == Difference()
    assert_equal(fresh, resized(model, NEW), NEW)
    assert [one.call for one in attachments(fresh)] == [one.call for one in attachments(model)]
    for one in attachments(fresh):
        one.remove()
    assert list(fresh.state_dict()) == list(resnet().state_dict())


@each_preset
def test_a_model_that_carries_it_at_another_size_keeps_its_handles_and_hosts(preset, path):
    model = attached(preset, make=resnet)
    save_checkpoint(model, path)
    fresh = attached(preset, seed=1, size=NEW, make=resnet)
    handles, hosts = attachments(fresh), carriers(fresh)
    fresh.conv1.weight.requires_grad_(False)
    parameters = {id(value) for name, value in fresh.named_parameters() if "attention" not in name}
    assert load_checkpoint(fresh.train(), path, resize=True) == Difference()
    assert all(host.attention.training for host in hosts)
    assert_equal(fresh, resized(model, NEW), NEW)
    assert carriers(fresh) == hosts
    assert {id(value) for name, value in fresh.named_parameters() if "attention" not in name} == parameters
    assert not fresh.conv1.weight.requires_grad
    assert [one.call for one in handles] == [one.call for one in attachments(model)]
    save_checkpoint(fresh, path)
    assert load_checkpoint(resnet(), path) == Difference()
    for one in handles:
        one.remove()
    assert not attachments(fresh)


def test_a_file_that_was_resized_before_is_resized_from_its_size_with_its_widths(path):
    model = resized(attached(two_strips), NEW)
    save_checkpoint(model, path)
    resized(model, THIRD)
    plain, carrying = Stages(seed=1), attached(two_strips, seed=1, size=THIRD)
    load_checkpoint(plain, path, resize=[3, *THIRD])
    load_checkpoint(carrying, path, resize=True)
    for fresh in (plain, carrying):
        assert_equal(fresh, model, THIRD)
        assert attachments(fresh)[0].call["made_for"]["layer3"] == [4, 2]


def test_what_has_the_files_size_and_other_widths_is_told_of_resize(path, observe):
    save_checkpoint(resized(attached(two_strips), NEW), path)
    fresh = attached(two_strips, seed=1, size=NEW)
    before = observe(fresh)
    match = r"load_checkpoint: .*fit Stages, got .* unlike .*joint.weight' is 1x1x.* must be 1x6x.*; pass resize=True "
    with pytest.raises(ValueError, match=match):
        load_checkpoint(fresh, path)
    assert observe(fresh) == before
    load_checkpoint(fresh, path, resize=True)
    assert attachments(fresh)[0].call["made_for"]["layer3"] == [4, 2]


@pytest.mark.parametrize("attention", ["se", "head"])
def test_what_has_no_widths_of_a_size_loads_wherever_it_was_attached(attention, path):
    def preset(model, size):
        return attach(model, attention, "layer[34]", input_size=size)

    model = resized(attached(preset), NEW)
    save_checkpoint(model, path)
    fresh = attached(preset, seed=1, size=NEW)
    load_checkpoint(fresh, path)
    assert_equal(fresh, model, NEW)


class OfOneSize(nn.Module):
    """Runs on images of its own size only, as a transformer with a position for each patch does."""

    def __init__(self, size):
        super().__init__()
        torch.manual_seed(0)
        self.size = size
        self.stem = nn.Conv2d(3, 8, 4, 4)

    def forward(self, x):
        if x.shape[2:] != self.size:
            raise RuntimeError(f"these images are not {self.size}")
        return self.stem(x)


def test_a_model_that_refuses_the_files_size(path):
    model = OfOneSize(OLD)
    attach(model, "rga_s", "stem", input_size=OLD, layout="NCHW")
    randomise(model)
    save_checkpoint(model, path)
    for fresh, resize in ((OfOneSize(NEW), NEW), (OfOneSize(NEW), True)):
        with pytest.raises(ValueError, match=r"attach failed with: .*, or pass resize=\(height, width\) to attach"):
            load_checkpoint(fresh, path)
        if resize is True:
            attach(fresh, "rga_s", "stem", input_size=NEW, layout="NCHW")
        load_checkpoint(fresh, path, resize=resize)
        state = model.stem.attention.resize((32, 24)).state_dict()
        assert all(torch.equal(value, state[key]) for key, value in fresh.stem.attention.state_dict().items())
        save_checkpoint(fresh, path.with_name("again"))
        load_checkpoint(OfOneSize(NEW), path.with_name("again"))  # which never runs at the first size


def test_another_stride_is_another_size(path):
    model = resnet()
    set_last_stride(model)
    attach(model, "rga_s", "layer4", input_size=OLD)
    save_checkpoint(model, path)
    fresh = resnet(seed=1)
    match = (
        r"map .* at 'layer4', .*\(512, 4, 2\) in the file .*\(512, 2, 1\) .*; pass resize=\(height, width\) .*stride"
    )
    with pytest.raises(ValueError, match=match):
        load_checkpoint(fresh, path)
    load_checkpoint(fresh, path, resize=OLD)
    assert (fresh.layer4.attention.size, fresh.layer4.attention.made_for) == ((2, 1), (4, 2))


def test_a_part_and_attention_inside_a_larger_model(path):
    model = nn.ModuleDict({"backbone": attached(two_strips)})
    save_checkpoint(model, path)
    part, whole = Stages(seed=1), nn.ModuleDict({"backbone": Stages(seed=1)})
    load_checkpoint(part, path, prefix="backbone.", resize=NEW)
    load_checkpoint(whole, path, resize=NEW)
    resized(model.backbone, NEW)
    assert_equal(part, model.backbone, NEW)
    assert_equal(whole.backbone, model.backbone, NEW)
    assert attachments(whole)[0].call == attachments(model)[0].call
    carrying = nn.ModuleDict({"backbone": attached(two_strips, seed=2, size=NEW)})
    load_checkpoint(carrying, path, resize=True)
    assert_equal(carrying.backbone, model.backbone, NEW)


def test_a_model_whose_call_is_unknown_says_its_sizes_by_its_maps(path):
    save_checkpoint(attached(lambda model, size: attach(model, "rga_s", "layer3", input_size=size)), path)
    fresh = Stages(seed=1)
    attach(fresh, "rga_s", "layer3", example_inputs=(images(NEW),))
    load_checkpoint(fresh, path, resize=True)
    assert (fresh.layer3.attention.size, fresh.layer3.attention.made_for) == ((8, 6), (4, 2))
    assert attachments(fresh)[0].call is None


def test_without_attention_in_the_file_nothing_is_resized(path):
    save_checkpoint(Stages(), path)
    fresh = Stages(seed=1)
    assert load_checkpoint(fresh, path, resize=True) == load_checkpoint(fresh, path, resize=NEW) == Difference()
    assert_equal(fresh, Stages(), OLD)


def test_dtypes_are_converted_where_not_strict(path):
    model = attached(two_strips)
    save_checkpoint(model, path)
    fresh = Stages(seed=1).double()
    with pytest.raises(ValueError, match=r"must have the weights of the AttentionPyramid .*float32 .*float64"):
        load_checkpoint(fresh, path, resize=NEW)
    load_checkpoint(fresh, path, resize=NEW, strict=False)
    weight = model.double().layer3.attention.resize((8, 6)).levels[0].joint.weight
    assert torch.equal(fresh.layer3.attention.levels[0].joint.weight, weight)


class Migrating(nn.Module):
    """Version 2 halves what version 1 stored."""

    _version = 1

    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x):
        return x * self.scale

    def _load_from_state_dict(self, state_dict, prefix, metadata, *rest):
        if metadata["version"] < self._version:
            state_dict[prefix + "scale"] = state_dict[prefix + "scale"] / 2
        super()._load_from_state_dict(state_dict, prefix, metadata, *rest)


def test_weights_are_migrated_once(path, monkeypatch):
    from attnreid import register_attention, registry

    monkeypatch.setattr(registry, "_builders", dict(registry._builders))
    register_attention("resizing_test")(Migrating)
    save_checkpoint(attached(lambda model, size: attach(model, "resizing_test", "layer3", input_size=size)), path)
    model = Stages()
    load_checkpoint(model, path)
    wanted = model.layer3.attention.scale / 2
    monkeypatch.setattr(Migrating, "_version", 2)
    fresh = Stages()
    load_checkpoint(fresh, path, resize=NEW)
    assert torch.equal(fresh.layer3.attention.scale, wanted)


# Refusals ------------------------------------------------------------------------------------------------------------

SE = partial(SqueezeExcitation, reduction=2)


def carrying_se(*, size=NEW, **options):
    model = Stages(seed=1)
    attach(model, SE, "layer3", input_size=size, **options)
    return model


def without_a_weight(tensors):
    tensors.pop("layer3.attention.levels.0.joint.weight")
    return tensors


def with_another_shape(tensors):
    tensors["layer3.attention.levels.1.score.norm.bias"] = torch.zeros(5)
    return tensors


@pytest.mark.parametrize(
    ("make", "resize", "error", "match"),
    [
        (Stages, "yes", TypeError, r"resize must be True, False or an input size .*, got 'yes'; pass"),
        (Stages, (96,), TypeError, r"resize must be .*, got \(96,\)"),
        (Stages, (96, 0), TypeError, r"resize must be .*, got \(96, 0\)"),
        (Stages, True, ValueError, r"resize must be the input size for a plain model, got True; pass resize=\(height"),
        (
            lambda: attached(two_strips),
            NEW,
            ValueError,
            r"resize must be True for .*, got \(128, 96\) .*'layer3', .*; pass",
        ),
        (
            Stages,
            (96, 64),
            ValueError,
            r"attach failed with: .*'layer4' .*height, split into 2 parts by level 2, .*got 3",
        ),
        (
            carrying_se,
            True,
            ValueError,
            r"same .*, got for attachment 1 the option 'attention', .*'pyramid'.* in the file and .*'se'",
        ),
    ],
)
def test_wrong_arguments_are_named_and_nothing_changes(make, resize, error, match, path, observe):
    save_checkpoint(attached(two_strips), path)
    model = make()
    before = observe(model)
    with pytest.raises(error, match=rf"^load_checkpoint: .*{match}"):
        load_checkpoint(model, path, resize=resize)
    assert observe(model) == before


@pytest.mark.parametrize(
    ("options", "resize", "match"),
    [
        ({}, False, r"'input_size', which is \[64, 32\] in the file and \[128, 96\] on the model; pass resize=True to"),
        ({"identity_init": True}, False, r"'identity_init', .*False in the file and True .*; attach what"),
        ({"identity_init": True}, True, r"'identity_init', .*False in the file and True .*; attach what"),
    ],
)
def test_what_differs_is_named_and_resize_only_where_it_helps(options, resize, match, path, observe):
    save_checkpoint(carrying_se(size=OLD), path)
    model = carrying_se(**options)
    before = observe(model)
    with pytest.raises(ValueError, match=match):
        load_checkpoint(model, path, resize=resize, strict=not resize)
    assert observe(model) == before
    model = carrying_se()
    load_checkpoint(model, path, resize=True)


@pytest.mark.parametrize("carrying", [False, True], ids=["plain", "carrying"])
@pytest.mark.parametrize(
    ("forge", "match"),
    [
        ({"tensors": without_a_weight}, r"must have the weights of the AttentionPyramid .*1 missing \('levels.0.joint"),
        ({"tensors": with_another_shape}, r"AttentionPyramid .*1 unlike \('levels.1.score.norm.bias' is 5 .*be 2"),
        ({"tensors": lambda tensors: {**tensors, "a": torch.zeros(1)}}, r"must fit Stages, got 1 unexpected \('a'\)"),
    ],
)
def test_a_file_that_does_not_fit_leaves_the_model_as_it_was(forge, match, carrying, path, observe):
    save_checkpoint(attached(two_strips), path)
    forge_file(path, **forge)
    model = attached(two_strips, seed=1, size=NEW) if carrying else Stages(seed=1)
    before, calls = observe(model), [one.call for one in attachments(model)]
    with pytest.raises(ValueError, match=rf"^load_checkpoint: .*{match}"):
        load_checkpoint(model, path, resize=True if carrying else NEW)
    assert observe(model) == before
    assert [one.call for one in attachments(model)] == calls


def with_call(**changes):
    def change(header):
        [described] = header["attachments"]
        return header | {"attachments": [described | {"call": described["call"] | changes}]}

    return change


def with_sites(**changes):
    def change(header):
        [described] = header["attachments"]
        return header | {"attachments": [described | {"sites": described["sites"] | changes}]}

    return change


@pytest.mark.parametrize(
    ("change", "resize", "match"),
    [
        (with_call(made_for=[]), False, r"not read \(TypeError: \[\] is no dict\)"),
        (with_call(made_for={"layer3": [4]}), False, r"TypeError: \[4\] has not 2 numbers"),
        (with_call(made_for={"layer3": [4, "2"]}), False, r"TypeError: '2' is no int"),
        (with_call(made_for={"layer3": [0, 2]}), False, r"attach failed with: .*'layer3' .*height .*got 0"),
        (with_call(made_for={"layer3": [16, 2]}), False, r"unlike \('layer3.attention.*resize=True"),
        (with_sites(layer3=[256]), NEW, r"TypeError: \[256\] has not 3 numbers"),
        (with_sites(layer3=[256, 0, 2]), NEW, r"'layer3' .*got .*0"),
    ],
)
def test_a_forged_header_is_refused_and_nothing_changes(change, resize, match, path, observe):
    save_checkpoint(attached(two_strips), path)
    forge_file(path, header=change)
    model = Stages(seed=1)
    before = observe(model)
    with pytest.raises(ValueError, match=match):
        load_checkpoint(model, path, resize=resize)
    assert observe(model) == before


def test_attention_without_a_call_is_loaded_and_then_resized(path, observe):
    def mine(channels, size):
        return RelationAwareSpatialAttention(channels, size=size)

    model = attached(lambda model, size: attach(model, mine, "layer3", input_size=size))
    save_checkpoint(model, path)
    fresh = attached(lambda model, size: attach(model, mine, "layer3", input_size=size), seed=1, size=NEW)
    for one, resize in ((fresh, True), (Stages(seed=1), NEW)):
        before = observe(one)
        match = r"in .*model.safetensors must have the call .*, got none for 'layer3'; load it at the size .*resize"
        with pytest.raises(ValueError, match=match):
            load_checkpoint(one, path, resize=resize)
        assert observe(one) == before
    fresh = attached(lambda model, size: attach(model, mine, "layer3", input_size=size), seed=1)
    load_checkpoint(fresh, path)
    assert_equal(resized(fresh, NEW), resized(copy.deepcopy(model), NEW), NEW)
