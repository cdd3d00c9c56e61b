"""A trained network that maps images to features, with the training's own preprocessing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reference_pipelines.config.sections import HALVES, IMAGENET, Device, Interpolation, Normalisation, PeopleSplit
from reference_pipelines.data.decoding import image_pixels, load_image
from reference_pipelines.data.transforms import Transform, evaluation_transform
from reference_pipelines.distributed.device import pick_device
from reference_pipelines.errors import UserError
from reference_pipelines.evaluation.extraction import unit_features_of
from reference_pipelines.matching import Verdict
from reference_pipelines.matching.probability import BALANCED
from reference_pipelines.matching.rates import RATES
from reference_pipelines.models import ReidModel
from reference_pipelines.pipelines.opening import TrainedRun, open_run
from reference_pipelines.serving.calibration_file import StoredCalibration, calibration_file, read_calibration

ImageLike = str | Path | Image.Image | np.ndarray | Tensor
"""A file, a Pillow image, uint8 RGB pixels as an (H, W, 3) array or a (3, H, W) tensor, or a float (3, H, W) tensor
that `preprocess` has made."""


@dataclass(frozen=True)
class Identity:
    """What makes features comparable: the weights, and what is done to an image before and after them.

    Args:
        digest: of the weights' file.
        image_size: height and width that images are resized to.
        interpolation: how.
        flip: whether the mirrored image's features are added.
        normalisation: mean and standard deviation of each channel.
    """

    digest: str
    image_size: tuple[int, int]
    interpolation: Interpolation
    flip: bool
    normalisation: Normalisation = IMAGENET

    def to_plain(self) -> dict[str, Any]:
        """Return it as it is written to JSON, with what is the same for all networks."""
        return {
            "digest": self.digest,
            "image_size": list(self.image_size),
            "interpolation": self.interpolation,
            "antialias": True,
            "channels": "RGB",
            "mean": list(self.normalisation[0]),
            "std": list(self.normalisation[1]),
            "flip": self.flip,
            "unit_length": True,
        }


class Embedder:
    """Maps images to unit features, as the evaluation of the run does; `load` makes it.

    Args:
        model: in eval mode, on the device.
        identity: of its features.
        title: how tables call it.
        device: where it computes.
        batch_size: images that it takes at a time.
        calibration_file: where `calibrate` keeps what it learns of these features; None where there are no weights
            on the disk.
        split: of people whom their data set does not split, as in the training, so that nobody is on both sides.
    """

    def __init__(
        self,
        model: ReidModel,
        identity: Identity,
        *,
        title: str,
        device: torch.device,
        batch_size: int,
        calibration_file: Path | None = None,
        split: PeopleSplit = HALVES,
    ) -> None:
        self.model = model
        self.identity = identity
        self.title = title
        self.device = device
        self.batch_size = batch_size
        self.calibration_file = calibration_file
        self.split = split

    def __repr__(self) -> str:
        height, width = self.identity.image_size
        flip = ", flip-averaged" if self.identity.flip else ""
        return f"Embedder({self.title}: {height}x{width} images to {self.dim} numbers{flip}, on {self.device})"

    @property
    def dim(self) -> int:
        """D, the numbers of a feature."""
        return self.model.neck.num_features

    @property
    def transform(self) -> Transform:
        """What is done to an image's pixels, (3, h, w) uint8, before the network."""
        return evaluation_transform(self.identity.image_size, self.identity.interpolation, self.identity.normalisation)

    def preprocess(self, images: ImageLike | Sequence[ImageLike]) -> Tensor:
        """Return what the network reads of one image or several, (N, 3, H, W) float32 on the CPU: resized, normalised.

        Args:
            images: one, or several in a sequence or along the first axis of an array or tensor. A float tensor is
                taken to be preprocessed already.

        Raises:
            TypeError: something else, or float pixels in an array.
            ValueError: a shape that is no image's, or preprocessed images of another size, with NaN or Inf, or beyond
                what single precision holds.
            UserError: a file does not decode.
        """
        return self._all_prepared(_each(images), 1)

    def embed(self, images: ImageLike | Sequence[ImageLike]) -> Tensor:
        """Return the unit features (N, D) of one image or several, float32 on the CPU, a batch at a time.

        They are those that `evaluate` and `extract` compute of the same batches of files.

        Args:
            images: as in `preprocess`.

        Raises:
            TypeError: as in `preprocess`.
            ValueError: as in `preprocess`, or the features are not finite.
            UserError: a file does not decode.
        """
        several = _each(images)
        starts = range(0, len(several), self.batch_size)
        features = [
            self.embed_batch(self._all_prepared(several[start : start + self.batch_size], start + 1))
            for start in starts
        ]
        return torch.cat(features) if features else torch.zeros(0, self.dim)

    @torch.no_grad()
    def embed_batch(self, pixels: Tensor) -> Tensor:
        """Return the unit features (B, D), float32 on the CPU, of one batch of preprocessed images (B, 3, H, W)."""
        pixels = pixels.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        features = unit_features_of(self.model, pixels, flip=self.identity.flip).cpu()
        damaged = int((~torch.isfinite(features)).any(dim=1).sum())
        if damaged:
            raise ValueError(
                f"embed: features must be finite, got NaN or Inf for {damaged} of {len(features)} images; the weights "
                "are damaged or have diverged, or a float tensor holds other numbers than preprocess makes"
            )
        return features

    def calibration(self, who: str = "same") -> StoredCalibration:
        """Return what `calibrate` has learnt of these features.

        Raises:
            UserError: there is none, or it is of other weights or preprocessing.
        """
        if self.calibration_file is None:
            raise UserError(f"{who}: the network must come from a weights file, beside which its calibration is")
        return read_calibration(self.calibration_file, self.identity.to_plain(), who)

    def same(
        self,
        a: ImageLike,
        b: ImageLike,
        *,
        rate: float = RATES[0],
        cameras: tuple[int, int] | None = None,
        prior: float = BALANCED,
    ) -> Verdict:
        """Return whether two images show one person, at a stated rate of false matches.

        Args:
            a: one image.
            b: the other.
            rate: a false-match rate that was calibrated.
            cameras: that took them, where they are known.
            prior: part of the pairs that show one person, before looking; it moves the probability alone.

        Raises:
            TypeError: as in `embed`.
            ValueError: as in `embed`, not one image each, a rate that was not calibrated or is not estimable, or a
                prior out of range.
            UserError: the network is not calibrated, or a file does not decode.

        Example:
            model = reference_pipelines.load("runs/apnet")
            verdict = model.same("a.jpg", "b.jpg", rate=0.01)
            print(verdict.same, verdict.probability)
        """
        calibration = self.calibration().calibration
        pair = [*_each(a), *_each(b)]
        if len(_each(a)) != 1 or len(pair) != 2:
            raise ValueError(f"same: a and b must be one image each, got {len(_each(a))} and {len(_each(b))}")
        first, second = self.embed(pair)
        return calibration.judge(float(first @ second), rate=rate, cameras=cameras, prior=prior)

    def _all_prepared(self, images: Sequence[ImageLike], first: int) -> Tensor:
        """Return what the network reads of images, of which messages call the first by its number."""
        made = [self._prepared(image, number) for number, image in enumerate(images, first)]
        return torch.stack(made) if made else torch.zeros(0, 3, *self.identity.image_size)

    def _prepared(self, image: ImageLike, number: int) -> Tensor:
        if isinstance(image, Tensor) and image.is_floating_point():
            wanted = (3, *self.identity.image_size)
            if image.shape != wanted:
                raise ValueError(
                    f"embed: a float tensor must be preprocessed, {wanted}, got {tuple(image.shape)}; give uint8 "
                    "pixels, which are resized and normalised"
                )
            prepared = image.detach().float().cpu()
            if not torch.isfinite(prepared).all():
                raise ValueError(
                    f"embed: image {number}, a float tensor, must be of finite numbers, got NaN or Inf; look at what "
                    "has made it"
                )
            return prepared
        return self.transform(_pixels(image))


def load(
    model: str | Path,
    *,
    device: Device = "auto",
    flip: bool | None = None,
    batch_size: int | None = None,
    local_rank: int = 0,
    who: str = "load",
) -> Embedder:
    """Return the trained network of a run, ready to map images to features.

    Args:
        model: a run folder, a weights file in it, or such a file anywhere else.
        device: where to compute.
        flip: add the features of each image's mirror; as trained where it is None.
        batch_size: images at a time; as trained where it is None.
        local_rank: of several processes, this one's number on its machine.
        who: complains.

    Raises:
        UserError: it is no run, has saved nothing yet, or there is no such device.
        ValueError: a batch size below 1.

    Example:
        model = reference_pipelines.load("runs/apnet")
        features = model.embed(["a.jpg", "b.jpg"])
        similarity = features[0] @ features[1]
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"{who}: batch_size must be at least 1, got {batch_size}")
    place = pick_device(device, local_rank)
    run = open_run(Path(model), who)
    own = run.config
    size = own.evaluation.batch_size if batch_size is None else batch_size
    return Embedder(
        run.model.to(place),
        identity_of(run, flip=own.evaluation.flip if flip is None else flip),
        title=run.result["title"],
        device=place,
        batch_size=size,
        calibration_file=calibration_file(run.weights),
        split=own.data.split,
    )


def identity_of(run: TrainedRun, *, flip: bool) -> Identity:
    """Return what makes the features of a run comparable."""
    data = run.config.data
    return Identity(run.digest, data.image_size, data.interpolation, flip, data.normalisation)


def require_embedder(model: object, who: str) -> None:
    """Refuse what is no Embedder, such as the folder that one is loaded from.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(model, Embedder):
        raise TypeError(
            f"{who}: the model must be an Embedder, got {type(model).__name__}; pass reference_pipelines.load(...)"
        )


def _each(images: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    """Return the images one by one, of one image too."""
    if isinstance(images, str | Path | Image.Image):
        return [images]
    if isinstance(images, np.ndarray | Tensor):
        if images.ndim not in (3, 4):
            raise ValueError(f"embed: images must have 3 axes, or 4 with the first over images, got {images.ndim}")
        return [images] if images.ndim == 3 else [*images]
    if not isinstance(images, Sequence):
        raise TypeError(f"embed: images must be an image or a sequence of them, got {type(images).__name__}")
    return [*images]


def _pixels(image: ImageLike) -> Tensor:
    """Return (3, h, w) uint8 pixels."""
    if isinstance(image, str | Path):
        return load_image(Path(image))
    if isinstance(image, Image.Image):
        return image_pixels(image)
    if not isinstance(image, np.ndarray | Tensor):
        raise TypeError(
            f"embed: an image must be a path, a Pillow image, an array or a tensor, got {type(image).__name__}"
        )
    array = isinstance(image, np.ndarray)
    kind, layout = str(image.dtype).removeprefix("torch."), "(H, W, 3)" if array else "(3, H, W)"
    if kind != "uint8":
        raise TypeError(f"embed: pixels must be uint8 from 0 to 255, got {kind}; scale and convert them")
    if image.ndim != 3 or image.shape[-1 if array else 0] != 3 or 0 in image.shape:
        what = "an array" if array else "a uint8 tensor"
        raise ValueError(f"embed: the pixels of {what} must be {layout} RGB, got {tuple(image.shape)}")
    return torch.from_numpy(image.copy()).permute(2, 0, 1) if isinstance(image, np.ndarray) else image.cpu()
