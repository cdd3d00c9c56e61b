"""One epoch of training against the steps written out."""

import pytest
import torch
from torch import nn

from reference_pipelines.data.dataset import Batch
from reference_pipelines.models import Embedding
from reference_pipelines.training.loop import train_epoch

RATE = 0.1


class Scale(nn.Module):
    """Multiplies by one weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, images):
        features = self.weight * images.flatten(1)
        return Embedding(features, features, None)


class SumOfFeatures:
    """A loss with a gradient known by hand; notes the weight at each call that follows a step."""

    def __init__(self, model):
        self.model = model
        self.after = []

    def loss(self, embedding, indices):
        return embedding.features.sum()

    def after_step(self, embedding, indices):
        self.after.append((self.model.weight.item(), indices.tolist()))


def test_each_batch_is_one_step_of_its_own_gradient_and_then_what_follows_it():
    model = Scale()
    objective = SumOfFeatures(model)
    batches = [Batch(torch.full((2, 1, 1, 1), value), torch.tensor([i, i + 1])) for i, value in enumerate((1.0, 3.0))]
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    loss = train_epoch(model, optimizer, batches, objective, steps=2, title="test")
    first = 2.0 - RATE * 2 * 1.0
    second = first - RATE * 2 * 3.0
    assert [weight for weight, _ in objective.after] == pytest.approx([first, second])
    assert [indices for _, indices in objective.after] == [[0, 1], [1, 2]]
    assert loss == pytest.approx((2.0 * 2 * 1.0 + first * 2 * 3.0) / 2)
