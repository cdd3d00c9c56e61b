"""Pseudo-labels for a whole training set: the sparse way against the dense formulation that people run."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.cases import Case, Peer, Problem, Skipped, Target, Variant

K1, K2, EPS, MIN_SAMPLES = 30, 6, 0.4, 4
_MARKET = (12_936, 2048)
_IMAGES_OF_A_PERSON = 17  # as in Market-1501's training set
_CAMERAS = 6
_BLOCK = 2000


def make_features(count: int, dim: int) -> Tensor:
    """Return (count, dim) unit features like those of a trained network: people, cameras and images of unlike quality.

    A feature is a person's vector, half a camera's vector and the image's own, 0.4 to 1.2 times; all are normal with
    standard deviations that fall with the root of the dimension's number. The same ones at each call.
    """
    generator = torch.Generator().manual_seed(0)
    people = torch.randint(max(1, count // _IMAGES_OF_A_PERSON), (count,), generator=generator)
    cameras = torch.randint(_CAMERAS, (count,), generator=generator)
    quality = torch.empty(count, 1).uniform_(0.4, 1.2, generator=generator)
    deviations = torch.arange(1, dim + 1) ** -0.5

    def draw(vectors: int) -> Tensor:
        return torch.randn(vectors, dim, generator=generator).mul_(deviations)

    features = draw(count).mul_(quality)
    for vectors, owners in ((draw(int(people.max()) + 1), people), (draw(_CAMERAS).div_(2), cameras)):
        for block in _blocks(count):
            features[block] += vectors[owners[block]]
    return functional.normalize(features, dim=1, out=features)


def _sparse(problem: Problem) -> Variant:
    try:
        from reference_pipelines.clustering import dbscan, jaccard_graph
    except ModuleNotFoundError as error:
        raise Skipped(f"{error.name} is not installed; pip install 'attnreid[pipelines]'") from None
    features = _features(problem)

    def work() -> Tensor:
        graph = jaccard_graph(features, k1=K1, k2=K2, max_distance=EPS)
        return torch.as_tensor(dbscan(graph, eps=EPS, min_samples=MIN_SAMPLES)).double()

    return Variant(work)


def _dense(problem: Problem) -> Variant:
    try:
        from sklearn.cluster import DBSCAN
    except ModuleNotFoundError as error:
        raise Skipped(f"{error.name} is not installed; pip install 'attnreid[pipelines]'") from None
    features = _features(problem)

    def work() -> Tensor:
        distances = dense_jaccard(features, K1, K2)
        labels = DBSCAN(eps=EPS, min_samples=MIN_SAMPLES, metric="precomputed", n_jobs=-1).fit_predict(distances)
        return torch.as_tensor(labels).double()

    return Variant(work, note="theirs: (N, N) weights and distances in float32, neighbours by blocks of 2,000 rows")


def dense_jaccard(features: Tensor, k1: int, k2: int) -> np.ndarray:
    """Return the (N, N) k-reciprocal Jaccard distances of (N, D) unit features the way that people compute them.

    Neighbours by blockwise products and topk, then a loop over the points with NumPy on dense rows.
    """
    count = len(features)
    ranks = (
        torch.cat([(features[block] @ features.T).topk(k1, dim=1).indices for block in _blocks(count)]).cpu().numpy()
    )
    half = int(np.around(k1 / 2)) + 1
    near = [_reciprocal(ranks, i, k1) for i in range(count)]
    nearer = [_reciprocal(ranks, i, half) for i in range(count)]
    weights = np.zeros((count, count), dtype=np.float32)
    for i, own in enumerate(near):
        joined = [own]
        for j in own:
            if len(np.intersect1d(nearer[j], own)) > 2 / 3 * len(nearer[j]):
                joined.append(nearer[j])
        members = np.unique(np.concatenate(joined))
        squared = 2 - 2 * features[i : i + 1] @ features[torch.as_tensor(members)].T
        weights[i, members] = functional.softmax(-squared, dim=1).cpu().numpy()
    weights = _averaged(weights, ranks[:, :k2])
    owners = [column.nonzero()[0] for column in weights.T]
    distances = np.empty((count, count), dtype=np.float32)
    for i in range(count):
        shared = np.zeros(count, dtype=np.float32)
        for j in weights[i].nonzero()[0]:
            shared[owners[j]] += np.minimum(weights[i, j], weights[owners[j], j])
        distances[i] = 1 - shared / (2 - shared)
    np.maximum(distances, 0, out=distances)
    return distances


def _blocks(count: int) -> list[slice]:
    return [slice(start, start + _BLOCK) for start in range(0, count, _BLOCK)]


def _reciprocal(ranks: np.ndarray, i: int, width: int) -> np.ndarray:
    forward = ranks[i, :width]
    near: np.ndarray = forward[(ranks[forward, :width] == i).any(axis=1)]
    return near


def _averaged(weights: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    averaged: np.ndarray = np.empty_like(weights)
    for i, own in enumerate(ranks):
        averaged[i] = weights[own].mean(axis=0)
    return averaged


def _features(problem: Problem) -> Tensor:
    # In single precision whatever --dtype: the features of a network.
    return make_features(problem.batch, problem.channels).to(problem.device)


def _case(name: str, count: int, dim: int, target: Target, **options: Any) -> Case:
    peers = (Peer("dense", "dense formulation", _dense, target),)
    what = "k-reciprocal Jaccard and DBSCAN"
    return Case(
        name, what, _sparse, peers, ((dim, 1, 1),), count, resizable=False, counted=False, profiled=False, **options
    )


CASES = (
    _case("clustering", 1000, 2048, Target()),
    _case("clustering_market", *_MARKET, Target(5.0), on_request=True),
)
"""The rows of this file: one that is quick, and Market-1501's size for those who ask for it."""
