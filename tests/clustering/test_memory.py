"""The cluster memory against the literal loop over the batch."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from reference_pipelines.clustering import ClusterMemory
from reference_pipelines.config.clustering import MemoryConfig
from reference_pipelines.errors import UserError
from tests.oracles import clustering as oracle


def unit(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("update", ["hard", "every"])
def test_update_equals_the_loop(update):
    centers, features = unit(4, 6, seed=0), unit(12, 6, seed=1)
    clusters = torch.tensor([2, 0, 2, 0, 3, 3, 2, 0, 3, 2, 0, 3])
    memory = ClusterMemory(centers, MemoryConfig(update=update, momentum=0.1))
    absent = memory.centers[1].clone()  # no member in the batch
    memory.update(features, clusters)
    expected = oracle.memory_update(centers.numpy(), features.numpy(), clusters.tolist(), 0.1, update == "hard")
    np.testing.assert_allclose(memory.centers.numpy(), expected, atol=1e-12)
    assert torch.equal(memory.centers[1], absent)
    np.testing.assert_allclose(memory.centers.norm(dim=1), 1.0)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    clusters=st.integers(1, 6),
    batch=st.integers(1, 20),
    momentum=st.floats(0, 0.9),
    update=st.sampled_from(["hard", "every"]),
    steps=st.integers(1, 3),
)
def test_any_batches_equal_the_loop(seed, clusters, batch, momentum, update, steps):
    rng = np.random.default_rng(seed)
    memory = ClusterMemory(unit(clusters, 3, seed=seed), MemoryConfig(update=update, momentum=momentum))
    expected = memory.centers.numpy().copy()
    for step in range(steps):
        members = rng.integers(clusters, size=batch)
        features = unit(batch, 3, seed=seed + step + 1)[torch.as_tensor(rng.integers(batch, size=batch))]  # and ties
        memory.update(features, torch.as_tensor(members))
        expected = oracle.memory_update(expected, features.numpy(), members.tolist(), momentum, update == "hard")
    np.testing.assert_allclose(memory.centers.numpy(), expected, atol=1e-9)


def test_the_first_of_equally_hard_members_is_taken():
    memory = ClusterMemory(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), MemoryConfig(momentum=0.0))
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [-1.0, 0.0], [1.0, 0.0]])
    memory.update(features, torch.tensor([0, 0, 0, 1, 1]))
    assert torch.equal(memory.centers, torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))


def test_features_that_are_nan_make_the_memory_nan_and_no_wrong_index():
    memory = ClusterMemory(unit(3, 4, seed=0), MemoryConfig())
    memory.update(torch.full((3, 4), torch.nan, dtype=torch.float64), torch.tensor([0, 1, 1]))
    assert memory.centers.isnan().any(dim=1).tolist() == [True, True, False]


def test_every_member_by_hand():
    memory = ClusterMemory(torch.tensor([[1.0, 0.0]]), MemoryConfig(update="every", momentum=0.5))
    memory.update(torch.tensor([[0.0, 1.0], [0.0, -1.0]]), torch.tensor([0, 0]))
    # Half-way to the first is 45 degrees; half-way from there to -90 degrees is -22.5 degrees.
    angle = torch.deg2rad(torch.tensor(-22.5))
    assert torch.allclose(memory.centers, torch.stack([angle.cos(), angle.sin()])[None])


def test_momentum_is_what_stays_of_the_old_vector():
    memory = ClusterMemory(torch.tensor([[1.0, 0.0]]), MemoryConfig(momentum=0.1))
    memory.update(torch.tensor([[0.0, 1.0]]), torch.tensor([0]))
    assert torch.allclose(memory.centers, functional.normalize(torch.tensor([[0.1, 0.9]])))


def test_loss_equals_eq_1():
    centers, features, clusters = unit(5, 8, seed=2), unit(7, 8, seed=3), torch.tensor([0, 4, 2, 2, 1, 3, 0])
    memory = ClusterMemory(centers, MemoryConfig(temperature=0.05))
    expected = oracle.cluster_nce(features.numpy(), clusters.tolist(), centers.numpy(), 0.05)
    assert memory(features, clusters).item() == pytest.approx(expected, rel=1e-12)


def test_the_gradient_is_that_of_eq_1():
    memory = ClusterMemory(unit(5, 4, seed=2), MemoryConfig(temperature=0.3))
    features, clusters = unit(7, 4, seed=3).requires_grad_(), torch.tensor([0, 4, 2, 2, 1, 3, 0])
    assert torch.autograd.gradcheck(lambda x: memory(x, clusters), features)
    assert torch.autograd.gradgradcheck(lambda x: memory(x, clusters), features)


@pytest.mark.parametrize("update", ["hard", "every"])
def test_the_update_is_outside_autograd_and_comes_after_going_back(update):
    clusters, config = torch.tensor([0, 1, 1]), MemoryConfig(update=update)
    features = unit(3, 4, seed=4).requires_grad_()
    memory = ClusterMemory(unit(2, 4, seed=5), config)
    loss = memory(features, clusters)
    loss.backward(retain_graph=True)
    before = memory.centers.clone()
    memory.update(features, clusters)
    assert not torch.equal(memory.centers, before)
    assert not memory.centers.requires_grad
    assert not list(memory.parameters())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_without_gradient_the_loss_is_the_same():
    memory, features, clusters = ClusterMemory(unit(2, 4, seed=5), MemoryConfig()), unit(3, 4, seed=4), [0, 1, 1]
    loss = memory(features.clone().requires_grad_(), torch.tensor(clusters))
    assert torch.equal(memory(features, torch.tensor(clusters)), loss)


@pytest.mark.parametrize("update", ["hard", "every"])
def test_it_compiles_without_a_break(update):
    clusters = torch.tensor([2, 0, 2, 1, 2])
    memory = ClusterMemory(unit(3, 4, seed=0), MemoryConfig(update=update))
    twin = copy.deepcopy(memory)
    gradients = []
    for one, wrap in ((twin, lambda call: call), (memory, compiled)):
        features = unit(5, 4, seed=1).requires_grad_()
        wrap(one)(features, clusters).backward()
        wrap(one.update)(features, clusters)
        gradients.append(features.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
    torch.testing.assert_close(memory.centers, twin.centers)


def compiled(call):
    return torch.compile(call, fullgraph=True, backend="aot_eager")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_memory_is_of_single_precision_at_least(dtype):
    features, clusters = unit(6, 4, seed=6).to(dtype), torch.tensor([0, 1, 1, 0, 2, 2])
    wide = torch.promote_types(dtype, torch.float32)
    for initial in ("random", "centroid"):
        config = MemoryConfig(initial=initial)
        memory = ClusterMemory.from_clusters(features, clusters, config, torch.Generator())
        leaf = features.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = memory(leaf, clusters)
        loss.backward()
        memory.update(features, clusters)
        assert memory.centers.dtype == loss.dtype == wide
        assert leaf.grad.dtype == dtype
        assert torch.allclose(memory.centers.norm(dim=1), torch.ones(3, dtype=wide))
        exact = ClusterMemory.from_clusters(features.double(), clusters, config, torch.Generator())
        assert loss.item() == pytest.approx(exact(features.double(), clusters).item(), rel=1e-5)


def test_first_vectors_are_members_or_means():
    features, clusters = 3 * unit(9, 4, seed=6), torch.tensor([0, 1, -1, 1, 0, 0, -1, 1, 0])

    def first(initial, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return ClusterMemory.from_clusters(features, clusters, MemoryConfig(initial=initial), generator).centers

    for cluster, center in enumerate(first("random")):
        members = functional.normalize(features[clusters == cluster], dim=1)
        assert ((members - center).abs().amax(dim=1) < 1e-12).sum() == 1
        mean = functional.normalize(features[clusters == cluster].mean(dim=0), dim=0)
        assert torch.allclose(first("centroid")[cluster], mean)
    drawn = [tuple(first("random", seed).flatten().tolist()) for seed in range(80)]
    assert len(set(drawn)) == 4 * 3  # every member of one cluster with every member of the other
    assert torch.equal(first("random", 3), first("random", 3))


def test_a_saved_memory_is_loaded_bit_by_bit():
    memory = ClusterMemory(unit(40, 7, seed=0).float(), MemoryConfig())
    memory.update(unit(9, 7, seed=1).float(), torch.arange(9) % 4)
    other = ClusterMemory(torch.ones(40, 7), MemoryConfig())
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.centers, memory.centers)


def test_refusals():
    with pytest.raises(ValueError, match=r"centers .*\(K, D\) .*K > 0"):
        ClusterMemory(torch.zeros(0, 3), MemoryConfig())
    for clusters, counts in ([0, 2, 2], r"\[1, 0, 2\]"), ([-1, -1, -1], r"\[\]"):
        with pytest.raises(ValueError, match=rf"0 \.\.\. K-1, .*member.*K > 0, got .*{counts}"):
            ClusterMemory.from_clusters(unit(3, 2, seed=0), torch.tensor(clusters), MemoryConfig(), torch.Generator())
    with pytest.raises(UserError, match=r"memory\.momentum .*between 0 and 1, got 1\.5"):
        MemoryConfig(momentum=1.5)
    with pytest.raises(UserError, match=r"memory\.temperature .*above 0, got 0"):
        MemoryConfig(temperature=0)
