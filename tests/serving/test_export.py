"""Files of a trained network against the network: in onnxruntime, and as torch's exported program."""

import json

import numpy as np
import pytest
import torch

import reference_pipelines
from reference_pipelines.commands.cli import main
from reference_pipelines.data import read
from reference_pipelines.data.decoding import load_image
from reference_pipelines.errors import UserError
from reference_pipelines.serving import export as export_module
from tests.conftest import says


@pytest.fixture(scope="module")
def model(run):
    return reference_pipelines.load(run, device="cpu")


@pytest.fixture(scope="module")
def paths(images):
    return list(read(images).gallery.paths[:7])


def test_an_onnx_file_gives_the_features_of_files_for_any_number_of_images(run, model, paths, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the parity is with onnxruntime")
    path = tmp_path / "model.onnx"
    assert main(["export", str(run), "--onnx", str(path), "--fold"]) == 0
    assert says(capsys.readouterr().out, f"{path}: float32 (N, 3, 32, 16) to features (N, 512)", "difference")
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    for count in (1, 7):
        (features,) = session.run(None, {"images": model.preprocess(paths[:count]).numpy()})
        np.testing.assert_allclose(features, model.embed(paths[:count]).numpy(), atol=1e-5)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["image_size"]) == [32, 16]
    assert json.loads(about["mean"]) == [0.485, 0.456, 0.406]
    assert (about["interpolation"], about["channels"], about["folded"]) == ("bilinear", "RGB", "true")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["model.onnx"]


def test_an_exported_program_takes_pixels_where_it_is_asked_to(model, paths, tmp_path):
    path = tmp_path / "model.pt2"
    (difference,) = reference_pipelines.export(model, torch_export=path, preprocessing=True).values()
    assert difference < 1e-5
    extra = {"metadata.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    assert json.loads(extra["metadata.json"])["input"].startswith("uint8 (N, H, W, 3)")
    # Resized by hand as the training resizes, then as bytes.
    pixels = torch.empty(7, 32, 16, 3, dtype=torch.uint8)
    model.transform.arrange([load_image(file) for file in paths], [0] * 7, pixels)
    torch.testing.assert_close(program(pixels), model.embed(paths), atol=1e-5, rtol=0)


def test_without_the_flip_the_features_are_of_the_image_alone(run, paths, tmp_path):
    plain = reference_pipelines.load(run, device="cpu", flip=False)
    path = tmp_path / "model.pt2"
    reference_pipelines.export(plain, torch_export=path)
    program = torch.export.load(path).module()
    torch.testing.assert_close(program(plain.preprocess(paths)), plain.embed(paths), atol=1e-5, rtol=0)


def test_a_file_with_other_features_is_not_written(model, tmp_path, monkeypatch):
    class Wrong(export_module.Exported):
        def forward(self, images):
            return super().forward(images) + 0.01

    monkeypatch.setattr(export_module, "Exported", Wrong)
    with pytest.raises(UserError, match="features of .*model.pt2 must be .* 0.0001, .*nothing was written"):
        reference_pipelines.export(model, torch_export=tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_one_sentence(run, model, tmp_path, capsys):
    assert main(["export", str(run)]) == 2
    assert says(capsys.readouterr().err, "--onnx FILE or --torch-export FILE")
    assert main(["export", str(tmp_path), "--onnx", str(tmp_path / "model.onnx")]) == 2
    assert says(capsys.readouterr().err, "export: ", "must be a run")
    with pytest.raises(UserError, match="cannot write .*nowhere"):
        reference_pipelines.export(model, torch_export=tmp_path / "nowhere" / "model.pt2")
    with pytest.raises(ValueError, match="name a file"):
        reference_pipelines.export(model)
