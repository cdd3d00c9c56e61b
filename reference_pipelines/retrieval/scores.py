"""What is made of the ranks of the true matches: precision, penalty, and how sure the mean is."""

from dataclasses import dataclass

import numpy as np

from reference_pipelines.retrieval.ranking import Hits


@dataclass(frozen=True)
class CameraPair:
    """How well queries of one camera find their persons' images of another.

    The matches of the other cameras are dropped, the negatives of all cameras stay, as in Market-1501's own figures
    of camera pairs. A query counts where it has a match from that camera.

    Args:
        query_camera: the camera of the queries.
        gallery_camera: the camera of the matches.
        queries: how many queries count.
        mAP: mean of their average precision, 0 to 1.
        rank1: the part of them with a match first.
    """

    query_camera: int
    gallery_camera: int
    queries: int
    mAP: float
    rank1: float


@dataclass(frozen=True)
class Ranked:
    """The ranks of the matches, grouped: by query, or by query and camera.

    Args:
        ranks: (H,) 0-based ranks, ascending within a group.
        starts: (N,) where each group starts.
    """

    ranks: np.ndarray
    starts: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """(N,) matches of each group."""
        return np.diff(self.starts, append=len(self.ranks))

    @property
    def numbers(self) -> np.ndarray:
        """(H,) how many matches of its group stand before each."""
        return np.arange(len(self.ranks)) - np.repeat(self.starts, self.sizes)

    @property
    def first(self) -> np.ndarray:
        """(N,) ranks of the first matches."""
        return self.ranks[self.starts]

    @property
    def last(self) -> np.ndarray:
        """(N,) ranks of the last matches."""
        return self.ranks[self.starts + self.sizes - 1]

    def average_precision(self) -> np.ndarray:
        """Return (N,) the mean of the precision at each match: of the area under the curve, its right corners."""
        return self._mean((self.numbers + 1) / (self.ranks + 1))

    def average_precision_market(self) -> np.ndarray:
        """Return (N,) the average precision of Market-1501's evaluation code (Zheng et al., ICCV 2015).

        It is the area under the curve by trapezoids: the mean over the matches of half the sum of the precision at
        the match and of that just before it, which is 1 before the first image.
        """
        before = np.where(self.ranks > 0, self.numbers / np.maximum(self.ranks, 1), 1.0)
        return self._mean(((self.numbers + 1) / (self.ranks + 1) + before) / 2)

    def inverse_negative_penalty(self) -> np.ndarray:
        """Return (N,) matches divided by the 1-based rank of the last: how far one must look to see all.

        Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook" (TPAMI 2021), Eq. 2 and 3.
        """
        return self.sizes / (self.last + 1)

    def _mean(self, values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, self.starts) / self.sizes


def by_query(hits: Hits) -> Ranked:
    """Return the ranks by query; hits has at least one."""
    return Ranked(hits.ranks, _starts(hits.queries))


def camera_pairs(hits: Hits, query_cameras: np.ndarray, gallery_cameras: np.ndarray) -> tuple[CameraPair, ...]:
    """Return the pairs that have a match, by query camera and gallery camera.

    Args:
        hits: the matches.
        query_cameras: (Q,) cameras.
        gallery_cameras: (G,) cameras.
    """
    whole = by_query(hits)
    cameras, camera = np.unique(gallery_cameras[hits.images], return_inverse=True)
    order = np.lexsort((hits.ranks, camera, hits.queries))
    group = hits.queries * len(cameras) + camera[order]  # the order within a query changes alone
    starts = _starts(group)
    # The group's own matches count as before; the other cameras' before each are dropped.
    number = Ranked(hits.ranks, starts).numbers
    part = Ranked(hits.ranks[order] - whole.numbers[order] + number, starts)
    precision, found = part.average_precision(), part.first == 0
    kinds, query_camera = np.unique(query_cameras[hits.queries[starts]], return_inverse=True)
    pair = query_camera * len(cameras) + camera[order][starts]
    result = []
    for each in np.unique(pair):
        own = pair == each
        names = kinds[each // len(cameras)].item(), cameras[each % len(cameras)].item()
        result.append(CameraPair(*names, int(own.sum()), float(precision[own].mean()), float(found[own].mean())))
    return tuple(result)


def bootstrap_interval(values: np.ndarray, *, resamples: int = 2000, seed: int = 0) -> tuple[float, float] | None:
    """Return the 95 % percentile bootstrap interval of the mean of (n,) `values`; None of one value alone."""
    if len(values) < 2:
        return None
    rng = np.random.default_rng(seed)
    # A block of resamples at a time, so that a large query set does not fill the memory.
    sizes = [min(64, resamples - start) for start in range(0, resamples, 64)]
    means = [values[rng.integers(len(values), size=(size, len(values)))].mean(axis=1) for size in sizes]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def expected_average_precision(matches: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return (N,) the expectation of the average precision when `images` are in random order, `matches` of them hits.

    At rank r stands a hit with probability m/n, and then (m-1)/(n-1) of the r-1 images before it are expected to be
    hits; so the expectation is (H + (m-1)/(n-1) * (n - H)) / n with H = 1 + 1/2 + ... + 1/n.

    Args:
        matches: (N,) m, at least 1.
        images: (N,) n, at least m.
    """
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, images.max() + 1))])[images]
    others = (matches - 1) / np.maximum(images - 1, 1)
    return (harmonic + others * (images - harmonic)) / images


def _starts(groups: np.ndarray) -> np.ndarray:
    """Return where each run of equal values of a non-empty array starts."""
    return np.flatnonzero(np.concatenate([[True], groups[1:] != groups[:-1]]))
