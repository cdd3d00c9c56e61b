"""NumPy's files of several arrays, read so that a damaged one is one kind of error."""

import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np


def load_arrays(source: Path | BinaryIO) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file by name; none of objects, which would be unpickled.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such file, or damaged.
    """
    try:
        with np.load(source, allow_pickle=False) as arrays:
            return dict(arrays)
    except (EOFError, NotImplementedError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"no file of arrays ({' '.join(str(error).split())})") from None
