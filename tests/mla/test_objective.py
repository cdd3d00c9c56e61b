"""The unsupervised objective: Eq. 1 on unit features, and the memory's update after the step."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from reference_pipelines.clustering import ClusterMemory
from reference_pipelines.config.clustering import MemoryConfig
from reference_pipelines.mla.objective import ClusterObjective
from reference_pipelines.models import Embedding
from tests.oracles import clustering as oracle


def test_loss_and_update_use_the_images_clusters_and_unit_features():
    generator = torch.Generator().manual_seed(0)
    features = 5 * torch.randn(6, 4, generator=generator, dtype=torch.float64)
    centers = functional.normalize(torch.randn(3, 4, generator=generator, dtype=torch.float64), dim=1)
    all_clusters, indices = torch.tensor([2, 0, -1, 1, 1, 2, 0, 0]), torch.tensor([0, 3, 6, 1, 4, 5])
    clusters = [2, 1, 0, 0, 1, 2]
    config = MemoryConfig()
    objective = ClusterObjective(all_clusters, ClusterMemory(centers.clone(), config))
    embedding = Embedding(torch.zeros_like(features), features, None)
    unit = functional.normalize(features, dim=1).numpy()
    expected = oracle.cluster_nce(unit, clusters, centers.numpy(), config.temperature)
    assert objective.loss(embedding, indices).item() == pytest.approx(expected, rel=1e-10)
    objective.after_step(embedding, indices)
    moved = oracle.memory_update(centers.numpy(), unit, clusters, config.momentum, hard=True)
    np.testing.assert_allclose(objective.memory.centers.numpy(), moved, atol=1e-10)
