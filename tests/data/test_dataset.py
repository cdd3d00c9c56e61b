"""Batches: in order, the same on any number of workers, and a corrupt file is named."""

import pytest
import torch

from reference_pipelines.data import read
from reference_pipelines.data.dataset import Draw, load_batches, load_image
from reference_pipelines.data.sampler import in_order
from reference_pipelines.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    AugmentConfig,
    evaluation_transform,
    train_transform,
)
from reference_pipelines.errors import UserError


def test_every_image_comes_once_in_order(market):
    paths = read(market).train.paths
    batches = list(load_batches(paths, evaluation_transform((32, 16)), in_order(len(paths), 8), workers=0))
    assert [len(batch.images) for batch in batches] == [8, 8, 8, 8, 4]
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(36))


def test_evaluation_only_scales_and_normalises(market):
    path = read(market).train.paths[0]
    pixels = load_image(path)
    mean, std = torch.tensor(IMAGENET_MEAN)[:, None, None], torch.tensor(IMAGENET_STD)[:, None, None]
    expected = (pixels / 255 - mean) / std
    assert torch.allclose(evaluation_transform((32, 16))(pixels), expected, atol=1e-6)


def test_training_batches_are_the_same_on_any_number_of_workers(market):
    paths = read(market).train.paths
    transform = train_transform((48, 24), AugmentConfig(pad=4, enlarge=0.5))
    draws = [[Draw(i, 100 + i) for i in range(start, start + 6)] for start in (0, 6, 12)]
    here, there = (list(load_batches(paths, transform, draws, workers=workers)) for workers in (0, 2))
    for mine, theirs in zip(here, there, strict=True):
        assert torch.equal(mine.images, theirs.images)
    other = [[Draw(draw.image, draw.seed + 1) for draw in batch] for batch in draws]
    changed = next(iter(load_batches(paths, transform, other, workers=0)))
    assert not torch.equal(changed.images, here[0].images)


def test_loading_leaves_the_random_state_alone(market):
    paths = read(market).train.paths
    before = torch.get_rng_state()
    list(load_batches(paths, train_transform((32, 16), AugmentConfig()), [[Draw(0, 1)]], workers=0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("augment", "size"),
    [
        (AugmentConfig(pad=10, flip=0, erase=0), (64, 32)),
        (AugmentConfig(pad=0, enlarge=1.0, flip=0, erase=0), (64, 32)),
    ],
)
def test_crops_have_the_image_size_and_move_the_image(augment, size):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    crops = []
    for seed in range(8):
        torch.manual_seed(seed)
        crops.append(train_transform(size, augment)(image))
    assert all(crop.shape == (3, *size) for crop in crops)
    assert len({crop.sum().item() for crop in crops}) > 4


def test_mirroring_and_erasing():
    image = torch.randint(0, 256, (3, 32, 16), dtype=torch.uint8)
    plain = evaluation_transform((32, 16))(image)
    mirrored = train_transform((32, 16), AugmentConfig(pad=0, flip=1.0, erase=0))(image)
    assert torch.equal(mirrored, plain.flip(-1))
    erased = train_transform((32, 16), AugmentConfig(pad=0, flip=0, erase=1.0, erase_fill=(7.0, 8.0, 9.0)))(image)
    changed = (erased != plain).any(dim=0)
    assert 0.01 < changed.float().mean() < 0.45
    assert torch.equal(erased[:, changed].unique(dim=1), torch.tensor([[7.0], [8.0], [9.0]]))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_a_corrupt_image_is_named_in_one_sentence(market, workers, content):
    paths = read(market).train.paths
    whole = paths[3].read_bytes()
    paths[3].write_bytes(whole[: len(whole) // 3] if content is None else content)
    loader = load_batches(paths, evaluation_transform((32, 16)), in_order(len(paths), 8), workers=workers)
    with pytest.raises(UserError, match=f"cannot read the image .*{paths[3].name}") as caught:
        list(loader)
    assert "\n" not in str(caught.value)
