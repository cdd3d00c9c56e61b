"""Clusters of images as a table."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from attnreid.files import write_bytes
from reference_pipelines.spreadsheet import as_cell


def write_clusters(path: Path, images: Iterable[str | Path], clusters: np.ndarray) -> None:
    """Write a CSV file with a line an image, path and cluster, -1 for noise, whole or not at all.

    A path that a spreadsheet would take for a formula stands behind an apostrophe.

    Raises:
        OSError: it cannot be written.
    """
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["path", "cluster"])
    rows.writerows(zip((as_cell(str(image)) for image in images), clusters.tolist(), strict=True))
    write_bytes(path, file.getvalue().encode("utf-8", "surrogateescape"))
