"""One pass over images that computes their features."""

from collections.abc import Callable

import torch
from torch import Tensor

from reference_pipelines.config.sections import DataConfig
from reference_pipelines.data.dataset import load_batches
from reference_pipelines.data.records import ImageList
from reference_pipelines.data.sampler import in_order
from reference_pipelines.data.transforms import evaluation_transform
from reference_pipelines.distributed.processes import ALONE, Processes
from reference_pipelines.errors import UserError
from reference_pipelines.models import Embedding
from reference_pipelines.progress import progress_bar
from reference_pipelines.unit_vectors import unit_rows


def unit_features_of(model: Callable[[Tensor], Embedding], pixels: Tensor, *, flip: bool) -> Tensor:
    """Return L2-normalised features (B, D) of what the network reads, (B, 3, H, W), where that is.

    Args:
        model: in eval mode.
        pixels: resized and normalised images.
        flip: add the features of the mirrored images before normalising.
    """
    found = model(pixels).features
    if flip:
        found = found + model(pixels.flip(-1)).features
    return unit_rows(found.float())


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
    processes: Processes = ALONE,
) -> Tensor:
    """Return L2-normalised features (N, D) of the images in order, on the CPU; one of length 0 stays 0.

    Several processes take whole batches each, so that the features are those of one process; only the first has
    them then, and the others (0, D).

    Args:
        model: in eval mode.
        images: what to read.
        data: size, interpolation and workers.
        batch_size: images a batch.
        flip: add the features of the mirrored image before normalising.
        device: where the model is.
        title: names the progress bar.
        processes: who shares the work.

    Raises:
        UserError: an image does not decode, or the features are not finite.
    """
    transform = evaluation_transform(data.image_size, data.interpolation, data.normalisation)
    batches = list(processes.share(in_order(len(images), batch_size)))

    def extract() -> Tensor:
        features = []
        loaded = load_batches(images.paths, transform, batches, workers=data.workers)
        with progress_bar(loaded, len(batches), title, shown=processes.first) as bar:
            for batch in bar:
                pixels = batch.images.to(device, memory_format=torch.channels_last, non_blocking=True)
                features.append(unit_features_of(model, pixels, flip=flip).cpu())
        joined = torch.cat(features) if features else torch.zeros(0, 0)
        damaged = (~torch.isfinite(joined)).any(dim=1).nonzero()[:, 0]
        if len(damaged):
            first = [draw.image for batch in batches for draw in batch][int(damaged[0])]
            raise UserError(
                f"{title}: the network's features are NaN or Inf for {len(damaged):,} of {len(joined):,} images, the "
                f"first is {images.paths[first]}; its weights are damaged or have diverged"
            )
        return joined

    return processes.collect(processes.together(extract))
