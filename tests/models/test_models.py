"""Backbones, their weights, and the head."""

import pickle
import re

import numpy as np
import pytest
import torch
import torchvision
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from attnreid import save_checkpoint
from reference_pipelines.config.loading import load_config, to_plain
from reference_pipelines.config.sections import ModelConfig
from reference_pipelines.errors import UserError
from reference_pipelines.models import ReidModel, build_backbone
from reference_pipelines.models.weights import load_whole, weights_file
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.runs.former import load_former_weights
from tests.checkpoints.forging import forge_file
from tests.conftest import says


def test_the_backbone_maps_images_to_pooled_features_with_last_stride_1():
    backbone, width, *_ = build_backbone(ModelConfig("resnet_demo", "none"))
    maps = []
    backbone.layer4.register_forward_hook(lambda module, inputs, output: maps.append(output.shape))
    assert backbone(torch.randn(2, 3, 96, 48)).shape == (2, width) == (2, 512)
    assert maps == [(2, 512, 6, 3)]
    assert isinstance(backbone, torchvision.models.ResNet)


def test_the_neck_has_no_trainable_shift_and_the_classifier_no_bias():
    model = ReidModel(nn.Flatten(), 12, classes=5)
    embedding = model(torch.randn(4, 3, 2, 2))
    assert not model.neck.bias.requires_grad
    assert model.classifier.bias is None
    assert torch.equal(embedding.features, model.neck(embedding.pooled)) or model.training
    assert embedding.logits.shape == (4, 5)
    assert ReidModel(nn.Flatten(), 12)(torch.randn(4, 3, 2, 2)).logits is None


def state_of(seed):
    torch.manual_seed(seed)
    return build_backbone(ModelConfig("resnet_demo", "none"))[0]


WIDTH = 512
NECK = {f"neck.{key}": value for key, value in nn.BatchNorm1d(WIDTH).state_dict().items()}


def named(prefix, tensors):
    return {f"{prefix}{key}": value for key, value in tensors.items()}


def assert_taken_over(loaded, source):
    own = source.state_dict() if isinstance(source, nn.Module) else source
    differing = [key for key in own if not torch.equal(loaded.state_dict()[key], own[key])]
    assert not differing


# What people have, from a backbone's state dict, and how the line says where it stood.
FORMS = {
    "plain": (lambda own: own, ""),
    "with a classifier": (lambda own: {**own, "fc.weight": torch.zeros(10, WIDTH), "fc.bias": torch.zeros(10)}, ""),
    "module.": (lambda own: named("module.", own), " under 'module.'"),
    "base.": (lambda own: named("base.", own), " under 'base.'"),
    "_orig_mod.": (lambda own: named("_orig_mod.", own), " under '_orig_mod.'"),
    "module.backbone.": (lambda own: named("module.backbone.", own), " under 'module.backbone.'"),
    "module._orig_mod.base.": (lambda own: named("module._orig_mod.base.", own), " under 'module._orig_mod.base.'"),
    "compiled inside": (lambda own: {**named("backbone._orig_mod.", own), **NECK}, " under 'backbone._orig_mod.'"),
    "base and a head": (
        lambda own: {**named("base.", own), "classifier.weight": torch.zeros(751, WIDTH)},
        " under 'base.'",
    ),
    "after another": (
        lambda own: {"other.conv1.weight": torch.zeros(1), **named("base.", own)},
        " under 'base.'",
    ),
    "state_dict": (lambda own: {"state_dict": own, "epoch": 3}, " in 'state_dict'"),
    "model": (lambda own: {"model": named("module.", own)}, " in 'model' under 'module.'"),
    "model in state_dict": (lambda own: {"state_dict": {"model": own}}, " in 'state_dict' in 'model'"),
    "a number of numpy": (lambda own: {"state_dict": own, "best": np.float64(0.5)}, " in 'state_dict'"),
    "no counters": (lambda own: {key: value for key, value in own.items() if "num_batches" not in key}, ""),
    "half": (lambda own: {key: value.half() if value.is_floating_point() else value for key, value in own.items()}, ""),
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_as_people_have_them(tmp_path, form, capsys):
    wrap, place = FORMS[form]
    source = {key: value.half().to(value.dtype) for key, value in state_of(1).state_dict().items()}
    path = tmp_path / "weights.pth"
    torch.save(wrap(source), path)
    lines = []
    loaded, *_ = build_backbone(ModelConfig("resnet_demo", str(path)), say=lines.append)
    assert_taken_over(loaded, source)
    assert not torch.equal(state_of(2).conv1.weight, source["conv1.weight"])
    aside = {
        "with a classifier": ["2 of other modules: fc"],
        "after another": ["1 of other modules: other.conv1"],
        "compiled inside": ["5 of other modules: neck"],
        "base and a head": ["1 of other modules: classifier"],
    }
    assert says(lines[0], "weights: ", "the backbone alone")
    assert lines[0].endswith(f" {path}{place}")
    assert [line.removeprefix("weights: left aside ") for line in lines[1:]] == aside.get(form, [])
    assert not capsys.readouterr().out


def test_weights_of_safetensors_and_under_the_home_folder(tmp_path, monkeypatch, capsys):
    source = state_of(1)
    save_file(named("module.", source.state_dict()), tmp_path / "a.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path))
    loaded, *_ = build_backbone(ModelConfig("resnet_demo", "~/a.safetensors"))
    assert_taken_over(loaded, source)
    assert capsys.readouterr().out.startswith("weights: the backbone alone")
    assert weights_file("~/a.safetensors") == tmp_path / "a.safetensors"


# From a run ----------------------------------------------------------------------------------------------------------

SETTINGS = {
    "apnet": {"data.root": ".", "model.backbone": "resnet_demo", "data.image_size": "[32, 16]"},
    "mla": {"data.root": ".", "model.backbone": "resnet_demo", "data.image_size": "[32, 16]"},
}
NONE = {"apnet": {"attention.preset": "none"}, "mla": {"attention.preset": "none"}}


def configured(pipeline, weights="none", **changes):
    values = {**SETTINGS[pipeline], "model.weights": str(weights), **changes}
    recipe = PIPELINES[pipeline].recipes / "demo.yaml"
    return load_config(
        PIPELINES[pipeline].config, ["--config", str(recipe), *(f"--{key}={value}" for key, value in values.items())]
    )


def built(pipeline, weights="none", **changes):
    """The network, and what was said of its weights."""
    lines = []
    return PIPELINES[pipeline].build(configured(pipeline, weights, **changes), say=lines.append), lines


@pytest.fixture
def run(tmp_path):
    """Make what a run's folder holds for others to start from."""

    def make(pipeline, **changes):
        model, _ = built(pipeline, **changes)
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.fill_(0.5)
        model.classifier = nn.Linear(WIDTH, 8, bias=False)
        folder = tmp_path / "run"
        folder.mkdir()
        config = to_plain(configured(pipeline, **changes))
        save_checkpoint(model, folder / "model.safetensors", description={"config": config})
        return folder, model.state_dict()

    return make


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("named_by", ["folder", "file", "best"])
def test_a_run_with_the_same_attention_is_taken_over_with_it(run, pipeline, named_by):
    folder, state = run(pipeline)
    (folder / "model.safetensors").rename(folder / "best.safetensors") if named_by == "best" else None
    weights = {"folder": folder, "file": folder / "model.safetensors", "best": folder / "best.safetensors"}[named_by]
    model, lines = built(pipeline, weights)
    file = weights if weights.suffix else folder / "model.safetensors"
    assert says(lines[0], "weights: ", "the backbone and its attention", f"{file} under 'backbone.'")
    assert [line.partition("left aside ")[2] for line in lines[1:]] == ["6 of other modules: classifier, neck"]
    assert any("attention" in key for key in state)
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, state[f"backbone.{key}"]), key
    assert not torch.equal(model.neck.weight, state["neck.weight"])  # a head


OTHER = [
    ("apnet", {"attention.levels": "1"}, "attention.levels is 2 there and 1 here"),
    ("apnet", {"attention.radix": "4"}, "attention.radix is 2 there and 4 here"),
    ("apnet", {"attention.layer": "rga_s"}, "attention.layer is ['se'] there and ['rga_s'] here"),
    ("mla", {"attention.heads": "2"}, "attention.heads is 4 there and 2 here"),  # of the same names and sizes
    ("mla", {"attention.memory": "8"}, "attention.memory is 64 there and 8 here"),
    ("mla", {"data.image_size": "[64, 32]"}, "of another size"),
]


@pytest.mark.parametrize(("pipeline", "changes", "why"), OTHER)
def test_into_other_attention_the_backbone_alone_is_taken_over(run, pipeline, changes, why):
    folder, state = run(pipeline)
    torch.manual_seed(3)
    model, lines = built(pipeline, folder, **changes)
    torch.manual_seed(3)
    anew, _ = built(pipeline, **changes)
    assert says(lines[0], "the backbone alone", "attention is left aside", why)

    assert lines[0].endswith("starts anew")
    for key, value in model.backbone.state_dict().items():
        expected = anew.backbone.state_dict()[key] if ".attention." in key else state[f"backbone.{key}"]
        assert torch.equal(value, expected), key


def test_a_run_of_before_has_its_config_beside_its_weights(run):
    folder, _ = run("mla")
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")
    (folder / "config.yaml").write_text(yaml.safe_dump(to_plain(configured("mla"))))
    _, lines = built("mla", folder)
    assert says(lines[0], "weights: the backbone and its attention are taken over")
    _, lines = built("mla", folder, **{"attention.heads": "2"})
    assert says(lines[0], "attention is left aside", "attention.heads is 4 there and 2 here")


def test_without_its_config_the_names_and_sizes_decide_and_that_is_said(run):
    folder, state = run("mla")
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")
    model, lines = built("mla", folder)
    assert says(lines[0], "same by its names and sizes; ", "no config", "taken over")
    assert torch.equal(
        model.backbone.layer4[0].conv2.attention.head.qkv.weight,
        state["backbone.layer4.0.conv2.attention.head.qkv.weight"],
    )
    _, lines = built("mla", folder, **{"attention.memory": "8"})
    assert "(2 of another size ('layer4.0.conv2.attention.domain." in lines[0]


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_attention_on_one_side_only(run, pipeline):
    folder, state = run(pipeline)
    model, lines = built(pipeline, folder, **NONE[pipeline])
    assert says(lines[0], "attention is left aside", "this network has none")
    shared = [key for key in model.backbone.state_dict() if f"backbone.{key}" in state]
    assert all(torch.equal(model.backbone.state_dict()[key], state[f"backbone.{key}"]) for key in shared)
    random = [key for key in model.backbone.state_dict() if f"backbone.{key}" not in state]
    if pipeline == "mla":  # whose attention stands instead of a convolution
        assert random == ["layer4.0.conv2.weight"]
        assert says(lines[1], "weights: ", "none for layer4.0.conv2.weight", "random at first")
    else:
        assert not random
        assert len(lines) == 2


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_run_without_attention_starts_attention_anew(run, pipeline):
    folder, state = run(pipeline, **NONE[pipeline])
    model, lines = built(pipeline, folder)
    assert says(lines[0], "under 'backbone.'; ", "attention starts anew")
    for key, value in model.backbone.state_dict().items():
        assert (".attention." in key) != (f"backbone.{key}" in state and torch.equal(value, state[f"backbone.{key}"]))


def test_one_program_starts_from_the_other(run):
    folder, _ = run("apnet")
    _, lines = built("mla", folder)
    assert "(attention.preset is apnet there and mla here)" in lines[0]


# What is refused -----------------------------------------------------------------------------------------------------


class Trap:
    def __reduce__(self):
        return (print, ("code ran",))


def within_itself():
    content = {"epoch": 3}
    content["state_dict"] = content
    return content


REFUSED = {
    "nowhere.pth": (None, "no weights file .*nowhere.pth; "),
    "empty": (None, "no weights file .*empty.model.safetensors; "),
    "cut.safetensors": (b"\x10", "cut.safetensors .*whole file .*; copy "),
    "code.pth": (lambda: {"w": Trap()}, "print .*not run; "),
    "other.pth": (lambda: {"epoch": 3}, "tensors by name .*, got a int at 'epoch'"),
    "list.pth": (lambda: [1], "list.pth .*state dict, got a list"),
    "itself.pth": (within_itself, "contains itself at 'state_dict'"),
    "foreign.pth": (lambda: {"weight": torch.zeros(1)}, r"fit .*backbone, got \d+ missing \('conv1.weight'"),
    "size.pth": (
        lambda: {**state_of(1).state_dict(), "conv1.weight": torch.zeros(64, 3, 3, 3)},
        r"got 1 of another size \('conv1.weight', .*64x3x3x3 .*64x3x7x7\); .*--model.backbone",
    ),
    "part.pth": (
        lambda: {
            key: value for key, value in named("base.", state_of(1).state_dict()).items() if "bn1.bias" not in key
        },
        r"missing \('bn1.bias', .*\) under 'base.'; ",
    ),
    "deeper.pth": (
        lambda: {**state_of(1).state_dict(), "layer3.1.conv1.weight": torch.zeros(1)},
        r"got 1 unexpected \('layer3.1.conv1.weight'\)",
    ),
    "twice.pth": (
        lambda: {**named("student.", state_of(1).state_dict()), **named("teacher.", state_of(2).state_dict())},
        r"backbone once, got .*'student.' and 'teacher.'; ",
    ),
    "two.pth": (
        lambda: {"model": state_of(1).state_dict(), "state_dict": state_of(2).state_dict()},
        "one state dict, got two, .*'model' and 'state_dict'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_weights_that_do_not_fit_are_refused_in_a_sentence(name, tmp_path, capsys):
    content, message = REFUSED[name]
    if name == "empty":
        (tmp_path / name).mkdir()
    elif isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        torch.save(content(), tmp_path / name)
    with pytest.raises(UserError, match=message) as caught:
        build_backbone(ModelConfig("resnet_demo", str(tmp_path / name)))
    assert str(caught.value).startswith("model: ")
    assert "\n" not in str(caught.value)
    assert "code ran" not in capsys.readouterr().out


def test_a_bare_pickle_is_refused_and_not_run(tmp_path, capsys):
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"w": Trap()}, protocol=2))
    with pytest.raises(UserError, match="model: .*code.pth .*plain tensors only"):
        build_backbone(ModelConfig("resnet_demo", str(tmp_path / "code.pth")))
    assert "code ran" not in capsys.readouterr().out


def test_unknown_backbones_are_refused():
    with pytest.raises(UserError, match="got 'resnet51'; .*resnet5"):
        build_backbone(ModelConfig("resnet51", "none"))
    with pytest.raises(UserError, match="resnet_demo .*no ImageNet weights"):
        build_backbone(ModelConfig("resnet_demo", "imagenet"))


@pytest.mark.parametrize("lacks", ["attention", "one site", "bn1.bias", "nothing"])
@pytest.mark.parametrize("former", [False, True])
def test_a_runs_own_weights_must_be_whole(lacks, former, tmp_path):
    saved, _ = built("apnet")
    model, _ = built("apnet")
    path = tmp_path / "model.safetensors"
    save_checkpoint(saved, path)
    pattern = {"attention": ".attention.", "one site": "layer2.attention.", "nothing": "?"}.get(lacks, lacks)
    missing = [key for key in saved.state_dict() if pattern in key]
    if former:
        save_file({key: value for key, value in saved.state_dict().items() if key not in missing}, path)
        if lacks != "nothing":
            with pytest.raises(ValueError, match=re.escape(missing[0])):
                load_former_weights(model, path)
            return
        load_former_weights(model, path)
        assert_taken_over(model, saved)
        return
    forge_file(path, tensors=lambda held: {key: value for key, value in held.items() if key not in missing})
    if lacks == "nothing":
        load_whole(model, path, "who: rule", "way on")
        assert_taken_over(model, saved)
        return
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_whole(model, path, "who: rule", "way on")
    assert says(str(caught.value), "who: rule, and ", f"got {len(missing)} missing ({missing[0]!r}")
    assert str(caught.value).endswith("; way on")
    assert_taken_over(model, before)


def test_what_cannot_be_read_is_said_too(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"^who: rule, and .*model.safetensors .*empty file; way on$"):
        load_whole(built("apnet")[0], tmp_path, "who: rule", "way on")
    with pytest.raises(UserError, match=r"^who: rule, and .*nowhere.*; way on$"):
        load_whole(built("apnet")[0], tmp_path / "nowhere", "who: rule", "way on")


def test_a_failed_download_says_what_to_place_where(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.models.resnet, "load_state_dict_from_url", fail, raising=False)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fail)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(UserError, match=r"resnet18-\w+\.pth at .*checkpoints"):
        build_backbone(ModelConfig("resnet18", "imagenet"))
