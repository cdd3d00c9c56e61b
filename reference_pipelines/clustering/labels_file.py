"""Clusters of images as a table."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from attnreid.files import write_bytes
from reference_pipelines.spreadsheet import as_cell, as_line


def write_clusters(path: Path, images: Iterable[str | Path], clusters: np.ndarray) -> None:
    """Write a CSV file with a line an image, path and cluster, -1 for noise, whole or not at all.

    A path that a spreadsheet would take for a formula stands behind an apostrophe.

    Raises:
        OSError: it cannot be written.
    """
    rows = zip(images, clusters.tolist(), strict=True)
    lines = [as_line(["path", "cluster"]), *(as_line([as_cell(str(image)), str(cluster)]) for image, cluster in rows)]
    write_bytes(path, "".join(lines).encode("utf-8", "surrogateescape"))
