"""What lies in a store's folder.

features.npy is a NumPy file of float32 (N, D); table.csv has a line a row, path, id and camera, the last two empty
where they are not known; meta.json says whose features they are and how many rows are whole. Only meta.json says so:
what lies in the other files beyond that is of a process that was stopped.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attnreid.files import read_json
from reference_pipelines.errors import UserError

FEATURES, TABLE, META = "features.npy", "table.csv", "meta.json"
FORMAT = 1
HEADER_BYTES = 128
_MAGIC = b"\x93NUMPY\x01\x00"


@dataclass(frozen=True)
class Meta:
    """What meta.json says.

    Args:
        model: digest of the weights and the preprocessing: features are compared only where it is the same.
        title: how tables call the network.
        dim: D, the numbers of a feature.
        source: the folder or table that the images were listed from.
        images: how many were listed.
        listing: digest of that list.
        done: images of it that have been looked at.
        rows: features that are whole, one for each of those that decoded.
        finished: whether all images are done and the table is written.
        passed_over: place in the list, path and reason of each image that did not decode.
        format: of these files.
    """

    model: Mapping[str, Any]
    title: str
    dim: int
    source: str
    images: int
    listing: str
    done: int = 0
    rows: int = 0
    finished: bool = False
    passed_over: tuple[tuple[int, str, str], ...] = ()
    format: int = FORMAT

    def to_json(self) -> str:
        """Return the text of meta.json."""
        return json.dumps(asdict(self), indent=1) + "\n"


def read_meta(folder: Path, who: str) -> Meta:
    """Return what a store says of itself.

    Raises:
        UserError: the folder is no store, or one of another format.
    """
    path = folder / META
    try:
        plain = read_json(path)
        if plain["format"] != FORMAT:
            raise ValueError(f"its format is {plain['format']!r}, this version reads {FORMAT}")
        passed_over = tuple((int(place), str(name), str(reason)) for place, name, reason in plain.pop("passed_over"))
        return _checked(Meta(**plain, passed_over=passed_over))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise UserError(
            f"{who}: {folder} must be a folder that `extract` has written, and its {META} does not say so ({reason}); "
            "name another"
        ) from None


def _checked(meta: Meta) -> Meta:
    kinds = {
        **dict.fromkeys(("title", "source", "listing"), str),
        **dict.fromkeys(("dim", "images", "done", "rows"), int),
        **{"model": dict, "finished": bool},
    }
    for name, kind in kinds.items():
        value = getattr(meta, name)
        if type(value) is not kind or (isinstance(value, int) and value < 0):
            raise ValueError(f"its {name} is {value!r:.60}")
    return meta


def header(rows: int, dim: int) -> bytes:
    """Return the first bytes of a NumPy file of (rows, dim) float32, always as many, so that rows may be added."""
    text = str({"descr": "<f4", "fortran_order": False, "shape": (rows, dim)}).encode()
    room = HEADER_BYTES - len(_MAGIC) - 2
    return _MAGIC + room.to_bytes(2, "little") + text.ljust(room - 1) + b"\n"
