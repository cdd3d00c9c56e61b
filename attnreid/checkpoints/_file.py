"""The file itself: safetensors, whose header carries one string of ours. Nothing in it can run."""

import importlib
import os
import secrets
from pathlib import Path
from typing import Any

from torch import Tensor

_KEY = "attnreid"
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # torch.save's zip, and bare ones
_AFTER_LENGTH = 8  # a safetensors file has its header's length first, then the header: a JSON object


def write_file(who: str, path: Path, tensors: dict[str, Tensor], header: str) -> None:
    """Write beside `path`, then rename: a failure leaves no half file, and the old one as it was."""
    safetensors = _safetensors(who)
    path = Path(os.path.realpath(path))  # through a link, as writing goes
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{who}: the folder of {path} must exist, and it does not: make it first.")
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as file:
            mode = os.fstat(file.fileno()).st_mode  # as the user's umask has it; safetensors writes private files
        try:
            safetensors.torch.save_file(tensors, draft, {"format": "pt", _KEY: header})
        except safetensors.SafetensorError as error:
            raise OSError(f"{who}: {path} must be writable; writing it failed with: {error}") from error
        draft.chmod(mode)
        with draft.open("rb+") as file:
            os.fsync(file.fileno())  # what is renamed is on the disk
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_file(who: str, path: Path) -> tuple[str, dict[str, Tensor]]:
    """Return our string from the header, and all tensors; refuse whatever `write_file` did not write."""
    safetensors = _safetensors(who)
    start = _start_of(path)
    if start.startswith(_PICKLES) and start[_AFTER_LENGTH:] != b"{":
        raise ValueError(
            f"{who}: {path} must be a file of save_checkpoint, got a pickle (torch.save), which can hold code; read it "
            "with read_weights, which runs nothing, load that into the model and save_checkpoint it; for a network "
            "released by APNet's or RGA's authors use read_released."
        )
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            header = (file.metadata() or {}).get(_KEY)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except safetensors.SafetensorError as error:
        found = "an empty file" if not start else f"one that safetensors cannot read ({error})"
        raise ValueError(
            f"{who}: {path} must be a whole file of save_checkpoint, got {found}; copy or save it again."
        ) from error
    if header is None:
        raise ValueError(
            f"{who}: {path} must be a file of save_checkpoint, got safetensors without its header; load such weights "
            "with model.load_state_dict(read_weights(path).tensors)."
        )
    return header, tensors


def is_safetensors(path: Path) -> bool:
    """Return whether a file is meant as one of safetensors, whole or not."""
    start = _start_of(path)
    return start[_AFTER_LENGTH:] == b"{" or (path.suffix == ".safetensors" and not start.startswith(_PICKLES))


def read_tensors(who: str, path: Path) -> dict[str, Tensor]:
    """Return the tensors of any safetensors file."""
    safetensors = _safetensors(who)
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{who}: {path} must be a whole file of torch.save or safetensors, got one that does not read ({error}); "
            "copy it again."
        ) from error
    return tensors


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_AFTER_LENGTH + 1)


def _safetensors(who: str) -> Any:
    """Import safetensors, which is optional, on first use."""
    try:
        importlib.import_module("safetensors.torch")
        return importlib.import_module("safetensors")
    except ImportError as error:
        raise ImportError(
            f"{who}: the package safetensors must be installed, and is not: pip install 'attnreid[checkpoints]'"
        ) from error
