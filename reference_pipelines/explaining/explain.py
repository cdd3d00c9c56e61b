"""A trained network's answer to images, explained: what it looks at after every stage and level, and its gates."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attnreid import Site
from reference_pipelines.config.sections import Device
from reference_pipelines.data.decoding import load_image
from reference_pipelines.data.transforms import evaluation_transform
from reference_pipelines.distributed.device import pick_device
from reference_pipelines.errors import UserError
from reference_pipelines.explaining.gates import GateMap, as_maps, gates_of
from reference_pipelines.explaining.heat_maps import (
    HeatMap,
    class_target,
    heat_maps,
    require_classifier,
    similarity_target,
    stages_of,
)
from reference_pipelines.explaining.on_person import share_on_person
from reference_pipelines.pipelines.opening import TrainedRun, open_run
from reference_pipelines.progress import progress_bar
from reference_pipelines.rendering import mask_of_file

_AT_ONCE = 16  # images whose maps of every layer are kept for the gradient


@dataclass(frozen=True)
class Explanation:
    """What a network looks at in N images.

    Args:
        title: of the run.
        images: their files.
        against: what each was compared with; None where the classifier's score was asked for.
        targets: for each image, what Grad-CAM asks for, in words.
        heat: Grad-CAM by place.
        gates: by place.
        masks: for each image, which part of each pixel shows the person, (H, W); None of other images than rendered
            ones.
    """

    title: str
    images: tuple[Path, ...]
    against: tuple[Path, ...] | None
    targets: tuple[str, ...]
    heat: tuple[HeatMap, ...]
    gates: tuple[GateMap, ...]
    masks: tuple[np.ndarray | None, ...]

    def on_person(self) -> dict[tuple[str, str], np.ndarray]:
        """Return for each place the part of each image's map, (N,), that is on the person; NaN where unknown."""
        return {(each.site, each.level): share_on_person(each.values, self.masks) for each in self.heat}


def explain(
    model: TrainedRun | Path,
    images: Sequence[Path],
    *,
    against: Sequence[Path] = (),
    gates: bool = True,
    device: Device = "auto",
) -> Explanation:
    """Return what a trained network looks at in images.

    The images are prepared as in the run's evaluation, and are not mirrored.

    Args:
        model: a run folder, a weights file, or a run that `open_run` has opened with its classifier.
        images: files.
        against: one image for all of them, or one for each: explain the similarity to it, not the classifier's score.
        gates: record the gates too.
        device: where to compute.

    Raises:
        UserError: no images, a model or an image that cannot be read, no classifier without `against`, or a backbone
            without stages.
        ValueError: another number of images to compare with.
    """
    if not images:
        raise UserError("explain: there must be an image, got none; name some")
    if against and len(against) not in (1, len(images)):
        raise ValueError(f"explain: against must be one image or {len(images)}, got {len(against)}")
    run = open_run(model, "explain", classifier=True) if isinstance(model, Path) else model
    place = pick_device(device)
    network = run.model.to(place).eval()
    if not against:
        require_classifier(network)
    height, width = run.config.data.image_size
    stages = stages_of(network.backbone, (height, width))
    size = min(run.config.evaluation.batch_size, _AT_ONCE)
    starts = range(0, len(images), size)
    parts = []
    with progress_bar(starts, len(starts), "explain") as bar:
        for start in bar:
            some = slice(start, start + size)
            others = against[some] if len(against) > 1 else against
            parts.append(_explained(run, place, stages, images[some], others, gates))
    return _joined(run.result["title"], tuple(images), tuple(against) or None, parts, height / width)


@dataclass(frozen=True)
class _Part:
    targets: tuple[str, ...]
    heat: list[HeatMap]
    gates: dict[tuple[str, str], np.ndarray]


def _explained(
    run: TrainedRun,
    place: torch.device,
    stages: Sequence[Site],
    images: Sequence[Path],
    against: Sequence[Path],
    gates: bool,
) -> _Part:
    network = run.model
    pixels = _read(run, images).to(place)
    if against:
        names = tuple(path.name for path in against)
        target = similarity_target(network, pixels, _read(run, against).to(place), names)
    else:
        target = class_target(network, pixels)
    found = gates_of(network.backbone, pixels) if gates else {}
    return _Part(target.said, heat_maps(network, pixels, target.score, stages), found)


def _read(run: TrainedRun, paths: Sequence[Path]) -> Tensor:
    """Return images as the run's evaluation prepares them, (N, 3, H, W)."""
    data = run.config.data
    transform = evaluation_transform(data.image_size, data.interpolation, data.normalisation)
    return torch.stack([transform(load_image(path)) for path in paths])


def _joined(
    title: str, images: tuple[Path, ...], against: tuple[Path, ...] | None, parts: Sequence[_Part], aspect: float
) -> Explanation:
    heat = [
        replace(same[0], values=np.concatenate([each.values for each in same]))
        for same in zip(*(part.heat for part in parts), strict=True)
    ]
    gates = {place: np.concatenate([part.gates[place] for part in parts]) for place in parts[0].gates}
    targets = tuple(said for part in parts for said in part.targets)
    masks = tuple(mask_of_file(path) for path in images)
    return Explanation(title, images, against, targets, tuple(heat), tuple(as_maps(gates, aspect)), masks)
