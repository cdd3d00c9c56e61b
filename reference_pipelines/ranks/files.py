"""Ranks as a compact file: numpy's own .npz, which anybody can read with `numpy.load`."""

import hashlib
import io
from pathlib import Path

import numpy as np

from attnreid.files import write_bytes
from reference_pipelines.arrays import load_arrays
from reference_pipelines.ranks.scoring import QueryRanks

_ARRAYS = ("ranks", "matches", "images", "queries", "people")


def to_bytes(ranks: QueryRanks) -> bytes:
    """Return the ranks and, beside them, each query's average precision; the same ranks give the same bytes."""
    content = io.BytesIO()
    np.savez_compressed(
        content,
        **{name: getattr(ranks, name) for name in _ARRAYS},
        skipped=np.int64(ranks.skipped),
        average_precision=ranks.ranked.average_precision(),
    )
    return content.getvalue()


def write_ranks(path: Path, ranks: QueryRanks) -> dict[str, str]:
    """Write a file of ranks, and return what a result says of it: its name and its digest.

    Raises:
        OSError: it cannot be written.
    """
    content = to_bytes(ranks)
    write_bytes(path, content)
    return {"file": path.name, "sha256": hashlib.sha256(content).hexdigest()}


def from_bytes(content: bytes) -> tuple[QueryRanks, np.ndarray]:
    """Return what `to_bytes` wrote: the ranks, and each query's average precision as it stands there.

    Raises:
        ValueError: it is no such file, or no ranking can have given its numbers.
    """
    try:
        arrays = load_arrays(io.BytesIO(content))
        ranks = QueryRanks(skipped=int(arrays["skipped"]), **{name: arrays[name] for name in _ARRAYS})
        precision = arrays["average_precision"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"it is no file of ranks ({error})") from None
    if (fault := ranks.fault()) is not None:
        raise ValueError(fault)
    return ranks, precision
