"""`load` and its features against those that `evaluate` extracts, whatever the images come as."""

import numpy as np
import pytest
import torch
from PIL import Image

import reference_pipelines
from reference_pipelines.data import read
from reference_pipelines.errors import UserError
from reference_pipelines.evaluation.evaluator import Evaluator
from reference_pipelines.pipelines.opening import open_run
from tests.conftest import says, write_image


@pytest.fixture(scope="module")
def model(run):
    return reference_pipelines.load(run, device="cpu")


@pytest.fixture(scope="module")
def evaluated(run, images):
    """The gallery, and its features as `evaluate` extracts them."""
    opened, data = open_run(run), read(images)
    evaluator = Evaluator(data, opened.config.data, opened.config.evaluation, torch.device("cpu"))
    return data.gallery.paths, evaluator.features(opened.model)[1]


def test_files_give_the_features_of_the_evaluation_bit_by_bit(model, evaluated):
    paths, features = evaluated
    found = model.embed(list(paths))
    assert torch.equal(found, features)
    assert found.shape == (len(paths), model.dim)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(paths)))


def test_the_flip_is_the_trainings_unless_asked(run, model, evaluated):
    paths = list(evaluated[0][:5])
    assert model.identity.flip
    plain = reference_pipelines.load(run, device="cpu", flip=False)
    mirrored = [Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT) for path in paths]
    with torch.no_grad():
        pooled = [plain.model(plain.preprocess(some)).features for some in (paths, mirrored)]
    expected = (pooled[0] + pooled[1]).double()
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(model.embed(paths).double(), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(plain.embed(paths), model.embed(paths), atol=1e-4)


def test_every_kind_of_image_gives_the_same(model, evaluated):
    paths = list(evaluated[0][:3])
    expected = model.embed(paths)
    pictures = [Image.open(path) for path in paths]
    arrays = [np.asarray(picture) for picture in pictures]
    for images in (
        [str(path) for path in paths],
        pictures,
        arrays,
        np.stack(arrays),
        [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays],
        model.preprocess(paths),
        [paths[0], arrays[1], pictures[2]],
    ):
        assert torch.equal(model.embed(images), expected)
    for one in (paths[0], str(paths[0]), pictures[0], arrays[0], model.preprocess(paths[0])[0]):
        torch.testing.assert_close(model.embed(one), expected[:1], atol=1e-6, rtol=0)
    assert model.embed([]).shape == (0, model.dim)


def test_batches_are_only_how_it_is_computed(run, model, evaluated):
    paths = list(evaluated[0][:7])
    few = reference_pipelines.load(run, device="cpu", batch_size=3)
    torch.testing.assert_close(few.embed(paths), model.embed(paths), atol=1e-6, rtol=0)


def test_greys_and_turned_pictures_are_read_as_from_files(model, tmp_path):
    write_image(tmp_path / "a.png", 3)
    grey = Image.open(tmp_path / "a.png").convert("L")
    grey.save(tmp_path / "grey.png")
    turned = Image.open(tmp_path / "a.png")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    for name in ("grey.png", "turned.png"):
        path = tmp_path / name
        assert torch.equal(model.embed(Image.open(path)), model.embed(path))
    assert not torch.allclose(model.embed(tmp_path / "turned.png"), model.embed(tmp_path / "a.png"), atol=1e-4)


@pytest.mark.parametrize(
    ("given", "error", "parts"),
    [
        (np.zeros((8, 4, 3)), TypeError, ("pixels must be uint8", "float64")),
        (np.zeros((3, 8, 4), np.uint8), ValueError, ("(H, W, 3)", "(3, 8, 4)")),
        (torch.zeros(8, 4, 3, dtype=torch.uint8), ValueError, ("(3, H, W)", "(8, 4, 3)")),
        (torch.zeros(3, 8, 4), ValueError, ("(3, 32, 16)", "(3, 8, 4)")),
        (np.zeros((8, 4), np.uint8), ValueError, ("3 axes", "got 2")),
        (np.zeros((0, 4, 3), np.uint8), ValueError, ("(H, W, 3)", "(0, 4, 3)")),
        ([None], TypeError, ("a path, a Pillow image", "NoneType")),
        ((path for path in ()), TypeError, ("a sequence", "generator")),
    ],
    ids=["float array", "channels first", "channels last", "another size", "grey", "empty", "none", "generator"],
)
def test_what_is_no_image_is_refused(model, given, error, parts):
    with pytest.raises(error) as caught:
        model.embed(given)
    assert says(str(caught.value), "embed: ", *parts)


def test_refusals(run, model, tmp_path):
    with pytest.raises(UserError, match="data: cannot read the image .*gone.jpg"):
        model.embed(tmp_path / "gone.jpg")
    with pytest.raises(UserError, match="load: there is no .*nowhere"):
        reference_pipelines.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="load: batch_size must be at least 1, got 0"):
        reference_pipelines.load(run, batch_size=0)
    if not torch.backends.mps.is_available():
        with pytest.raises(UserError, match="device: mps was asked for"):
            reference_pipelines.load(run, device="mps")
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = reference_pipelines.lode
