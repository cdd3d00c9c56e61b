"""Which images make a batch: plain order for extraction, P people with K images each for training.

A sampler is a pure function of the labels and a seed, so every process and every rerun draws the same batches.
"""

from collections.abc import Iterator

import numpy as np

from reference_pipelines.config.sampling import ClusterSamplerConfig, SamplerConfig
from reference_pipelines.data.dataset import Draw

Batches = list[list[Draw]]


def in_order(count: int, batch_size: int) -> Batches:
    """Return every index once, in order; the last batch may be smaller."""
    return [[Draw(i, 0) for i in range(start, min(start + batch_size, count))] for start in range(0, count, batch_size)]


def identity_batches(labels: np.ndarray, config: SamplerConfig, seed: tuple[int, ...]) -> Batches:
    """Return one epoch of batches of P people with K images each.

    A person with fewer than K images is drawn with replacement. People who no longer fill a batch are left for the
    next epoch, as the released code leaves them.

    Args:
        labels: (N,) labels 0 ... people-1.
        config: P, K and what an epoch is.
        seed: of the drawing, e.g. (seed, epoch).

    Raises:
        UserError: there are fewer people than P.
    """
    people = [np.flatnonzero(labels == label) for label in range(int(labels.max()) + 1)]
    config.check_people(len(people))
    rng = np.random.default_rng(seed)
    chunks = [_chunks(indices, config, rng) for indices in people]
    batches: Batches = []
    while True:
        waiting = [label for label, left in enumerate(chunks) if left]
        if len(waiting) < config.ids:
            return batches
        chosen = rng.choice(waiting, size=config.ids, replace=False)
        batches.append(_draws(np.concatenate([chunks[label].pop() for label in chosen]), rng))


def _chunks(indices: np.ndarray, config: SamplerConfig, rng: np.random.Generator) -> list[np.ndarray]:
    if len(indices) < config.images:
        return [rng.choice(indices, size=config.images, replace=True)]
    shuffled = rng.permutation(indices)
    count = 1 if config.epoch == "ids" else len(indices) // config.images
    return [shuffled[i * config.images : (i + 1) * config.images] for i in range(count)]


def _draws(indices: np.ndarray, rng: np.random.Generator) -> list[Draw]:
    seeds = rng.integers(2**63, size=len(indices))
    return [Draw(int(index), int(seed)) for index, seed in zip(indices, seeds, strict=True)]


def cluster_batches(
    labels: np.ndarray,
    cameras: np.ndarray,
    config: ClusterSamplerConfig,
    iterations: int,
    seed: tuple[int, ...],
) -> Batches:
    """Return `iterations` batches of P clusters with K images each; noise is never drawn.

    Each cluster comes at most once a pass (those that do not fill a batch wait for the next), and passes follow one
    another as often as is needed. With fewer clusters than P a batch holds all of them.

    Args:
        labels: (N,) pseudo-labels 0 ... clusters-1, -1 for noise.
        cameras: (N,) cameras.
        config: P, K and whether cameras matter.
        iterations: batches to draw.
        seed: of the drawing, e.g. (seed, epoch).

    Raises:
        ValueError: every label is noise.
    """
    clusters = [np.flatnonzero(labels == label) for label in range(int(labels.max(initial=-1)) + 1)]
    if not clusters:
        raise ValueError("cluster_batches: every label is noise (-1), there is no cluster to draw from")
    rng = np.random.default_rng(seed)
    together = min(config.ids, len(clusters))
    passes = _endless_passes(len(clusters), together, rng)
    batches: Batches = []
    for _ in range(iterations):
        drawn = [_draw_cluster(clusters[label], cameras, config, rng) for label in next(passes)]
        batches.append(_draws(np.concatenate(drawn), rng))
    return batches


def _endless_passes(clusters: int, together: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    while True:
        order = rng.permutation(clusters)
        for start in range(0, clusters - together + 1, together):
            yield order[start : start + together]


def _draw_cluster(
    members: np.ndarray, cameras: np.ndarray, config: ClusterSamplerConfig, rng: np.random.Generator
) -> np.ndarray:
    first = rng.choice(members)
    rest = members[members != first]
    if config.other_cameras:
        elsewhere = rest[cameras[rest] != cameras[first]]
        rest = elsewhere if len(elsewhere) else rest
    if not len(rest):
        return np.full(config.images, first)
    others = rng.choice(rest, size=config.images - 1, replace=len(rest) < config.images)
    return np.concatenate([[first], others])
