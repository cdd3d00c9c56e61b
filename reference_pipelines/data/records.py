"""What a re-identification data set is, whatever its layout, and the one way to read it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reference_pipelines.data.market1501 import MARKET_FOLDERS, find_market_root, read_market_folder
from reference_pipelines.data.rendering.market import MANIFEST as RENDERED_MANIFEST
from reference_pipelines.errors import UserError


@dataclass(frozen=True)
class ImageList:
    """Images with what is known of each.

    Args:
        paths: N image files.
        ids: (N,) person ids; 0 is a distractor, -1 is junk.
        cameras: (N,) camera numbers.
    """

    paths: tuple[Path, ...]
    ids: np.ndarray
    cameras: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def where(self, mask: np.ndarray) -> "ImageList":
        """Return the images for which the boolean (N,) `mask` holds, in order."""
        keep = np.flatnonzero(mask)
        return ImageList(tuple(self.paths[i] for i in keep), self.ids[keep], self.cameras[keep])

    def labels(self) -> np.ndarray:
        """Return (N,) labels 0 ... K-1, one a person, in the order of the ids."""
        return np.unique(self.ids, return_inverse=True)[1]


@dataclass(frozen=True)
class ReidData:
    """A data set after the Market-1501 protocol.

    Args:
        root: the folder that holds it.
        layout: how its files are laid out and named.
        train: images to train on; ids are people, never distractors.
        query: images to search for.
        gallery: images to search in, distractors (id 0) among them.
        junk: images of the gallery with id -1, which are left out.
        rendered: whether these are the rendered pedestrians and no photographs.
    """

    root: Path
    layout: str
    train: ImageList
    query: ImageList
    gallery: ImageList
    junk: int
    rendered: bool

    def __str__(self) -> str:
        def part(name: str, images: ImageList) -> str:
            return f"{name} {len(images):,} images of {len(np.unique(images.ids[images.ids > 0])):,} ids"

        parts = (part("train", self.train), part("query", self.query), part("gallery", self.gallery))
        cameras = len(np.unique(np.concatenate([self.train.cameras, self.gallery.cameras])))
        kind = f"rendered images ({self.layout})" if self.rendered else self.layout
        return f"{kind} at {self.root}: {', '.join(parts)}, {cameras} cameras, {self.junk:,} junk left out"

    def fingerprint(self) -> str:
        """Return a digest of every file's name and size: the same folder gives the same digest."""
        digest = hashlib.sha256()
        for path in (*self.train.paths, *self.query.paths, *self.gallery.paths):
            digest.update(f"{path.relative_to(self.root)} {path.stat().st_size}\n".encode())
        return digest.hexdigest()[:16]


def read(root: str | Path, layout: str | None = None) -> ReidData:
    """Read a data set's folder; nothing is decoded yet.

    Args:
        root: the folder, or one above or around it.
        layout: "market1501", or None to find it by content.

    Raises:
        UserError: the folder is missing, is of no known layout, or has a part without people, or no query has a match.
    """
    root = Path(root).expanduser()
    if layout not in (None, "market1501"):
        raise UserError(f'data: layout must be "market1501" or left out, got {layout!r}')
    if not root.is_dir():
        raise UserError(f"data: {root} is not a folder; give the data set's folder with --data.root")
    base = find_market_root(root)
    if base is None:
        raise UserError(
            f"data: {root} holds no data set in the Market-1501 layout, which has the folders "
            f"{', '.join(MARKET_FOLDERS)}; point --data.root at the folder that holds them"
        )
    parts = {}
    for folder in MARKET_FOLDERS:
        parts[folder] = ImageList(*read_market_folder(base / folder))
        if not len(parts[folder]):
            raise UserError(
                f"data: {base / folder} must hold images named like 0002_c1s1_000451_03.jpg, found none; "
                "is the archive unpacked completely?"
            )
    train, query, everything = (parts[folder] for folder in MARKET_FOLDERS)
    junk = everything.ids == -1
    if not (train.ids > 0).any() or junk.all():
        empty = "bounding_box_train" if not (train.ids > 0).any() else "bounding_box_test"
        raise UserError(
            f"data: {base / empty} must hold images of people, found only junk and distractors (ids -1 and 0); "
            "is this the right folder?"
        )
    gallery = everything.where(~junk)
    if not _has_match(query, gallery):
        raise UserError(
            f"data: some query in {base / 'query'} must have a gallery image of the same person from another camera, "
            "none has; are the parts of one data set?"
        )
    return ReidData(
        root=base,
        layout="market1501",
        train=train.where(train.ids > 0),
        query=query,
        gallery=gallery,
        junk=int(junk.sum()),
        rendered=(base / RENDERED_MANIFEST).is_file(),
    )


def _has_match(query: ImageList, gallery: ImageList) -> bool:
    seen: dict[int, set[int]] = {}
    for person, camera in zip(gallery.ids.tolist(), gallery.cameras.tolist(), strict=True):
        seen.setdefault(person, set()).add(camera)
    pairs = zip(query.ids.tolist(), query.cameras.tolist(), strict=True)
    return any(person > 0 and seen.get(person, set()) - {camera} for person, camera in pairs)
