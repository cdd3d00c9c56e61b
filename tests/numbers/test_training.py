"""Bad numbers and images without information in training: named, and what was saved before stays as it was."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from reference_pipelines.commands.cli import main
from reference_pipelines.config.sections import OptimizerConfig
from reference_pipelines.errors import UserError
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.runs.checkpoints import read_newest
from reference_pipelines.training import loop
from reference_pipelines.training.loop import Trainer
from tests.conftest import says
from tests.training.runs import arguments, configured, trained

PEOPLE, CAMERAS, FRAMES = 8, 3, 3


def saved(folder):
    """Return what a run has saved that may not change, by name; the log may be longer than its checkpoint."""
    kept = [folder / "best.safetensors", folder / "model.safetensors", *(folder / "checkpoints").rglob("*")]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in kept if path.is_file()}


class Spoilt:
    """The trainer's step, which puts something bad where it is told to in the second epoch's last step."""

    def __init__(self, monkeypatch, spoil):
        self.epoch, self.spoil, self.saved, self.armed = 0, spoil, {}, True
        own_epoch, own_step = Trainer.train_epoch, Trainer._step

        def train_epoch(trainer, batches, *arguments, **options):
            self.epoch, self.left = self.epoch + 1, len(batches)
            return own_epoch(trainer, batches, *arguments, **options)

        def step(trainer, images, indices, objective, losses):
            self.left -= 1
            bad = self.armed and self.epoch == 2 and self.left == 0
            own_step(
                trainer,
                *spoil(trainer, images, indices, objective, losses) if bad else (images, indices, objective, losses),
            )

        monkeypatch.setattr(Trainer, "train_epoch", train_epoch)
        monkeypatch.setattr(Trainer, "_step", step)


def nan_image(trainer, images, *others):
    images = images.clone()
    images[0, 0, 0, 0] = torch.nan
    return images, *others


def infinite_image(trainer, images, *others):
    images = images.clone()
    images[0, 0, 0, 0] = torch.inf
    return images, *others


def nan_gradient(trainer, images, *others):
    parameter = next(trainer.model.backbone.parameters())
    handle = parameter.register_hook(lambda gradient: torch.full_like(gradient, torch.nan))
    trainer.optimizer.register_step_post_hook(lambda *_: handle.remove())
    return images, *others


class Bad:
    """An objective whose loss is not finite."""

    def __init__(self, objective, value):
        self.objective, self.value = objective, value

    def __getattr__(self, name):
        return getattr(self.objective, name)

    def loss(self, *arguments):
        return self.objective.loss(*arguments) * self.value


def infinite_loss(trainer, images, indices, objective, losses):
    return images, indices, Bad(objective, torch.inf), losses


SPOILS = {
    "a nan image": (nan_image, "the loss is nan at step"),
    "an infinite image": (infinite_image, "the loss is nan at step"),
    "an infinite loss": (infinite_loss, "the loss is inf at step"),
    "a nan gradient": (nan_gradient, "the features are NaN or Inf after the last step"),
}


def nan_statistic(trainer):
    """Spoil a number of the state that the features in eval mode do not show."""
    norm = next(module for module in trainer.model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    norm.register_buffer("unseen", torch.full((1,), torch.nan))


def nan_moment(trainer):
    next(iter(trainer.optimizer.state.values()))["exp_avg"].fill_(torch.nan)


@pytest.mark.parametrize(
    ("spoil", "said"), [(nan_statistic, r"the values of .*\.unseen"), (nan_moment, "the optimiser's exp_avg of ")]
)
def test_a_bad_number_that_the_features_do_not_show_is_named(images, tmp_path, monkeypatch, spoil, said):
    check = Trainer._check_finite

    def spoilt(trainer, *arguments):
        spoil(trainer)
        check(trainer, *arguments)

    monkeypatch.setattr(Trainer, "_check_finite", spoilt)
    with pytest.raises(UserError, match=f"train: {said}.* are NaN or Inf after the last step of epoch 1/2"):
        trained("apnet", images, tmp_path / "run")


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(*case, id=name, marks=() if "gradient" in name else pytest.mark.slow)
        for name, case in SPOILS.items()
    ],
)
def test_a_bad_number_in_the_second_epoch_leaves_the_checkpoint_of_the_first(
    images, tmp_path, monkeypatch, pipeline, spoil, said
):
    kept = {}
    spoilt = Spoilt(monkeypatch, lambda *step: kept.update(saved(tmp_path / "run")) or spoil(*step))
    with pytest.raises(UserError, match=rf"train: {said}.* of epoch 2/2; "):
        trained(pipeline, images, tmp_path / "run")
    assert kept
    assert saved(tmp_path / "run") == kept
    checkpoint, _ = read_newest(tmp_path / "run")
    assert checkpoint.epoch == 1
    assert not (tmp_path / "run" / "result.json").exists()
    spoilt.armed = False
    assert PIPELINES[pipeline].train(configured(pipeline, images), tmp_path / "run", checkpoint=checkpoint)


class Scale(nn.Module):
    """A network of one weight, whose gradient is NaN where its features are not."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, images):
        weight = self.weight.clone()
        if weight.requires_grad:
            weight.register_hook(lambda gradient: gradient * torch.nan)
        features = weight * images.flatten(1)
        return loop.Embedding(features, features, None)


class Sum:
    """The sum of all features."""

    def loss(self, embedding, indices):
        return embedding.features.sum()

    def after_step(self, embedding, indices):
        pass


@pytest.mark.parametrize(("scale", "refused"), [(0.5, True), (65536.0, False)])
def test_half_precision_whose_gradients_are_never_finite_does_not_train_in_silence(scale, refused):
    model = Scale()
    trainer = Trainer(model, OptimizerConfig(0.1, 0.0, 1), amp="float16")
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    batches = [[loop.Draw(0, 0), loop.Draw(1, 0)]] * 3
    load = lambda own: iter([loop.Batch(torch.ones(2, 1, 1, 1), torch.tensor([0, 1]))] * 3)  # noqa: E731
    if refused:
        with pytest.raises(UserError, match=r"train: the gradients .*step of epoch 3/9, .*all 3, .*--amp bfloat16"):
            trainer.train_epoch(batches, load, Sum(), title="epoch 3/9")
    else:  # the scale is still being looked for
        trainer.train_epoch(batches, load, Sum(), title="epoch 3/9")
    assert model.weight.item() == 2


def written(folder, pixels, *, cameras=CAMERAS):
    """Write a CSV of images, half of the people of train, and return it."""
    folder.mkdir()
    rows = ["image,id,camera,split"]
    for person in range(PEOPLE):
        for camera in range(CAMERAS):
            for frame in range(FRAMES):
                file = folder / f"{person}_{camera}_{frame}.png"
                Image.fromarray(pixels(person, camera, frame).astype(np.uint8)).save(file)
                split = "train" if person < PEOPLE // 2 else "query" if frame == 0 else "gallery"
                rows.append(f"{file.name},{person + 1},{camera % cameras + 1},{split}")
    (folder / "images.csv").write_text("\n".join(rows))
    return folder / "images.csv"


def black(person, camera, frame):
    return np.zeros((32, 16, 3))


def one_for_each_person(person, camera, frame):
    return np.random.default_rng(person).integers(0, 256, (32, 16, 3))


def one_colour(person, camera, frame):
    return np.full((32, 16, 3), (31 * person + 7 * camera + frame) % 256)


@pytest.mark.parametrize("pixels", [black, one_for_each_person, one_colour])
def test_images_without_information_train_to_finite_numbers_and_are_remarked_on(tmp_path, pixels):
    result = trained("apnet", written(tmp_path / "images", pixels), tmp_path / "run")
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(entry["loss"]) for entry in log[1:])
    assert any(remark.startswith("its mAP has not moved") for remark in result["remarks"])
    if pixels is black:
        assert any("equally far from every gallery image" in remark for remark in result["remarks"])


def test_equal_images_are_one_cluster_which_says_that_they_are_equal(tmp_path):
    with pytest.raises(UserError) as refused:
        trained("mla", written(tmp_path / "images", black), tmp_path / "run")
    assert says(str(refused.value), "DBSCAN found one cluster", "0 of 36", "all images have the same feature", "differ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("pixels", [one_for_each_person, one_colour])
def test_duplicates_are_clusters_of_their_own(tmp_path, pixels):
    result = trained("mla", written(tmp_path / "images", pixels), tmp_path / "run")
    assert result["clustering"]["id_purity"] == 1
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(entry["loss"]) for entry in log[1:])


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_one_camera_is_refused_before_anything_is_computed(tmp_path, pipeline, capsys):
    one = written(tmp_path / "images", one_for_each_person, cameras=1)
    assert main(["train", pipeline, "--out", str(tmp_path / "run"), *arguments(pipeline, one)]) == 2
    assert says(capsys.readouterr().err, "error: ", "camera 1", "image,id,split")
    assert not (tmp_path / "run").exists()
