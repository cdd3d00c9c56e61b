"""Exported files against the network that they are of: in onnxruntime, and as torch's own program."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import reference_pipelines
from reference_pipelines.commands.cli import main
from reference_pipelines.config.loading import load_config
from reference_pipelines.data import read
from reference_pipelines.data.decoding import load_image
from reference_pipelines.errors import UserError
from reference_pipelines.exporting import export as module
from reference_pipelines.exporting.export import BATCHES, TOLERANCE
from reference_pipelines.exporting.files import capture
from reference_pipelines.exporting.network import _unit, as_input, network_of, random_pixels
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.serving.embedder import Embedder, Identity
from reference_pipelines.unit_vectors import unit_rows
from tests.conftest import says

onnxruntime = pytest.importorskip("onnxruntime", reason="the parity is with onnxruntime")


@pytest.fixture(scope="module")
def model(trained_run):
    return reference_pipelines.load(trained_run, device="cpu")


@pytest.fixture(scope="module")
def paths(images):
    return list(read(images).gallery.paths[:7])


def resized(model, paths):
    """Files as bytes of the network's size, resized as the training resizes."""
    pixels = torch.empty(len(paths), *model.identity.image_size, 3, dtype=torch.uint8)
    model.transform.arrange([load_image(path) for path in paths], [0] * len(paths), pixels)
    return pixels


def embedder(pipeline, *, flip):
    """A network with random weights, its norms' statistics too, since those of a new one hide a wrong fold."""
    recipe = PIPELINES[pipeline].recipes / "demo.yaml"
    config = load_config(PIPELINES[pipeline].config, ["--config", str(recipe), "--data.root=x", "--model.weights=none"])
    torch.manual_seed(0)
    network = PIPELINES[pipeline].build(config)
    network.set_classifier(None)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.normal_(norm.running_mean, std=0.2)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    identity = Identity("digest", config.data.image_size, config.data.interpolation, flip)
    return Embedder(network.eval(), identity, title=pipeline, device=torch.device("cpu"), batch_size=8)


def test_both_files_give_the_features_of_images_for_any_number_of_them(trained_run, model, paths, tmp_path, capfd):
    files = {"onnx": tmp_path / "model.onnx", "torch-export": tmp_path / "model.pt2"}
    words = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    assert main(["export", str(trained_run), *words, "--fold", "--preprocessing", "inside"]) == 0
    printed, complaints = capfd.readouterr()
    assert complaints == ""
    assert says(printed, f"{model.title}, folded: uint8 (N, 32, 16, 3)")
    for kind, path in zip(("ONNX", "torch.export"), files.values(), strict=True):
        assert says(printed, f"{path}: {kind}, {path.stat().st_size / 2**20:.1f} MiB", "1, 2 and 5", f"{TOLERANCE:g}")
    assert sorted(tmp_path.iterdir()) == sorted(files.values())
    session = onnxruntime.InferenceSession(files["onnx"].read_bytes(), providers=["CPUExecutionProvider"])
    extra = {"metadata.json": ""}
    program = torch.export.load(files["torch-export"], extra_files=extra).module()
    for count in (1, 7):
        pixels, expected = resized(model, paths[:count]), model.embed(paths[:count])
        (features,) = session.run(["features"], {"images": pixels.numpy()})
        torch.testing.assert_close(torch.from_numpy(features), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(program(pixels), expected, atol=1e-5, rtol=0)
    said = session.get_modelmeta().custom_metadata_map
    wanted = {**model.identity.to_plain(), "description": model.title, "dim": 512, "preprocessing": "inside"}
    wanted |= {"folded": True, "attnreid": "0.1.0", "input": said["input"], "output": said["output"]}
    assert json.loads(extra["metadata.json"]) == wanted
    assert {key: value if isinstance(value, str) else json.dumps(value) for key, value in wanted.items()} == said
    assert (wanted["image_size"], wanted["channels"], wanted["mean"]) == ([32, 16], "RGB", [0.485, 0.456, 0.406])
    graph = onnx.load(files["onnx"]).graph
    for value in (graph.input[0], graph.output[0]):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    here = Path(reference_pipelines.__file__).parents[1]
    for path in files.values():  # nothing of the machine that wrote it
        assert not any(word in path.read_bytes() for word in (b"site-packages", b"embedding.py", str(here).encode()))


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize(
    ("fold", "preprocessing", "flip"), [(False, "outside", True), (True, "inside", False), (True, "outside", False)]
)
def test_every_network_is_exported(pipeline, fold, preprocessing, flip, tmp_path):
    model = embedder(pipeline, flip=flip)
    found = reference_pipelines.export(
        model,
        onnx=tmp_path / "model.onnx",
        torch_export=tmp_path / "model.pt2",
        fold=fold,
        preprocessing=preprocessing,
    )
    assert [file.kind for file in found] == ["ONNX", "torch.export"]
    assert all(file.difference <= TOLERANCE and file.size == file.path.stat().st_size for file in found)
    pixels = random_pixels(6, model.identity.image_size, seed=9)
    images, expected = as_input(model, pixels, preprocessing), model.embed(as_input(model, pixels, "outside"))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], expected, atol=1e-5)
    program = torch.export.load(tmp_path / "model.pt2").module()
    torch.testing.assert_close(program(images), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("flip", [False, True])
def test_the_network_of_a_file_has_the_embedders_features(pipeline, flip):
    model = embedder(pipeline, flip=flip)
    pixels = random_pixels(3, model.identity.image_size, seed=1)
    expected = model.embed(as_input(model, pixels, "outside"))
    apart = torch.cdist(expected, expected) + torch.eye(3)
    assert apart.min() > 10 * TOLERANCE  # so that the same features for all images would not do
    for folded in (False, True):
        for preprocessing in ("outside", "inside"):
            network = network_of(model, folded=folded, preprocessing=preprocessing)
            found = network(as_input(model, pixels, preprocessing))
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    own = network_of(model, folded=False, preprocessing="outside")
    assert sum(map(torch.numel, network.parameters())) < sum(map(torch.numel, own.parameters())) or pipeline == "apnet"


def test_features_of_every_length_become_unit_ones():
    features = torch.randn(6, 32, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[1.0], [1e-30], [1e25], [1e-14], [0.0], [3.0]]
    )
    torch.testing.assert_close(_unit(features), unit_rows(features), atol=1e-6, rtol=0)


def test_a_network_that_torch_cannot_capture_is_refused():
    class Asking(nn.Module):
        def forward(self, images):
            return images if images.sum() > 0 else -images

    with pytest.raises(UserError) as caught:
        capture(Asking(), torch.ones(3, 2))
    assert says(str(caught.value), "export: torch.export must be able to capture the network", "failed with")


@pytest.fixture
def made(monkeypatch):
    """Files of a few bytes that run the network as it is, so that nothing has to be exported; what they add to it."""
    wrong = {}

    def file(kind):
        def make(network, about):
            def runs(images):
                features = network(images)
                return features + wrong.get((kind, len(images)), 0.0)

            return kind.encode(), runs

        return make

    monkeypatch.setattr(module, "capture", lambda network, example: network)
    monkeypatch.setattr(module, "onnx_file", file("onnx"))
    monkeypatch.setattr(module, "program_file", file("torch"))
    return wrong


@pytest.mark.parametrize("count", BATCHES)
@pytest.mark.parametrize("by", [2 * TOLERANCE, float("nan")])
@pytest.mark.parametrize(("kind", "named"), [("onnx", "ONNX"), ("torch", "torch.export")])
def test_no_file_is_written_if_one_has_other_features(model, made, tmp_path, kind, named, count, by):
    made[kind, count] = by
    with pytest.raises(UserError) as caught:
        reference_pipelines.export(model, onnx=tmp_path / "a.onnx", torch_export=tmp_path / "a.pt2")
    assert says(str(caught.value), "export: ", f"the {named} file", f"{TOLERANCE:g}", f"of {count} random images")
    assert list(tmp_path.iterdir()) == []


def test_all_files_are_written_or_none(model, made, tmp_path):
    too_long = tmp_path / ("a" * 256)
    with pytest.raises(UserError) as caught:
        reference_pipelines.export(model, onnx=tmp_path / "a.onnx", torch_export=too_long)
    assert says(str(caught.value), "export: cannot write", "File name too long")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.onnx").write_bytes(b"of before")
    files = reference_pipelines.export(model, onnx=tmp_path / "a.onnx", torch_export=str(tmp_path / "a.pt2"))
    assert [(file.path.read_bytes(), file.size) for file in files] == [(b"onnx", 4), (b"torch", 5)]


def test_the_model_stays_as_it_was(model, made, tmp_path):
    before = {name: (tensor.clone(), tensor.stride()) for name, tensor in model.model.state_dict().items()}
    reference_pipelines.export(model, torch_export=tmp_path / "a.pt2", fold=True)
    after = model.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, (tensor, _) in before.items())
    assert all(after[name].stride() == stride for name, (_, stride) in before.items())
    assert any(parameter.requires_grad for parameter in model.model.parameters())


def test_mistakes(trained_run, model, made, tmp_path, monkeypatch, capsys):
    def refused(error, **options):
        with pytest.raises(error) as caught:
            reference_pipelines.export(options.pop("model", model), **options)
        return str(caught.value)

    file = tmp_path / "a.onnx"
    assert main(["export", str(trained_run)]) == 2
    assert says(capsys.readouterr().err, "export: a file must be named, got none", "--onnx FILE or --torch-export FILE")
    assert main(["export", str(tmp_path), "--onnx", str(file)]) == 2
    assert says(capsys.readouterr().err, "export: ", str(tmp_path), "must be a run")
    assert main(["export", str(trained_run), "--onnx", str(file), "--preprocessing", "none"]) == 2
    assert says(capsys.readouterr().err, "--preprocessing", "outside", "inside", "none")
    assert says(refused(ValueError), "export: a file must be named", "got none")
    assert says(refused(TypeError, model=trained_run, onnx=file), "export: the model must be an Embedder, got", "load")
    assert says(refused(ValueError, onnx=file, preprocessing=True), "export: preprocessing", "got True")
    assert says(refused(UserError, onnx=file, torch_export=str(file)), "export: the two files", str(file))
    assert says(refused(UserError, onnx=tmp_path), "export: a file", f"{tmp_path} is a folder")
    assert says(refused(UserError, torch_export=file / "b"), "export: a file", f"{file / 'b'} is in no folder")
    for package in ("onnx", "onnxscript", "onnxruntime"):
        with monkeypatch.context() as missing:
            missing.setitem(sys.modules, package, None)
            message = refused(UserError, onnx=file)
            assert says(message, f"needs {package}, which is not installed; pip install 'attnreid[onnx]'")
    assert list(tmp_path.iterdir()) == []
