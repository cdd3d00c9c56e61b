"""Readers of the released networks: the converted network is the literal one, and nothing else is read."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18, resnet50

from attnreid import (
    attach,
    attach_released,
    attachments,
    load_checkpoint,
    read_released,
    record_attention,
    save_checkpoint,
    set_last_stride,
)
from attnreid.checkpoints._layouts import apnet_shapes, resnet50_shapes, rga_shapes
from tests.checkpoints.support import APNET, KINDS, RGA, blank, draw, shapes
from tests.oracles import released as oracle

SMALL, FULL = (64, 32), (256, 128)
POSITIONS = (2048, 512, 128, 128)


def plain(dtype=torch.float64):
    """A ResNet-50 without weights worth the time of drawing them."""
    with torch.device("meta"):
        model = resnet50(num_classes=3)
    model = model.to_empty(device="cpu").to(dtype)
    for tensor in model.state_dict().values():
        tensor.fill_(0.5)
    return model.eval()


@pytest.mark.parametrize("layout", APNET)
def test_the_keys_and_shapes_are_apnets(layout):
    aliases = {f"base.{key}": shape for key, shape in resnet50_shapes().items()}
    assert aliases | apnet_shapes(int(layout[-1]), 751) == shapes(layout)


@pytest.mark.parametrize("layout", RGA)
def test_the_keys_and_shapes_are_rgas(layout):
    assert rga_shapes(KINDS[layout], POSITIONS, 751) == shapes(layout)


@pytest.mark.parametrize(
    "layout",
    [
        layout if layout in ("apnet_level2", "rga_s") else pytest.param(layout, marks=pytest.mark.slow)
        for layout in APNET + RGA
    ],
)
def test_the_converted_network_is_the_literal_one(layout):
    weights, size = draw(layout), SMALL if layout in APNET else FULL
    images = torch.randn(1, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    checkpoint = read_released(weights)
    model = plain()
    attach_released(model, checkpoint, input_size=size)
    model.fc = nn.Identity()
    neck = nn.BatchNorm1d(2048, dtype=torch.float64).eval()
    neck.load_state_dict(checkpoint.neck)
    with torch.no_grad(), record_attention(model) as gates:
        pooled = model(images)
        feature = neck(pooled)
        if layout in APNET:
            expected = oracle.apnet(images, weights, int(layout[-1]))
        else:
            expected = oracle.rga(images, weights, KINDS[layout])
    for got, literal in zip((pooled, feature), expected, strict=True):
        assert (got - literal).abs().max() <= 1e-10 * literal.abs().max()
    recorded = [gate for site in gates.values() for gate in site.values()]
    assert len(recorded) == {"apnet_level0": 0, "apnet_level1": 5, "apnet_level2": 10, "rga_sc": 8}.get(layout, 4)
    assert all(gate.std() > 5e-4 for gate in recorded)  # no gate is a constant that any weights would give


@pytest.mark.slow
def test_other_weights_give_another_network():
    images = torch.randn(1, 3, *SMALL, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    outputs = []
    for seed in (0, 1):
        model = plain()
        attach_released(model, read_released(draw("apnet_level2", seed)), input_size=SMALL)
        with torch.no_grad():
            outputs.append(model(images))
    assert not torch.allclose(*outputs)


def test_what_was_read_is_named():
    apnet, rga = read_released(draw("apnet_level2")), read_released(blank("rga_sc"))
    assert (apnet.layout, apnet.levels, apnet.classes, apnet.positions) == ("apnet", 2, 5, ())
    assert (rga.layout, rga.spatial, rga.channel, rga.classes, rga.positions) == ("rga", True, True, 751, POSITIONS)
    nn.Linear(2048, 5, bias=False).load_state_dict(apnet.classifier)
    assert apnet.neck["num_batches_tracked"] == 7
    for layout, has in {"rga_s": (True, False), "rga_c": (False, True)}.items():
        checkpoint = read_released(blank(layout))
        assert (checkpoint.spatial, checkpoint.channel, checkpoint.positions) == (*has, POSITIONS)


# Files and wrappers --------------------------------------------------------------------------------------------------


PREFIXES = ["", "module.", "base.", "_orig_mod.", "backbone.", "module.backbone.", "module._orig_mod.base.", "net."]


@pytest.mark.parametrize("layout", ["apnet_level1", "rga_c"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_all_keys_share_is_taken_off(layout, prefix):
    weights = blank(layout)
    checkpoint = read_released({f"{prefix}{key}": value for key, value in weights.items()})
    assert checkpoint.prefix == prefix
    plain = read_released(weights)
    assert (checkpoint.layout, checkpoint.levels, checkpoint.channel) == (plain.layout, plain.levels, plain.channel)
    assert checkpoint.backbone.keys() == plain.backbone.keys()
    assert checkpoint.neck.keys() == plain.neck.keys()


@pytest.mark.parametrize("opened", [("model",), ("state_dict",), ("model", "state_dict"), ("state_dict", "model")])
@pytest.mark.parametrize("ending", ["pth", "pth.tar"])
def test_a_file_and_its_wrappers_are_read(opened, ending, tmp_path):
    weights = blank("apnet_level0")
    content = {f"module.{key}": value for key, value in weights.items()}
    for key in reversed(opened):
        content = {key: content, "epoch": 3, "best_top1": 0.5, "optimizer": {"state": {}, "param_groups": []}}
    torch.save(content, tmp_path / f"file.{ending}")
    for source in (content, tmp_path / f"file.{ending}", str(tmp_path / f"file.{ending}")):
        checkpoint = read_released(source)
        assert checkpoint.backbone.keys() == read_released(weights).backbone.keys()
        assert (checkpoint.opened, checkpoint.prefix) == (opened, "module.")


def test_a_file_of_safetensors_is_read(tmp_path):
    weights = {key: value.half().contiguous() for key, value in blank("apnet_level0").items()}
    weights["base_5.0.2.conv3.weight"] += 2
    weights["base.layer4.2.conv3.weight"] += 2
    save_file(weights, tmp_path / "a.safetensors")
    assert (read_released(tmp_path / "a.safetensors").backbone["layer4.2.conv3.weight"] == 2).all()


@pytest.mark.parametrize("classes", [1, 5, 1041])
def test_the_head_has_any_number_of_classes(classes):
    weights = {**blank("apnet_level0"), "classifier.weight": torch.zeros(()).expand(classes, 2048)}
    checkpoint = read_released(weights)
    assert (checkpoint.classes, checkpoint.classifier["weight"].shape) == (classes, (classes, 2048))


@pytest.mark.parametrize("left", ["base.", "base_"])
def test_either_name_of_apnets_backbone_will_do(left):
    weights = draw("apnet_level1")
    one = {key: value for key, value in weights.items() if key.startswith(left) or not key.startswith("base")}
    both, alone = read_released(weights).backbone, read_released(one).backbone
    assert both.keys() == alone.keys()
    assert all(torch.equal(both[key], alone[key]) for key in both)


@pytest.mark.parametrize("layout", ["apnet_level2", "rga_sc"])
def test_old_files_without_counters_are_read(layout):
    weights = {key: value for key, value in blank(layout).items() if "num_batches" not in key}
    checkpoint = read_released(weights)
    assert checkpoint.backbone.keys() == read_released(blank(layout)).backbone.keys()
    assert checkpoint.backbone["bn1.num_batches_tracked"] == 0


def test_the_callers_dict_stays_as_it_is():
    weights = {key: value for key, value in blank("apnet_level1").items() if "num_batches" not in key}
    before = dict(weights)
    read_released({"model": weights})
    assert weights == before
    assert list(weights) == list(before)


class _Payload:
    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(zipped, tmp_path):
    payload = _Payload()
    payload.folder = tmp_path / "it ran"
    torch.save(
        {"model": blank("apnet_level0"), "more": payload}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped
    )
    match = r"read_released: .*a.pth .*plain tensors only, got .*\S*mkdir .*not run"
    with pytest.raises(ValueError, match=match):
        read_released(tmp_path / "a.pth")
    assert not payload.folder.exists()


def test_a_whole_model_is_named(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"plain tensors only, got .*\S*torch.nn.modules.linear.Linear.* trust"):
        read_released(tmp_path / "a.pth")


@pytest.mark.parametrize("number", [np.float64(0.9), np.float32(0.9), np.int64(3), np.bool_(True)])
def test_a_score_that_is_a_number_of_numpy_may_stand_beside_the_weights(number, tmp_path):
    torch.save({"model": blank("apnet_level0"), "best_top1": number}, tmp_path / "a.pth")
    assert read_released(tmp_path / "a.pth").layout == "apnet"


def test_files_that_do_not_read_are_named(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.zeros(100)}, path)
    whole = path.read_bytes()
    for content in (
        b"",
        b"hello world",
        whole[:-50],
        whole[:60] + b"x" * 30 + whole[90:],
        pickle.dumps({"a": 1}, protocol=2)[:-3],
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"read_released: .*a.pth .*whole file of torch.save or safetensors, got"):
            read_released(path)
    with pytest.raises(FileNotFoundError):
        read_released(tmp_path / "none.pth")


def without(key):
    return lambda weights: weights.pop(key) is None


def put(key, value):
    return lambda weights: weights.update({key: value})


@pytest.mark.parametrize(
    ("layout", "change", "match"),
    [
        (
            "apnet_level2",
            without("att_s3.fc1.bias"),
            r"read_released: .*state dict .*APNet's Baseline at level 2, got 1 missing "
            r"\('att_s3.fc1.bias'\); use .*released",
        ),
        (
            "apnet_level1",
            put("att6.fc.0.weight", torch.zeros(8, 8)),
            r"level 1, got 1 unexpected \('att6.fc.0.weight'\)",
        ),
        ("apnet_level1", put("base.fc.weight", torch.zeros(8, 8)), r"got 1 unexpected \('base.fc.weight'\)"),
        ("apnet_level0", put("att1.fc.0.weight", torch.zeros(8, 64)), r"level 1, got 9 missing .*'att1.fc.2.weight', "),
        (
            "apnet_level1",
            put("att1.fc.0.weight", torch.zeros(4, 64)),
            r"got 1 unlike \('att1.fc.0.weight' .*4x64 .*8x64\)",
        ),
        ("apnet_level1", put("classifier.weight", torch.zeros(9, 4)), r"'classifier.weight' .*9x4 .*9x2048"),
        ("apnet_level1", without("classifier.weight"), r"got 1 missing \('classifier.weight'\)"),
        (
            "apnet_level1",
            put("base.layer3.2.bn1.bias", torch.ones(256)),
            r"'base.layer3.2.bn1.bias' and 'base_4.0.2.bn1.bias' .*one tensor, got two",
        ),
        (
            "apnet_level2",
            put("BN2.bottleneck2.bias", torch.full((256,), 0.25)),
            r"'BN2.bottleneck2.bias' .*zeros, .*APNet.*got up to 0.25",
        ),
        (
            "rga_s",
            without("backbone.rga_att2.gg_spatial.0.weight"),
            r"RGA's .*spatial attention, got 1 missing \('backbone.rga_att2.gg_spatial.0.weight'\)",
        ),
        (
            "rga_c",
            put("backbone.rga_att1.gx_spatial.0.weight", torch.zeros(1)),
            r"spatial and channel .*, got \d+ missing",
        ),
        ("rga_sc", put("cls.bias", torch.zeros(751)), r"got 1 unexpected \('cls.bias'\)"),
        (
            "rga_c",
            put("backbone.rga_att3.theta_channel.0.weight", torch.zeros(8, 64, 1, 1)),
            r"got \d+ unlike \('backbone.rga_att3.gx_channel.0.weight' .*16x128x1x1 .*8x64x1x1, ",
        ),
        (
            "rga_s",
            lambda weights: [weights.pop(key) for key in list(weights) if "rga_att" in key],
            r"RGA's .*spatial or channel .*\(backbone.rga_att1.\*\), got none",
        ),
    ],
)
def test_what_is_wrong_is_named(layout, change, match):
    weights = blank(layout)
    change(weights)
    with pytest.raises(ValueError, match=match):
        read_released(weights)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (
            {"conv1.weight": torch.zeros(1)},
            r"APNet's Baseline .*, got 'conv1.weight'",
        ),
        ({}, "APNet's Baseline .*, got none"),
        ({"model": [1]}, r"tensors by name .*, got a list at 'model'; .*state dict"),
        ({"state_dict": {1: torch.zeros(1)}}, "got a Tensor at 1"),
    ],
)
def test_what_is_no_released_state_dict_is_refused(content, match):
    with pytest.raises(ValueError, match=match):
        read_released(content)


def test_a_file_with_something_else_in_it_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a.pth .*state dict, got a list; .*state dict"):
        read_released(Path(tmp_path / "a.pth"))


# Into a model --------------------------------------------------------------------------------------------------------


def test_the_models_own_head_stays_and_the_last_stride_is_1():
    model, checkpoint = plain(torch.float32), read_released(draw("apnet_level1"))
    before = dict(checkpoint.backbone)
    attachment = attach_released(model, checkpoint, input_size=SMALL)
    assert [site.name for site in attachment.sites] == ["relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    assert torch.equal(model.fc.weight, torch.full((3, 2048), 0.5))
    assert model.layer4[0].conv2.stride == model.layer4[0].downsample[0].stride == (1, 1)
    assert torch.equal(
        model.layer1.attention.levels[0].reduce, checkpoint.backbone["layer1.attention.levels.0.reduce"].float()
    )
    assert checkpoint.backbone.keys() == before.keys()
    assert all(checkpoint.backbone[key] is value for key, value in before.items())
    attachment.remove()
    assert attachments(model) == []
    assert isinstance(model.relu, nn.ReLU)


def test_a_released_network_is_saved_and_loaded_like_any_other(tmp_path):
    images = torch.rand(1, 3, *SMALL, generator=torch.Generator().manual_seed(1))
    model, fresh = plain(torch.float32), plain(torch.float32)
    attach_released(model, read_released(draw("apnet_level2")), input_size=SMALL)
    save_checkpoint(model, tmp_path / "a.safetensors")
    set_last_stride(fresh)
    load_checkpoint(fresh, tmp_path / "a.safetensors")
    assert torch.equal(fresh(images), model(images))


def test_rgas_attention_has_a_call():
    model = plain(torch.float32)
    attachment = attach_released(model, read_released(blank("rga_sc")), input_size=FULL)
    assert attachment.call["options"]["attention"] == {"pyramid": {"attention": ["rga_s", "rga_c"], "levels": [1, 1]}}


def test_an_input_size_that_does_not_fit_leaves_the_model_as_it_was(observe):
    model = plain(torch.float32)
    before, strides = observe(model), [getattr(module, "stride", None) for module in model.modules()]
    match = (
        r"attach_released: .*maps .*2048, 512, 128, 128 positions.*"
        r", got 128, 32, 8, 8 at input_size=\(64, 32\); .*size"
    )
    with pytest.raises(ValueError, match=match):
        attach_released(model, read_released(blank("rga_c")), input_size=SMALL)
    assert observe(model) == before
    assert [getattr(module, "stride", None) for module in model.modules()] == strides


def test_a_released_network_that_does_not_load_leaves_the_model_as_it_was(observe):
    model, checkpoint = plain(torch.float32), read_released(draw("apnet_level1"))
    before = observe(model)
    strides = [getattr(module, "stride", None) for module in model.modules()]
    checkpoint.backbone["layer4.attention.levels.0.reduce"] = torch.zeros(1, 4, 2048)
    with pytest.raises(ValueError, match=r"attach_released: .*released .*read_released; .*failed"):
        attach_released(model, checkpoint, input_size=SMALL)
    after = observe(model)
    assert after.keys() == before.keys()
    for name, value in after.items():  # weights that came and went have another version, and the same bits
        assert (
            (value[0], value[2:]) == (before[name][0], before[name][2:]) if "tensor" in name else value == before[name]
        )
    assert [getattr(module, "stride", None) for module in model.modules()] == strides


def test_models_that_do_not_fit_are_refused():
    checkpoint = read_released(blank("apnet_level0"))
    with pytest.raises(ValueError, match=r"attach_released: .*model .*ResNet, .*got Linear"):
        attach_released(nn.Linear(2, 2), checkpoint, input_size=SMALL)
    with pytest.raises(ValueError, match=r"ResNet-50 .*torchvision's names, got \d+ missing .*; .*without a head"):
        attach_released(resnet18(), checkpoint, input_size=SMALL)
    model = plain(torch.float32)
    attach(model, "se", "layer2", input_size=SMALL)
    with pytest.raises(ValueError, match=r"no attention, got .*'layer2'; remove\(\)"):
        attach_released(model, checkpoint, input_size=SMALL)
