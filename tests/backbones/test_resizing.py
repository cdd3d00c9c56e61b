"""Attached attention at other input sizes: what is exchanged, what stays, and what is refused without a change."""

import copy
import io
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from attnreid import (
    Attachment,
    AttentionPyramid,
    RelationAwareSpatialAttention,
    attach,
    attach_apnet,
    attach_mla,
    attach_se,
    attachments,
    find_sites,
    fold,
    set_last_stride,
)
from attnreid.backbones import _resizing
from tests.backbones.stages import Stages
from tests.layers.support import assert_close, randomise

OLD, NEW = (64, 32), (128, 96)
Observe = Callable[[nn.Module], dict[str, Any]]


def resnet(block: Any = BasicBlock) -> ResNet:
    torch.manual_seed(0)
    return ResNet(block, [1, 1, 1, 1], num_classes=3).eval()


def images(size: tuple[int, int] = NEW) -> Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))


def carriers(model: nn.Module) -> list[nn.Module]:
    return [model.get_submodule(site.name) for one in attachments(model) for site in one.sites]


HLA = partial(AttentionPyramid, attention="head", levels=1)
STRIPS = partial(AttentionPyramid, attention="rga_s")
PRESETS: dict[str, Callable[[nn.Module], Attachment]] = {
    "apnet, se": lambda model: attach_apnet(model, "se", input_size=OLD),
    "apnet, rga_s": lambda model: attach_apnet(model, "rga_s", input_size=OLD),
    "apnet, rga_c from the identity": lambda model: attach_apnet(model, "rga_c", input_size=OLD, identity_init=True),
    "apnet, released": lambda model: attach_apnet(model, input_size=OLD, variant="released"),
    "mla": lambda model: attach_mla(model, input_size=OLD, memory=4),
    "se": lambda model: attach_se(model, input_size=OLD),
    "after a block and a conv": lambda model: attach(model, HLA, ["layer2.0", "layer3.0.conv1"], input_size=OLD),
    "blended in": lambda model: attach(model, "rga_s", "layer[34]", input_size=OLD, identity_init=True),
    "instead": lambda model: attach(model, "rga_s", "layer4.0.bn1", input_size=[3, *OLD], where="instead"),
}
COPIES = {
    "itself": lambda model: model,
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


# What is exchanged ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "copied"),
    [
        *((name, "itself") for name in PRESETS),
        *((name, c) for name in ("apnet, rga_s", "mla") for c in COPIES if c != "itself"),
    ],
)
def test_each_layer_becomes_what_it_is_at_the_new_size(name: str, copied: str) -> None:
    start = resnet(Bottleneck if name == "mla" else BasicBlock)
    model = copy.deepcopy(start)
    PRESETS[name](model)
    model = COPIES[copied](model)
    [attachment] = attachments(model)
    for host in carriers(model):
        randomise(host.attention)  # blends too
    before = [copy.deepcopy(host.attention) for host in carriers(model)]
    objects, keys = dict(model.named_modules()), list(model.state_dict())
    attachment.resize(NEW)

    sizes = {site.name: site.size for site in find_sites(start, NEW)}
    sizes |= {"layer4.0.conv2": sizes["layer4.0.conv1"]} if name == "mla" else {}  # it stands before the stride
    for site, host, old in zip(attachment.sites, carriers(model), before, strict=True):
        assert site.size == sizes[site.name]
        wanted = old.resize(site.size) if hasattr(old, "resize") else old
        assert repr(host.attention) == repr(wanted)
        state = host.attention.state_dict()
        assert list(state) == list(wanted.state_dict())
        assert all(torch.equal(value, state[key]) for key, value in wanted.state_dict().items())
    assert list(model.state_dict()) == keys
    assert all(module is objects[name] for name, module in model.named_modules() if "attention" not in name)
    assert model(images()).isfinite().all()

    [other] = attachments(model)
    assert (other.sites, other.call) == (attachment.sites, attachment.call)
    attachment.remove()
    assert not attachments(model)
    assert torch.equal(model(images()), start(images()))
    assert {name: type(module) for name, module in model.named_modules()} == {
        name: type(module) for name, module in start.named_modules()
    }


def test_two_levels_of_rga_s_on_a_resnet18_at_the_papers_size_and_at_a_larger_one() -> None:
    torch.manual_seed(0)
    model = resnet18().eval()
    attachment = attach_apnet(model, "rga_s", levels=2, input_size=(256, 128))
    pyramids = [copy.deepcopy(host.attention) for host in carriers(model)]
    attachment.resize((384, 192))
    assert [site.size for site in attachment.sites] == [(96, 48), (48, 24), (24, 12), (12, 6)]
    for host, pyramid, positions in zip(carriers(model), pyramids, (96 * 48, 48 * 24, 24 * 12, 12 * 6), strict=True):
        for parts, level, old in zip((1, 2), host.attention.levels, pyramid.levels, strict=True):
            assert level.joint.weight.shape == (parts, old.joint.weight.shape[1], 2 * positions // parts)
            assert_close(level.joint.weight.sum(-1), old.joint.weight.sum(-1).double(), 1e-4)
    with torch.no_grad():
        assert model(torch.rand(1, 3, 384, 192)).isfinite().all()
        # A gate of a map that is constant is what it was, at every stage and level.
        for host, pyramid in zip(carriers(model), pyramids, strict=True):
            for level, old in zip(host.attention.levels, pyramid.levels, strict=True):
                value = torch.rand(1, level.channels, 1, 1)
                gate = level.gate(value.expand(-1, -1, *level.size))
                wanted = old.gate(value.expand(-1, -1, *old.size)).double()
                assert_close(gate[..., :1, :1], wanted[..., :1, :1], 1e-5)
    with pytest.raises(ValueError, match=r"map must be 96x48 .*, got 64x32: .*attachment.resize\(input_size\)"):
        model(torch.rand(1, 3, 256, 128))


def test_the_call_has_the_new_size_and_the_sizes_that_the_layers_were_made_for() -> None:
    model = Stages()
    attachment = attach(model, "rga_s", "layer[34]", input_size=OLD)
    [other] = attachments(model)
    first = attachment.call
    attachment.resize(NEW)
    assert (other.call, other.sites) == (attachment.call, attachment.sites)
    assert first is not None
    options = {**first["options"], "input_size": [128, 96]}
    assert attachment.call == {**first, "options": options, "made_for": {"layer3": [4, 2], "layer4": [2, 1]}}
    attachment.resize((3, 96, 64))
    assert attachment.call is not None
    assert attachment.call["options"]["input_size"] == [3, 96, 64]
    assert attachment.call["made_for"] == {"layer3": [4, 2], "layer4": [2, 1]}
    attachment.resize(OLD)
    assert attachment.call == first
    attachment.resize(example_inputs=(images(),))
    assert [site.size for site in attachment.sites] == [(8, 6), (4, 3)]
    assert attachment.call is None


def test_a_part_of_a_larger_model_is_measured_by_itself() -> None:
    model = nn.Sequential(nn.Upsample(scale_factor=2), Stages())
    attach(model[1], "rga_s", "layer3", input_size=OLD)
    [attachment] = attachments(model)
    attachment.resize(NEW)
    assert attachment.sites[0].name == "1.layer3"
    assert attachment.sites[0].size == (8, 6)
    assert attachment.call is not None
    assert attachment.call["on"] == "1"
    assert attachment.call["made_for"] == {"layer3": [4, 2]}
    assert model(images((64, 48))).shape == (2, 64)


def test_modes_gradients_and_hooks_come_along_and_parameters_are_new() -> None:
    model = Stages().train()
    attachment = attach(model, "rga_s", "layer3", input_size=OLD)
    attention, calls = model.layer3.attention, []
    attention.embed.norm.eval()
    attention.joint.weight.requires_grad_(False)
    attention.register_forward_hook(lambda module, args, output: calls.append(tuple(output.shape)))
    old = {id(value) for value in attachment.parameters()}
    attachment.resize(NEW)
    attention = model.layer3.attention
    assert (attention.training, attention.embed.norm.training, attention.joint.norm.training) == (True, False, True)
    assert [name for name, value in attention.named_parameters() if not value.requires_grad] == ["joint.weight"]
    assert not old & {id(value) for value in attachment.parameters()}
    model(images())
    assert calls == [(2, 32, 8, 6)]


class Fresh(nn.Module):
    """A foreign attention that builds itself anew, for maps of one size."""

    def __init__(self, channels: int, *, size: tuple[int, int]) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(channels, *size))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor

    def resize(self, size: tuple[int, int]) -> nn.Module:
        return Fresh(len(self.factor), size=size)


@pytest.mark.parametrize("attention", ["rga_s", Fresh])
def test_loading_keeps_to_its_rule(attention: Any) -> None:
    model = Stages()
    plain = copy.deepcopy(model.state_dict())
    attachment = attach(model, attention, "layer[34]", input_size=OLD)
    attachment.resize(NEW)
    attachment.resize((96, 64))
    state = copy.deepcopy(model.state_dict())
    model.load_state_dict(plain, strict=True)
    model.load_state_dict(state, strict=True)
    some = {key: value for key, value in state.items() if "layer3.attention" not in key}
    with pytest.raises(RuntimeError, match="load the weights first") as raised:
        model.load_state_dict(some, strict=True)
    assert str(raised.value).count("load the weights first") == 1
    for host in carriers(model):
        assert len(host.attention._load_state_dict_pre_hooks) == 1
        assert not any(module.training for module in host.attention.modules())


def test_several_attachments_are_resized_one_after_the_other() -> None:
    model = resnet(Bottleneck)
    set_last_stride(model)
    attach_mla(model, input_size=OLD, memory=4)
    attach_apnet(model, "rga_s", input_size=OLD)
    handles = attachments(model)
    for attachment in handles:
        attachment.resize(NEW)
    assert [one.call for one in attachments(model)] == [one.call for one in handles]
    assert [one.sites[-1].size for one in attachments(model)] == [(8, 6), (8, 6)]
    assert [str(one).count("8 x 6") for one in attachments(model)] == [1, 2]
    assert model(images()).isfinite().all()


def test_a_folded_model_is_resized_as_one_that_is_folded_afterwards() -> None:
    model = Stages()
    attach(model, STRIPS, "layer?", input_size=OLD, identity_init=True)
    for host in carriers(model):
        randomise(host.attention)
    folded = fold(model)
    for one in (model, folded):
        attachments(one)[0].resize(NEW)
    assert_close(folded(images()), fold(model)(images()).double(), 1e-5)
    for part in ("", "layer3", "layer3.attention", "layer3.attention.levels.0"):
        with pytest.raises(ValueError, match=r"folded .*eval mode"):
            folded.get_submodule(part).train()
    assert not any(module.training for module in folded.modules())


def test_what_is_converted_afterwards_keeps_the_resized_attention() -> None:
    model = Stages()
    attach(model, "rga_s", "bn", input_size=OLD).resize(NEW)
    norm = nn.SyncBatchNorm.convert_sync_batchnorm(model.bn)  # alone, before it has its place
    assert isinstance(norm, nn.SyncBatchNorm)
    assert norm.attention is model.bn.attention
    model.bn = norm
    assert attachments(model)[0].sites[0].size == (16, 12)


def test_what_was_converted_is_resized_where_it_is_now() -> None:
    model = Stages()
    attachment = attach(model, "rga_s", ["bn", "layer3"], input_size=OLD)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert isinstance(model.bn, nn.SyncBatchNorm)
    host = model.bn
    attachment.resize(NEW)
    assert model.bn is host
    assert host.attention.size == (16, 12)
    assert model(images()).isfinite().all()
    attachment.remove()
    assert not attachments(model)


# Refusals ------------------------------------------------------------------------------------------------------------


class Stubborn(Fresh):
    resize = None  # type: ignore[assignment]


class Growing(nn.Module):
    """Gives a larger map at one size: what a layer must not do."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.at = size

    def forward(self, x: Tensor) -> Tensor:
        return x if self.at == (4, 2) else nn.functional.pad(x, (0, 2))

    def resize(self, size: tuple[int, int]) -> nn.Module:
        return Growing(0, size)


class Failing(Growing):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (4, 2):
            raise RuntimeError("this is no map of mine")
        return x

    def resize(self, size: tuple[int, int]) -> nn.Module:
        return copy.deepcopy(self)


RGA4 = partial(RelationAwareSpatialAttention, parts=2)


@pytest.mark.parametrize(
    ("attention", "options", "match"),
    [
        (Stubborn, {"input_size": NEW}, r"'layer3' \(32 channels, 8x6\): Stubborn: .*must have resize\(size\)"),
        (RGA4, {"input_size": (80, 32)}, r"'layer3' \(32 channels, 5x2\): .*2 parts, .*got 5: .*4 or 6"),
        (
            Growing,
            {"input_size": NEW},
            r"resized Growing at 'layer3' must run once .*, got 1 calls and .*8, 6\) become",
        ),
        (Failing, {"input_size": NEW}, r"run with the resized attention .*failed with: this is no map of mine; "),
        ("se", {"input_size": (2, 64, 32)}, r"must run on an input of shape \(2, 2, 64, 32\); it failed with"),
        ("se", {}, r"either input_size=.* or example_inputs"),
        ("se", {"input_size": OLD, "example_inputs": ()}, r"either input_size=.* or example_inputs"),
        ("se", {"input_size": "96"}, r"input_size must be \(height, width\) .*, got '96'"),
    ],
)
def test_a_refusal_leaves_the_model_as_it_was(attention: Any, options: Any, match: str, observe: Observe) -> None:
    model = Stages()
    attach(model, "rga_s", "layer2", input_size=OLD)
    attachment = attach(model, attention, "layer3", input_size=OLD)
    before, sites, call = observe(model), attachment.sites, attachment.call
    with pytest.raises(ValueError, match=rf"^Attachment.resize: .*{match}"):
        attachment.resize(**options)
    assert observe(model) == before
    assert (attachment.sites, attachment.call) == (sites, call)
    assert model(images(OLD)).shape == (2, 64)


def test_a_failure_half_way_puts_the_same_objects_back(observe: Observe, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Stages()
    attachment = attach(model, STRIPS, "layer?", input_size=OLD)
    before, sites, call = observe(model), attachment.sites, attachment.call
    note_host, noted = _resizing.note_host, []

    def fail_at_the_third(host: nn.Module) -> None:
        noted.append(host)
        if len(noted) == 3:
            raise KeyboardInterrupt
        note_host(host)

    monkeypatch.setattr(_resizing, "note_host", fail_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        attachment.resize(NEW)
    assert len(noted) > 3
    assert observe(model) == before
    assert (attachment.sites, attachment.call) == (sites, call)
    attachment.remove()
    assert not attachments(model)


class Branching(nn.Module):
    """Its second layer gives other channels, or is not called, for large images."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.stem = nn.Conv2d(3, 8, 1)
        self.rest = nn.Flatten(2) if kind == "no map" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        if x.shape[2] <= 64:
            return self.rest(y)
        return y if self.kind == "not called" else self.rest(torch.cat([y, y], 1))


@pytest.mark.parametrize(("kind", "match"), [("other channels", "16 channels and 1"), ("not called", "None .*and 0")])
def test_a_site_that_is_another_at_the_new_size_is_refused(kind: str, match: str, observe: Observe) -> None:
    model = Branching(kind)
    attachment = attach(model, "se", "rest", input_size=OLD, layout="NCHW")
    before = observe(model)
    with pytest.raises(ValueError, match=rf"map at 'rest' must have 8 channels .*, got {match} calls"):
        attachment.resize(NEW)
    assert observe(model) == before


def test_what_was_taken_out_cannot_be_resized() -> None:
    model = Stages()
    attachment = attach(model, "se", "layer3", input_size=OLD)
    attachment.remove()
    with pytest.raises(ValueError, match=r"^Attachment.resize: .*attention must be in the model, got it taken out"):
        attachment.resize(NEW)


def test_a_handle_on_the_carrying_module_itself_is_refused() -> None:
    model = Stages()
    attach(model, "se", "layer3", input_size=OLD)
    [attachment] = attachments(model.layer3)
    with pytest.raises(ValueError, match=r"must stand inside the model that is looked at, got ''"):
        attachment.resize((16, 16, 12))


# Attention of no size ------------------------------------------------------------------------------------------------

SIZES = [NEW, (96, 64), (80, 48)]  # no map of one row or column: an exporter takes that for a constant
ANY_SIZE: dict[str, Callable[[nn.Module], Attachment]] = {
    "se": lambda model: attach_se(model, input_size=OLD),
    "apnet": lambda model: attach_apnet(model, "se", levels=3, input_size=OLD),
    "apnet, released": lambda model: attach_apnet(model, input_size=OLD, variant="released"),
    "mla without head": lambda model: attach_mla(model, levels=("pixel", "domain"), memory=4, input_size=OLD),
    "split, from the identity": lambda model: attach(model, "split", "layer?", input_size=OLD, identity_init=True),
}
each_of_any_size = pytest.mark.parametrize("preset", ANY_SIZE.values(), ids=ANY_SIZE)


def with_attention(preset: Any) -> nn.Module:
    model = resnet()
    preset(model)
    for host in carriers(model):
        randomise(host.attention)
    return model


def dynamic_size() -> tuple[dict[int, Any]]:
    height, width = (torch.export.Dim(name, min=33, max=512) for name in ("height", "width"))
    return ({0: torch.export.Dim("batch"), 2: height, 3: width},)


@each_of_any_size
def test_attention_that_knows_no_size_runs_at_every_size(preset: Any) -> None:
    model = with_attention(preset)
    for size in SIZES:
        there = copy.deepcopy(model)
        attachments(there)[0].resize(size)
        assert torch.equal(model(images(size)), there(images(size)))


@pytest.mark.slow
@each_of_any_size
def test_attention_that_knows_no_size_exports_for_every_size(preset: Any) -> None:
    model = with_attention(preset)
    program = torch.export.export(model, (images(),), dynamic_shapes=dynamic_size())
    for size in SIZES:
        assert_close(program.module()(images(size)), model(images(size)).double(), 1e-5)


@pytest.mark.slow
@each_of_any_size
def test_attention_that_knows_no_size_runs_in_onnxruntime_at_every_size(preset: Any) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the parity is with onnxruntime")
    pytest.importorskip("onnxscript", reason="torch.onnx.export(dynamo=True) needs onnxscript")
    model, file = with_attention(preset), io.BytesIO()
    program = torch.onnx.export(model, (images(),), dynamo=True, dynamic_shapes=dynamic_size(), verbose=False)
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    for size in SIZES:
        [output] = session.run(None, {session.get_inputs()[0].name: images(size).numpy()})
        assert_close(torch.from_numpy(output), model(images(size)).double(), 1e-4)
