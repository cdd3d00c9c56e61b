"""One epoch of training and one pass of extraction: all that both pipelines do with a network."""

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from reference_pipelines.config import DataConfig
from reference_pipelines.data.dataset import Batch, load_batches
from reference_pipelines.data.records import ImageList
from reference_pipelines.data.sampler import in_order
from reference_pipelines.data.transforms import evaluation_transform
from reference_pipelines.errors import UserError
from reference_pipelines.models import Embedding
from reference_pipelines.progress import progress_bar


class Objective(Protocol):
    """A loss of a batch, and what follows the optimiser's step (the cluster memory's update)."""

    def loss(self, embedding: Embedding, indices: Tensor) -> Tensor:
        """Return the scalar loss of a batch; `indices` (B,) are the images' places in the training list."""

    def after_step(self, embedding: Embedding, indices: Tensor) -> None:
        """Update what the optimiser does not own."""


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    objective: Objective,
    *,
    steps: int,
    title: str,
) -> float:
    """Train on every batch and return the mean loss.

    Raises:
        UserError: the loss, or the features after the last step, are NaN or Inf; nothing has been saved since the
            last epoch.
    """
    device = next(model.parameters()).device
    model.train()
    total = torch.zeros((), device=device)
    with progress_bar(batches, steps, title) as bar:
        for step, batch in enumerate(bar, start=1):
            images = batch.images.to(device, memory_format=torch.channels_last, non_blocking=True)
            indices = batch.indices.to(device)
            embedding = model(images)
            loss = objective.loss(embedding, indices)
            if not torch.isfinite(loss):
                raise UserError(
                    f"train: the loss is {loss.item()} at step {step} of {title}; weights saved before are kept; "
                    "lower --optimizer.learning_rate or lengthen the warm-up"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            objective.after_step(embedding, indices)
            total += loss.detach()
    _check_finite(model, images, title)
    return float(total / steps)


@torch.no_grad()
def _check_finite(model: nn.Module, images: Tensor, title: str) -> None:
    """Refuse weights that the last step has ruined, before they replace the ones saved."""
    model.eval()
    if not torch.isfinite(model(images).features).all():
        raise UserError(
            f"train: the features are NaN or Inf after the last step of {title}; weights saved before are kept; "
            "lower --optimizer.learning_rate or lengthen the warm-up"
        )


@torch.no_grad()
def extract_features(
    model: Callable[[Tensor], Embedding],
    images: ImageList,
    data: DataConfig,
    *,
    batch_size: int,
    flip: bool,
    device: torch.device,
    title: str,
) -> Tensor:
    """Return L2-normalised features (N, D) of the images in order, on the CPU.

    Args:
        model: in eval mode.
        images: what to read.
        data: size, interpolation and workers.
        batch_size: images a batch.
        flip: add the features of the mirrored image before normalising.
        device: where the model is.
        title: names the progress bar.

    Raises:
        UserError: an image does not decode, or the features are not finite.
    """
    transform = evaluation_transform(data.image_size, data.interpolation)
    batches = in_order(len(images), batch_size)
    loaded = load_batches(images.paths, transform, batches, workers=data.workers)
    features = []
    with progress_bar(loaded, len(batches), title) as bar:
        for batch in bar:
            pixels = batch.images.to(device, memory_format=torch.channels_last, non_blocking=True)
            found = model(pixels).features
            if flip:
                found = found + model(pixels.flip(-1)).features
            features.append(functional.normalize(found.float(), dim=1).cpu())
    joined = torch.cat(features)
    if not torch.isfinite(joined).all():
        raise UserError(f"{title}: the network's features are NaN or Inf; its weights are damaged or have diverged")
    return joined
