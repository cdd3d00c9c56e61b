"""save_checkpoint and load_checkpoint: a model with its attention comes back, and nothing else gets in."""

import copy
import doctest
import hashlib
import importlib
import json
import os
import pickle
import random
import sys
from functools import partial

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

import attnreid
from attnreid import (
    AttentionPyramid,
    Difference,
    PixelLevelAttention,
    RelationAwareSpatialAttention,
    SqueezeExcitation,
    attach,
    attach_apnet,
    attach_mla,
    attach_se,
    attachments,
    fold,
    load_checkpoint,
    read_description,
    read_weights,
    register_attention,
    registry,
    save_checkpoint,
    set_last_stride,
)
from attnreid.backbones._calls import describe_call
from tests.checkpoints.forging import as_first_format, forge_file

SIZE = (64, 32)


class Backbone(nn.Sequential):
    """A few maps of 8 channels."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        super().__init__(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))


def resnet(seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3)


def randomise(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                scale = 0.5 if tensor.ndim < 2 else tensor[0].numel() ** -0.5
                tensor.copy_((torch.rand(tensor.shape, generator=generator) + 0.5) * scale)
    return model.eval()


def images(channels: int = 3) -> torch.Tensor:
    return torch.rand(2, channels, *SIZE, generator=torch.Generator().manual_seed(1))


def header_of(path) -> dict:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["attnreid_header"])


def forge(path, header) -> None:
    """Write the file anew with another header."""
    forge_file(path, header=lambda _: header)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


# There and back ------------------------------------------------------------------------------------------------------

PRESETS = {
    "apnet": lambda model: attach_apnet(model, "se", levels=2, input_size=SIZE),
    "apnet, strips": lambda model: attach_apnet(model, "rga_s", levels=(1, 2), input_size=SIZE),
    "apnet, a layer a level": lambda model: attach_apnet(model, ("se", SqueezeExcitation), levels=2, input_size=SIZE),
    "apnet, options": lambda model: attach_apnet(model, partial(SqueezeExcitation, reduction=8), input_size=[3, *SIZE]),
    "apnet, identity": lambda model: attach_apnet(model, radix=1, input_size=SIZE, identity_init=True),
    "apnet, released": lambda model: attach_apnet(model, levels=2, input_size=SIZE, variant="released"),
    "mla": lambda model: attach_mla(model, levels=["pixel", "domain"], input_size=SIZE, memory=8),
    "mla, last": lambda model: attach_mla(model, input_size=SIZE, blocks="last", heads=2),
    "se": lambda model: attach_se(model, reduction=8),
    "attach": lambda model: attach(model, "se", "layer[23]", input_size=SIZE, identity_init=True),
    "attach instead": lambda model: attach(
        model, PixelLevelAttention, "layer1.0.conv2", input_size=SIZE, where="instead"
    ),
    "attach, pyramid": lambda model: attach(
        model,
        partial(
            AttentionPyramid, attention=(partial(RelationAwareSpatialAttention, reduction=4), "rga_c"), levels=(1, 1)
        ),
        ["layer3", "layer4"],
        input_size=SIZE,
        layout="NCHW",
    ),
    "two, nested": lambda model: (attach_apnet(model, input_size=SIZE), attach_se(model)),
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_fresh_backbone_becomes_the_saved_model(name, path):
    model, fresh = resnet(), resnet(seed=1)
    PRESETS[name](model)
    randomise(model)
    save_checkpoint(model, path)
    assert load_checkpoint(fresh, path) == Difference()
    assert torch.equal(fresh.eval()(images()), model(images()))
    assert [str(one) for one in attachments(fresh)] == [str(one) for one in attachments(model)]
    assert [one.call for one in attachments(fresh)] == [one.call for one in attachments(model)]
    assert None not in [one.call for one in attachments(model)]
    state = fresh.state_dict()
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    load_checkpoint(fresh, path)  # onto the same attention
    for one in attachments(fresh):
        one.remove()
    assert list(fresh.state_dict()) == list(resnet().state_dict())


def test_the_header_describes_the_attachments(path):
    model = Backbone()
    attach(model, partial(SqueezeExcitation, reduction=2), "?", input_size=SIZE)
    save_checkpoint(model, path)
    header = header_of(path)
    assert header["format"] == 2
    assert header["description"] is None
    assert header["attnreid"] == attnreid.__version__
    assert header["attachments"] == [
        {
            "call": {
                "on": "",
                "name": "attach",
                "options": {
                    "attention": {"name": "se", "options": {"reduction": 2}},
                    "at": ["0", "1", "2", "3"],
                    "input_size": [64, 32],
                    "where": "after",
                    "identity_init": False,
                    "layout": None,
                    "grid": None,
                    "prefix": None,
                    "output": None,
                },
            },
            "sites": {name: [8, 64, 32] for name in "0123"},
        }
    ]


def test_a_plain_model_comes_back_too(path):
    save_checkpoint(randomise(Backbone()), path)
    fresh = Backbone(seed=1)
    load_checkpoint(fresh, path)
    assert torch.equal(fresh.eval()(images()), randomise(Backbone())(images()))


class Wrapper(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.backbone = Backbone(seed)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.backbone(x).mean(dim=(2, 3)))


def test_attention_inside_a_larger_model_comes_back_there(path):
    model, fresh = Wrapper(), Wrapper(seed=1)
    attach(model.backbone, "pixel", "2", input_size=SIZE)
    assert attachments(model)[0].call["on"] == "backbone"
    save_checkpoint(randomise(model), path)
    load_checkpoint(fresh, path)
    assert torch.equal(fresh.eval()(images()), model(images()))
    with pytest.raises(ValueError, match=r"describes attention \(number 1\), .*'backbone', .*Backbone"):
        load_checkpoint(Backbone(), path)


def test_a_part_of_the_model_that_was_attached_to_has_no_call(path):
    model, fresh = Wrapper(), Backbone(seed=1)
    attach(model, "se", "backbone.2", input_size=SIZE)
    assert attachments(model.backbone)[0].call is None
    save_checkpoint(randomise(model).backbone, path)
    attach(fresh, "se", "2", input_size=SIZE)
    load_checkpoint(fresh, path)
    assert torch.equal(fresh.eval()(images()), model.backbone(images()))


def test_copies_have_the_call():
    model = Backbone()
    call = attach(model, "se", "2", input_size=SIZE).call
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert attachments(twin)[0].call == call
        assert attachments(twin)[0].call is not call


def test_modes_gradients_and_the_saved_model_stay(path):
    model, fresh = Backbone(), Backbone(seed=1)
    attach(model, "se", "2", input_size=SIZE)
    save_checkpoint(model, path)
    fresh[0].weight.requires_grad_(False)
    objects = [id(tensor) for tensor in fresh.parameters()]
    load_checkpoint(fresh.train(), path)
    assert not fresh[0].weight.requires_grad
    assert fresh[2].attention.training
    assert [id(tensor) for name, tensor in fresh.named_parameters() if "attention" not in name] == objects


def test_tied_and_strided_weights_are_written(path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    model[2].weight = nn.Parameter(torch.rand(4, 4).t())
    before = copy.deepcopy(model.state_dict())
    save_checkpoint(model, path)
    fresh = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    load_checkpoint(fresh, path)
    for state in (fresh.state_dict(), model.state_dict()):
        assert all(torch.equal(value, before[key]) for key, value in state.items())
    assert not model[2].weight.is_contiguous()


class Migrating(nn.Module):
    """Version 2 halves what version 1 stored."""

    _version = 1

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def _load_from_state_dict(self, state_dict, prefix, metadata, *rest):
        if metadata["version"] < self._version:
            state_dict[prefix + "scale"] = state_dict[prefix + "scale"] / 2
        super()._load_from_state_dict(state_dict, prefix, metadata, *rest)


def test_modules_learn_the_version_that_they_were_saved_from(path, monkeypatch):
    save_checkpoint(nn.Sequential(Migrating()), path)
    monkeypatch.setattr(Migrating, "_version", 2)
    model = nn.Sequential(Migrating())
    load_checkpoint(model, path)
    assert model[0].scale == 0.5
    save_checkpoint(model, path)
    load_checkpoint(model, path)
    assert model[0].scale == 0.5


# Attention that no file can name -------------------------------------------------------------------------------------


def test_registered_names_are_described(path, monkeypatch):
    monkeypatch.setattr(registry, "_builders", dict(registry._builders))

    @register_attention("checkpoint_test")
    def mine(channels, width=1):
        return nn.Sequential(nn.Conv2d(channels, width, 1), nn.Conv2d(width, channels, 1))

    model = Backbone()
    attach(model, partial(mine, width=2), "2", input_size=SIZE)
    save_checkpoint(randomise(model), path)
    fresh = Backbone()
    load_checkpoint(fresh, path)
    assert torch.equal(fresh.eval()(images()), model(images()))
    del registry._builders["checkpoint_test"]
    with pytest.raises(ValueError, match=r"registered .*, got 'checkpoint_test'"):
        load_checkpoint(Backbone(), path)


@pytest.mark.parametrize(
    "attention",
    [
        lambda channels: nn.Conv2d(channels, channels, 1),
        partial(lambda channels, kernel: nn.Conv2d(channels, channels, kernel), kernel=1),
        partial(AttentionPyramid, attention=lambda channels: nn.Conv2d(channels, channels, 1), levels=1),
        partial(SqueezeExcitation, dtype=torch.float32),
    ],
)
def test_attention_without_a_call_must_be_there(attention, path, observe):
    model, fresh = Backbone(), Backbone(seed=1)
    assert attach(model, attention, "2", input_size=SIZE).call is None
    save_checkpoint(randomise(model), path)
    before = observe(fresh)
    match = (
        r"load_checkpoint: .*model .*attention at '2' before .*model.safetensors .*"
        r"not hold the call .*; attach .*register_attention"
    )
    with pytest.raises(ValueError, match=match):
        load_checkpoint(fresh, path)
    assert observe(fresh) == before
    attach(fresh, attention, "2", input_size=SIZE)
    load_checkpoint(fresh, path)
    assert torch.equal(fresh.eval()(images()), model(images()))


@pytest.mark.parametrize("value", [float("inf"), float("nan"), {1: 2}, {"a": {2}}, torch.zeros(1), b"a", 1j])
def test_what_json_cannot_hold_has_no_call(value):
    assert describe_call("attach", option=(value,)) is None
    assert describe_call("attach", attention=partial(SqueezeExcitation, reduction=value)) is None
    assert describe_call("attach", attention=partial(SqueezeExcitation, 8)) is None


def test_plain_data_is_copied_as_json_gives_it_back():
    options = {"a": (1, [2.5, None]), "b": {"c": True}}
    assert describe_call("attach", **options) == {
        "name": "attach",
        "options": {"a": [1, [2.5, None]], "b": {"c": True}},
    }


def test_example_inputs_are_no_plain_data():
    model = Backbone()
    assert attach(model, "se", "2", example_inputs=(torch.zeros(2, 3, *SIZE),)).call is None


# What differs is named, and nothing changes --------------------------------------------------------------------------


def saved(path, at="2", **options):
    model = Backbone()
    attach(model, partial(SqueezeExcitation, reduction=2), at, **{"input_size": SIZE, **options})
    save_checkpoint(randomise(model), path)
    return model


def carry(*calls):
    model = Backbone(seed=1)
    for attention, at, options in calls:
        attach(model, attention, at, **{"input_size": SIZE, **options})
    return model


SE2 = partial(SqueezeExcitation, reduction=2)


@pytest.mark.parametrize(
    ("carried", "match"),
    [
        (
            [(SE2, "2", {}), (SE2, "3", {})],
            r"load_checkpoint: .*attention .*same .*model.safetensors .*, got "
            r"attachments: 1 in the file .*2 on the model; attach ",
        ),
        ([(SE2, "3", {})], r"attachment 1 .*option 'at', .* \['2'\] in the file .*\['3'\] on the model"),
        (
            [("pixel", "2", {})],
            r"option 'attention', .*\{'name': 'se', .*\} in the file .*'pixel' on the model",
        ),
        (
            [(SE2, "2", {"identity_init": True})],
            r"option 'identity_init', .*False in the file .*True on the model",
        ),
        (
            [(lambda channels: SE2(channels), "3", {})],
            r"map's channels at '2', .*\(8,\) in the file .*not there on",
        ),
    ],
)
def test_other_attention_on_the_model_is_named(carried, match, path, observe):
    saved(path)
    model = carry(*carried)
    before = observe(model)
    with pytest.raises(ValueError, match=match):
        load_checkpoint(model, path)
    assert observe(model) == before


def test_another_stride_is_named(path, observe):
    model, fresh = resnet(), resnet()
    set_last_stride(model)
    attach_apnet(model, input_size=SIZE)
    save_checkpoint(model, path)
    before = observe(fresh)
    match = (
        r"map \(channels, height, width\) at 'layer4', .*\(512, 4, 2\) in the file .*\(512, 2, 1\) on "
        r"the model; .*set_last_stride"
    )
    with pytest.raises(ValueError, match=match):
        load_checkpoint(fresh, path)
    assert observe(fresh) == before


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda model: model.append(nn.Conv2d(8, 8, 1)),
            r"load_checkpoint: .*model.safetensors .*Backbone, got 2 missing \('4.weight', '4.bias'\);",
        ),
        (
            lambda model: model.pop(3),
            r"got 2 unexpected \('3.weight', '3.bias'\)|got 2 unexpected \('3.bias', '3.weight'\)",
        ),
        (
            lambda model: setattr(model, "0", nn.Conv2d(3, 8, 5, padding=2)),
            r"got 1 unlike \('0.weight' .*8x3x3x3 .*8x3x5x5\)",
        ),
        (lambda model: model.double(), r"'0.weight' .*torch.float32 .*torch.float64, .*, …\);"),
    ],
)
def test_other_tensors_are_named_and_nothing_changes(change, match, path, observe):
    saved(path)
    fresh = Backbone(seed=1)
    change(fresh)
    before = observe(fresh)
    with pytest.raises(ValueError, match=match):
        load_checkpoint(fresh, path)
    assert observe(fresh) == before


def test_a_module_that_refuses_leaves_no_weight_changed(path):
    class Refusing(nn.Linear):
        def _load_from_state_dict(self, *arguments):
            arguments[-1].append("no")

    save_checkpoint(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), path)
    model = nn.Sequential(nn.Linear(2, 2), Refusing(2, 2))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"load_checkpoint: .*model.safetensors .*Sequential, got: .*no"):
        load_checkpoint(model, path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_weights_on_meta_are_refused(path):
    saved(path)
    with torch.device("meta"):
        model = Backbone()
    with pytest.raises(ValueError, match=r"numbers, got '0.weight' .*meta device; .*model.to_empty"):
        load_checkpoint(model, path)


@pytest.mark.parametrize("where", ["after", "instead"])
def test_plain_weights_leave_the_attention_as_it_is_only_where_that_is_asked_for(where, path, observe):
    plain, model = randomise(Backbone()), Backbone(seed=1)
    save_checkpoint(plain, path)
    attachment = attach(model, "pixel", "3", input_size=SIZE, where=where)
    own = tuple(attachment.state_dict())
    before, seen = copy.deepcopy(attachment.state_dict()), observe(model)
    match = (
        r"Backbone, got 2 missing \('3.attention.conv.weight', .*\); .*before .*attached "
        r"\(strict=False leaves"
    )
    with pytest.raises(ValueError, match=match):
        load_checkpoint(model, path)
    assert observe(model) == seen
    assert load_checkpoint(model, path, strict=False) == Difference(missing=own)
    assert all(torch.equal(value, before[key]) for key, value in attachment.state_dict().items())
    assert torch.equal(model[0].weight, plain[0].weight)
    fresh = Backbone(seed=1)
    assert load_checkpoint(fresh, path) == Difference()
    attach(fresh, "pixel", "3", input_size=SIZE, where=where)


def test_attention_of_one_site_only_is_not_enough(path):
    save_checkpoint(carry((lambda channels: SE2(channels), "2", {})), path)
    model = carry((lambda channels: SE2(channels), "2", {}), (lambda channels: SE2(channels), "3", {}))
    with pytest.raises(ValueError, match="attachments: 1 in the file .*2 on the model"):
        load_checkpoint(model, path)
    difference = load_checkpoint(model, path, strict=False)
    assert difference == Difference(missing=("3.attention.reduce", "3.attention.expand"))


def test_the_advice_for_a_head_of_another_size_helps(path):
    model = resnet()
    attach_apnet(model, input_size=SIZE)
    save_checkpoint(randomise(model), path)
    fresh = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5)
    for strict in (True, False):
        with pytest.raises(ValueError, match=r"'fc.weight' .*3x512 .*5x512.*; .*keep a layer") as caught:
            load_checkpoint(fresh, path, strict=strict)
    assert all(way in str(caught.value) for way in ("nn.Identity()", "strict=False"))
    head, fresh.fc = fresh.fc, nn.Identity()
    assert set(load_checkpoint(fresh, path, strict=False).unexpected) == {"fc.weight", "fc.bias"}
    fresh.fc = head
    assert torch.equal(fresh.layer4.attention.levels[1].reduce, model.layer4.attention.levels[1].reduce)


def test_not_strict_lets_keys_and_dtypes_and_attention_differ(path):
    model = saved(path)
    bare = nn.Sequential(*list(Backbone(seed=1))[:3], nn.Identity(), nn.Conv2d(8, 8, 1)).double()
    difference = load_checkpoint(bare, path, strict=False)
    assert difference.missing == ("4.weight", "4.bias")
    assert set(difference.unexpected) == {"3.weight", "3.bias"}
    assert torch.equal(bare[0].weight, model[0].weight.double())
    assert torch.equal(bare[2].attention.reduce, model[2].attention.reduce.double())
    other = carry(("pixel", "3", {}))
    difference = load_checkpoint(other, path, strict=False)
    assert set(difference.unexpected) == {"2.attention.reduce", "2.attention.expand"}
    with pytest.raises(ValueError, match="got 1 unlike"):
        load_checkpoint(nn.Sequential(nn.Conv2d(3, 8, 1), *list(Backbone())[1:]), path, strict=False)


def test_not_strict_leaves_attention_without_a_call_out(path):
    model, fresh = Backbone(), Backbone(seed=1)
    attach(model, lambda channels: nn.Conv2d(channels, channels, 1), "2", input_size=SIZE)
    save_checkpoint(model, path)
    assert set(load_checkpoint(fresh, path, strict=False).unexpected) == {"2.attention.weight", "2.attention.bias"}
    assert attachments(fresh) == []
    assert torch.equal(fresh[0].weight, model[0].weight)


# Writing -------------------------------------------------------------------------------------------------------------


def test_a_failure_leaves_the_old_file_and_no_other(path, monkeypatch):
    saved(path)
    before = path.read_bytes()

    def fail(self, target):
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda source, target: fail(None, None))
        with pytest.raises(OSError, match="the disk is gone"):
            save_checkpoint(Backbone(), path)
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", lambda tensors, name, header: fail(None, None))
        with pytest.raises(OSError, match="the disk is gone"):
            save_checkpoint(Backbone(), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_replaced_with_the_usual_rights_and_through_links(path):
    link = path.with_name("link")
    link.symlink_to(path)
    path.with_name("usual").write_text("")
    for target in (path, link, str(path)):
        save_checkpoint(Backbone(), target)
    assert link.is_symlink()
    assert path.stat().st_mode == path.with_name("usual").stat().st_mode
    assert load_checkpoint(Backbone(), str(link)) == Difference()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"save_checkpoint: .*folder of .*a.safetensors .*exist"):
        save_checkpoint(Backbone(), tmp_path / "none" / "a.safetensors")


class Extra(nn.Module):
    def get_extra_state(self):
        return {"a": 1}


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (Extra(), r"save_checkpoint: .*state dict .*plain tensors with data, got a dict at '_extra_state'"),
        (nn.LazyLinear(2), r"got a lazy one .*once at 'weight'"),
        (nn.Linear(2, 2, device="meta"), r"got .*meta device at 'weight'"),
    ],
)
def test_what_no_file_can_hold_is_refused(model, match, path):
    with pytest.raises(ValueError, match=match):
        save_checkpoint(model, path)
    assert not path.exists()


def test_a_folded_model_is_refused(path):
    model = Backbone().eval()
    attach(model, "rga_s", "2", input_size=SIZE)
    with pytest.raises(ValueError, match=r"folded.*got '2.attention' folded; save "):
        save_checkpoint(fold(model), path)


@pytest.mark.parametrize("function", [save_checkpoint, load_checkpoint])
def test_a_missing_safetensors_is_named_with_its_extra(function, path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=rf"{function.__name__}: .*installed.*pip install 'attnreid\[checkpoints\]'"):
        function(Backbone(), path)


# Files that are none -------------------------------------------------------------------------------------------------


def test_empty_cut_and_foreign_files_are_named(path):
    saved(path)
    whole = path.read_bytes()
    who = r"load_checkpoint: .*model.safetensors .*whole file of save_checkpoint, got .*"
    for content, found in (
        (b"", "empty file"),
        (whole[:4], "safetensors cannot read"),
        (whole[:100], "safetensors cannot read"),
        (whole[:-4], "safetensors cannot read"),
        (b"hello, world, this is a text", "safetensors cannot read"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=who + found):
            load_checkpoint(Backbone(), path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"got .*without its header; .*model.load_state"):
        load_checkpoint(Backbone(), path)
    with pytest.raises(FileNotFoundError):
        load_checkpoint(Backbone(), path.with_name("none"))


class _Payload:
    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("write", ["zip", "legacy", "pickle"])
def test_pickles_are_refused_and_not_run(write, path):
    payload = _Payload()
    payload.folder = path.with_name("it ran")
    if write == "pickle":
        path.write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=write == "zip")
    match = (
        r"load_checkpoint: .*model.safetensors .*save_checkpoint, got a pickle \(torch.save\), "
        r".*code; .*read_weights"
    )
    with pytest.raises(ValueError, match=match):
        load_checkpoint(Backbone(), path)
    assert not payload.folder.exists()


def test_a_header_whose_length_looks_like_a_pickle_is_read(path):
    model, length = Backbone(), 0x0280  # the first two bytes are then those of a pickle
    save_checkpoint(model, path)
    header = header_of(path)
    forge(path, header | {"attnreid": ""})
    needed = int.from_bytes(path.read_bytes()[:8], "little")
    length += -(-(needed - length) // 0x10000) * 0x10000
    forge(path, header | {"attnreid": "x" * (length - needed)})
    assert path.read_bytes().startswith(b"\x80\x02")
    load_checkpoint(model, path)


def edit(**changes):
    return lambda header: header | changes


def call(**changes):
    def change(header):
        [described] = header["attachments"]
        return header | {"attachments": [described | {"call": described["call"] | changes}]}

    return change


def option(name, value):
    def change(header):
        options = header["attachments"][0]["call"]["options"]
        return call(options=options | {name: value})(header)

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (edit(format=3), r"header of format 2, got format 3; .*attnreid"),
        (lambda header: "{", r"header of format 2, got .*not read \(JSONDecodeError"),
        (lambda header: "[" * 100_000, r"header of format 2, got .*not read \(ValueError: .*nested more than 100 deep"),
        (lambda header: "[1]", r"got .*not read \(TypeError"),
        (lambda header: {"format": 2}, r"got .*not read \(KeyError: 'attnreid'\); save "),
        (edit(attachments={}), r"got .*not read \(TypeError: \{\} is no list\)"),
        (edit(attachments=[3]), r"got .*not read \(TypeError"),
        (edit(attachments=[{"call": {"on": ""}, "sites": {}}]), r"got .*not read \(KeyError: 'name'\)"),
        (edit(versions={"": "x"}), r"TypeError: 'x' .*int"),
        (call(options=[]), r"TypeError: \[\] .*dict"),
        (
            call(name="os.system"),
            r"load_checkpoint: .*model.safetensors describes attention \(number 1\), .*call .*"
            r"attach, attach_apnet, attach_mla, attach_pyramid, attach_se, got 'os.system'",
        ),
        (call(name="__import__"), "got '__import__'"),
        (call(on="nowhere"), r"'nowhere', .*Backbone "),
        (
            call(name="attach_mla", options={"input_size": [64, 32]}),
            r"attach_mla failed with: attach_mla: ",
        ),
        (option("example_inputs", [1]), r"attach has no option 'example_inputs': "),
        (option("model", "x"), r"attach has no option 'model'"),
        (option("wher", "after"), r"attach has no option 'wher': .*'where'"),
        (option("at", ["7"]), r"failed with: attach: '7' .*module of Backbone"),
        (option("input_size", "x"), r"failed with: attach: input_size .*got 'x'"),
        (option("attention", "os"), r"name .*registered .*, got 'os'"),
        (option("attention", {"name": "os.system", "options": {}}), r"name .*registered .*, got 'os.system'"),
        (option("attention", {"name": ["se"], "options": {}}), r"name .*registered .*, got .*\['se'\]"),
        (
            option("attention", {"name": "se", "options": {"reducton": 2}}),
            r"attention 'se' has no option 'reducton': .*'reduction'",
        ),
        (option("attention", {"name": "se", "options": {"channels": 2}}), r"attention 'se' has no option 'channels'"),
        (
            option("attention", {"name": "se", "options": {"reduction": {}}}),
            r"failed with: SqueezeExcitation: reduction .*got \{\}",
        ),
        (option("attention", {"pyramid": {"attenton": "se"}}), r"AttentionPyramid has no option 'attenton'"),
        (
            option("attention", {"pyramid": {"attention": ["se", 7]}}),
            r"registered name, .*got 7",
        ),
        (
            option("attention", {"eval": "1"}),
            r"registered name, .*got \{'eval': '1'\}",
        ),
        (option("attention", None), r"registered name, .*got None"),
        (option("at", None), r"attach failed with: attach: at "),
    ],
)
def test_a_forged_header_is_refused_and_nothing_changes(change, match, path, observe):
    saved(path)
    forge(path, change(header_of(path)))
    model = Backbone(seed=1)
    before = observe(model)
    with pytest.raises(ValueError, match=match):
        load_checkpoint(model, path)
    assert observe(model) == before


def test_the_second_attachments_failure_takes_the_first_out(path, observe):
    model = Backbone()
    attach(model, "se", "2", input_size=SIZE)
    attach(model, "se", "3", input_size=SIZE)
    save_checkpoint(model, path)
    header = header_of(path)
    header["attachments"][1]["call"]["options"]["at"] = ["7"]
    forge(path, header)
    fresh = Backbone(seed=1)
    before = observe(fresh)
    with pytest.raises(ValueError, match=r"describes attention \(number 2\), .*attach failed with"):
        load_checkpoint(fresh, path)
    assert observe(fresh) == before


# The digest ----------------------------------------------------------------------------------------------------------


def test_a_bit_that_flips_anywhere_is_noticed(path):
    """In the header, in a name, in the digest itself, in a tensor: everywhere."""
    saved(path)
    whole = path.read_bytes()
    generator = random.Random(0)
    places = {*range(8), *generator.sample(range(len(whole)), 60), len(whole) - 1}
    for name in (b"attnreid_sha256", b"attnreid_header", b'"2.attention', b"__metadata__"):
        places |= set(range(whole.index(name), whole.index(name) + len(name)))
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        for read in (lambda: load_checkpoint(Backbone(), path), lambda: read_description(path)):
            with pytest.raises(ValueError, match=str(path)):
                read()


def test_a_damaged_file_is_named_and_nothing_changes(path, observe):
    saved(path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 16
    path.write_bytes(content)
    model = Backbone(seed=1)
    before = observe(model)
    match = r": .*model.safetensors .*whole file .*not the content that was written .*digest.*; copy"
    with pytest.raises(ValueError, match=f"load_checkpoint{match}"):
        load_checkpoint(model, path)
    with pytest.raises(ValueError, match=f"read_weights{match}"):
        read_weights(path)
    assert observe(model) == before


def test_the_digest_is_of_the_whole_file_with_zeros_in_its_place(path):
    saved(path)
    with safe_open(path, "pt") as file:
        digest = file.metadata()["attnreid_sha256"]
    content = path.read_bytes()
    assert content.count(digest.encode()) == 1
    assert hashlib.sha256(content.replace(digest.encode(), b"0" * 64)).hexdigest() == digest


@pytest.mark.parametrize("name", PRESETS)
def test_files_of_the_first_format_still_load(name, path):
    model, fresh = resnet(), resnet(seed=1)
    PRESETS[name](model)
    save_checkpoint(randomise(model), path)
    as_first_format(path)
    assert load_checkpoint(fresh, path) == Difference()
    assert read_description(path) is None
    assert torch.equal(fresh.eval()(images()), model(images()))
    assert read_weights(path).tensors.keys() == model.state_dict().keys()


# The description -----------------------------------------------------------------------------------------------------


def test_what_the_caller_says_comes_back(path):
    save_checkpoint(Backbone(), path)
    assert read_description(path) is None
    told = {"epoch": 3, "title": "APNet-C2 \u884c", "scores": {"mAP": 0.1 + 0.2, "interval": None}, "size": (256, 128)}
    save_checkpoint(Backbone(), path, description=told)
    assert read_description(path) == {**told, "size": [256, 128]}
    assert load_checkpoint(Backbone(), path) == Difference()


@pytest.mark.parametrize("value", [float("nan"), {"a": torch.zeros(1)}, b"a"])
def test_a_description_that_json_cannot_hold_is_refused(value, path):
    with pytest.raises(ValueError, match=r"save_checkpoint: .*description .*JSON"):
        save_checkpoint(Backbone(), path, description={"value": value})
    assert not path.exists()


def test_a_name_in_the_description_is_no_digest(path):
    """Whatever the description says, the digest is found where it stands."""
    save_checkpoint(Backbone(), path, description={"attnreid_sha256": "0" * 64, 'a"attnreid_sha256":"b': "0" * 64})
    assert load_checkpoint(Backbone(), path) == Difference()


# A folder, and a part of the model -----------------------------------------------------------------------------------


def test_a_folder_is_read_by_the_file_in_it(path):
    saved(path)
    assert load_checkpoint(Backbone(), path.parent) == Difference()
    assert read_description(path.parent) is None


def test_a_part_is_loaded_with_its_attention(path):
    model = Wrapper()
    attach(model.backbone, "pixel", "2", input_size=SIZE)
    attach(model, lambda channels: nn.Conv2d(channels, channels, 1), "backbone.0", input_size=SIZE)
    save_checkpoint(randomise(model), path)
    fresh = Backbone(seed=1)
    with pytest.raises(ValueError, match=r"must carry attention at '0' before"):
        load_checkpoint(fresh, path, prefix="backbone.")
    assert list(fresh.state_dict()) == list(Backbone().state_dict())

    model = Wrapper()
    attach(model.backbone, "pixel", "2", input_size=SIZE)
    save_checkpoint(randomise(model), path)
    assert load_checkpoint(fresh, path, prefix="backbone.") == Difference()
    assert torch.equal(fresh.eval()(images()), model.backbone(images()))
    assert attachments(fresh)[0].call["on"] == ""
    head = nn.Linear(8, 2)
    assert load_checkpoint(head, path, prefix="head.") == Difference()
    assert torch.equal(head.weight, model.head.weight)
    assert not attachments(head)
    with pytest.raises(ValueError, match=r"weights under 'body.', got them under 'backbone.', 'head.'; "):
        load_checkpoint(head, path, prefix="body.")


def test_a_call_for_a_larger_model_does_not_hold_for_a_part(path):
    model, fresh = Wrapper(), Backbone(seed=1)
    attach(model, "se", "backbone.2", input_size=SIZE)
    save_checkpoint(randomise(model), path)
    with pytest.raises(ValueError, match=r"must carry attention at '2' before"):
        load_checkpoint(fresh, path, prefix="backbone.")
    attach(fresh, "se", "2", input_size=SIZE)
    load_checkpoint(fresh, path, prefix="backbone.")
    assert torch.equal(fresh.eval()(images()), model.backbone(images()))


# The library ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["saving", "loading", "released", "released_backbone"])
def test_examples_run(name):
    result = doctest.testmod(importlib.import_module(f"attnreid.checkpoints.{name}"), optionflags=doctest.ELLIPSIS)
    assert result.attempted >= 1
    assert result.failed == 0
