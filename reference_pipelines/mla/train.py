"""MLA's experiment: cluster the features, train against the clusters, again each epoch."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reference_pipelines.clustering import ClusterMemory, cluster, describe_clusters, silhouette
from reference_pipelines.clustering.labels_file import write_clusters
from reference_pipelines.data import ImageList, ReidData
from reference_pipelines.data.sampler import cluster_batches
from reference_pipelines.data.tracklets import Tracklets
from reference_pipelines.distributed.processes import ALONE, Processes
from reference_pipelines.errors import writing
from reference_pipelines.mla.config import MlaConfig
from reference_pipelines.mla.objective import ClusterObjective
from reference_pipelines.models import ReidModel, build_backbone
from reference_pipelines.neighbours.engines import Approximation
from reference_pipelines.reporting.examples import save_examples
from reference_pipelines.runs.folder import CLUSTERS
from reference_pipelines.runs.remarks import of_clusters, of_log, of_neighbours
from reference_pipelines.training.session import Session

_RANDOM_START = (
    "it starts from random weights, whose clusters follow the cameras; give it weights with --model.weights, imagenet "
    "or a file (the demo's are those of a run with labels on other people)"
)


def build_model(config: MlaConfig, *, say: Callable[[str], object] = print) -> ReidModel:
    """Return the network with its attention.

    Args:
        config: the recipe.
        say: is given a line on what was taken over from a weights file.

    Raises:
        UserError: the attention does not fit the backbone at this image size.
    """
    return ReidModel(*build_backbone(config.model, config.attention, image_size=config.data.image_size, say=say))


def train(config: MlaConfig, out: Path, **options: Any) -> dict[str, Any]:
    """Train, evaluate and write the run folder `out`; return what stands in its result.json.

    Args:
        config: the recipe.
        out: the run folder.
        options: of `Session`: with which processes, and from which checkpoint.
    """
    with Session("mla", config, out, **options) as session:
        images = session.data.train
        if config.model.weights == "none" and session.checkpoint is None:
            session.record.warn(_RANDOM_START)
        session.place(build_model(session.network_config, say=session.record.say))
        clusters = session.last_labels()
        for epoch in range(session.epoch + 1, config.optimizer.epochs + 1):
            features = session.training_features()
            where = session.device, session.processes
            clusters, memory, measured = make_pseudo_labels(features, session.data, config, epoch, clusters, *where)
            memory.to(session.device)
            objective = ClusterObjective(torch.as_tensor(clusters, device=session.device), memory)
            batches = cluster_batches(clusters, images.cameras, config.sampler, config.iterations, (config.seed, epoch))
            session.train_epoch(
                batches, objective, labels=clusters, learnt={"memory": memory.centers}, measured=measured
            )
        shown = session.tested_data, session.test(), config.data, session.device
        session.processes.once(partial(save_examples, out, session.model, *shown))
        assert clusters is not None  # there is an epoch at least, now or before the checkpoint
        session.processes.once(partial(_save_clusters, out / CLUSTERS, images, clusters))
        clustering = session.record.description.measured
        said = [*of_clusters(clustering), *of_log(session.record.log, config.clustering.eps)]
        said += of_neighbours(session.record.log, config.clustering.engine)
        return session.finish(said, clustering=clustering)


def make_pseudo_labels(
    features: Tensor,
    data: ReidData,
    config: MlaConfig,
    epoch: int,
    previous: np.ndarray | None,
    device: torch.device,
    processes: Processes = ALONE,
) -> tuple[np.ndarray, ClusterMemory, dict[str, Any]]:
    """Return an epoch's pseudo-labels (N,), their memory, and what can be said of them.

    Args:
        features: (N, D) of the training images; the first process's are taken.
        data: whose training images they are; ids and cameras are used for the last of the three alone.
        config: the recipe.
        epoch: of the training; with the seed it says which members the memory begins with.
        previous: the pseudo-labels of the epoch before, or None.
        device: where to cluster; the memory is on the CPU.
        processes: who share the clustering.
    """
    tracklets = Tracklets(data.train)
    pooled = tracklets.pool(features).numpy() if processes.first else np.empty(0)
    points = torch.from_numpy(processes.spread(pooled))
    before = None if previous is None else previous[tracklets.first]
    # Apple's GPUs have no double precision, which the neighbours are ordered in.
    place = torch.device("cpu") if device.type == "mps" else device
    found, eps, approximation = cluster(
        points.to(place),
        config.clustering,
        previous=before,
        epoch=epoch,
        seed=config.seed,
        processes=processes,
    )
    return processes.once(lambda: _measured(features, tracklets.spread(found), data, config, epoch, eps, approximation))


def _measured(
    features: Tensor,
    clusters: np.ndarray,
    data: ReidData,
    config: MlaConfig,
    epoch: int,
    eps: float | None,
    approximation: Approximation | None,
) -> tuple[np.ndarray, ClusterMemory, dict[str, Any]]:
    """Return the clusters, the memory that begins with them, and what can be said of them."""
    seed = np.random.SeedSequence((config.seed, epoch)).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(seed[0]))
    memory = ClusterMemory.from_clusters(features, torch.as_tensor(clusters), config.memory, generator)
    cameras = data.train.cameras if data.train_cameras_known else None
    about = describe_clusters(clusters, data.train.ids, cameras)
    health = silhouette(features, clusters, seed=config.seed)
    missed = {} if approximation is None else {"recall": approximation.recall}
    return clusters, memory, {**about, "silhouette": health, "eps": eps, **missed}


def _save_clusters(path: Path, images: ImageList, clusters: np.ndarray) -> None:
    with writing(path):
        write_clusters(path, map(os.path.abspath, images.paths), clusters)
