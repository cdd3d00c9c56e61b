"""APNet's experiment: P x K batches, triplet and cross-entropy, BN neck, step schedule, flip-averaged test."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from reference_pipelines.apnet.config import ApnetConfig
from reference_pipelines.apnet.losses import SupervisedObjective
from reference_pipelines.data.sampler import identity_batches
from reference_pipelines.models import ReidModel, build_backbone
from reference_pipelines.reporting.examples import save_examples
from reference_pipelines.runs.remarks import of_triplet
from reference_pipelines.training.session import Session


def build_model(config: ApnetConfig, classes: int | None = None, *, say: Callable[[str], object] = print) -> ReidModel:
    """Return the network with its attention, and with a classifier if there are `classes`.

    Args:
        config: the recipe.
        classes: of the classifier.
        say: is given a line on what was taken over from a weights file.

    Raises:
        UserError: the attention does not fit the backbone at this image size.
    """
    backbone = build_backbone(config.model, config.attention, image_size=config.data.image_size, say=say)
    return ReidModel(*backbone, classes=classes)


def train(config: ApnetConfig, out: Path, **options: Any) -> dict[str, Any]:
    """Train, evaluate and write the run folder `out`; return what stands in its result.json.

    Args:
        config: the recipe.
        out: the run folder.
        options: of `Session`: with which processes, and from which checkpoint.
    """
    with Session("apnet", config, out, **options) as session:
        labels = session.data.train.labels()
        session.place(build_model(session.network_config, classes=int(labels.max()) + 1, say=session.record.say))
        objective = SupervisedObjective(
            torch.as_tensor(labels, device=session.device), config.loss, features=session.model.features
        )
        for epoch in range(session.epoch + 1, config.optimizer.epochs + 1):
            batches = identity_batches(labels, config.sampler, (config.seed, epoch))
            session.train_epoch(batches, objective)
            if epoch == (config.optimizer.epochs + 1) // 2:
                for remark in of_triplet(session.record.log):
                    session.record.warn(remark)
        shown = session.tested_data, session.test(), config.data, session.device
        session.processes.once(partial(save_examples, out, session.model, *shown))
        return session.finish(of_triplet(session.record.log))
