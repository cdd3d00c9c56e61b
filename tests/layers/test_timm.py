"""timm's attention layers by name: what holds for any attention holds for them."""

import copy
import pickle
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn

import attnreid._timm
from attnreid import AttentionPyramid, attach, create_attention, list_attention, load_checkpoint, record_attention
from attnreid.__main__ import main
from attnreid.checkpoints import save_checkpoint
from attnreid.registry import find_attention
from tests.conftest import says
from tests.layers.support import random_map, randomise

pytest.importorskip("timm", reason="these are timm's layers")
pytest.importorskip("safetensors")

SIZE = (16, 8)
LAYERS = {
    "eca": lambda: create_attention("timm:eca", 32),
    "cbam": lambda: create_attention("timm:cbam", 32, rd_ratio=0.25),
    "gc": lambda: create_attention("timm:gc", 32),
    "bottleneck": lambda: create_attention("timm:bottleneck", 32, size=SIZE),
    "pyramid of cbam, along the height": lambda: AttentionPyramid(32, "timm:cbam", levels=2, dim="height", size=SIZE),
    "pyramid, from the identity": lambda: AttentionPyramid(
        32, ("se", "timm:eca"), dim="channels", size=SIZE, identity_init=True
    ),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def built(make, seed=0):
    torch.manual_seed(seed)
    return randomise(make(), seed)


@every_layer
def test_a_map_becomes_a_map_and_is_not_overwritten(make):
    layer, x = built(make).double(), random_map(3, 32, *SIZE)
    given = x.clone()
    for training in (True, False):
        output = layer.train(training)(x)
        assert output.shape == x.shape
        assert torch.equal(x, given)
    assert torch.equal(layer(x), output)
    torch.testing.assert_close(layer.float()(x.float()).double(), output, rtol=0, atol=1e-4 * output.abs().max().item())


@every_layer
def test_every_parameter_learns_and_copies_are_apart(make):
    layer, x = built(make), random_map(3, 32, *SIZE, dtype=torch.float32)
    for double in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(double.eval()(x), layer.eval()(x))
    layer(x).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert any(parameter.grad.any() for parameter in layer.parameters())


@every_layer
def test_it_compiles_and_exports(make):
    layer, x = built(make).eval(), random_map(4, 32, *SIZE, dtype=torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), layer(x))
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    torch.testing.assert_close(program(x[:3]), layer(x[:3]))


def test_each_part_of_a_pyramid_has_a_layer_of_its_own():
    pyramid = built(LAYERS["pyramid of cbam, along the height"]).eval()
    x = random_map(2, 32, *SIZE, dtype=torch.float32)
    first, second = pyramid.levels
    whole = first(x)
    top, bottom = second.parts
    wanted = torch.cat([top(whole[:, :, :8]), bottom(whole[:, :, 8:])], 2)
    torch.testing.assert_close(pyramid(x), wanted)
    assert not torch.equal(top(whole[:, :, :8]), bottom(whole[:, :, :8]))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1)).eval()


@pytest.mark.parametrize(
    "attention", ["timm:cbam", partial(AttentionPyramid, attention="timm:eca", levels=2, dim="channels")]
)
def test_attached_it_starts_as_the_identity_comes_out_again_and_is_rebuilt(attention, tmp_path):
    model, x = network(), random_map(2, 3, 32, 16, dtype=torch.float32)
    plain = model(x)
    attachment = attach(model, attention, "1", input_size=(32, 16), identity_init=True)
    assert torch.equal(model(x), plain)
    randomise(model.get_submodule("1.attention"))
    with record_attention(model) as gates:  # it is no gate of this library's
        output = model(x)
    assert gates == {}
    save_checkpoint(model, tmp_path / "model.safetensors")
    other = network()
    load_checkpoint(other, tmp_path / "model.safetensors")
    assert torch.equal(other(x), output)
    attachment.remove()
    assert torch.equal(model(x), plain)


def test_options_by_a_partial_are_written_down(tmp_path):
    model, x = network(), random_map(2, 3, 32, 16, dtype=torch.float32)
    attachment = attach(model, partial(find_attention("timm:cbam"), rd_ratio=0.25), "1", input_size=(32, 16))
    assert attachment.call["options"]["attention"] == {"name": "timm:cbam", "options": {"rd_ratio": 0.25}}
    save_checkpoint(model, tmp_path / "model.safetensors")
    other = network()
    load_checkpoint(other, tmp_path / "model.safetensors")
    assert torch.equal(other(x), model(x))


def test_the_program_takes_the_names(capsys):
    line = ["cost", "torchvision.models:resnet18", "--preset", "pyramid", "--input-size", "64", "32"]
    assert main([*line, "--attention", "timm:eca", "--levels", "1"]) == 0
    assert "layer1  AttentionPyramid" in capsys.readouterr().out


def test_they_are_not_listed():
    assert not [name for name in list_attention() if ":" in name]


@pytest.mark.parametrize(
    ("call", "error", "parts"),
    [
        (lambda: create_attention("timm:cbamm", 32), ValueError, ("'timm:cbamm'", "'timm:cbam'")),
        (lambda: create_attention("timm:cbam", 32, rd_rato=1), TypeError, ("'rd_rato'", "'rd_ratio'")),
        (lambda: create_attention("timm:cbam", 32, rd_ratio="x"), ValueError, ("'timm:cbam'", "32 channels")),
        (
            lambda: attach(network(), "timm:bat", "1", input_size=(32, 16)),
            ValueError,
            ("attach", "BatNonLocalAttn", "'1'", "16x8"),
        ),
    ],
)
def test_mistakes(call, error, parts):
    with pytest.raises(error) as caught:
        call()
    assert says(str(caught.value), *parts)


def test_without_timm_its_name_says_what_to_install(monkeypatch):
    attnreid._timm.timm_attention.cache_clear()
    monkeypatch.setitem(sys.modules, "timm.layers", None)
    with pytest.raises(ImportError, match=r"'timm:eca' .*not installed: pip install timm"):
        create_attention("timm:eca", 32)


@pytest.mark.slow
def test_timm_is_imported_for_its_names_alone():
    code = (
        "import sys, attnreid\n"
        "attnreid.create_attention('se', 32); attnreid.AttentionPyramid(32); attnreid.list_attention()\n"
        "assert 'timm' not in sys.modules\n"
        "attnreid.create_attention('timm:eca', 32)\n"
        "assert 'timm' in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
