"""Recording gates: what is seen, under which name, and that nothing stays behind."""

import copy
import functools
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.resnet import BasicBlock, ResNet

from attnreid import Gate
from attnreid.attention_maps import explain_levels, record_attention
from attnreid.backbones import attach, attach_apnet, attach_mla
from attnreid.layers import HeadLevelAttention, MultiLevelAttention, SqueezeExcitation, _probe
from attnreid.pyramid import AttentionPyramid
from attnreid.registry import create_attention, list_attention
from tests.conftest import says
from tests.layers import support
from tests.layers.own import Efficient, Spotlight
from tests.oracles.head import head_weights

SIZE = (64, 32)


@pytest.fixture
def model() -> ResNet:
    torch.manual_seed(0)
    return ResNet(BasicBlock, [1, 1, 1, 1]).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _nothing_listens():
    yield
    assert not _probe._listeners
    hooks = torch.nn.modules.module
    assert not hooks._global_forward_hooks
    assert not hooks._global_forward_pre_hooks
    assert not hooks._global_backward_hooks
    assert not hooks._global_backward_pre_hooks


def test_gates_per_site_and_level(model: ResNet, images: Tensor) -> None:
    attach_apnet(model, "se", input_size=SIZE)
    attach_mla(model, input_size=SIZE, memory=8)
    with record_attention(model) as gates:
        model(images)
    assert set(gates) == {"layer1", "layer2", "layer3", "layer4", "layer4.0.conv2"}
    assert {level: gate.shape for level, gate in gates["layer2"].items()} == {
        "level1": (2, 128, 1, 1),
        "level2": (2, 128, 1, 1),
    }
    mla = gates["layer4.0.conv2"]
    assert mla["pixel"].shape == (2, 512, 2, 1)
    assert mla["domain"].shape == (2, 8, 2, 1)
    assert not any(gate.requires_grad for levels in gates.values() for gate in levels.values())


def test_gate_is_the_one_that_was_applied(model: ResNet, images: Tensor) -> None:
    attach(model, "se", "layer1", input_size=SIZE)
    maps: list[Tensor] = []
    model.layer1.attention.register_forward_hook(lambda layer, x, y: maps.extend([x[0], y]))
    with torch.no_grad(), record_attention(model) as gates:
        model(images)
    assert torch.equal(maps[0] * gates["layer1"]["se"], maps[1])


def test_last_pass_wins_and_stays(model: ResNet, images: Tensor) -> None:
    attach(model, "se", "layer1", input_size=SIZE)
    with record_attention(model) as gates:
        assert gates == {}
        model(images)
        first = gates["layer1"]["se"]
        model(images + 1)
    assert not torch.equal(gates["layer1"]["se"], first)
    kept = gates["layer1"]["se"]
    model(images)
    assert gates["layer1"]["se"] is kept


def test_gate_that_is_blended_in_is_seen(model: ResNet, images: Tensor) -> None:
    attach(model, "se", "layer1", input_size=SIZE, identity_init=True)
    with record_attention(model) as gates:
        model(images)
    assert gates["layer1"]["se"].shape == (2, 64, 1, 1)


def test_layers_of_the_models_own_have_their_names(images: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), SqueezeExcitation(8), MultiLevelAttention(8, levels=("pixel",)))
    attach(model, "se", "0", input_size=SIZE)
    with record_attention(model) as gates:
        model(images)
    assert {site: list(levels) for site, levels in gates.items()} == {
        "0": ["se"],
        "1": ["se"],
        "2.pixel": ["pixel"],
    }
    with record_attention(model[1]) as gates:
        model(images)
    assert list(gates) == [""]


def test_models_do_not_hear_each_other(model: ResNet, images: Tensor) -> None:
    attach(model, "se", "layer1", input_size=SIZE)
    double = copy.deepcopy(model)
    with record_attention(model) as gates, record_attention(double) as others:
        double(images)
    assert gates == {}
    assert list(others) == ["layer1"]


def test_nothing_stays_behind_after_an_error(model: ResNet, images: Tensor) -> None:
    attach(model, "se", "layer1", input_size=SIZE)
    before = {name: sorted(vars(module)) for name, module in model.named_modules()}
    with pytest.raises(RuntimeError), record_attention(model):
        model(images[:, :2])
    with record_attention(model) as gates:
        model(images)
        own = gates["layer1"]["se"]
        double = copy.deepcopy(model)
        double(images + 1)
    assert gates["layer1"]["se"] is own
    for one in (model, double):
        assert {name: sorted(vars(module)) for name, module in one.named_modules()} == before
        assert not any(module._forward_hooks for module in one.modules())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("training", [True, False])
def test_every_kind_of_layer_reports(mode, training: bool) -> None:
    size = (4, 2)
    layers = {name: _build(name, size) for name in list_attention()}
    layers["pyramid"] = AttentionPyramid(8, ("se", "split"), order="fine_to_coarse")
    layers["pyramid, strips"] = AttentionPyramid(8, "rga_s", size=size)
    layers["pyramid, parts"] = AttentionPyramid(8, "pixel", dim="channels")
    model = nn.ModuleDict(layers).train(training)
    x = torch.rand(3, 8, *size)
    with mode(), record_attention(model) as gates:
        for layer in model.values():
            layer(x)
    shapes = {site: {level: tuple(gate.shape) for level, gate in levels.items()} for site, levels in gates.items()}
    channel, spatial, full = (3, 8, 1, 1), (3, 1, 4, 2), (3, 8, 4, 2)
    assert shapes == {
        "se": {"se": channel},
        "split": {"split": channel},
        "rga_s": {"rga_s": spatial},
        "rga_c": {"rga_c": channel},
        "pixel": {"pixel": full},
        "domain": {"domain": (3, 64, 4, 2)},
        "multi_level.pixel": {"pixel": full},
        "multi_level.domain": {"domain": (3, 64, 4, 2)},
        "pyramid": {"level1": channel, "level2": channel},
        "pyramid, strips": {"level1": spatial, "level2": spatial},
        "pyramid, parts": {"level1": full, "level2": full},
    }
    assert all(gate.min() >= 0 and gate.max() <= 1 for levels in gates.values() for gate in levels.values())


def _build(name: str, size: tuple[int, int]) -> nn.Module:
    options = {"size": size} if name in ("rga_s", "rga_c", "head", "multi_level") else {}
    return create_attention(name, 8, **options)


def test_parts_of_an_attached_attention_have_their_names_in_it(images: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1))
    domain = functools.partial(AttentionPyramid, attention="domain", dim="height")
    attach(model, domain, "0", input_size=SIZE)
    with record_attention(model) as gates:
        model(images)
    names = ["levels.0.domain", "levels.1.parts.0.domain", "levels.1.parts.1.domain"]
    assert list(gates["0"]) == names
    assert [gates["0"][name].shape[2] for name in names] == [64, 32, 32]


def test_recording_changes_no_output(model: ResNet, images: Tensor) -> None:
    attach_apnet(model, ("se", "split"), input_size=SIZE)
    wanted = model(images)
    with record_attention(model):
        assert torch.equal(model(images), wanted)


def test_a_compiled_model_is_refused(images: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), SqueezeExcitation(8))
    compiled = torch.compile(model, backend="eager")
    with pytest.raises(ValueError, match=r"record_attention: .*model .*eager.*, got .*compiled: .*_orig_m"):
        record_attention(compiled)
    with pytest.raises(ValueError, match=r"got 'inner' compiled: .*module in it"):
        record_attention(nn.ModuleDict({"inner": compiled}))
    model.compile(backend="eager")
    with pytest.raises(ValueError, match=r"got .*compiled: .*copy.deepcopy\(model\)"):
        record_attention(model)
    twin = copy.deepcopy(model)
    with record_attention(twin) as gates:
        twin(images)
    assert list(gates) == ["1"]


def test_in_a_compiled_function_it_is_refused(images: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), SqueezeExcitation(8))

    @torch.compile(backend="eager", fullgraph=True)
    def record(x: Tensor) -> Tensor:
        with record_attention(model):
            return model(x)

    with pytest.raises(Exception, match="record_attention"):  # torch 2.7 keeps the sentence to itself here
        record(images)
    broken = torch.compile(record.__wrapped__, backend="eager")
    with pytest.raises(RuntimeError, match=r"record_attention: .*eager code.*outside"):
        broken(images)


def test_a_compiled_wrapper_runs_eagerly_inside_and_is_not_compiled_anew(images: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), SqueezeExcitation(8)).eval()
    compilations: list[object] = []

    def backend(graph, inputs):
        compilations.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    compiled(images)
    for _ in range(2):
        with record_attention(model) as gates:
            compiled(images)
        assert list(gates) == ["1"]
    compiled(images)
    assert len(compilations) == 1


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"record_attention: .*model .*nn.Module, got str"):
        record_attention("model")


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated")
@pytest.mark.parametrize("trace", [lambda model, x: torch.fx.symbolic_trace(model), torch.jit.trace], ids=["fx", "jit"])
def test_a_graph_that_attention_was_traced_into_has_no_layer_to_listen_to(
    trace: Callable[[nn.Module, Tensor], nn.Module], model: ResNet, images: Tensor
) -> None:
    attach(model, "se", "layer1", input_size=SIZE)
    traced = trace(model, images)
    with pytest.raises(ValueError, match=r"record_attention: .*got .*traced to a graph .*: .*model"):
        record_attention(traced)


def test_attention_that_was_attached_to_a_graph_is_recorded(model: ResNet, images: Tensor) -> None:
    traced = torch.fx.symbolic_trace(model)
    attach(traced, "se", "layer1.0.conv1", input_size=SIZE)
    with record_attention(traced) as gates:
        traced(images)
    assert list(gates) == ["layer1.0.conv1"]


# Head-level attention's weights


def test_weights_are_listed_on_demand_and_are_the_formulas(model: ResNet, images: Tensor) -> None:
    attach_mla(model, input_size=SIZE, memory=8)
    model.double()
    head = model.layer4[0].conv2.attention.head
    inputs: list[tuple[Tensor, Tensor]] = []
    head.register_forward_hook(lambda layer, args, output: inputs.append(args))
    with record_attention(model) as gates:
        wanted = model(images.double())
    assert list(gates["layer4.0.conv2"]) == ["pixel", "domain"]
    with record_attention(model, weights=True) as gates:
        assert torch.equal(model(images.double()), wanted)
    assert list(gates["layer4.0.conv2"]) == ["pixel", "head", "domain"]
    weights = gates["layer4.0.conv2"]["head"]
    assert not weights.requires_grad
    x, gate = inputs[-1]
    literal = head_weights(x, dict(head.named_parameters()), heads=head.heads, gate=gate)
    support.assert_close(weights, literal, 1e-10)


@pytest.mark.parametrize("scale", [1.0, None, 0.3])
@pytest.mark.parametrize("maps", [None, 1, 4])
def test_a_head_level_of_the_models_own_shows_its_weights(scale: float | None, maps: int | None) -> None:
    layer = support.randomise(HeadLevelAttention(4, size=(2, 3), heads=2, scale=scale)).double()
    x = support.random_map(2, 4, 2, 3)
    gate = None if maps is None else support.random_map(2, maps, 2, 3, seed=4).sigmoid()
    with record_attention(layer, weights=True) as gates:
        y = layer(x, gate=gate)
    weights = gates[""]["head"]
    literal = head_weights(x, dict(layer.named_parameters()), heads=2, gate=gate, scale=scale)
    support.assert_close(weights, literal, 1e-12)
    values = layer.qkv(x)[:, 8:].reshape(2, 2, 2, 6)
    support.assert_close((values @ weights.mT).reshape(2, 4, 2, 3), y, 1e-12)
    rounded = copy.deepcopy(layer).bfloat16()
    half = rounded.attention_weights(x.bfloat16(), None if gate is None else gate.bfloat16())
    assert half.dtype == torch.bfloat16
    support.assert_close(half, weights, 0.2)


def test_weights_must_be_a_bool() -> None:
    with pytest.raises(TypeError) as raised:
        record_attention(nn.Identity(), weights=1)
    assert says(str(raised.value), "record_attention: ", "weights", "bool", "got 1")


def test_a_gate_that_has_no_registered_name_is_listed_by_its_class() -> None:
    model = nn.Sequential(Spotlight(8), nn.Sequential(AttentionPyramid(8, Efficient, levels=3)))
    with record_attention(model) as gates:
        model(torch.rand(2, 8, 4, 2))
    channel = (2, 8, 1, 1)
    assert {site: {level: gate.shape for level, gate in levels.items()} for site, levels in gates.items()} == {
        "0": {"Spotlight": (2, 1, 4, 2)},
        "1.0": {"level1": channel, "level2": channel, "level3": channel},
    }


# The map after each level


class Foreign(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


EXPLAINED = {
    "se": {"attention": "se", "levels": 3},
    "rga_s": {"attention": "rga_s"},
    "released": {"attention": ("se", "split")},
    "norm in the middle": {"attention": ("se", "split", "rga_s"), "levels": (1, 2, 2)},
    "foreign": {"attention": ("se", Foreign), "levels": (2, 1)},
    "a user's": {"attention": Efficient, "levels": 2},
}


@pytest.mark.parametrize("options", EXPLAINED.values(), ids=EXPLAINED)
@pytest.mark.parametrize("order", ["coarse_to_fine", "fine_to_coarse"])
@pytest.mark.parametrize("identity_init", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_every_levels_map_has_a_gradient_of_its_own(options, order: str, identity_init: bool, training: bool) -> None:
    pyramid = AttentionPyramid(8, **options, size=(4, 2), order=order, identity_init=identity_init)
    pyramid = support.randomise(pyramid).double().train(training)
    fast, x, cotangent = copy.deepcopy(pyramid), support.random_map(3, 8, 4, 2), support.random_map(3, 8, 4, 2, seed=2)
    names, text = [name for name, _ in pyramid.named_modules()], repr(pyramid)
    maps: dict[str, Tensor] = {}
    with explain_levels(pyramid) as modules, record_attention(pyramid) as gates:
        assert list(modules) == [""]
        for level, module in modules[""].items():
            assert module is pyramid.get_submodule(f"maps.{level}")
            module.register_forward_hook(lambda module, args, output, level=level: maps.update({level: output}))
        y = pyramid(x)
    wanted = fast(x)
    support.assert_close(y, wanted, 1e-12)
    for name, value in pyramid.state_dict().items():
        support.assert_close(value.double(), fast.state_dict()[name].double(), 1e-12)
    steps = list(modules[""]) if order == "coarse_to_fine" else list(modules[""])[::-1]
    assert list(maps) == steps
    gradients = torch.autograd.grad(y, list(maps.values()), cotangent)
    for gradient in gradients:
        assert gradient.std(dim=(2, 3)).min() > 1e-6
    for one, other in itertools.pairwise(gradients):
        assert not torch.allclose(one, other)
    layer = pyramid.levels[int(steps[0].removeprefix("level")) - 1]
    if isinstance(layer, Gate) and layer.norm_behind is None:
        support.assert_close(maps[steps[0]], x * gates[""][steps[0]], 1e-12)
    if not identity_init:
        assert maps[steps[-1]] is y
    # Afterwards nothing is left, and the fast path runs again.
    assert [name for name, _ in pyramid.named_modules()] == names
    assert repr(pyramid) == text
    assert training or torch.equal(pyramid(x), wanted)
    assert len(maps) == len(steps)


def test_attached_pyramids_are_explained_per_site_and_a_graph_can_be_made_of_it(model: ResNet, images: Tensor) -> None:
    attach_apnet(model, ("se", "split"), input_size=SIZE)
    plain = model(images)
    with explain_levels(model) as modules:
        assert {site: list(levels) for site, levels in modules.items()} == {
            f"layer{stage}": ["level1", "level2"] for stage in (1, 2, 3, 4)
        }
        with explain_levels(model) as again:
            assert again == modules
        names = [f"layer{stage}.attention.maps.level{level}" for stage in (1, 2, 3, 4) for level in (1, 2)]
        extractor = create_feature_extractor(model, {**{name: name for name in names}, "fc": "y"})
        support.assert_close(model(images), plain, 1e-5)
    outputs = extractor(images)
    gradients = torch.autograd.grad(outputs["y"].max(dim=1).values.sum(), [outputs[name] for name in names])
    assert [gradient.std(dim=(2, 3)).sum() > 0 for gradient in gradients[:6]] == [True] * 6
    assert not [name for name, _ in model.named_modules() if "maps" in name]
    assert torch.equal(model(images), plain)


def test_nothing_is_left_after_an_error_while_explaining(model: ResNet, images: Tensor) -> None:
    attach_apnet(model, "se", input_size=SIZE)
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(RuntimeError), explain_levels(model):
        model(images[:, :2])
    assert [name for name, _ in model.named_modules()] == names


def test_what_cannot_be_explained_is_refused(model: ResNet, images: Tensor) -> None:
    for wrong, error, parts in [
        ("model", TypeError, ("must be an nn.Module", "got str")),
        (model, ValueError, ("AttentionPyramid", "got ResNet", "attach")),
        (torch.compile(model, backend="eager"), ValueError, ("eagerly", "compiled", "_orig_mod")),
        (torch.fx.symbolic_trace(AttentionPyramid(8)), ValueError, ("traced", "traced from")),
    ]:
        with pytest.raises(error) as raised:
            explain_levels(wrong)
        assert says(str(raised.value), "explain_levels: ", *parts)


def test_a_gate_that_a_hook_put_in_its_place_is_the_one_that_is_recorded(model: ResNet, images: Tensor) -> None:
    attach(model, "se", "layer1", input_size=SIZE)
    hook = model.layer1.attention.probe.register_forward_hook(lambda probe, args, gate: torch.zeros_like(gate))
    with record_attention(model) as gates:
        model(images)
    assert not gates["layer1"]["se"].any()
    hook.remove()
