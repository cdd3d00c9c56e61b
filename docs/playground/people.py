"""Whom the page shows: people to cover, and a small gallery of them and of others."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from reference_pipelines.data import read
from reference_pipelines.data.records import ImageList
from reference_pipelines.retrieval import evaluate

QUERIES, MATES = 6, 3
"""People to cover, and images that the gallery has of each."""


class Shown(NamedTuple):
    """Some images with what is known of them.

    Args:
        pixels: (N, H, W, 3) uint8.
        ids: (N,) people.
        cameras: (N,) of the images.
    """

    pixels: np.ndarray
    ids: np.ndarray
    cameras: np.ndarray


class People(NamedTuple):
    """What the page shows, and how good the network is on all people of the test set.

    Args:
        queries: to be covered, one image of each person.
        gallery: to be ranked.
        mean_average_precision: over all queries of the test set, 0 ... 1.
        rank1: likewise.
        tested: people in the test set.
    """

    queries: Shown
    gallery: Shown
    mean_average_precision: float
    rank1: float
    tested: int


def load_pixels(paths: tuple[Path, ...] | list[Path]) -> np.ndarray:
    """Return the pixels of image files of one size, (N, H, W, 3) uint8."""
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])


def choose(root: Path, query_features: np.ndarray, gallery_features: np.ndarray) -> People:
    """Return whom the page shows of a data set.

    The people to cover are the first, in the order of their ids, who have a query for which the network ranks a right
    image first and `MATES` images by other cameras. The gallery has that image, others of the person and one of every
    other person.

    Args:
        root: the data set's folder.
        query_features: (Q, D) of its queries.
        gallery_features: (G, D) of its gallery.
    """
    data = read(root)
    query, gallery = data.query, data.gallery
    result = evaluate(
        query_features, query.ids, query.cameras, gallery_features, gallery.ids, gallery.cameras, ranks=(1,)
    )
    first = np.full(len(query), -1)
    for index in result.queries:
        allowed = (gallery.ids != query.ids[index]) | (gallery.cameras != query.cameras[index])
        first[index] = np.where(allowed, gallery_features @ query_features[index], -np.inf).argmax()
    right = (first >= 0) & (gallery.ids[first] == query.ids)
    chosen: list[int] = []
    shown: list[int] = []
    for person in query.people():
        for index in np.flatnonzero((query.ids == person) & right):
            mates = np.flatnonzero((gallery.ids == person) & (gallery.cameras != query.cameras[index]))
            if len(chosen) < QUERIES and len(mates) >= MATES:
                chosen.append(int(index))
                others = mates[mates != first[index]]
                shown += [int(first[index]), *others[np.linspace(0, len(others) - 1, MATES - 1).astype(int)].tolist()]
                break
    known = set(query.ids[chosen].tolist())
    shown += [int(np.flatnonzero(gallery.ids == person)[0]) for person in gallery.people() if person not in known]
    return People(
        _shown(query, chosen),
        _shown(gallery, shown),
        result.mAP,
        float(result.cmc[1]),
        len(query.people()),
    )


def _shown(images: ImageList, indices: list[int]) -> Shown:
    return Shown(load_pixels([images.paths[i] for i in indices]), images.ids[indices], images.cameras[indices])
