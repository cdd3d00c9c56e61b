"""The Market-1501 folder layout: where the files lie and what their names say."""

import re
from pathlib import Path

import numpy as np

MARKET_FOLDERS = ("bounding_box_train", "query", "bounding_box_test")

# 0002_c1s1_000451_03.jpg: person, camera, sequence, frame, box. Some sets have two-digit cameras and no sequence.
_NAME = re.compile(r"^(-?\d+)_c(\d+)(?=\D).*\.(?:jpe?g|png)$", re.IGNORECASE)


def find_market_root(root: Path) -> Path | None:
    """Return the folder at or one below `root` that holds the layout's three folders; archives nest."""
    nested = sorted(path for path in root.iterdir() if path.is_dir() and path.name != "__MACOSX")
    for base in (root, *nested):
        if all((base / folder).is_dir() for folder in MARKET_FOLDERS):
            return base
    return None


def read_market_folder(folder: Path) -> tuple[tuple[Path, ...], np.ndarray, np.ndarray]:
    """Return the paths in name order with their (N,) ids and (N,) cameras; foreign files are passed over."""
    names = [(path, match) for path in sorted(folder.iterdir()) if (match := _NAME.match(path.name))]
    ids = np.array([int(match[1]) for _, match in names], dtype=np.int64)
    cameras = np.array([int(match[2]) for _, match in names], dtype=np.int64)
    return tuple(path for path, _ in names), ids, cameras
