"""What a re-identification data set is, whatever its layout."""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from reference_pipelines.data.names import composed, printable
from reference_pipelines.errors import UserError

Part = Literal["train", "query", "gallery"]
PARTS: tuple[Part, ...] = ("train", "query", "gallery")

DISTRACTOR, JUNK, UNKNOWN = 0, -1, -2
"""Ids that are nobody's: Market-1501's two, and that of a training image of which nobody has said who it shows."""


@dataclass(frozen=True)
class ImageList:
    """Images with what is known of each.

    Args:
        paths: N image files.
        ids: (N,) person ids; 0 is a distractor, -1 is junk, -2 is not known.
        cameras: (N,) camera numbers.
        tracklets: (N,) numbers, one a tracklet, an image in none having a number of its own; None where no image is in
            one.
    """

    paths: tuple[Path, ...]
    ids: np.ndarray
    cameras: np.ndarray
    tracklets: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def where(self, mask: np.ndarray) -> "ImageList":
        """Return the images for which the boolean (N,) `mask` holds, in order."""
        keep = np.flatnonzero(mask)
        tracklets = None if self.tracklets is None else self.tracklets[keep]
        return ImageList(tuple(self.paths[i] for i in keep), self.ids[keep], self.cameras[keep], tracklets)

    @property
    def known(self) -> np.ndarray:
        """(N,) whether somebody has said who each image shows, if only that it is nobody."""
        mask: np.ndarray = self.ids != UNKNOWN
        return mask

    def labels(self) -> np.ndarray:
        """Return (N,) labels 0 ... K-1, one a person, in the order of the ids."""
        return np.unique(self.ids, return_inverse=True)[1]

    def people(self) -> np.ndarray:
        """Return the ids of people in order, each once: neither distractors, nor junk, nor who is not known."""
        return np.unique(self.ids[self.ids > 0])


@dataclass(frozen=True)
class ReidData:
    """A data set after the Market-1501 protocol. A part may be empty: `require` refuses that for who needs it.

    Args:
        root: the folder that holds it, or the CSV file that lists it.
        layout: how its files are laid out and named, and with that which data set and version it is.
        train: images to train on; ids are people or not known, never distractors.
        query: images to search for.
        gallery: images to search in, distractors (id 0) among them.
        junk: images of the gallery with id -1, which are left out.
        rendered: whether these are the rendered pedestrians and no photographs.
        left_out: images of the train part with id 0 or -1, which are not in `train`.
        cameras_known: False where no camera was given, so that every image file has a camera number of its own; of a
            joined set it is said of the query and gallery.
        id_names: what the person ids stand for where the data set names people otherwise than by these numbers.
        title: how tables call the data set; its layout where this is empty.
        notes: rules that were applied in reading, for the printed line.
        members: the data sets whose training images were joined; empty for one that was read as it is.
        tested_on: the data set whose query and gallery stand in the place of theirs, if there is one.
    """

    root: Path
    layout: str
    train: ImageList
    query: ImageList
    gallery: ImageList
    junk: int
    rendered: bool
    left_out: int = 0
    cameras_known: bool = True
    id_names: Mapping[int, str] = field(default_factory=dict)
    title: str = ""
    notes: tuple[str, ...] = ()
    members: tuple["ReidData", ...] = ()
    tested_on: "ReidData | None" = None

    @property
    def tested(self) -> bool:
        """Whether there are queries and a gallery, without which nothing can be scored."""
        return bool(len(self.query) and len(self.gallery))

    @property
    def train_cameras_known(self) -> bool:
        """Whether every training image has the camera that took it."""
        return all(each.cameras_known for each in self.members or (self,))

    @property
    def name(self) -> str:
        """How tables call the data set."""
        return printable(self.title or self.layout)

    def __str__(self) -> str:
        def part(name: Part) -> str:
            images = self.part(name)
            if not len(images):
                return f"no {name}"
            unknown = int((images.ids == UNKNOWN).sum())
            if unknown == len(images):
                return f"{name} {len(images):,} images of nobody known"
            known = f"{name} {len(images):,} images of {len(images.people()):,} ids"
            return f"{known} and {unknown:,} of nobody known" if unknown else known

        cameras = len(np.unique(np.concatenate([self.part(name).cameras for name in PARTS])))
        seen = f"{cameras} cameras" if self.cameras_known else "no cameras given"
        left_out = (self.left_out_note(),) if self.left_out else ()
        said = "".join(f"; {note}" for note in (*left_out, *self.notes))
        parts = ", ".join(part(name) for name in PARTS)
        kind = f"rendered images ({self.layout})" if self.rendered else self.layout
        if self.members:
            kind = " + ".join(str(each.root) for each in self.members)
            kind += "" if self.tested_on is None else f", tested on {self.tested_on.root}"
        where = kind if self.members else f"{kind} at {self.root}"
        return printable(f"{where}: {parts}, {seen}, {self.junk:,} junk left out{said}")

    def left_out_note(self) -> str:
        """Return how many images of the train part are nobody's."""
        images = "train image of id 0 or -1 is" if self.left_out == 1 else "train images of id 0 or -1 are"
        return f"{self.left_out:,} {images} left out"

    def part(self, name: Part) -> ImageList:
        """Return the images of one part."""
        parts = {"train": self.train, "query": self.query, "gallery": self.gallery}
        return parts[name]

    def id_name(self, person: int) -> str:
        """Return how the data set itself names a person."""
        return printable(self.id_names.get(person) or f"{person:04d}")

    def match_counts(self) -> np.ndarray:
        """Return for each query (Q,) how many gallery images are of the same person and from another camera."""
        people = Counter(self.gallery.ids.tolist())
        views = Counter(zip(self.gallery.ids.tolist(), self.gallery.cameras.tolist(), strict=True))
        queries = zip(self.query.ids.tolist(), self.query.cameras.tolist(), strict=True)
        return np.array([people[view[0]] - views[view] if view[0] > 0 else 0 for view in queries], dtype=np.int64)

    def why_no_match(self) -> str:
        """Return what to do where no query has a match: where all are of one camera, how to do without it."""
        seen = np.unique(np.concatenate([self.query.cameras, self.gallery.cameras]))
        if not self.cameras_known or len(seen) != 1 or not np.isin(self.query.ids, self.gallery.ids).any():
            return "are the parts of one data set?"
        return (
            f"all of them are of camera {seen[0]}, and the protocol leaves out what the query's own camera took; to "
            "count every other image of the person as a match, list the images in a CSV file with the columns "
            "image,id,split and no camera, and give that"
        )

    def require(self, who: str, *parts: Part) -> "ReidData":
        """Return this data set if none of `parts` is empty.

        Args:
            who: complains otherwise.
            parts: that it needs.

        Raises:
            UserError: a part has no image.
        """
        missing = [name for name in parts if not len(self.part(name))]
        if missing:
            needed = " and ".join(parts) if len(parts) < 3 else f"{', '.join(parts[:-1])} and {parts[-1]}"
            raise UserError(
                f"{who}: the data set must have {needed} images, {self.name} at {self.root} has no "
                f"{' and no '.join(missing)}; add them or choose another data set"
            )
        return self

    def describe(self) -> dict[str, Any]:
        """Return what a result says of the data that it was measured on."""
        return {
            "name": self.name if self.cameras_known else f"{self.name}, no cameras",
            "layout": self.layout,
            "rendered": self.rendered,
            "summary": str(self),
            "fingerprint": self.fingerprint(),
        }

    def fingerprint(self) -> str:
        """Return a digest of every image's part, place, size, person and camera: the same data gives the same digest.

        Places count from the root, also where a CSV file lists images outside of its folder, and are compared as all
        names are, in the composed form.

        Raises:
            UserError: an image cannot be looked at.
        """
        if self.members:
            parts = [f"trained on {each.fingerprint()}" for each in self.members]
            parts += [] if self.tested_on is None else [f"tested on {self.tested_on.fingerprint()}"]
            return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
        base = self.root.parent if self.root.is_file() else self.root
        below = f"{base}{os.sep}"
        digest = hashlib.sha256()
        for name in PARTS:
            images = self.part(name)
            tracklets = [""] * len(images) if images.tracklets is None else [f" {each}" for each in images.tracklets]
            rows = zip(images.paths, images.ids.tolist(), images.cameras.tolist(), tracklets, strict=True)
            for path, person, camera, tracklet in rows:
                place = _place(str(path), base, below)
                line = f"{name} {composed(place)} {_size(path)} {person} {camera}{tracklet}\n"
                digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]


def _place(path: str, base: Path, below: str) -> str:
    """Return where a file lies from the base on; by cutting where that is plain, which is ten times as fast."""
    if path.startswith(below) and ".." not in path[len(below) :]:
        return path[len(below) :].replace(os.sep, "/")
    return Path(os.path.relpath(path, base)).as_posix()


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise UserError(
            f"data: cannot read the image {path} ({error.strerror}); check its name and permissions"
        ) from None
