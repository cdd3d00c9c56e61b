"""Scoring a gallery's ranking from given features: counting what is nearer, against a sort and a loop a query."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.cases import Case, Peer, Problem, Shape, Skipped, Target, Variant

MARKET: Shape = (256, 3_368, 15_913)
MSMT17: Shape = (256, 11_659, 82_161)
"""Width of the features, queries, gallery images without junk."""

RANKS = (1, 5, 10, 20)
MOST_RESIDENT = 1_500_000_000
_BLOCK = 256

Labels = tuple[np.ndarray, np.ndarray]
Sort = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class People:
    """Who is in the images: how many persons, cameras, and which part of the gallery are distractors."""

    persons: int
    cameras: int
    distractors: float = 0.0


def make_images(count: int, width: int, people: People, *, distractors: float, seed: int) -> tuple[Tensor, Labels]:
    """Return (count, width) features like those of a trained network, with ids (0: distractor) and cameras.

    A feature is its person's vector, half its camera's and the image's own, 0.6 to 1.8 times; a distractor's person
    is on no other image. Persons and cameras are the same for every seed.
    """
    rng, shared = np.random.default_rng(seed), np.random.default_rng(0)
    persons, scenes = (shared.normal(size=(each, width)) for each in (people.persons + 1, people.cameras))
    ids = rng.integers(1, people.persons + 1, count)
    ids[rng.random(count) < distractors] = 0
    cameras = rng.integers(people.cameras, size=count)
    features = rng.normal(size=(count, width)) * rng.uniform(0.6, 1.8, (count, 1)) + scenes[cameras] / 2
    features += np.where(ids[:, None] > 0, persons[ids], rng.normal(size=(count, width)))
    return torch.from_numpy(features).float(), (ids, cameras)


def make_data(problem: Problem, people: People) -> tuple[Tensor, Labels, Tensor, Labels]:
    """Return the queries and the gallery; in single precision whatever --dtype, as features are."""
    width, queries, images = problem.shape
    query, query_labels = make_images(queries, width, people, distractors=0.0, seed=1)
    gallery, gallery_labels = make_images(images, width, people, distractors=people.distractors, seed=2)
    return query.to(problem.device), query_labels, gallery.to(problem.device), gallery_labels


def counted(problem: Problem, *, people: People) -> Variant:
    """Build the pipelines' `evaluate`."""
    try:
        from reference_pipelines.retrieval import evaluate
    except ModuleNotFoundError as error:
        raise Skipped(f"{error.name} is not installed; pip install 'attnreid[pipelines]'") from None
    query, query_labels, gallery, gallery_labels = make_data(problem, people)

    def work() -> Tensor:
        result = evaluate(query, *query_labels, gallery, *gallery_labels, ranks=RANKS)
        return torch.tensor([result.mAP, result.mINP, *result.cmc.values()], dtype=torch.float64)

    return Variant(work)


def sorted_one_by_one(problem: Problem, *, people: People, sort: Sort, same: bool) -> Variant:
    """Build the loop that people run: the same products, then a sort of the gallery and NumPy for each query."""
    query, query_labels, gallery, gallery_labels = make_data(problem, people)

    def work() -> Tensor:
        first, second = functional.normalize(query, dim=1), functional.normalize(gallery, dim=1)
        scores = []
        for start in range(0, len(first), _BLOCK):
            block = slice(start, start + _BLOCK)
            distances = (1 - first[block] @ second.T).cpu().numpy()
            for row, person, camera in zip(distances, *(each[block] for each in query_labels), strict=True):
                scores.append(score_one(sort(row), person, camera, *gallery_labels))
        return torch.tensor(np.mean([score for score in scores if score is not None], axis=0))

    return Variant(work, agrees=same, note="" if same else "theirs leaves the order of ties open")


def score_one(order: np.ndarray, person: int, camera: int, ids: np.ndarray, cameras: np.ndarray) -> np.ndarray | None:
    """Return a query's average precision, inverse negative penalty and CMC at `RANKS`; None without a match."""
    ids, cameras = ids[order], cameras[order]
    counts = ~((ids == person) & (cameras == camera)) & (ids != -1)
    hits = (ids == person)[counts]
    if not hits.any():
        return None
    seen = hits.cumsum()
    precision = (seen / np.arange(1, len(hits) + 1))[hits].mean()
    penalty = seen[-1] / (hits.nonzero()[0][-1] + 1)
    return np.array([precision, penalty, *(hits[:k].any() for k in RANKS)])


def _stable(row: np.ndarray) -> np.ndarray:
    return np.argsort(row, kind="stable")


_market = People(750, 6, distractors=0.176)
_loop = partial(sorted_one_by_one, people=_market)

CASES = (
    Case(
        "ranking",
        "mAP, CMC, mINP of given features",
        partial(counted, people=_market),
        (
            Peer("sorted", "NumPy, a stable sort a query", partial(_loop, sort=_stable, same=True), Target(5.0)),
            Peer("unstable", "NumPy, its default sort a query", partial(_loop, sort=np.argsort, same=False)),
        ),
        (MARKET,),
        1,
        resizable=False,
        counted=False,
        profiled=False,
    ),
    Case(
        "ranking_msmt17",
        "mAP, CMC, mINP of given features",
        partial(counted, people=People(3_060, 15)),
        (),
        (MSMT17,),
        1,
        resizable=False,
        counted=False,
        profiled=False,
        most_resident=MOST_RESIDENT,
    ),
)
"""The rows of this file; their map is 1 x width x queries x gallery."""
