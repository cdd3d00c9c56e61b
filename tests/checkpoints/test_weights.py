"""read_weights: state dicts as people have them, and what was around them; nothing in a file runs, or hangs."""

import io
import os
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from attnreid import attach, read_weights, save_checkpoint

TENSORS = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.ones(2), "steps": torch.tensor(7)}


def named(prefix, tensors=TENSORS):
    return {f"{prefix}{key}": value for key, value in tensors.items()}


def is_equal(read, expected=TENSORS):
    return list(read) == list(expected) and all(torch.equal(read[key], expected[key]) for key in read)


@pytest.mark.parametrize(
    ("prefix", "taken"),
    [
        ("", ""),
        ("module.", "module."),
        ("_orig_mod.", "_orig_mod."),
        ("module._orig_mod.", "module._orig_mod."),
        ("_orig_mod.module.module.", "_orig_mod.module.module."),
        ("backbone.", ""),  # which a model may have itself
        ("module.backbone.", "module."),
    ],
)
def test_the_names_of_torchs_wrappers_are_taken_off(prefix, taken):
    weights = read_weights(named(prefix))
    assert weights.prefix == taken
    assert is_equal(weights.tensors, named(prefix.removeprefix(taken)))


def test_only_what_all_keys_share_is_taken_off():
    mixed = {**named("module."), "head.weight": torch.zeros(1)}
    assert is_equal(read_weights(mixed).tensors, mixed)


def test_torchs_wrappers_give_such_names():
    net = nn.Linear(3, 2)
    wrapped = nn.DataParallel(torch.compile(net, backend="eager"))
    weights = read_weights(wrapped.state_dict())
    assert is_equal(weights.tensors, dict(net.state_dict()))
    assert not any(value.requires_grad for value in read_weights(dict(net.named_parameters())).tensors.values())


@pytest.mark.parametrize("write", ["zip", "legacy", "safetensors", "safetensors by another name"])
def test_files_are_read(write, tmp_path):
    path = tmp_path / ("a.safetensors" if write == "safetensors" else "a.bin")
    if "safetensors" in write:
        save_file(named("module."), path)
    else:
        torch.save(OrderedDict(named("module.")), path, _use_new_zipfile_serialization=write == "zip")
    for source in (path, str(path)):
        weights = read_weights(source)
        assert (weights.opened, weights.prefix) == ((), "module.")
        assert {key: value.tolist() for key, value in weights.tensors.items()} == {
            key: value.tolist() for key, value in TENSORS.items()
        }


def test_a_pickle_that_is_called_safetensors_is_read(tmp_path):
    torch.save(TENSORS, tmp_path / "a.safetensors")
    assert is_equal(read_weights(tmp_path / "a.safetensors").tensors)


def test_a_checkpoint_of_this_library_is_read(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())
    attach(model, "pixel", "1", input_size=(8, 8))
    save_checkpoint(model, tmp_path / "a.safetensors")
    assert read_weights(tmp_path / "a.safetensors").tensors.keys() == model.state_dict().keys()


@pytest.mark.parametrize("opened", [("model",), ("state_dict",), ("state_dict", "model"), ("model", "model", "model")])
def test_wrappers_are_opened_and_named(opened, tmp_path):
    content = named("module.")
    for key in reversed(opened):
        content = {"epoch": 3, key: content, "optimizer": {"state": {0: {"step": torch.ones(1)}}}, "name": "resnet"}
    torch.save(content, tmp_path / "a.pth")
    for source in (content, tmp_path / "a.pth"):
        weights = read_weights(source)
        assert (weights.opened, weights.prefix) == (opened, "module.")
        assert is_equal(weights.tensors)


@pytest.mark.parametrize("number", [np.float64(0.9), np.float32(0.9), np.int64(3), np.bool_(True)])
def test_a_number_of_numpy_may_stand_beside_the_weights(number, tmp_path):
    torch.save({"state_dict": TENSORS, "best": number}, tmp_path / "a.pth")
    assert is_equal(read_weights(tmp_path / "a.pth").tensors)


@pytest.mark.parametrize("other", ["resnet50", {"depth": 50}, {}, None])
def test_what_is_no_state_dict_is_not_opened(other):
    assert read_weights({"model": other, "state_dict": TENSORS}).opened == ("state_dict",)


def test_two_state_dicts_are_one_too_many():
    with pytest.raises(ValueError, match=r"read_weights: .* one state dict, got two, .*'model' and 'state_dict'"):
        read_weights({"model": TENSORS, "state_dict": named("ema.")})
    assert is_equal(read_weights({"model": TENSORS, "state_dict": TENSORS}).tensors)  # one, by two names


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_a_dict_that_contains_itself_is_refused(key, depth, tmp_path):
    content = inner = {"epoch": 3}
    for _ in range(depth - 1):
        inner[key] = {}
        inner = inner[key]
    inner[key] = content
    torch.save(content, tmp_path / "a.pth")
    for source in (content, tmp_path / "a.pth"):
        with pytest.raises(ValueError, match=rf"read_weights: .* state dict, got .*contains itself at '{key}'"):
            read_weights(source)


class _Payload:
    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_code_in_a_file_is_not_run(tmp_path):
    payload = _Payload()
    payload.folder = tmp_path / "it ran"
    torch.save({"state_dict": TENSORS, "more": payload}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"read_weights: .*a.pth .* plain tensors only, got .*\S*mkdir"):
        read_weights(tmp_path / "a.pth")
    assert not payload.folder.exists()


def test_a_whole_model_is_refused_with_the_way_out(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"Linear .*torch.save .*state dict"):
        read_weights(tmp_path / "a.pth")


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated
def test_a_torchscript_archive_is_named(tmp_path):
    torch.jit.save(torch.jit.script(nn.ReLU()), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a.pt .*, got a TorchScript archive; .*torch.jit.load"):
        read_weights(tmp_path / "a.pt")


def test_damaged_files_are_named(tmp_path):
    whole = io.BytesIO()
    torch.save(TENSORS, whole)
    save_file(TENSORS, tmp_path / "whole.safetensors")
    tensors = (tmp_path / "whole.safetensors").read_bytes()
    damaged = {
        "a.pth": [b"", b"hello world", whole.getvalue()[:-50]],
        "a.safetensors": [b"", b"\x10", tensors[:-3], tensors[:40]],
    }
    for name, contents in damaged.items():
        for content in contents:
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=rf"read_weights: .*{name} .*whole file .*; copy"):
                read_weights(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_weights(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"epoch": 3}, r"tensors by name \(.*'model' or 'state_dict'\), got a int at 'epoch'"),
        ({"net": TENSORS}, "got a dict at 'net'; .*state dict"),
        ({"state_dict": {1: torch.zeros(1)}}, "got a Tensor at 1"),
    ],
)
def test_what_is_no_state_dict_is_refused(content, match):
    with pytest.raises(ValueError, match=match):
        read_weights(content)


def test_a_list_is_refused(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a.pth .*state dict, got a list"):
        read_weights(tmp_path / "a.pth")
