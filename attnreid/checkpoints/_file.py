"""The file itself: safetensors, whose header carries a string of ours and a digest. Nothing in it can run.

The digest is the SHA-256 of the whole file, in hexadecimal, with zeros in its own place; so it covers names, shapes,
header and tensors alike, and a bit that flips anywhere is noticed.
"""

import hashlib
import importlib
import os
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from attnreid.files import open_file, replacing, system_error

_KEY, _DIGEST = "attnreid_header", "attnreid_sha256"
_FIRST_KEY = "attnreid"  # of the first format, which had no digest
_NO_DIGEST = "0" * hashlib.sha256().digest_size * 2
# Inside a JSON string the quotes would be escaped, so that this stands in the header once, whatever else does.
_PLACE = re.compile(rb'"' + _DIGEST.encode() + rb'"\s*:\s*"([0-9a-f]{64})"')
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # torch.save's zip, and bare ones
_AFTER_LENGTH = 8  # a safetensors file has its header's length first, then the header: a JSON object
_BLOCK = 1 << 20


def write_file(who: str, path: Path, tensors: dict[str, Tensor], header: str) -> None:
    """Write a file that is whole or not there: a failure leaves the old one as it was."""
    safetensors = _safetensors(who)
    if not Path(os.path.realpath(path)).parent.is_dir():
        raise FileNotFoundError(f"{who}: the folder of {path} must exist, and it does not: make it first.")
    with replacing(path) as draft:
        try:
            safetensors.torch.save_file(tensors, draft, {"format": "pt", _KEY: header, _DIGEST: _NO_DIGEST})
        except safetensors.SafetensorError as error:
            raise system_error(error, path) from error
        place, digest = _digest_of(draft)
        with draft.open("rb+") as file:
            file.seek(place)
            file.write(digest.encode())


def read_file(who: str, path: Path) -> tuple[str, dict[str, Tensor]]:
    """Return our string from the header, and all tensors; refuse whatever `write_file` did not write."""
    header, tensors = _open(who, path, "of save_checkpoint")
    if header is None:
        raise ValueError(
            f"{who}: {path} must be a file of save_checkpoint, got safetensors without its header; load such weights "
            "with model.load_state_dict(read_weights(path).tensors)."
        )
    return header, tensors


def read_tensors(who: str, path: Path) -> dict[str, Tensor]:
    """Return the tensors of any safetensors file; one of `write_file` must be whole."""
    return _open(who, path, "of torch.save or safetensors")[1]


def is_safetensors(path: Path) -> bool:
    """Return whether a file is meant as one of safetensors, whole or not."""
    start = _start_of(path)
    return start[_AFTER_LENGTH:] == b"{" or (path.suffix == ".safetensors" and not start.startswith(_PICKLES))


def _open(who: str, path: Path, kind: str) -> tuple[str | None, dict[str, Tensor]]:
    """Return our string, if there is one, and the tensors, which stay in the file until they are used."""
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
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except safetensors.SafetensorError as error:
        found = "an empty file" if not start else f"one that safetensors cannot read ({error})"
        raise ValueError(f"{who}: {path} must be a whole file {kind}, got {found}; copy or save it again.") from error
    written = _find_digest(path)
    if (written is None and _KEY in metadata) or (written is not None and written != _digest_of(path)):
        raise ValueError(
            f"{who}: {path} must be a whole file {kind}, got one that has not the content that was written (its digest "
            "differs); copy or save it again."
        )
    return metadata.get(_KEY, metadata.get(_FIRST_KEY)), tensors


def _find_digest(path: Path) -> tuple[int, str] | None:
    """Return where the digest stands in a file, in bytes from its start, and the digest."""
    with open_file(path) as file:
        length = int.from_bytes(file.read(_AFTER_LENGTH), "little")
        found = _PLACE.search(file.read(length))
    return None if found is None else (_AFTER_LENGTH + found.start(1), found[1].decode())


def _digest_of(path: Path) -> tuple[int, str]:
    """Return where the digest stands in a file that has one, and what it must be."""
    found = _find_digest(path)
    assert found is not None
    place = found[0]
    digest = hashlib.sha256()
    with open_file(path) as file:
        digest.update(file.read(place))
        file.seek(len(_NO_DIGEST), os.SEEK_CUR)
        digest.update(_NO_DIGEST.encode())
        while block := file.read(_BLOCK):
            digest.update(block)
    return place, digest.hexdigest()


def _start_of(path: Path) -> bytes:
    with open_file(path) as file:
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
