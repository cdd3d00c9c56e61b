"""The cluster memory against the literal loop over the batch."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from reference_pipelines.clustering import ClusterMemory, MemoryConfig, purity
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


def test_the_first_of_equally_hard_members_is_taken():
    memory = ClusterMemory(torch.tensor([[1.0, 0.0]]), MemoryConfig(momentum=0.0))
    memory.update(torch.tensor([[0.0, 1.0], [0.0, -1.0]]), torch.tensor([0, 0]))
    assert torch.equal(memory.centers, torch.tensor([[0.0, 1.0]]))


def test_momentum_is_what_stays_of_the_old_vector():
    memory = ClusterMemory(torch.tensor([[1.0, 0.0]]), MemoryConfig(momentum=0.1))
    memory.update(torch.tensor([[0.0, 1.0]]), torch.tensor([0]))
    assert torch.allclose(memory.centers, functional.normalize(torch.tensor([[0.1, 0.9]])))


def test_loss_equals_eq_1():
    centers, features, clusters = unit(5, 8, seed=2), unit(7, 8, seed=3), torch.tensor([0, 4, 2, 2, 1, 3, 0])
    memory = ClusterMemory(centers, MemoryConfig(temperature=0.05))
    expected = oracle.cluster_nce(features.numpy(), clusters.tolist(), centers.numpy(), 0.05)
    assert memory(features, clusters).item() == pytest.approx(expected, rel=1e-12)


def test_the_memory_has_no_gradient_and_a_second_backward_changes_nothing():
    features = unit(3, 4, seed=4).requires_grad_()
    memory = ClusterMemory(unit(2, 4, seed=5), MemoryConfig())
    before = memory.centers.clone()
    loss = memory(features, torch.tensor([0, 1, 1]))
    loss.backward(retain_graph=True)
    loss.backward()
    assert torch.equal(memory.centers, before)
    assert not list(memory.parameters())


def test_first_vectors_are_members_or_means():
    features, clusters = unit(9, 4, seed=6), torch.tensor([0, 1, -1, 1, 0, 0, -1, 1, 0])

    def first(initial, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return ClusterMemory.from_clusters(features, clusters, MemoryConfig(initial=initial), generator).centers

    for cluster, center in enumerate(first("random")):
        members = features[clusters == cluster]
        assert ((members - center).abs().amax(dim=1) < 1e-12).sum() == 1
        assert torch.allclose(first("centroid")[cluster], functional.normalize(members.mean(dim=0), dim=0))
    assert len({tuple(first("random", seed).flatten().tolist()) for seed in range(10)}) > 1


def test_refusals():
    with pytest.raises(ValueError, match=r"centers must be \(K, D\) with K > 0"):
        ClusterMemory(torch.zeros(0, 3), MemoryConfig())


def test_purity_by_hand():
    clusters = np.array([0, 0, 0, 1, 1, -1])
    assert purity(clusters, np.array([7, 7, 8, 9, 9, 7])) == pytest.approx(4 / 5)
    assert purity(clusters, np.array([1, 2, 3, 1, 2, 1])) == pytest.approx(2 / 5)
    assert purity(np.array([-1, -1]), np.array([1, 2])) == 0.0
