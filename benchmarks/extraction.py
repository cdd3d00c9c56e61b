"""How many images a second become features on the disk: `extract` against DataLoader, Pillow and the same network."""

import io
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from benchmarks.cases import Case, Peer, Problem, Shape, Target, Variant
from benchmarks.loading import PillowImages, image_files, missing_is_named, on_one_core

if TYPE_CHECKING:
    from reference_pipelines.models import ReidModel

SIZES: tuple[Shape, ...] = ((3, 64, 32), (3, 128, 64))
"""The demo's image size, and the files' own."""

PAPERS: tuple[Shape, ...] = ((3, 256, 128),)
"""MLA's and APNet-S's image size."""

_BATCH = 128  # as a run's evaluation has it


def ours(problem: Problem, *, network: str = "resnet_demo", workers: int = 0) -> Variant:
    """Build `extract`: a new store each time, with its table and its metadata."""
    with missing_is_named():
        from reference_pipelines.features.writing import Listing
        from reference_pipelines.serving.embedder import Embedder, Identity
        from reference_pipelines.serving.extraction import extract

        made = _network(network)
        listing = Listing("benchmark", image_files(problem.batch))
    identity = Identity("benchmark", problem.size, "bilinear", flip=False)
    model = Embedder(made, identity, title=network, device=problem.device, batch_size=_BATCH)

    def to_store(folder: Path) -> Tensor:
        with redirect_stderr(io.StringIO()):  # its progress
            return torch.from_numpy(np.array(extract(model, listing, folder / "store", workers=workers).features))

    return _variant(to_store, problem)


def pillow(problem: Problem, *, network: str = "resnet_demo", workers: int = 0) -> Variant:
    """Build what one would write: torchvision's transforms, DataLoader, the network, one array that is saved."""
    with missing_is_named():
        from torch.nn.functional import normalize
        from torch.utils.data import DataLoader
        from torchvision import transforms

        from reference_pipelines.config.sections import IMAGENET

        made = _network(network)
        paths = image_files(problem.batch)
    steps = [transforms.Resize(problem.size), transforms.ToTensor(), transforms.Normalize(*IMAGENET)]
    images = PillowImages(paths, transforms.Compose(steps))
    loader = DataLoader(
        images, _BATCH, sampler=range(problem.batch), num_workers=workers, persistent_workers=workers > 0
    )

    @torch.no_grad()
    def to_array(folder: Path) -> Tensor:
        features = torch.cat([normalize(made(batch).features) for batch, _ in loader])
        np.save(folder / "features.npy", features.numpy())
        return features

    return _variant(to_array, problem)


def _network(name: str) -> "ReidModel":
    """Return a network with the same random weights each time, as `load` returns one."""
    from torch import nn
    from torchvision.models import resnet50

    from reference_pipelines.models import ReidModel
    from reference_pipelines.models.narrow import resnet_demo

    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = {"resnet_demo": resnet_demo, "resnet50": resnet50}[name]()
        width = backbone.fc.in_features
        backbone.fc = nn.Identity()
        return ReidModel(backbone, width).to(memory_format=torch.channels_last).eval()


def _variant(work: Callable[[Path], Tensor], problem: Problem) -> Variant:
    def in_new_folder() -> Tensor:
        with tempfile.TemporaryDirectory(prefix="attnreid-benchmarks-") as folder:
            return work(Path(folder))

    return Variant(on_one_core(in_new_folder), items=problem.batch, unit="images")


def _case(name: str, what: str, workers: int) -> Case:
    # The larger the images, the more of the time is the network's, which both sides share.
    targets = {SIZES[0]: Target(1.3), SIZES[1]: Target(1.0)}
    build, theirs = (partial(side, workers=workers) for side in (ours, pillow))
    peer = Peer("pillow", "DataLoader, Pillow, the same network", theirs, targets=targets)
    return Case(name, what, build, (peer,), SIZES, 1024, resizable=False, counted=False, memory=False)


def _papers() -> Case:
    build, theirs = (partial(side, network="resnet50") for side in (ours, pillow))
    peer = Peer("pillow", "DataLoader, Pillow, the same network", theirs)
    what = "files to features, ResNet-50, one core"
    return Case("extraction_resnet50", what, build, (peer,), PAPERS, 32, resizable=False, counted=False, memory=False)


CASES = (
    _case("extraction", "files to features, one core", workers=0),
    _case("extraction_workers", "files to features, two workers that are there", workers=2),
    _papers(),
)
"""The rows of this file: JPEG files of 128x64 to unit features on the disk; resnet_demo where no network is named."""
