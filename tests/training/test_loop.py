"""Epochs of training against the steps written out, and what half precision changes."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from reference_pipelines.clustering import ClusterMemory
from reference_pipelines.config.clustering import MemoryConfig
from reference_pipelines.config.sections import OptimizerConfig
from reference_pipelines.data.dataset import Batch
from reference_pipelines.data.sampler import Draw
from reference_pipelines.distributed.processes import Processes
from reference_pipelines.errors import UserError
from reference_pipelines.mla.objective import ClusterObjective
from reference_pipelines.models import Embedding
from reference_pipelines.training import loop
from reference_pipelines.training.loop import Trainer
from tests.conftest import says

RATE = 0.1
SCALE = 64.0


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


def plain_descent(trainer):
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=RATE)
    trainer.optimizer.register_step_post_hook(trainer._note_step)
    return trainer


def drawn(pixels):
    """Batches of draws 0, 1; 2, 3; ... and what loads them."""
    batches = [[Draw(2 * i, 0), Draw(2 * i + 1, 0)] for i in range(len(pixels))]

    def load(own):
        assert own == batches
        for images, draws in zip(pixels, own, strict=True):
            yield Batch(images, torch.tensor([draw.image for draw in draws]))

    return batches, load


def test_each_batch_is_one_step_of_its_own_gradient_and_then_what_follows_it():
    model = Scale()
    trainer = plain_descent(Trainer(model, OptimizerConfig(RATE, 0.0, 1)))
    objective = SumOfFeatures(model)
    batches, load = drawn([torch.full((2, 1, 1, 1), value) for value in (1.0, 3.0)])
    loss = trainer.train_epoch(batches, load, objective, title="test")
    first = 2.0 - RATE * 2 * 1.0
    second = first - RATE * 2 * 3.0
    assert [weight for weight, _ in objective.after] == pytest.approx([first, second])
    assert [indices for _, indices in objective.after] == [[0, 1], [2, 3]]
    assert loss == pytest.approx((2.0 * 2 * 1.0 + first * 2 * 3.0) / 2)


def test_a_batch_that_leaves_a_process_without_an_image_is_refused_with_the_sizes():
    trainer = Trainer(Scale(), OptimizerConfig(RATE, 0.0, 1))
    trainer.processes = Processes(0, 8)
    batches = [[Draw(i, 0) for i in range(9)]]
    message = "8 processes .*batch of 9 .* 2 a process"
    with pytest.raises(UserError, match=message):
        trainer.train_epoch(batches, iter, SumOfFeatures(trainer.model), title="test")


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("size", "chunks"), [(18, 4), (2, 2), (3, 2), (6, 4)])
def test_a_batch_that_its_chunks_do_not_divide_or_leave_one_image_is_refused_by_every_process(rank, size, chunks):
    trainer = Trainer(Scale(), OptimizerConfig(RATE, 0.0, 1), bn_chunks=chunks)
    trainer.processes = Processes(rank, 2)
    whole, last = [[Draw(i, 0) for i in range(images)] for images in (4 * chunks, size)]
    message = (
        rf"batch .* {chunks} model\.bn_chunks .*at least 2 images each, .*"
        rf"{size} images .*; .*--sampler\.images .*multiple of {chunks}"
    )
    with pytest.raises(UserError, match=message):
        trainer.train_epoch([whole, last], iter, SumOfFeatures(trainer.model), title="test")


@pytest.mark.parametrize("chunks", [1, 2, 4])
@pytest.mark.parametrize("clusters", [2, 3, 7])
def test_images_a_cluster_that_the_chunks_divide_fit_any_number_of_clusters(clusters, chunks):
    for images in (chunks, 2 * chunks):
        trainer = Trainer(Scale(), OptimizerConfig(RATE, 0.0, 1), bn_chunks=chunks)
        trainer._check_shares([[Draw(i, 0) for i in range(clusters * images)]])


def test_without_chunks_shares_may_be_uneven():
    trainer = Trainer(Scale(), OptimizerConfig(RATE, 0.0, 1))
    trainer.processes = Processes(0, 2)
    trainer._check_shares([[Draw(i, 0) for i in range(9)]])


class Linear(nn.Module):
    """Features by one product, and the precision that it was computed in."""

    def __init__(self):
        super().__init__()
        self.product = nn.Linear(12, 8)
        self.computed_in = set()

    def forward(self, images):
        features = self.product(images.flatten(1))
        self.computed_in.add(features.dtype)
        return Embedding(features, features, None)


class Overflowing(ClusterObjective):
    """The loss of the clusters, whose gradient is infinite at one step."""

    def __init__(self, clusters, memory, at):
        super().__init__(clusters, memory)
        self.at = at
        self.calls = 0
        self.seen = []

    def loss(self, embedding, indices):
        self.calls += 1
        self.seen.append((embedding.features.dtype, self.memory.centers.clone()))
        features = embedding.features
        if self.calls == self.at:
            features = features.clone()
            features.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
        return super().loss(Embedding(features, features, None), indices)


def clustered(amp, at=None):
    torch.manual_seed(0)
    model = Linear()
    trainer = Trainer(model, OptimizerConfig(RATE, 0.0, 1), amp=amp)
    # The first scale that GradScaler tries is meant to overflow; from this one on the tiny network's do not.
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, enabled=trainer.scaler.is_enabled())
    memory = ClusterMemory(torch.randn(2, 8), MemoryConfig())
    objective = Overflowing(torch.tensor([0, 1] * 4), memory, at)
    batches, load = drawn([torch.randn(2, 3, 2, 2) for _ in range(4)])
    weights = []

    def note(loader):
        for batch in loader:
            weights.append(model.product.weight.detach().clone())
            yield batch

    trainer.train_epoch(batches, lambda own: note(load(own)), objective, title="test")
    weights.append(model.product.weight.detach().clone())
    return trainer, objective, weights


def test_a_step_whose_gradient_overflows_leaves_weights_and_memory_and_halves_the_scale():
    trainer, objective, weights = clustered("float16", at=2)
    centers = [center for _, center in objective.seen] + [objective.memory.centers]
    assert torch.equal(weights[1], weights[2])
    assert torch.equal(centers[1], centers[2])
    for step in (0, 2, 3):
        assert not torch.equal(weights[step], weights[step + 1])
        assert not torch.equal(centers[step], centers[step + 1])
    assert trainer.scaler.get_scale() == SCALE / 2


@pytest.mark.parametrize(
    ("amp", "dtype"), [("none", torch.float32), ("float16", torch.float16), ("bfloat16", torch.bfloat16)]
)
def test_the_forward_pass_is_in_the_precision_asked_for_and_the_loss_in_single(amp, dtype):
    trainer, objective, _ = clustered(amp)
    assert trainer.model.computed_in == {dtype, torch.float32}  # the check of the features after the epoch is in single
    assert {seen for seen, _ in objective.seen} == {torch.float32}
    assert trainer.scaler.is_enabled() == (amp == "float16")
    single = clustered("none")[2][-1]
    assert functional.cosine_similarity(single.flatten(), trainer.model.product.weight.flatten(), dim=0) > 0.99


def test_without_half_precision_an_infinite_gradient_is_noticed_at_the_next_loss():
    with pytest.raises(UserError, match="loss .*nan .*step 3 of test; "):
        clustered("none", at=2)


class LossesAsGiven(SumOfFeatures):
    """A sum of features, or what is given instead, at each step."""

    def __init__(self, model, instead):
        super().__init__(model)
        self.instead = iter(instead)

    def loss(self, embedding, indices):
        given = next(self.instead)
        return super().loss(embedding, indices) * (1 if given is None else given)


def trained(instead, look_every, monkeypatch):
    """Train on a device that is looked at every so many steps; return the steps that were taken, and the sentence."""
    if look_every > 1:  # as on a GPU
        made = loop._Losses
        monkeypatch.setattr(loop, "_Losses", lambda title, **_: made(title, look_every=look_every))
    model = Scale()
    objective = LossesAsGiven(model, instead)
    batches, load = drawn([torch.ones(2, 1, 1, 1)] * len(instead))
    with pytest.raises(UserError) as caught:
        plain_descent(Trainer(model, OptimizerConfig(RATE, 0.0, 1))).train_epoch(
            batches, load, objective, title="epoch 7/9"
        )
    return len(objective.after), str(caught.value)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(("look_every", "steps"), [(1, 2), (2, 3), (4, 3), (50, 5)])
def test_the_first_bad_loss_is_named_at_the_next_look_and_no_later_than_the_epochs_end(
    value, look_every, steps, monkeypatch
):
    instead = [None, None, value, torch.nan, None]
    # A look comes before its step; the check at the end after all of them.
    taken, said = trained(instead, look_every, monkeypatch)
    assert taken == steps
    assert says(said, f"the loss is {value} at step 3 of epoch 7/9; ", "--optimizer.learning_rate")


def test_on_the_cpu_a_bad_loss_is_noticed_before_its_step_and_the_weights_are_those_before():
    model = Scale()
    objective = LossesAsGiven(model, [None, torch.nan])
    batches, load = drawn([torch.ones(2, 1, 1, 1)] * 2)
    with pytest.raises(UserError, match="step 2 of"):
        plain_descent(Trainer(model, OptimizerConfig(RATE, 0.0, 1))).train_epoch(batches, load, objective, title="a")
    assert model.weight.item() == pytest.approx(2.0 - RATE * 2)
    assert len(objective.after) == 1
