"""The formulas that ours is measured against are the papers', with our weights, and in the form they claim."""

from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attnreid import fold
from benchmarks import formulas, layers, ours
from tests.benchmarks.support import problem
from tests.layers.support import randomise
from tests.oracles.head import head
from tests.oracles.relation_aware import relation_aware_channel, relation_aware_spatial
from tests.oracles.split_attention import split_attention

DOUBLE = problem(dtype=torch.float64, batch=3)
LITERAL = [
    pytest.param(ours.make_rga_s, formulas.literal_rga_s, id="rga_s"),
    pytest.param(ours.make_rga_c, formulas.literal_rga_c, id="rga_c"),
    pytest.param(ours.make_pyramid, formulas.level_by_level, id="pyramid"),
    pytest.param(ours.make_split, formulas.literal_split, id="split"),
    pytest.param(ours.make_head, formulas.literal_head, id="head"),
]


class Outputs(TorchDispatchMode):
    """Notes the name and the outputs' shapes of every operation."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.seen.append((func.overloadpacket.__name__, tuple(tensor.shape)))
        return out


def operations(work):
    with Outputs() as outputs:
        work()
    return outputs.seen


def build(name, side, shape=(16, 8, 4)):
    (case,) = (case for case in layers.CASES if case.name == name)
    return case.build(side, problem(shape)).work


@pytest.mark.parametrize(("make", "literal"), LITERAL)
def test_the_literal_variant_has_the_layers_outputs_and_gradients(make, literal):
    layer = randomise(make(DOUBLE)).train()
    x, cotangent = DOUBLE.make_maps(2)
    x.requires_grad_()
    outputs = layer(x), literal(layer, x)
    torch.testing.assert_close(*outputs)
    gradients = [torch.autograd.grad(y, (x, *layer.parameters()), cotangent) for y in outputs]
    torch.testing.assert_close(*gradients)


def test_the_literal_formulas_are_the_papers():
    (x,) = DOUBLE.make_maps(1)
    layer = randomise(ours.make_rga_s(DOUBLE)).train()
    oracle = relation_aware_spatial(x, layer.state_dict(), parts=1, training=True)
    torch.testing.assert_close(formulas.literal_rga_s(layer, x), oracle)
    layer = randomise(ours.make_rga_c(DOUBLE)).train()
    oracle = relation_aware_channel(x, layer.state_dict(), parts=1, training=True)
    torch.testing.assert_close(formulas.literal_rga_c(layer, x), oracle)
    layer = randomise(ours.make_head(DOUBLE))
    torch.testing.assert_close(formulas.literal_head(layer, x), head(x, layer.state_dict(), heads=4))
    for training in (True, False):
        layer = randomise(ours.make_split(DOUBLE)).train(training)
        oracle = split_attention(x, layer.state_dict(), parts=2, training=training)
        torch.testing.assert_close(formulas.literal_split(layer, x), oracle)


def test_part_by_part_has_one_layer_for_each_half():
    layer = randomise(ours.make_rga_s(DOUBLE, parts=2)).train()
    (x,) = DOUBLE.make_maps(1)
    apart = formulas.part_by_part(layer)
    assert [(part.parts, part.size) for part in apart.parts] == [(1, (4, 4)), (1, (4, 4))]
    torch.testing.assert_close(apart(x), layer(x))


def test_two_calls_build_the_same_weights_and_another_seed_would_not():
    first, second = (ours.make_rga_s(problem()).state_dict() for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    layer = ours.make_rga_s(problem())
    layer.reset_parameters()
    assert not torch.equal(layer.embed.weight, first["embed.weight"])


@pytest.mark.parametrize(
    ("name", "side", "nodes"),
    [("rga_s", "literal", 24), ("rga_c", "literal", 20), ("head", "literal", 24)],
)
def test_theirs_has_the_affinity_in_memory_and_ours_has_not(name, side, nodes):
    shape = (20, 6, 4)
    assert any(seen.count(nodes) > 1 for _, seen in operations(build(name, side, shape)))
    if name != "head":  # on the CPU the fused attention is one operation, too
        assert not any(seen.count(nodes) > 1 for _, seen in operations(build(name, "ours", shape)))


def test_theirs_multiplies_the_map_once_a_level():
    (x,) = problem().make_maps(1)
    pyramid = ours.make_pyramid(problem())
    counts = [
        operations(partial(forward, x)).count(("mul", tuple(x.shape)))
        for forward in (pyramid, partial(formulas.level_by_level, pyramid))
    ]
    assert counts == [1, 3]


@pytest.mark.parametrize("name", ["rga_s", "rga_s_parts", "rga_c", "pyramid", "split", "head"])
def test_layers_go_backward_in_train_mode_on_both_sides(name):
    (case,) = (case for case in layers.CASES if case.name == name)
    for side in ("ours", case.peers[0].name):
        names = [operation for operation, _ in operations(build(name, side))]
        assert any("backward" in operation for operation in names)
        if name.startswith(("rga", "split")):
            assert any("batch_norm_backward" in operation for operation in names)


def test_inference_rows_have_norms_with_statistics_of_their_own_and_nothing_backward():
    names = [operation for operation, _ in operations(build("split_eval", "ours"))]
    assert not any("backward" in operation for operation in names)
    layer = ours.make_split(problem())
    ours.in_inference(problem(), lambda problem: layer)
    assert not layer.training
    assert not torch.equal(layer.norm.running_mean, torch.zeros(16))


def test_the_folded_row_is_folded_and_its_peer_is_not():
    products = [
        [
            word
            for operation, _ in operations(build("domain_folded", side))
            for word in ("bmm", "conv")
            if word in operation
        ]
        for side in ("ours", "unfolded")
    ]
    assert products == [["bmm"] * 2, ["conv"] * 3]
    layer = ours.make_domain(problem()).eval()
    assert len(list(fold(layer).parameters())) == 2
