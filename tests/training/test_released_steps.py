"""Twenty steps of both programs in double precision, against the released programs' steps written out."""

import copy

import pytest
import torch

from reference_pipelines.apnet import train as apnet
from reference_pipelines.apnet.config import LossConfig
from reference_pipelines.apnet.losses import SupervisedObjective
from reference_pipelines.clustering import ClusterMemory
from reference_pipelines.config.clustering import MemoryConfig
from reference_pipelines.config.sections import OptimizerConfig
from reference_pipelines.data.dataset import Batch
from reference_pipelines.data.sampler import Draw
from reference_pipelines.mla import train as mla
from reference_pipelines.mla.objective import ClusterObjective
from reference_pipelines.training.loop import Trainer
from tests.oracles.training import contrast_epochs, supervised_epochs, supervised_rate
from tests.training.runs import configured

EPOCHS, STEPS, BATCH, PEOPLE = 4, 5, 16, 4
OPTIMIZER = OptimizerConfig(
    learning_rate=4e-4, weight_decay=1e-3, epochs=EPOCHS, warmup_epochs=2, milestones=(3,), gamma=0.1
)


@pytest.fixture(scope="module")
def epochs():
    """The batches of each epoch: pixels, and places in a training list of four images a person."""
    generator = torch.Generator().manual_seed(0)
    count = EPOCHS * STEPS
    pixels = torch.randn(count, BATCH, 3, 32, 16, generator=generator, dtype=torch.float64)
    places = [torch.randperm(4 * PEOPLE, generator=generator) for _ in range(count)]
    batches = list(zip(pixels, places, strict=True))
    return [batches[start : start + STEPS] for start in range(0, count, STEPS)]


class Noted:
    """An objective that keeps every loss."""

    def __init__(self, objective):
        self.objective, self.losses = objective, []
        self.after_step = objective.after_step

    def loss(self, embedding, indices):
        loss = self.objective.loss(embedding, indices)
        self.losses.append(loss.item())
        return loss


def rates():
    return [supervised_rate(epoch, 4e-4, 2, 0.01, (3,), 0.1) for epoch in range(EPOCHS)]


def train(model, epochs, objective, devices):
    trainer = Trainer(model, OPTIMIZER, bn_chunks=devices)
    noted = Noted(objective)
    for batches in epochs:
        draws = [[Draw(place, 0) for place in places.tolist()] for _, places in batches]
        loaded = [Batch(images, places) for images, places in batches]
        trainer.train_epoch(draws, lambda _, loaded=loaded: iter(loaded), noted, title="epoch")
        trainer.schedule.step()
    return noted.losses


def close(ours, theirs):
    return max(float((ours[name] - value).abs().max()) for name, value in theirs.items() if value.is_floating_point())


@pytest.mark.parametrize(
    ("devices", "attention"),
    [
        pytest.param(1, {}, marks=pytest.mark.slow),
        (2, {}),
        pytest.param(2, {"attention.layer": "rga_s", "attention.levels": "1"}, marks=pytest.mark.slow),
    ],
)
def test_supervised_steps(epochs, devices, attention):
    torch.manual_seed(0)
    model = apnet.build_model(configured("apnet", "x", **attention), PEOPLE).double()
    literal = copy.deepcopy(model)
    before = copy.deepcopy(model.state_dict())
    labels = torch.arange(4 * PEOPLE) // 4
    ours = train(model, epochs, SupervisedObjective(labels, LossConfig(margin=0.3, smoothing=0.1)), devices)
    theirs = supervised_epochs(
        literal, epochs, labels, devices=devices, rates=rates(), weight_decay=1e-3, margin=0.3, smoothing=0.1
    )
    assert len(ours) == EPOCHS * STEPS
    assert ours == pytest.approx(theirs, abs=1e-9, rel=0)
    assert close(model.state_dict(), literal.state_dict()) < 1e-9
    assert close(model.state_dict(), before) > 1e-4


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_unsupervised_steps(epochs, devices):
    torch.manual_seed(0)
    model = mla.build_model(configured("mla", "x")).double()
    literal = copy.deepcopy(model)
    clusters = torch.arange(4 * PEOPLE) // 4
    centers = torch.randn(PEOPLE, model.neck.num_features, dtype=torch.float64)
    memory = ClusterMemory(centers, MemoryConfig(momentum=0.1, temperature=0.05))
    other = centers / centers.norm(dim=1, keepdim=True)
    ours = train(model, epochs, ClusterObjective(clusters, memory), devices)
    theirs = contrast_epochs(
        literal,
        epochs,
        clusters,
        other,
        devices=devices,
        rates=rates(),
        weight_decay=1e-3,
        temperature=0.05,
        momentum=0.1,
    )
    assert ours == pytest.approx(theirs, abs=1e-9, rel=0)
    assert close(model.state_dict(), literal.state_dict()) < 1e-9
    assert float((memory.centers - other).abs().max()) < 1e-9


def test_the_devices_make_a_difference(epochs):
    """Else the statistics of two devices would be held by nothing above."""
    labels, losses = torch.arange(4 * PEOPLE) // 4, []
    for devices in (1, 2):
        torch.manual_seed(0)
        model = apnet.build_model(configured("apnet", "x"), PEOPLE).double()
        losses.append(train(model, epochs[:1], SupervisedObjective(labels, LossConfig()), devices))
    assert max(abs(one - two) for one, two in zip(*losses, strict=True)) > 1e-3
