"""What changes a model after attaching: the attention still runs, or an error names the way out."""

import abc
import copy
import functools
import importlib
import inspect
import pickle
import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental import optimization
from torch.nn.utils import fusion, parametrizations, parametrize, prune
from torchvision.models.resnet import BasicBlock
from torchvision.ops import FrozenBatchNorm2d

from attnreid import SqueezeExcitation, attach_apnet, attach_mla, attach_se
from attnreid.backbones import Attachment, _surgery, attach, attachments
from tests.conftest import says

SIZE = (32, 32)
Convert = Callable[[nn.Module], nn.Module | None]
Observe = Callable[[nn.Module], dict[str, Any]]

HOSTS: dict[str, Callable[[nn.Module], Attachment]] = {
    "norms": attach_se,
    "stages": functools.partial(attach_apnet, input_size=SIZE),
    "convolutions": functools.partial(attach, attention="se", at=["conv1", "layer4.0.conv2"], input_size=SIZE),
    "activation and pooling": functools.partial(attach, attention="se", at=["relu", "maxpool"], input_size=SIZE),
    "blocks": functools.partial(attach, attention="rga_s", at="layer[34].0", input_size=SIZE),
    "instead": functools.partial(attach_mla, input_size=SIZE),
}


def stage(inputs: int, outputs: int) -> nn.Sequential:
    shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs))
    return nn.Sequential(BasicBlock(inputs, outputs, 2, shortcut))


class SmallResNet(nn.Module):
    """What a ResNet is known by, with few channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 1, 1)
        self.layer1, self.layer2, self.layer3, self.layer4 = stage(16, 16), stage(16, 16), stage(16, 32), stage(32, 32)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


@functools.cache
def _plain() -> SmallResNet:
    torch.manual_seed(0)
    model = SmallResNet()
    with torch.no_grad():
        for _ in range(3):  # statistics that are not the initial ones
            model(images(8))
    return model.eval()


def plain() -> SmallResNet:
    return copy.deepcopy(_plain())


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def timm_layers(name: str) -> Any:
    return lambda model: getattr(pytest.importorskip("timm.layers", reason="the converter is timm's"), name)(model)


def replace(name: str, make: Callable[[nn.Module], nn.Module]) -> Convert:
    def convert(model: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, make(model.get_submodule(name)))

    return convert


def on_every(kind: type[nn.Module], change: Callable[[nn.Module], object]) -> Convert:
    def convert(model: nn.Module) -> None:
        for module in list(model.modules()):
            if isinstance(module, kind) and ".attention" not in type(module).__module__:
                change(module)

    return convert


def there_and_back(convolution: nn.Module) -> None:
    parametrizations.weight_norm(convolution)
    parametrize.remove_parametrizations(convolution, "weight")


class OtherNorm(nn.BatchNorm2d):
    """What a library could turn batch norms into."""


def reclass(norm: nn.Module) -> None:
    if type(getattr(norm, "attended_class", norm)) is not OtherNorm:
        norm.__class__ = OtherNorm


def headless(model: nn.Module) -> nn.Module:
    return nn.Sequential(*list(model.children())[:-1], nn.Flatten(), model.fc)


# Each keeps the network's function in eval mode, so that the attended output stays what it was.
KEEPING: dict[str, Convert] = {
    "torch's SyncBatchNorm": nn.SyncBatchNorm.convert_sync_batchnorm,
    "timm's SyncBatchNorm": timm_layers("convert_sync_batchnorm"),
    "timm's frozen norms": timm_layers("freeze_batch_norm_2d"),
    "another class": on_every(nn.BatchNorm2d, reclass),
    "weight_norm": on_every(nn.Conv2d, parametrizations.weight_norm),
    "weight_norm and back": on_every(nn.Conv2d, there_and_back),
    "weight_norm by hooks": on_every(nn.Conv2d, torch.nn.utils.weight_norm),
    "pruning of nothing": on_every(nn.Conv2d, functools.partial(prune.l1_unstructured, name="weight", amount=0)),
    "a new list of children": headless,
    "and then SyncBatchNorm": lambda model: nn.SyncBatchNorm.convert_sync_batchnorm(headless(model)),
    "a row made anew": replace("layer4", lambda row: nn.Sequential(*row)),
    "a row of its blocks": replace("layer4", lambda row: nn.Sequential(row[0])),
    "a slice": replace("layer4", lambda row: row[:1]),
    "a wrapper around a stage": replace("layer4", nn.Sequential),
    "a stage on several devices": replace("layer4", nn.DataParallel),
    "a wrapper, then SyncBatchNorm": lambda model: (
        replace("layer4", nn.DataParallel)(model) or nn.SyncBatchNorm.convert_sync_batchnorm(model)
    ),
    "a copied stage": replace("layer4", copy.deepcopy),
    "a deep copy, then SyncBatchNorm": lambda model: nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model)),
    "a pickle, then SyncBatchNorm": lambda model: nn.SyncBatchNorm.convert_sync_batchnorm(
        pickle.loads(pickle.dumps(model))
    ),
}


def attention_runs(model: nn.Module) -> int:
    """Return how many of the model's attention layers one forward pass runs; the pass must succeed."""
    calls: list[str] = []
    hooks = [
        one.attention.register_forward_hook(lambda *_: calls.append("once"))
        for handle in attachments(model)
        for one in handle._inserted
    ]
    model(images())
    for hook in hooks:
        hook.remove()
    return len(calls)


CONVERTERS = ["torch's SyncBatchNorm", "timm's SyncBatchNorm", "timm's frozen norms", "another class", "weight_norm"]
ON_ALL_HOSTS = [(converter, hosts) for converter in CONVERTERS for hosts in HOSTS]
ON_SOME = [(name, hosts) for name in KEEPING if name not in CONVERTERS for hosts in ("norms", "stages")]


@pytest.mark.parametrize(("converter", "hosts"), [*ON_ALL_HOSTS, *ON_SOME])
def test_attention_stays_through_a_conversion(converter: str, hosts: str) -> None:
    model, x = plain(), images()
    handle = HOSTS[hosts](model)
    wanted, sites = model(x), len(handle.sites)
    assert not torch.allclose(wanted, plain()(x), atol=1e-4)
    converted = KEEPING[converter](model) or model
    assert sum(len(one.sites) for one in attachments(converted)) == sites, "all are still known"
    torch.testing.assert_close(converted(x), wanted)
    assert attention_runs(converted) == sites
    for one in attachments(converted):
        one.remove()
    assert attachments(converted) == []
    expected = plain()
    torch.testing.assert_close((KEEPING[converter](expected) or expected)(x), plain()(x))
    torch.testing.assert_close(converted(x), plain()(x))


@pytest.mark.parametrize("converter", CONVERTERS)
@pytest.mark.parametrize("hosts", ["norms", "convolutions"])
def test_converting_first_and_attaching_after_works(converter: str, hosts: str) -> None:
    model, x = plain(), images()
    model = KEEPING[converter](model) or model
    before, keys = model(x), list(model.state_dict())
    handle = HOSTS[hosts](model)
    assert not torch.allclose(model(x), before, atol=1e-4)
    assert attention_runs(model) == len(handle.sites)
    handle.remove()
    assert torch.equal(model(x), before)
    assert list(model.state_dict()) == keys


def fuse(model: nn.Module) -> None:
    model.conv1 = fusion.fuse_conv_bn_eval(model.conv1, model.bn1)
    model.bn1 = nn.Identity()


# What would lose attention, and where.
LOSING: dict[str, tuple[str, Convert]] = {
    "a norm fused into its convolution": ("bn1", fuse),
    "a norm left out": ("layer2.0.bn2", replace("layer2.0.bn2", lambda _: nn.Identity())),
    "a stage left out": ("layer4", replace("layer4", lambda _: nn.Identity())),
    "another stage": ("layer4", replace("layer4", lambda _: plain().layer4[0])),
    "a stage around it left out": ("layer4.0.conv2", replace("layer4", lambda _: nn.Identity())),
    "a block around it made anew": ("layer4.0.bn2", replace("layer4.0", lambda _: plain().layer4[0])),
    "another convolution": ("layer3.0.conv2", replace("layer3.0.conv2", lambda _: nn.Conv2d(32, 32, 1))),
}


@pytest.mark.parametrize("change", LOSING)
def test_a_change_that_would_lose_attention_is_refused(change: str, observe: Observe) -> None:
    at, convert = LOSING[change]
    model = plain()
    handle = attach(model, "se", at, input_size=SIZE)
    host, wanted = model.get_submodule(at), model(images())
    with pytest.raises(ValueError, match=f"got .* attention at '{at}' .*lost; "):
        convert(model)
    assert model.get_submodule(at) is host
    if "fused" not in change:  # which had set the convolution already
        assert torch.equal(model(images()), wanted)
    handle.remove()
    convert(model)  # the way out
    assert attachments(model) == []


def test_what_replaced_a_module_stays_too() -> None:
    model = plain()
    attach_mla(model, input_size=SIZE)
    with pytest.raises(ValueError, match="attention at 'layer4.0.conv2' .*lost"):
        model.layer4[0].conv2 = nn.Conv2d(32, 32, 3, padding=1)
    with pytest.raises(ValueError, match="got Sequential .*Replacement"):
        model.layer4[0].conv2 = nn.Sequential()


def test_deleting_a_module_deletes_its_attention() -> None:
    model = plain()
    attach(model, "se", ["layer3", "layer4"], input_size=SIZE)
    del model.layer4
    model.layer3, model.avgpool = model.layer3, None
    assert [site.name for one in attachments(model) for site in one.sites] == ["layer3"]


def test_rows_can_be_moved_about() -> None:
    rows = nn.ModuleList([nn.ReLU(), nn.Conv2d(3, 3, 1)])

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = rows

        def forward(self, x: Tensor) -> Tensor:
            for row in self.rows:
                x = row(x)
            return x

    net = Net()
    attach(net, "se", "rows.1", input_size=(4, 4))
    rows.insert(0, nn.Identity())
    assert [site.name for one in attachments(net) for site in one.sites] == ["rows.2"]
    rows[0], rows[2] = nn.ReLU(), rows[2]
    assert attention_runs_on(net, torch.rand(1, 3, 4, 4)) == 1


def attention_runs_on(model: nn.Module, x: Tensor) -> int:
    calls: list[int] = []
    for handle in attachments(model):
        for one in handle._inserted:
            one.attention.register_forward_hook(lambda *_: calls.append(1))
    model(x)
    return len(calls)


def test_the_handle_follows_a_converted_norm() -> None:
    model = plain()
    handle = attach_se(model)
    own = {key: value.clone() for key, value in handle.state_dict().items()}
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert list(model.state_dict()) == list(attach_se_to(plain()).state_dict())
    assert all(torch.equal(value, own[key]) for key, value in handle.state_dict().items())
    assert type(model.layer1[0].bn2).__name__ == "SyncBatchNormWithAttention"
    handle.remove()
    assert type(model.layer1[0].bn2) is nn.SyncBatchNorm
    assert type(model._modules) is type(model.layer1[0]._modules) is dict


def attach_se_to(model: nn.Module) -> nn.Module:
    attach_se(model)
    return model


# Moved by hand --------------------------------------------------------------------------------------------------------


class Rows(nn.ModuleList):
    def forward(self, x: Tensor) -> Tensor:
        for row in self:
            x = row(x)
        return x


class Named(nn.ModuleDict):
    def forward(self, x: Tensor) -> Tensor:
        return self["norm"](x)


class Holder(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


def inserted(norm: nn.Module) -> nn.Module:
    rows = Rows([nn.Identity()])
    rows.insert(0, norm)  # fills `_modules` itself
    return rows


def deep(norm: nn.Module) -> nn.Module:
    outer = nn.Sequential(nn.Sequential())
    outer[0].append(norm)
    return outer


def assigned(norm: nn.Module) -> nn.Module:
    holder = Holder(nn.Identity())
    holder.norm = norm
    return holder


PLACES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "a row": lambda norm: nn.Sequential(OrderedDict(bn=norm)),
    "a list": lambda norm: Rows([norm]),
    "an insertion": inserted,
    "a dict": lambda norm: Named({"norm": norm}),
    "an attribute": Holder,
    "an attribute set anew": assigned,
    "deep inside": deep,
    "a copied row": lambda norm: copy.deepcopy(nn.Sequential(norm)),
    "a row unpickled": lambda norm: pickle.loads(pickle.dumps(nn.Sequential(norm))),
    "a copy in a row": lambda norm: nn.Sequential(copy.deepcopy(norm)),
}


class Frozen(nn.Module):
    """What people write by hand in place of a batch norm."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(norm, name).detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


def frozen_by_torchvision(norm: nn.Module) -> nn.Module:
    frozen = FrozenBatchNorm2d(norm.num_features)
    frozen.load_state_dict({key: value for key, value in norm.state_dict().items() if "attention" not in key})
    return frozen


def by_setattr(make: Callable[[nn.Module], nn.Module]) -> Convert:
    def convert(parent: nn.Module) -> nn.Module:
        for name, child in list(parent.named_children()):
            setattr(parent, name, make(child) if isinstance(child, nn.BatchNorm2d) else convert(child))
        return parent

    return convert


NORMS: dict[str, Convert] = {
    **{name: KEEPING[name] for name in CONVERTERS[:4]},
    "frozen by hand": by_setattr(Frozen),
    "torchvision's frozen norms by hand": by_setattr(frozen_by_torchvision),
}


def attended_norm() -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """Return a model, its norm with attention, a map, and what the norm makes of it."""
    model, x = plain(), torch.rand(2, 16, 8, 8)
    attach(model, "se", "bn1", input_size=SIZE)
    return model, model.bn1, x, model.bn1(x)


@pytest.mark.parametrize("converter", NORMS)
@pytest.mark.parametrize("place", PLACES)
def test_a_norm_in_another_place_keeps_its_attention_through_a_conversion(place: str, converter: str) -> None:
    _, norm, x, wanted = attended_norm()
    moved = PLACES[place](norm)
    torch.testing.assert_close(moved(x), wanted)
    moved = NORMS[converter](moved) or moved
    torch.testing.assert_close(moved(x), wanted)
    assert attention_runs_on(moved, x) == 1
    for one in attachments(moved):
        one.remove()
    torch.testing.assert_close(moved(x), plain().bn1(x))


@pytest.mark.parametrize("place", PLACES)
def test_a_norm_in_another_place_is_not_lost(place: str) -> None:
    _, norm, x, wanted = attended_norm()
    moved = PLACES[place](norm)
    parent, _, name = attachments(moved)[0].sites[0].name.rpartition(".")
    for replace_it in (setattr, nn.Module.add_module):
        with pytest.raises(ValueError, match="got Identity .* attention at 'bn1' would be lost; "):
            replace_it(moved.get_submodule(parent), name, nn.Identity())
    torch.testing.assert_close(moved(x), wanted)


def test_a_process_that_has_attached_nothing_listens_from_unpickling_on(monkeypatch: pytest.MonkeyPatch) -> None:
    _, norm, x, wanted = attended_norm()
    pickled = pickle.dumps(norm)
    monkeypatch.setattr(_surgery, "_listening", False)
    monkeypatch.setattr(torch.nn.modules.module, "_global_module_registration_hooks", OrderedDict())
    row = nn.Sequential(pickle.loads(pickled))
    torch.testing.assert_close(nn.SyncBatchNorm.convert_sync_batchnorm(row)(x), wanted)


@pytest.mark.parametrize("converter", ["torch's SyncBatchNorm", "timm's SyncBatchNorm"])
def test_a_norm_converted_alone_keeps_its_attention_wherever_it_goes(converter: str) -> None:
    model, norm, x, wanted = attended_norm()
    handle = attachments(model)[0]
    for _ in range(2):  # whatever becomes of the first
        converted = KEEPING[converter](norm)
        assert type(converted).__name__ == "SyncBatchNormWithAttention"
    elsewhere = nn.Sequential(KEEPING[converter](norm))
    torch.testing.assert_close(elsewhere(x), wanted)
    assert attention_runs(model) == attention_runs_on(elsewhere, x) == 1
    model.bn1 = converted
    assert attention_runs(model) == 1
    handle.remove()
    assert type(model.bn1) is nn.SyncBatchNorm
    assert attention_runs_on(elsewhere, x) == 1


@pytest.mark.parametrize("converter", [name for name in NORMS if name != "another class"])
def test_a_norm_with_two_places_keeps_its_attention_in_both(converter: str) -> None:
    model, norm, x, wanted = attended_norm()
    handle = attachments(model)[0]
    other = nn.Sequential(norm)
    NORMS[converter](other)
    torch.testing.assert_close(other(x), wanted)
    assert attention_runs(model) == attention_runs_on(other, x) == 1
    both = nn.Module()
    both.one, both.two = model, nn.Sequential(norm)
    both.one.bn1 = norm
    NORMS[converter](both)
    torch.testing.assert_close(both.one.bn1(x), wanted)
    torch.testing.assert_close(both.two(x), wanted)
    for one in attachments(both):
        one.remove()
    assert attachments(both) == []
    assert not any("attention" in key for key in both.state_dict())
    handle.remove()


def test_a_module_that_uses_the_attention_of_another_is_its_owners_business() -> None:
    model, norm, _, _ = attended_norm()

    class User(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.attention = nn.BatchNorm2d(16), norm.attention

    assert type(User()) is User
    assert attention_runs(model) == 1


def test_replicas_of_data_parallel_change_nothing_of_the_model(
    observe: Observe, monkeypatch: pytest.MonkeyPatch
) -> None:
    replicate = importlib.import_module("torch.nn.parallel.replicate")  # its package has a function of this name
    monkeypatch.setattr(
        replicate, "_broadcast_coalesced_reshape", lambda tensors, devices, detach=False: [list(tensors)] * len(devices)
    )
    model = plain()
    handle = attach(model, "se", ["bn1", "layer2", "layer3.0", "conv1"], input_size=SIZE)
    before, wanted = observe(model), model(images())
    for replica in replicate.replicate(model, [0, 1]):
        assert torch.equal(replica(images()), wanted)
        assert type(replica._modules) is dict
    assert observe(model) == before
    handle.remove()
    assert torch.equal(model(images()), plain()(images()))


# Parametrizations -----------------------------------------------------------------------------------------------------

AT = ["conv1", "layer4.0.conv2"]


@pytest.mark.parametrize("parametrization", [parametrizations.weight_norm, parametrizations.spectral_norm])
@pytest.mark.parametrize(
    "order",
    [
        "attach param remove unparam",
        "attach param unparam remove",
        "param attach remove unparam",
        "param attach unparam remove",
    ],
)
def test_parametrizations_and_attention_come_and_go_in_any_order(parametrization: Any, order: str) -> None:
    model, x = plain(), images()
    handle: Attachment | None = None
    for step in order.split():
        host = model.layer4[0].conv2
        weight = host.weight.detach().clone()
        if step == "attach":
            handle = attach(model, "se", AT, input_size=SIZE)
        elif step == "remove":
            assert handle is not None
            handle.remove()
        elif step == "param":
            parametrization(host).eval()
        else:
            parametrize.remove_parametrizations(host, "weight")
            torch.testing.assert_close(host.weight, weight)
        here = bool(attachments(model))
        assert attention_runs(model) == 2 * here
        assert parametrize.is_parametrized(model.layer4[0].conv2) == (
            step == "param"
            or (
                step in ("attach", "remove")
                and "param" in order.split()[: order.split().index(step)]
                and "unparam" not in order.split()[: order.split().index(step)]
            )
        )
        twin = copy.deepcopy(model)
        assert torch.equal(twin(x), model(x))
        assert len(attachments(twin)) == here
    assert type(model.layer4[0].conv2) is nn.Conv2d
    assert type(model.conv1) is nn.Conv2d


def test_torch_alone_says_that_a_parametrized_model_cannot_be_pickled() -> None:
    model = plain()
    attach(model, "se", AT, input_size=SIZE)
    parametrizations.weight_norm(model.conv1)
    with pytest.raises(RuntimeError, match="parametrized modules"):
        pickle.dumps(model)
    attachments(copy.deepcopy(model))[0].remove()
    assert attention_runs(model) == 2


def test_a_class_that_cannot_be_put_on_another_is_refused_before_anything_changes(observe: Observe) -> None:
    model = plain()
    handle = attach(model, "se", AT, input_size=SIZE)

    class Loud(type(model.layer4[0].conv2)):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    model.layer4[0].conv2.__class__ = Loud
    before = observe(model)
    with pytest.raises(ValueError, match=r"class Loud .* give .*back .*class"):
        handle.remove()
    assert observe(model) == before
    assert attention_runs(model) == 2


# Quantisation ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("hosts", ["norms", "convolutions"])
def test_quantising_linear_layers_and_training_for_it_keep_the_attention(hosts: str) -> None:
    quantization = pytest.importorskip("torch.ao.quantization", reason="this torch has no eager quantisation")
    model = plain()
    sites = len(HOSTS[hosts](model).sites)
    assert attention_runs(quantization.quantize_dynamic(model, {nn.Linear})) == sites
    model.train().qconfig = quantization.get_default_qat_qconfig()
    assert attention_runs(quantization.prepare_qat(model).eval()) == sites


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("hosts", ["norms", "convolutions"])
def test_static_quantisation_module_by_module_is_refused(hosts: str) -> None:
    quantization = pytest.importorskip("torch.ao.quantization", reason="this torch has no eager quantisation")
    model = quantization.QuantWrapper(plain())
    HOSTS[hosts](model.module)
    model.qconfig = quantization.get_default_qconfig()
    quantization.prepare(model, inplace=True)
    model(images())
    quantization.convert(model, inplace=True)
    with pytest.raises(ValueError, match=r"2d with attention .*floating-point.*prepare_fx.*qconfig.*None.*DeQuantStub"):
        model(images())


@pytest.mark.filterwarnings("ignore")
def test_what_static_quantisation_leaves_out_can_have_attention() -> None:
    quantization = pytest.importorskip("torch.ao.quantization", reason="this torch has no eager quantisation")
    torch.manual_seed(0)
    net = nn.Sequential(
        quantization.QuantStub(),
        nn.Conv2d(3, 16, 3),
        quantization.DeQuantStub(),
        nn.BatchNorm2d(16),
        quantization.QuantStub(),
        nn.Conv2d(16, 4, 1),
        quantization.DeQuantStub(),
    ).eval()
    handle = attach(net, "se", "3", input_size=SIZE)
    wanted = net(images())
    net.qconfig, net[3].qconfig = quantization.get_default_qconfig(), None
    quantization.prepare(net, inplace=True)
    net(images())
    quantization.convert(net, inplace=True)
    assert "quantized" in type(net[1]).__module__
    assert distance(net(images()), wanted) < 0.05
    handle.remove()
    assert distance(net(images()), wanted) > 0.2


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.filterwarnings("ignore")
def test_static_quantisation_in_graph_mode_keeps_the_attention() -> None:
    graph_mode = pytest.importorskip("torch.ao.quantization.quantize_fx", reason="this torch has no such quantisation")
    quantization = pytest.importorskip("torch.ao.quantization")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1)).eval()
    without = net(images())
    attach(net, "se", "1", input_size=SIZE)
    wanted = net(images())
    prepared = graph_mode.prepare_fx(net, quantization.get_default_qconfig_mapping(), (images(),))
    prepared(images())
    quantized = graph_mode.convert_fx(prepared)
    assert any("quantized" in type(module).__module__ for module in quantized.modules())
    assert distance(quantized(images()), wanted) < 0.05 < 0.2 < distance(without, wanted)


@pytest.mark.parametrize("at", ["conv1", "bn1", "relu"])
def test_fusing_modules_of_which_one_has_attention_is_refused(at: str) -> None:
    quantization = pytest.importorskip("torch.ao.quantization", reason="this torch has no eager quantisation")
    model = plain()
    attach(model, "se", at, input_size=SIZE)
    with pytest.raises((AssertionError, NotImplementedError)) as refused:
        quantization.fuse_modules(model, [["conv1", "bn1", "relu"]])
    assert says(str(refused.value), "WithAttention", "attnreid", "take the attention out first", "attach again")
    assert attention_runs(model) == 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("hosts", HOSTS)
def test_fusing_in_a_graph_keeps_the_function(hosts: str) -> None:
    model = plain()
    HOSTS[hosts](model)
    wanted = model(images())
    fused = optimization.fuse(model)
    norms = [sum(isinstance(part, nn.BatchNorm2d) for part in network.modules()) for network in (fused, plain())]
    assert norms[0] < norms[1], "those that no attention touches are fused"
    torch.testing.assert_close(fused(images()), wanted)


CONVOLUTIONS: dict[str, Callable[[], nn.Module]] = {
    "with a bias": lambda: nn.Conv2d(3, 8, 3, padding=1),
    "without a bias": lambda: nn.Conv2d(3, 8, 3, padding=1, bias=False),
    "in half precision": lambda: nn.Conv2d(3, 8, 3, padding=1).bfloat16(),
    "in double precision": lambda: nn.Conv2d(3, 8, 3, padding=1).double(),
    "by channel": lambda: nn.Conv2d(3, 3, 3, padding=1, groups=3),
    "transposed": lambda: nn.ConvTranspose2d(3, 8, 3, padding=1),
}


def convolution_and_norm(kind: str) -> tuple[nn.Module, Attachment]:
    torch.manual_seed(0)
    convolution = CONVOLUTIONS[kind]()
    norm = nn.BatchNorm2d(convolution.out_channels).to(convolution.weight.dtype)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    net = nn.Sequential(convolution, norm, nn.ReLU()).eval()
    se = functools.partial(SqueezeExcitation, hidden=2)
    return net, attach(net, se, "0", input_size=(8, 8))


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_norm_is_not_fused_past_the_attention_before_it(kind: str, observe: Observe) -> None:
    net, handle = convolution_and_norm(kind)
    before = observe(net)
    with pytest.raises(ValueError, match=r"a norm must follow.*attention between.*take the attention out first"):
        fusion.fuse_conv_bn_eval(net[0], net[1], kind == "transposed")
    assert observe(net) == before
    handle.remove()
    wanted = net(torch.ones(1, 3, 8, 8, dtype=net[0].weight.dtype))
    net[0], net[1] = fusion.fuse_conv_bn_eval(net[0], net[1], kind == "transposed"), nn.Identity()  # the way out
    tolerance = {"rtol": 0.1, "atol": 0.1} if kind == "in half precision" else {}
    torch.testing.assert_close(net(torch.ones(1, 3, 8, 8, dtype=net[0].weight.dtype)), wanted, **tolerance)


def fused_by_hand(convolution: nn.Module, norm: nn.Module, copied: Callable[[nn.Module], nn.Module]) -> nn.Module:
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    fused = copied(convolution)
    with torch.no_grad():
        fused.weight.copy_(convolution.weight * factor.view(-1, 1, 1, 1))
        fused.bias.copy_((convolution.bias - norm.running_mean) * factor + norm.bias)
    return fused


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda _: nn.Conv2d(3, 8, 3, padding=1)], ids=["copied", "new"])
def test_what_was_fused_by_hand_does_not_take_the_place_of_a_host(copied: Any) -> None:
    net, _ = convolution_and_norm("with a bias")
    with pytest.raises(ValueError, match="a norm must follow its convolution"):
        net[0] = fused_by_hand(net[0], net[1], copied)


# What is done to the weights of a copied convolution, and is no fusion.
ORDINARY: dict[str, Callable[[nn.Module], object]] = {
    "new values": lambda it: it.load_state_dict({k: torch.rand_like(v) for k, v in it.state_dict().items()}),
    "new parameters": lambda it: (
        setattr(it, "weight", nn.Parameter(torch.rand_like(it.weight))),
        setattr(it, "bias", nn.Parameter(torch.rand_like(it.bias))),
    ),
    "parameters of its own": lambda it: (
        setattr(it, "weight", nn.Parameter(it.weight.detach().clone())),
        setattr(it, "bias", nn.Parameter(it.bias.detach() + 1)),
    ),
    "a factor": lambda it: (setattr(it, "weight", nn.Parameter(it.weight.detach() * 2)), setattr(it, "bias", it.bias)),
    "no bias": lambda it: setattr(it, "bias", None),
    "fewer channels": lambda it: (
        setattr(it, "weight", nn.Parameter(it.weight.detach()[:4] * 2)),
        setattr(it, "bias", nn.Parameter(it.bias.detach()[:4] + 1)),
    ),
    "another type": lambda it: it.double(),
    "weight_norm": parametrizations.weight_norm,
    "pruning": lambda it: prune.l1_unstructured(it, name="weight", amount=0.5),
    "a call with other weights": lambda it: torch.func.functional_call(
        it, {key: torch.rand_like(value) for key, value in it.state_dict().items()}, (torch.rand(1, 3, 8, 8),)
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", ORDINARY)
def test_nothing_else_that_is_done_to_weights_is_taken_for_fusing(change: str) -> None:
    net, _ = convolution_and_norm("with a bias")
    copied = copy.deepcopy(net[0])
    ORDINARY[change](copied)
    if change == "fewer channels":
        return
    net[0] = copied
    assert type(net[0]._parameters) is dict, "what has a place is not watched"
    ORDINARY[change](net[0])


# Symbolic traces ------------------------------------------------------------------------------------------------------


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
        return self.convolution(x) * scale


class Open(Scaled):
    def forward(self, *maps: Tensor) -> Tensor:
        return self.convolution(maps[0])


class ByKeyword(Scaled):
    def forward(self, x: Tensor, *, scale: float = 2.0) -> Tensor:
        return self.convolution(x) * scale


@pytest.mark.parametrize("make", [Scaled, lambda: BasicBlock(3, 3), lambda: nn.Conv2d(3, 8, 1), nn.ReLU])
def test_a_module_with_attention_can_be_the_root_of_a_symbolic_trace(make: Callable[[], nn.Module]) -> None:
    net, x = nn.Sequential(make()).eval(), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    plainly = torch.fx.symbolic_trace(net[0])
    inputs = [node.name for node in plainly.graph.find_nodes(op="placeholder")]
    attach(net, functools.partial(SqueezeExcitation, hidden=2), "0", input_size=(8, 8))
    traced = torch.fx.symbolic_trace(net[0])
    assert [node.name for node in traced.graph.find_nodes(op="placeholder")] == inputs
    torch.testing.assert_close(traced(x), net(x))
    assert not torch.allclose(traced(x), plainly(x), atol=1e-3)
    assert inspect.signature(net[0].forward) == inspect.signature(make().forward)


@pytest.mark.parametrize("make", [Open, ByKeyword])
def test_a_root_whose_arguments_torch_cannot_tell_is_refused(make: Callable[[], nn.Module]) -> None:
    net, x = nn.Sequential(make()), torch.rand(2, 3, 8, 8)
    attach(net, functools.partial(SqueezeExcitation, hidden=2), "0", input_size=(8, 8))
    with pytest.raises(ValueError, match=r"root of a symbolic trace must .*\*args.*trace the model around it"):
        torch.fx.symbolic_trace(net[0])
    torch.testing.assert_close(torch.fx.symbolic_trace(net)(x), net(x))


def test_an_abstract_class_can_be_put_on_a_module_with_attention() -> None:
    model = plain()
    handle = attach(model, "se", "bn1", input_size=SIZE)
    wanted = model(images())

    class Mixin(metaclass=abc.ABCMeta):  # noqa: B024 (nothing in it is abstract)
        pass

    model.bn1.__class__ = types.new_class("Mixed", (Mixin, type(model.bn1)))
    assert torch.equal(model(images()), wanted)
    handle.remove()
    assert [base.__name__ for base in type(model.bn1).__bases__] == ["Mixin", "BatchNorm2d"]
    assert torch.equal(model(images()), plain()(images()))


# Compiled -------------------------------------------------------------------------------------------------------------


def test_a_compiled_model_runs_what_is_attached_before_or_after() -> None:
    model, x = (
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())).eval(),
        torch.rand(2, 3, 4, 4),
    )
    compiled = torch.compile(model, backend="eager")
    before = compiled(x)
    for at in ("1", "1.0"):
        with attach(model, "se", at, input_size=(4, 4)):
            attended = compiled(x)
            assert not torch.allclose(attended, before, atol=1e-4)
            torch.testing.assert_close(attended, model(x))
            model[1] = torch.compile(model[1], backend="eager")
            torch.testing.assert_close(model(x), attended)
            model[1] = model[1]._orig_mod
        torch.testing.assert_close(compiled(x), before)
