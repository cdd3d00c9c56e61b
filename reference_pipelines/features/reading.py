"""A store of features, opened: the rows stay on the disk until they are looked at."""

import csv
import io
import math
from pathlib import Path

import numpy as np
import torch

from attnreid.files import open_file, read_bytes
from reference_pipelines.errors import UserError
from reference_pipelines.features.files import FEATURES, META, TABLE, Meta, read_meta
from reference_pipelines.spreadsheet import from_cell
from reference_pipelines.unit_vectors import unlike_unit

_ROWS = 20_000  # that are looked at together


def is_store(path: Path) -> bool:
    """Return whether a path is a folder of features, whole or not, and not one of a run."""
    return (path / FEATURES).is_file() and (path / META).is_file()


class FeatureStore:
    """The features of a set of images, with what is known of each.

    Args:
        folder: as `extract` has written it.
        who: complains.

    Attributes:
        features: (N, D) float32, mapped from the disk; what is written into it stays in memory.
        paths: N image files.
        ids: (N,) person ids, 0 is a distractor; None where they are not known.
        cameras: (N,) cameras; None where they are not known.
        meta: whose features they are.

    Raises:
        UserError: it is no store, not finished, or its files do not fit one another.

    Example:
        store = FeatureStore("features/gallery")
        similarities = store.features @ model.embed("who.jpg")[0].numpy()
        print(store.paths[similarities.argmax()])
    """

    def __init__(self, folder: str | Path, who: str = "features") -> None:
        self.folder = Path(folder)
        self.meta: Meta = read_meta(self.folder, who)
        if not self.meta.finished:
            raise UserError(
                f"{who}: {self.folder} must be finished, {self.meta.done:,} of its {self.meta.images:,} images are "
                "done; run the same `extract` again, which goes on"
            )
        try:
            # Not "r": torch warns of arrays that it could write into and must not.
            self.features: np.ndarray = _map(self.folder / FEATURES)
            self.paths, self.ids, self.cameras = _read_table(self.folder / TABLE)
        except (OSError, ValueError, OverflowError, csv.Error) as error:
            raise self._damaged(who, getattr(error, "strerror", None) or str(error)) from None
        shape, wanted = self.features.shape, (self.meta.rows, self.meta.dim)
        if shape != wanted or self.features.dtype != np.float32 or len(self.paths) != self.meta.rows:
            raise self._damaged(
                who, f"{META} says {wanted}, {FEATURES} holds {shape} {self.features.dtype}, {TABLE} {len(self.paths)}"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def check(self, who: str) -> int:
        """Refuse features that no `extract` writes, and return how many are all zeros, which have no direction.

        Opening a store does not look at them, as that reads them all.

        Raises:
            UserError: one is NaN, Inf, or neither of length 1 nor all zeros; the first is named.
        """
        without_direction = 0
        for start in range(0, len(self), _ROWS):
            rows = torch.from_numpy(self.features[start : start + _ROWS])
            unlike = unlike_unit(rows)
            without_direction += int((rows == 0).all(dim=1).sum())
            if unlike.any():
                row = int(unlike.nonzero()[0])
                length = float(rows[row].double().norm())
                got = f"one of length {length:.4g}" if math.isfinite(length) else "NaN or Inf"
                raise UserError(
                    f"{who}: every feature of {self.folder} must be of length 1, or all zeros, got {got} for "
                    f"{self.paths[start + row]}; the file is damaged: extract again"
                )
        return without_direction

    def _damaged(self, who: str, reason: str) -> UserError:
        return UserError(f"{who}: the files of {self.folder} must be those of one `extract` ({reason}); extract again")


def _map(path: Path) -> np.ndarray:
    with open_file(path):
        pass
    try:
        return np.lib.format.open_memmap(path, mode="c")  # one array, no archive of them, and no objects
    except Exception as error:  # NumPy parses the header as Python, and what that raises has no common base
        if isinstance(error, OSError):
            raise
        raise ValueError(f"{path.name}: {' '.join(str(error).split())}") from None


def _read_table(path: Path) -> tuple[tuple[Path, ...], np.ndarray | None, np.ndarray | None]:
    text = read_bytes(path).decode("utf-8", "surrogateescape")
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    if not rows or rows[0] != ["path", "id", "camera"] or any(len(row) != 3 for row in rows):
        raise ValueError(f"{path.name} does not have the columns path,id,camera")
    ids, cameras = (_numbers([row[column] for row in rows[1:]]) for column in (1, 2))
    return tuple(Path(from_cell(row[0])) for row in rows[1:]), ids, cameras


def _numbers(values: list[str]) -> np.ndarray | None:
    return np.array([int(value) for value in values], dtype=np.int64) if any(values) else None
