"""What a gate's probe shows and what it costs, and what a user's own gate is told where it is wrong."""

import copy
import pickle

import pytest
import torch
from torch import nn

from attnreid import (
    AttentionPyramid,
    DomainLevelAttention,
    Gate,
    HeadLevelAttention,
    MultiLevelAttention,
    PooledGate,
    SqueezeExcitation,
    attach_apnet,
    find_sites,
    fold,
)
from attnreid.layers import _probe
from tests.conftest import says
from tests.layers import support
from tests.layers.own import Efficient, Spotlight

SIZE = (4, 2)


def a_map(**options):
    return support.random_map(2, 8, *SIZE, **{"dtype": torch.float32, **options})


# What the probe shows


def test_a_hook_sees_the_gate_with_its_gradient_and_may_put_another_in_its_place():
    layer, x = SqueezeExcitation(8), a_map()
    seen = []
    layer.probe.register_forward_hook(lambda probe, args, gate: seen.append(gate))
    (gradient,) = torch.autograd.grad(layer(x).sum(), seen)
    support.assert_close(gradient, x.sum(dim=(2, 3), keepdim=True), 1e-6)
    layer.probe.register_forward_hook(lambda probe, args, gate: torch.ones_like(gate))
    assert torch.equal(layer(x), x)


def test_head_levels_weights_are_computed_where_the_probe_is_hooked_and_nowhere_else(monkeypatch):
    layer, x, calls = HeadLevelAttention(8, size=SIZE), a_map(), []
    weights = layer.attention_weights(x)
    monkeypatch.setattr(HeadLevelAttention, "attention_weights", lambda layer, x, gate: calls.append(gate) or weights)
    layer(x)
    assert not calls
    seen = []
    hook = layer.probe.register_forward_hook(lambda probe, args, output: seen.append(output))
    layer(x)
    assert seen == [weights]
    hook.remove()
    layer(x)
    assert len(calls) == 1


LAYERS = {
    "se": SqueezeExcitation(8),
    "domain": DomainLevelAttention(8, memory=3),
    "multi_level": MultiLevelAttention(8, size=SIZE),
    "a user's gate": Spotlight(8),
    "pyramid": AttentionPyramid(8, ("se", "split")).eval(),
    "pyramid, spatial": AttentionPyramid(8, "rga_s", size=SIZE).eval(),
    "pyramid, parts": AttentionPyramid(8, Efficient, levels=3),
    "pyramid, mixed": AttentionPyramid(8, ("se", "domain"), levels=(2, 1)),
}
every_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


@every_layer
def test_it_prints_and_saves_as_if_there_were_no_probes(layer):
    probes = {name for name, module in layer.named_modules() if isinstance(module, _probe.Probe)}
    assert probes
    assert "robe" not in repr(layer)
    assert not any("probe" in name for name in layer.state_dict())
    assert repr(pickle.loads(pickle.dumps(layer))) == repr(layer)


def test_a_layers_own_children_are_still_printed():
    assert repr(SqueezeExcitation(8)) == "SqueezeExcitation(8)"
    lines = ["AttentionPyramid(", "  8, attention=Spotlight, levels=1", "  (levels): ModuleList("]
    lines += ["    (0): Spotlight(", "      8", "      (weigh): Conv2d(8, 1, kernel_size=(1, 1), stride=(1, 1))"]
    assert repr(AttentionPyramid(8, Spotlight, levels=1)).splitlines()[:6] == lines


def graphs(layer, x):
    """The operations of all graphs that can be made of a layer."""
    compiled = []

    def backend(graph, inputs):
        compiled.extend((node.op, str(node.target)) for node in graph.graph.nodes)
        return graph.forward

    torch._dynamo.reset()
    torch.compile(layer, backend=backend, fullgraph=True)(x)
    exported = torch.export.export(layer, (x,))
    traced = torch.jit.trace(layer, x, check_trace=False)
    return {
        "compile": compiled,
        "export": [(node.op, str(node.target)) for node in exported.graph.nodes],
        "jit": [node.kind() for node in traced.inlined_graph.nodes()],
        "probes in jit": [line for line in str(traced.graph).splitlines() if "probe" in line],
    }


@pytest.mark.parametrize(
    "name", ["pyramid", *(pytest.param(name, marks=pytest.mark.slow) for name in ("multi_level", "pyramid, parts"))]
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated")
def test_graphs_hold_nothing_of_the_probes(name, monkeypatch):
    layer, x = copy.deepcopy(LAYERS[name]).eval(), a_map()
    heard = []
    for module in layer.modules():
        if isinstance(module, _probe.Probe):
            module.register_forward_hook(lambda probe, args, output: heard.append(probe))
    with_probes = graphs(layer, x)
    assert not heard
    assert with_probes["probes in jit"] == []
    monkeypatch.setattr("attnreid.layers.gate.probed", lambda probe, tensor: tensor)
    monkeypatch.setattr("attnreid.layers.domain.probed", lambda probe, tensor: tensor)
    assert graphs(layer, x) == with_probes


# Tracers


@pytest.fixture
def model():
    resnet = pytest.importorskip("torchvision.models.resnet", reason="the host is torchvision's")
    torch.manual_seed(0)
    return resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1]).eval()


def test_feature_extractors_hand_out_every_levels_gate_by_name(model):
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    attach_apnet(model, "se", input_size=(64, 32))
    names = [f"layer{stage}.attention.levels.{level}.probe" for stage in (1, 2, 3, 4) for level in (0, 1)]
    for listed in get_graph_node_names(model):
        assert [name for name in listed if name.endswith(".probe")] == names
    extractor = create_feature_extractor(model, {name: name for name in names})
    x = torch.rand(2, 3, 64, 32)
    with support.Recorder(model) as heard:
        model(x)
    gates = extractor(x)
    assert {name for name, _ in heard} == set(names)
    for name, gate in heard:
        assert torch.equal(gates[name], gate)


@every_layer
def test_in_a_symbolic_trace_each_probe_is_a_node_of_its_name(layer):
    layer, x = copy.deepcopy(layer), a_map()
    traced = torch.fx.symbolic_trace(layer)
    nodes = {node.target for node in traced.graph.nodes if node.op == "call_module"}
    with support.Recorder(layer) as wanted:
        layer(x)
    wanted = {name: gate for name, gate in wanted if not name.startswith("head")}  # computed for a listener only
    assert wanted.keys() <= nodes
    with support.Recorder(traced) as heard:
        traced(x)
    heard = dict(heard)
    for name, gate in wanted.items():
        assert torch.equal(heard[name], gate)


# What goes over all modules of a model


def test_a_probe_is_no_site(model):
    names = {site.name for site in find_sites(nn.Sequential(model.conv1, Spotlight(64)), (64, 32))}
    assert names == {"0", "1", "1.weigh"}


def test_folding_leaves_the_probes(model):
    attach_apnet(model, "rga_s", input_size=(64, 32))
    folded, x = fold(model), torch.rand(2, 3, 64, 32)
    with support.Recorder(model) as wanted, support.Recorder(folded) as heard:
        model(x), folded(x)
    assert [name for name, _ in heard] == [name for name, _ in wanted] != []
    for (_, gate), (_, literal) in zip(heard, wanted, strict=True):
        support.assert_close(gate, literal, 1e-5)


# What a user's gate is told


class Wrong(PooledGate):
    def gate_of(self, pooled):
        return pooled[..., None, None]


class Wide(Gate):
    def gate(self, x):
        return x.repeat(1, 1, 2, 1)


class Flat(Gate):
    def gate(self, x):
        return x.mean(dim=(1, 2, 3))


class Unfinished(Gate):
    pass


class UnfinishedToo(PooledGate):
    pass


@pytest.mark.parametrize(
    ("error", "make", "parts"),
    [
        (ValueError, Wrong, ("Wrong: ", "gate_of", "(2, 8)", "got (2, 8, 1, 1)")),
        (ValueError, Wide, ("Wide: ", "gate must", "(2, 8, 4, 2)", "got (2, 8, 8, 2)")),
        (ValueError, Flat, ("Flat: ", "gate must", "(2, 8, 4, 2)", "got (2,)")),
        (NotImplementedError, Unfinished, ("Unfinished ", "gate(x)")),
        (NotImplementedError, UnfinishedToo, ("UnfinishedToo ", "gate_of(pooled)")),
        (ValueError, lambda channels: Spotlight(channels + 1), ("Spotlight: ", "9 channels, got 8")),
        (ValueError, lambda channels: Efficient(0), ("Efficient: ", "channels", "got 0")),
        (TypeError, lambda channels: Gate(channels, size=4), ("Gate: ", "size", "got 4")),
        (ValueError, lambda channels: Flat(channels, size=(2, 2)), ("Flat: ", "2x2", "got 4x2")),
    ],
)
def test_a_users_mistake_gets_a_sentence(error, make, parts):
    with pytest.raises(error) as raised:
        make(8)(a_map())
    assert says(str(raised.value), *parts)
