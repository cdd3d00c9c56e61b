"""What the library promises with torch, numpy and einops alone: this file, too, imports nothing else but pytest."""

import ast
import copy
import importlib
import io
import itertools
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import attnreid
from attnreid.__main__ import main

SIZE = (32, 16)
LIBRARY = Path(attnreid.__file__).parent
STANDARD = set(sys.stdlib_module_names) | {"attnreid", "torch", "numpy", "einops"}


class Block(nn.Module):
    def __init__(self, channels, out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.downsample = nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x):
        return torch.relu(self.bn1(self.conv1(x)) + self.downsample(x))


class Network(nn.Module):
    """Four residual stages, so small that every test is quick."""

    def __init__(self):
        super().__init__()
        widths = (3, 8, 16, 16, 32)
        for number, (channels, out) in enumerate(itertools.pairwise(widths), start=1):
            self.add_module(f"layer{number}", nn.Sequential(Block(channels, out, 1 if number in (1, 4) else 2)))
        self.fc = nn.Linear(32, 5)

    def forward(self, x):
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.fc(x.mean(dim=(2, 3)))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def test_the_library_imports_nothing_else():
    source = (
        "import sys, attnreid\n"
        "assert 'torch' not in sys.modules\n"  # nor does anything else come with the package alone
        "import torch, numpy, einops\n"
        "einops.rearrange(torch.zeros(1, 1), 'a b -> b a')\n"  # with older torch, this imports its compiler
        "before = set(sys.modules)\n"
        "attnreid.AttentionPyramid(8)(torch.zeros(1, 8, 2, 2))\n"
        "print(' '.join({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert set(run.stdout.split()) <= STANDARD


def test_sources_of_the_library_name_no_other_package():
    for path in LIBRARY.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [node.module] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
                # safetensors is imported inside save_checkpoint and load_checkpoint.
                allowed = STANDARD if node in tree.body else STANDARD | {"safetensors"}
                for name in modules:
                    assert name.partition(".")[0] in allowed, f"{path} imports {name}"


def test_tests_of_the_core_are_collected_without_other_packages():
    """Those of `make test-core`; what needs more imports it where it is needed, or skips."""
    tests = Path(__file__).parent
    for path in [
        *(tests / f"test_{name}.py" for name in ("core", "pyramid", "registry")),
        *(tests / "layers").glob("*.py"),
    ]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [node.module] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
                for name in modules:
                    assert name.partition(".")[0] in STANDARD | {"pytest", "tests"}, f"{path} imports {name}"


@pytest.mark.parametrize("attention", ["se", "rga_s", "split", "pixel"])
def test_attention_goes_in_and_comes_out_again(network, images, attention):
    before, plain = network(images), copy.deepcopy(network.state_dict())
    attached = attnreid.attach(network, attention, "layer[1-4]", input_size=SIZE)
    assert not torch.equal(network(images), before)
    network.load_state_dict(plain)
    with attnreid.record_attention(network) as gates:
        network(images)
    assert set(gates) == {"layer1", "layer2", "layer3", "layer4"}
    assert torch.allclose(attnreid.fold(network)(images), network(images), atol=1e-5)
    attached.remove()
    assert torch.equal(network(images), before)


def test_copies_and_pickles_carry_their_own_attention(network, images):
    attnreid.attach(network, "se", "layer[1-4].0", input_size=SIZE, identity_init=True)
    file = io.BytesIO()
    pickle.dump(network, file)
    file.seek(0)
    for other in (copy.deepcopy(network), pickle.load(file)):
        assert torch.equal(other(images), network(images))
        (attached,) = attnreid.attachments(other)
        attached.remove()
        assert attnreid.attachments(network)
        assert not attnreid.attachments(other)


def test_the_command_line_answers(capsys, monkeypatch, tmp_path):
    (tmp_path / "core_model.py").write_text("from tests.test_core import Network as build\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["sites", "core_model:build", "--input-size", "32", "16"]) == 0
    assert "layer4" in capsys.readouterr().out


def test_a_missing_package_is_named_with_its_extra(network, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match=r"save_checkpoint: .*safetensors.*attnreid\[checkpoints\]"):
        attnreid.save_checkpoint(network, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_each_public_name_has_one_home_and_comes_without_the_others():
    assert sorted(attnreid._HOME_OF) == sorted(attnreid.__all__)
    for name, home in attnreid._HOME_OF.items():
        assert getattr(sys.modules.get(home) or importlib.import_module(home), name) is getattr(attnreid, name)
    with pytest.raises(AttributeError, match="no attribute 'AttentionPyramids'"):
        _ = attnreid.AttentionPyramids
