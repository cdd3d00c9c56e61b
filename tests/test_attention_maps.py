"""Recording gates: what is seen, under which name, and that nothing stays behind."""

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from attnreid.attention_maps import record_attention
from attnreid.backbones import attach, attach_apnet, attach_mla
from attnreid.layers import MultiLevelAttention, SqueezeExcitation, _probe
from attnreid.pyramid import AttentionPyramid
from attnreid.registry import create_attention, list_attention

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
    assert not torch.nn.modules.module._has_any_global_hook()


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
