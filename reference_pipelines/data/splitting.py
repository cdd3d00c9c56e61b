"""People taken out of a labelled part to be tested on."""

from dataclasses import replace

import numpy as np

from reference_pipelines.config.sections import PeopleSplit
from reference_pipelines.data.records import ImageList, ReidData


def seen_twice(images: ImageList) -> np.ndarray:
    """Return the ids of people in order who were seen by two cameras: nobody else has a match."""
    known = images.where(images.ids > 0)
    views = np.unique(np.stack([known.ids, known.cameras]), axis=1)[0]
    people, cameras = np.unique(views, return_counts=True)
    return people[cameras > 1]


def draw(people: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return `count` of the people (P,), drawn with the seed."""
    return np.random.default_rng(seed).permutation(people)[:count]


def take_out(images: ImageList, people: np.ndarray) -> tuple[ImageList, ImageList, ImageList]:
    """Return the images without those of some people, and of these a query and a gallery.

    Their first image from each camera is a query; all of their images are the gallery, of which the protocol drops what
    the query's own camera took.
    """
    chosen = np.isin(images.ids, people)
    gallery = images.where(chosen)
    _, first = np.unique(np.stack([gallery.ids, gallery.cameras]), axis=1, return_index=True)
    query = gallery.where(np.isin(np.arange(len(gallery)), first))
    return images.where(~chosen), query, gallery


def split_people(data: ReidData, split: PeopleSplit) -> ReidData:
    """Return a data set whose people are all in train as one with query and gallery, and a note on what was done.

    Two people at least are left to train on.
    """
    people, able = data.train.people(), seen_twice(data.train)
    count = min(round(split.share * len(people)), len(able), len(people) - 2)
    if count < 1:
        why = "data.test_people is 0" if not split.share else "it takes three, and two views of those tested"
        note = f"the people are not split ({why}): no scores"
        return replace(data, notes=(*data.notes, note))
    train, query, gallery = take_out(data.train, draw(able, count, split.seed))
    note = (
        f"split by people: {count:,} of {len(people):,}, drawn with the seed {split.seed}, are query and gallery "
        "(data.test_people, data.split_seed)"
    )
    return replace(data, train=train, query=query, gallery=gallery, notes=(*data.notes, note))
