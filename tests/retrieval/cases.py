"""Small galleries with what goes wrong in large ones: ties, duplicates, junk, distractors, queries without a match."""

from dataclasses import astuple, dataclass

import numpy as np
import torch
from hypothesis import strategies as st


@dataclass(frozen=True)
class Labelled:
    query_ids: list
    query_cameras: list
    gallery_ids: list
    gallery_cameras: list

    def beside(self, query, gallery):
        """Return the arguments of `evaluate` with these features, or None for both."""
        return query, self.query_ids, self.query_cameras, gallery, self.gallery_ids, self.gallery_cameras

    def __iter__(self):
        return iter(astuple(self))


class Given:
    """Distances that are there already."""

    def __init__(self, rows):
        self.whole = torch.as_tensor(rows)

    @property
    def shape(self):
        return tuple(self.whole.shape)

    def rows(self, block):
        return self.whole[block]


def listed(elements, count):
    return st.lists(elements, min_size=count, max_size=count)


@st.composite
def labels(draw, *, queries=6, gallery=25, people=3):
    asked, images = draw(st.integers(1, queries)), draw(st.integers(1, gallery))
    cameras = st.integers(1, draw(st.integers(1, 3)))  # often one camera only
    return Labelled(
        draw(listed(st.integers(1, people), asked)),
        draw(listed(cameras, asked)),
        draw(listed(st.integers(-1, people), images)),
        draw(listed(cameras, images)),
    )


@st.composite
def on_a_grid(draw, **sizes):
    """Draw labels and features of few whole coordinates: duplicates and ties abound, and nothing is rounded."""
    who = draw(labels(**sizes))
    width = draw(st.integers(1, 3))
    dtype = draw(st.sampled_from([torch.float16, torch.float32, torch.float64]))
    points = [
        torch.tensor(draw(listed(listed(st.integers(0, 3), width), len(ids))), dtype=dtype)
        for ids in (who.query_ids, who.gallery_ids)
    ]
    return who, *points


@st.composite
def with_distances(draw, **sizes):
    """Draw labels and (Q, G) distances, few of them different."""
    who = draw(labels(**sizes))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    row = listed(st.sampled_from([0.0, 0.25, 0.5, 1.0 / 3.0, -1.0]), len(who.gallery_ids))
    return who, np.array(draw(listed(row, len(who.query_ids))), dtype=dtype)


def clustered(queries, gallery, width, *, people=20, cameras=4, seed=0):
    """Return labels and features that look like a trained network's, with junk and distractors."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(people + 1, width))

    def images(count, lowest):
        ids = rng.integers(lowest, people + 1, count)
        features = np.where(ids[:, None] > 0, centres[ids], 0) + rng.normal(size=(count, width))
        return ids.tolist(), rng.integers(1, cameras + 1, count).tolist(), features.astype(np.float32)

    query_ids, query_cameras, query = images(queries, 1)
    gallery_ids, gallery_cameras, points = images(gallery, -1)
    return Labelled(query_ids, query_cameras, gallery_ids, gallery_cameras), query, points
