"""Counted operations and measured memory against what is counted by hand."""

import inspect
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attnreid import HeadLevelAttention, counting, fold
from attnreid.backbones import _costs as costs
from attnreid.counting import count_multiply_adds
from benchmarks import models, ours
from benchmarks.cases import Case, Job
from benchmarks.layers import CASES
from benchmarks.memory import PLAIN_MALLOC, measure_peak, measure_resident
from benchmarks.work import inference, training_step
from tests.benchmarks.support import CPU, problem

MIB = 2**20


def forward_count(layer, built_for):
    (x,) = built_for.make_maps(1)
    return count_multiply_adds(inference(layer.eval(), x))


def test_a_convolution_is_counted_exactly_forward_and_backward():
    conv, x = nn.Conv2d(3, 5, 3, padding=1), torch.randn(2, 3, 8, 6)
    forward = 2 * (8 * 6) * 5 * (3 * 9)
    assert count_multiply_adds(inference(conv, x)) == forward
    step = training_step(conv, x, list(conv.parameters()), torch.randn(2, 5, 8, 6))
    assert count_multiply_adds(step) == 3 * forward  # the output, the input's gradient, the weight's


@pytest.mark.parametrize(("device", "backward"), [("cpu", 5), ("meta", 4)])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_counted_as_its_products(device, backward, causal):
    # 20 queries and 24 keys of 16 numbers each, and as many of the values: on the CPU it is one kernel,
    # which computes the logits again.
    q, k, v = (torch.randn(2, 4, *shape, device=device, requires_grad=True) for shape in ((20, 16), (24, 16), (24, 16)))

    def attend():
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    product = 2 * 4 * 20 * 24 * 16
    assert count_multiply_adds(attend) == 2 * product
    assert count_multiply_adds(lambda: attend().sum().backward()) == (2 + backward) * product


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_grouped_convolution_is_counted_exactly_forward_and_backward(device, groups, transposed):
    shape = (16, 32 // groups, 3, 3) if transposed else (32, 16 // groups, 3, 3)
    weight = torch.randn(shape, device=device, requires_grad=True)
    x = torch.randn(2, 16, 6, 8, device=device, requires_grad=True)
    convolve = F.conv_transpose2d if transposed else F.conv2d
    forward = (2 * 6 * 8) * 32 * (16 // groups) * 9  # at a stride of 1 input and output have the same positions

    def backward(images):
        convolve(images, weight, groups=groups, padding=1).sum().backward()

    assert count_multiply_adds(lambda: convolve(x, weight, groups=groups, padding=1)) == forward
    assert count_multiply_adds(lambda: backward(x)) == 3 * forward
    assert count_multiply_adds(lambda: backward(x.detach())) == 2 * forward


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_transposed_convolution_with_a_stride_is_counted_by_its_input(device):
    conv = nn.ConvTranspose2d(4, 6, 3, stride=2, bias=False, device=device)
    x = torch.randn(2, 4, 5, 7, device=device, requires_grad=True)
    forward = (2 * 5 * 7) * 4 * (6 * 9)
    assert count_multiply_adds(lambda: conv(x)) == forward
    assert count_multiply_adds(lambda: conv(x).sum().backward()) == 3 * forward


def test_the_count_does_not_depend_on_what_torch_has_a_formula_for(monkeypatch):
    from torch.utils import flop_counter

    q = torch.randn(1, 2, 8, 4, requires_grad=True)
    ours = counting._own_formulas()
    kept = {key: formula for key, formula in flop_counter.flop_registry.items() if key not in ours}
    for registry in (kept, kept | dict.fromkeys(ours, lambda *_, **__: 1)):
        monkeypatch.setattr(flop_counter, "flop_registry", registry)
        step = lambda: F.scaled_dot_product_attention(q, q, q).sum().backward()  # noqa: E731
        assert count_multiply_adds(step) == 7 * 2 * 8 * 8 * 4


def test_an_operation_that_torch_does_not_have_is_left_out():
    assert counting._named("no_such_operation") == ()


def test_the_library_counts_a_layer_on_meta_as_it_runs_on_the_cpu():
    layer = HeadLevelAttention(16, size=(8, 4)).eval()
    assert costs.count_multiply_adds(layer, 16, 8, 4) == count_multiply_adds(inference(layer, torch.randn(1, 16, 8, 4)))
    assert costs.count_multiply_adds(layer, 16, 8, 4) == 32 * (3 * 16 * 16 + 2 * 32 * 16)


def test_element_wise_work_is_not_counted():
    x = torch.randn(64, 64)
    assert count_multiply_adds(lambda: (x * x).softmax(0).relu()) == 0


def test_the_layers_counts_are_those_made_by_hand():
    batch, channels, positions = 2, 16, 32
    for_map = problem((channels, 8, 4), batch=batch)
    by_head = 3 * channels**2 * positions + 2 * positions**2 * channels
    assert forward_count(ours.make_head(for_map), for_map) == batch * by_head
    domain = ours.make_domain(for_map)
    memory = 2 * 64 * channels * positions
    assert forward_count(domain, for_map) == batch * (channels**2 * positions + memory)
    assert forward_count(fold(domain), for_map) == batch * memory
    # P = 128, d = 2, P/8 = 16 relations, (1 + 16) // 8 = 2 hidden: three maps of d, four thin products, and the last
    # two layers on the relations; the unary term is added element by element.
    larger = problem((channels, 16, 8), batch=batch)
    by_relations = 128 * (channels * 3 * 2 + 4 * 2 * 16 + 16 * 2 + 2)
    assert forward_count(ours.make_rga_s(larger), larger) == batch * by_relations


# Memory


def test_the_peak_is_what_is_live_at_once_and_not_the_sum():
    before = torch.ones(MIB)

    def work():
        first = torch.ones(4 * MIB)
        second = first + 1
        del first
        third = second[: 2 * MIB] * 2
        del second
        return third + before[0]

    assert measure_peak(work, CPU) == pytest.approx(2 * 4 * 4 * MIB, rel=0.01)


def test_the_peak_leaves_out_what_was_live_before():
    kept = torch.ones(8 * MIB)
    assert measure_peak(lambda: kept.sum(), CPU) < MIB


@pytest.mark.skipif(sys.platform != "linux", reason="the resident maximum is read from /proc")
@pytest.mark.slow
def test_the_resident_maximum_of_a_fresh_process_shows_a_known_allocation():
    program = (
        "import torch; from benchmarks.resident import resident_peak;"
        "kept = torch.ones(8 << 20);"
        "print(resident_peak(lambda: torch.ones(4 << 20) + kept[0]))"
    )
    child = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | PLAIN_MALLOC, capture_output=True, text=True, check=True
    )
    assert int(child.stdout) == pytest.approx(2 * 16 * MIB, rel=0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="the resident maximum is read from /proc")
def test_a_fresh_process_confirms_the_profilers_peak():
    (case,) = (case for case in CASES if case.name == "pyramid")
    job = Job(case, problem((64, 32, 32), batch=16))
    peak = measure_peak(case.build("ours", job.problem).work, CPU)
    assert peak == pytest.approx(3 * 4 * MIB, rel=0.05)  # the output, its gradient's product, the input's gradient
    assert measure_resident(job, "ours") == pytest.approx(peak, rel=0.15)


@pytest.mark.slow
def test_a_fresh_process_that_fails_gives_no_figure():
    case = Case("no such case", "", CASES[0].ours, (), (), 2)
    assert measure_resident(Job(case, problem()), "ours") is None


def test_a_training_step_leaves_no_gradients_behind():
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    work = models.training_variant(problem((3, 64, 32)), attach=models.no_attention).work
    work()
    (optimizer,) = (held for held in inspect.getclosurevars(work).nonlocals.values() if hasattr(held, "param_groups"))
    assert all(parameter.grad is None for parameter in optimizer.param_groups[0]["params"])
