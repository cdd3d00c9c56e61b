"""APNet's losses against their equations, written out."""

import math

import pytest
import torch

from reference_pipelines.apnet.config import LossConfig
from reference_pipelines.apnet.losses import SupervisedObjective, batch_hard_triplet
from reference_pipelines.models import Embedding
from tests.oracles import losses as oracle

LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 0, 3])


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.05, 1.0])
def test_triplet_equals_the_loop(scale):
    features = scale * random(8, 5)
    expected = oracle.batch_hard_triplet(features.tolist(), LABELS.tolist(), 0.3)
    # A person with one image is its own positive, at distance 1e-6 for the root's gradient to be finite.
    assert batch_hard_triplet(features, LABELS, margin=0.3).item() == pytest.approx(expected, abs=1e-6)
    assert expected > 0


def test_triplet_by_hand():
    # On a line: 0 and 1 are one person, 3 another. Anchors: [1-3+m]+ = 0, [1-2+m]+ = 0, and for 3: [0-2+m]+ = 0.
    features, labels = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([0, 0, 1])
    assert batch_hard_triplet(features, labels, margin=0.3).item() == pytest.approx(0.0)
    assert batch_hard_triplet(features, labels, margin=2.0).item() == pytest.approx((0 + 1 + 0) / 3, abs=1e-5)


def test_triplet_gradient_is_finite_for_equal_features():
    features = torch.zeros(4, 3, requires_grad=True)
    batch_hard_triplet(features, torch.tensor([0, 0, 1, 1]), margin=0.3).backward()
    assert torch.isfinite(features.grad).all()


def test_the_objective_is_eq_9():
    pooled, logits = random(8, 5), random(8, 4, seed=1)
    all_labels = torch.tensor([9, 9, *LABELS.tolist()])
    indices = torch.arange(2, 10)
    objective = SupervisedObjective(all_labels, LossConfig(margin=0.5, smoothing=0.2, triplet_weight=0.7))
    expected = oracle.smoothed_cross_entropy(logits.tolist(), LABELS.tolist(), 0.2)
    expected += 0.7 * oracle.batch_hard_triplet(pooled.tolist(), LABELS.tolist(), 0.5)
    assert objective.loss(Embedding(pooled, pooled, logits), indices).item() == pytest.approx(expected, abs=1e-6)


def test_the_log_has_the_distances_that_the_triplet_saw():
    objective = SupervisedObjective(LABELS, LossConfig())
    steps = [random(8, 5, seed=seed) for seed in (3, 4)]
    found = []
    for pooled in steps:
        objective.loss(Embedding(pooled, pooled, random(8, 4)), torch.arange(8))
        own, others = [], []
        for one, person in zip(pooled.tolist(), LABELS.tolist(), strict=True):
            to = [(math.dist(one, other), who) for other, who in zip(pooled.tolist(), LABELS.tolist(), strict=True)]
            own.append(max(distance for distance, who in to if who == person))
            others.append(min(distance for distance, who in to if who != person))
        found.append((sum(own) / 8, sum(others) / 8))
    measured = objective.measured()
    assert measured["hardest_positive"] == pytest.approx((found[0][0] + found[1][0]) / 2, abs=1e-5)
    assert measured["hardest_negative"] == pytest.approx((found[0][1] + found[1][1]) / 2, abs=1e-5)
    assert objective.measured() == {}
    assert SupervisedObjective(LABELS, LossConfig(triplet_weight=0)).measured() == {}
