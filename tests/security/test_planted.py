"""What a stranger's file may do: nothing is run of it, and nothing is waited for, wherever it is read."""

import io
import os
import pickle
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from attnreid import read_description, read_released, read_weights
from reference_pipelines.data.decoding import load_image
from reference_pipelines.errors import UserError
from tests.fuzz import readers
from tests.fuzz.harness import fault_of, time_limit
from tests.fuzz.mutants import Reader
from tests.fuzz.test_fuzz import READERS, RUN_READERS

MARK = "FUZZ_PLANTED"


def trap() -> None:
    """What a planted object does when it is made."""
    os.environ[MARK] = "1"


class Planted:
    def __reduce__(self):
        return trap, ()


@pytest.fixture(autouse=True)
def unsprung(monkeypatch, tmp_path):
    monkeypatch.delenv(MARK, raising=False)
    monkeypatch.setenv("FUZZ_SCRATCH", str(tmp_path))


def _torch_file(**options) -> bytes:
    file = io.BytesIO()
    torch.save({"weight": Planted(), "state_dict": {"a": torch.zeros(1)}}, file, **options)
    return file.getvalue()


def _array(save: Callable, **arrays) -> bytes:
    file = io.BytesIO()
    if save is np.save:
        save(file, np.array([Planted()], dtype=object), allow_pickle=True)
    else:
        save(file, **{name: np.array([Planted()], dtype=object) for name in arrays})
    return file.getvalue()


RANKS = ("ranks", "matches", "images", "queries", "people", "skipped", "average_precision")
PAYLOADS: dict[str, bytes] = {
    "pickle": pickle.dumps({"a": Planted()}),
    "old pickle": pickle.dumps({"a": Planted()}, protocol=0),
    "torch.save": _torch_file(),
    "torch.save, old form": _torch_file(_use_new_zipfile_serialization=False),
    "npy": _array(np.save),
    "npz": _array(np.savez, **dict.fromkeys(RANKS)),
    "YAML": b"!!python/object/apply:tests.security.test_planted.trap []\n",
    "YAML in a value": b"title: !!python/object/apply:tests.security.test_planted.trap []\ndata: {root: x}\n",
    "YAML by name": b"!!python/object/new:tests.security.test_planted.Planted []\n",
}


def test_the_traps_spring():
    """Each payload does its work on a reader that trusts it."""
    import yaml

    trusting: dict[str, Callable[[bytes], object]] = {
        "torch": lambda content: torch.load(io.BytesIO(content), weights_only=False),
        "pickle": pickle.loads,
        "npy": lambda content: np.load(io.BytesIO(content), allow_pickle=True),
        "npz": lambda content: dict(np.load(io.BytesIO(content), allow_pickle=True)),
        "YAML": yaml.unsafe_load,
    }
    for name, content in PAYLOADS.items():
        if name == "YAML by name":  # it only makes the object
            continue
        os.environ.pop(MARK, None)
        kind = next(kind for kind in ("torch", "npy", "npz", "YAML", "pickle") if kind in name)
        trusting[kind](content)
        assert os.environ.pop(MARK, None) == "1", name


def _read_planted(reader: Reader, file: Path) -> None:
    """Read, and require a documented error or a result, and an unsprung trap."""
    with time_limit(10):
        try:
            reader.read(file)
        except BaseException as error:
            fault = fault_of(error, reader.errors, system=ValueError in reader.errors)
            assert fault is None, fault
    assert MARK not in os.environ, "what was planted was run"


@pytest.mark.parametrize("name", READERS)
def test_nothing_planted_is_run(name, tmp_path):
    _plant_everywhere(READERS[name], tmp_path)


def _of_run(name: str, run: Path) -> Reader:
    return next(reader for reader in readers.run_readers(run) if reader.name == name)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN_READERS)
def test_nothing_planted_in_a_run_is_run(name, trained_run, tmp_path):
    _plant_everywhere(_of_run(name, trained_run), tmp_path)


def _plant_everywhere(reader: Reader, folder: Path) -> None:
    file = reader.make(folder)
    for payload in PAYLOADS.values():
        file.write_bytes(payload)
        _read_planted(reader, file)


@pytest.mark.parametrize("read", [read_weights, read_released, read_description])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin", ""])
def test_no_weights_file_is_run(read, suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    for payload in PAYLOADS.values():
        path.write_bytes(payload)
        with pytest.raises(ValueError, match=str(path)):
            read(path)
        assert MARK not in os.environ


def test_a_zip_that_looks_like_weights_is_not_run(tmp_path):
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", PAYLOADS["pickle"])
        archive.writestr("archive/version", "3")
        archive.writestr("archive/byteorder", "little")
    with pytest.raises(ValueError, match="^read_weights: .* got "):
        read_weights(path)
    assert MARK not in os.environ


# Things that are no files, where one is read


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _nothing(path: Path) -> None:
    path.symlink_to(path.with_name("nothing"))


def _folder(path: Path) -> None:
    path.mkdir()


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's name must be short
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


SPECIAL = {"pipe": _pipe, "device": _device, "loop": _loop, "nothing": _nothing, "folder": _folder, "socket": _socket}


def _put_specials(reader: Reader, folder: Path) -> None:
    file = reader.make(folder)
    for make in SPECIAL.values():
        if file.is_dir() and not file.is_symlink():
            file.rmdir()
        else:
            file.unlink()
        make(file)
        _read_planted(reader, file)


@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_not_waited_for(name, tmp_path):
    _put_specials(READERS[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN_READERS)
def test_what_is_no_file_in_a_run_is_not_waited_for(name, trained_run, tmp_path):
    _put_specials(_of_run(name, trained_run), tmp_path)


@pytest.mark.parametrize("kind", SPECIAL)
def test_an_image_that_is_no_file_is_not_waited_for(kind, tmp_path):
    path = tmp_path / "image.jpg"
    SPECIAL[kind](path)
    with time_limit(5), pytest.raises(UserError, match=r"cannot read the image .*image\.jpg \("):
        load_image(path)


# Names in data sets


FILES = ("../outside.jpg", "/etc/passwd")
NAMES = (*FILES, "/dev/zero", "nothing/../../outside.jpg", "pipe.jpg", "loop.jpg", "folder.jpg", "\0.jpg")


@pytest.fixture
def pictures(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    for path in (tmp_path / "outside.jpg", root / "inside.jpg", root / "other.jpg"):
        Image.new("RGB", (8, 8)).save(path)
    _pipe(root / "pipe.jpg")
    _loop(root / "loop.jpg")
    _folder(root / "folder.jpg")
    return root


@pytest.mark.parametrize("name", NAMES)
def test_a_table_names_files_only(name, pictures):
    from reference_pipelines.data.layouts.find import read

    table = pictures / "list.csv"
    table.write_text(f"image,id,camera,split\n{name},1,1,train\ninside.jpg,2,1,train\n")
    before = _listing(pictures.parent)
    with time_limit(5):
        if name in FILES:  # a table may list files outside of its folder
            assert all(map(os.path.isfile, read(table).train.paths))
        else:
            with pytest.raises(UserError, match="wrong line|UTF-16"):
                read(table)
    assert _listing(pictures.parent) == before


@pytest.mark.parametrize("name", NAMES)
def test_a_list_names_images_of_its_own_folder(name, tmp_path):
    from reference_pipelines.data.layouts.find import read

    path = readers.msmt17_list(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.jpg")
    path.write_text(path.read_text() + f"{name} 0\n", encoding="utf-8")
    with time_limit(5), pytest.raises(UserError, match=r"list_train\.txt must"):
        read(path.parent)


def test_a_data_sets_name_makes_no_path():
    """A folder's name goes into titles and tables; the file of an evaluation is named by characters that are safe."""
    from reference_pipelines.commands.evaluate import _file_name

    told = {"weights": {"name": "model", "digest": "ab"}, "flip": True, "reranked": False, "scores": {}}
    for name in ("../../x", "/etc/passwd", "a/b", "..", "a\0b", "é", "x" * 400):
        data = {"name": name, "fingerprint": "ab12", "layout": "csv"}
        file = _file_name({**told, "trained_on": data, "tested_on": data})
        assert Path(file).name == file
        assert not file.startswith(".")
        assert len(file.encode()) < 256


def _listing(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*") if path.name != "list.csv")
