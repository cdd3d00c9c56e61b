"""Which images a folder or a table names: those of a data set in any layout, or all of a plain folder."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from reference_pipelines.config.sections import HALVES, PeopleSplit
from reference_pipelines.data import read
from reference_pipelines.data.layouts.find import holds_data_set
from reference_pipelines.data.layouts.scanning import images_below
from reference_pipelines.data.records import PARTS, Part, ReidData
from reference_pipelines.errors import UserError
from reference_pipelines.features.writing import Listing

Which = Literal["all", "train", "query", "gallery", "images"]


def list_images(
    root: Path,
    *,
    part: Which = "all",
    layout: str | None = None,
    split: PeopleSplit = HALVES,
    who: str = "extract",
) -> Listing:
    """Return the images of a data set, each once, or of a plain folder and all folders in it.

    Args:
        root: a data set's folder or CSV file, in any layout that `read` reads, or any folder with images in it.
        part: of the data set, "all" where there is none being every image of the folder; "images" reads no layout in
            any case, and knows no ids and cameras.
        layout: the data set's; found by content when None.
        split: of people whom the data set does not split.
        who: complains.

    Raises:
        UserError: there is no such data set, or it has no such images.
    """
    plain = part == "all" and layout is None and root.is_dir() and not holds_data_set(root)
    if part == "images" or plain:
        paths = _below(root, who)
        if not paths:
            raise UserError(f"{who}: {root} must hold images, it and its folders hold none; name another folder")
        return Listing(os.path.abspath(root), paths)
    data = read(root, layout, split)
    if part != "all":
        data.require(who, part)
    return _of_data_set(root, data, [name for name in PARTS if part in ("all", name)], who)


def _of_data_set(root: Path, data: ReidData, parts: Sequence[Part], who: str) -> Listing:
    rows: dict[str, tuple[int, int]] = {}
    for name in parts:
        images = data.part(name)
        for path, person, camera in zip(images.paths, images.ids.tolist(), images.cameras.tolist(), strict=True):
            rows.setdefault(os.path.abspath(path), (person, camera))
    if not rows:
        raise UserError(f"{who}: {root} must hold images, it lists none; name another data set")
    ids, cameras = np.array(list(rows.values()), dtype=np.int64).T
    return Listing(os.path.abspath(root), tuple(map(Path, rows)), ids, cameras if data.cameras_known else None)


def _below(folder: Path, who: str) -> tuple[Path, ...]:
    """Return the images in a folder and in the folders in it, in the order of their names."""
    if not folder.is_dir():
        what = "it is a file" if folder.exists() else "there is none"
        raise UserError(f"{who}: --part images needs a folder, got {folder}: {what}; name the folder of the images")
    try:
        return images_below(Path(os.path.abspath(folder)))
    except OSError as error:
        raise UserError(f"{who}: cannot read {error.filename or folder} ({error.strerror}); check the rights") from None
