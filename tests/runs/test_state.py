"""Optimiser and generators go on as if nothing had happened."""

import random
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from reference_pipelines.runs.state import GeneratorState, OptimizerState, seed_generators


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2)).to(memory_format=torch.channels_last)


def step(model, optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    optimizer.zero_grad()
    model(torch.randn(5, 3, 4, 4, generator=generator)).square().mean().backward()
    optimizer.step()


def test_the_next_step_of_a_restored_optimiser_is_the_same_and_in_the_same_order_of_memory():
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.1)
    for seed in range(3):
        step(model, optimizer, seed)
    state = OptimizerState.of(optimizer)
    tensors = {name: value.clone().contiguous() for name, value in state.tensors.items()}
    groups = [{**group, "betas": list(group["betas"])} for group in state.groups]  # as JSON gives them back
    other = network()
    other.load_state_dict(model.state_dict())
    restored = torch.optim.Adam(other.parameters(), lr=0.5)
    OptimizerState(tensors, groups).restore(restored)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        for name in ("exp_avg", "exp_avg_sq"):
            assert optimizer.state[mine][name].stride() == restored.state[theirs][name].stride()
    for seed in range(3, 6):
        step(model, optimizer, seed)
        step(other, restored, seed)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert restored.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


def drawn():
    return [torch.rand(3).tolist(), torch.randn(2).tolist(), np.random.rand(3).tolist(), random.random()]


def test_every_seed_is_another_start():
    starts = []
    for seed in (0, 1, 2**32 - 1):
        seed_generators(seed)
        starts.append(drawn())
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert all(mine != theirs for mine, theirs in zip(starts[one], starts[other], strict=True))


def test_every_generator_goes_on():
    torch.manual_seed(4)
    np.random.seed(4)
    random.seed(4)
    np.random.randn()  # one of a pair is kept for the next call
    random.gauss(0, 1)
    state = GeneratorState.of(torch.device("cpu"))
    after = [drawn(), np.random.randn(), random.gauss(0, 1)]
    drawn()
    state.restore(torch.device("cpu"))
    assert [drawn(), np.random.randn(), random.gauss(0, 1)] == after


def test_a_state_of_a_gpu_goes_on_without_one_and_the_other_way_round(monkeypatch):
    restored = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *given: restored.append(given))
    state = GeneratorState.of(torch.device("cpu"))
    state.restore(torch.device("cuda"))
    with_gpu = replace(state, cuda=torch.arange(3))
    with_gpu.restore(torch.device("cpu"))
    assert restored == []
    with_gpu.restore(torch.device("cuda"))
    assert [(each.tolist(), device.type) for each, device in restored] == [([0, 1, 2], "cuda")]


def test_every_global_generator_is_seeded():
    def drawn(seed):
        seed_generators(seed)
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    first, again, other = drawn(3), drawn(3), drawn(4)
    assert first == again
    assert all(one != another for one, another in zip(first, other, strict=True))
