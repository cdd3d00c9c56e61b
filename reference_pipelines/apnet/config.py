"""What a recipe of APNet may say."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reference_pipelines.config.attention import AttentionConfig
from reference_pipelines.config.sampling import SamplerConfig
from reference_pipelines.config.sections import (
    Amp,
    AugmentConfig,
    DataConfig,
    Device,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
)
from reference_pipelines.errors import UserError, require

if TYPE_CHECKING:
    from reference_pipelines.data.records import ReidData


@dataclass(frozen=True)
class LossConfig:
    """APNet Eq. 6-9; the defaults are the paper's, and the released code's where the paper is silent.

    Args:
        margin: m of Eq. 6.
        smoothing: epsilon of Eq. 8.
        triplet_weight: lambda of Eq. 9, which the paper leaves open.
    """

    margin: float = 0.3
    smoothing: float = 0.1
    triplet_weight: float = 1.0

    def __post_init__(self) -> None:
        require(self.margin >= 0, "loss.margin must be at least 0", self.margin)
        require(0 <= self.smoothing <= 1, "loss.smoothing must be between 0 and 1", self.smoothing)
        require(self.triplet_weight >= 0, "loss.triplet_weight must be at least 0", self.triplet_weight)


@dataclass(frozen=True)
class ApnetConfig:
    """Supervised training of APNet.

    Args:
        title: the row's name in tables.
        data: the images.
        optimizer: Adam and its schedule.
        model: the backbone.
        attention: what is put into it.
        augment: random changes of a training image.
        sampler: the batches.
        loss: triplet and cross-entropy.
        evaluation: how the features are tested.
        seed: of everything random.
        device: where to compute.
        amp: what the forward pass of training computes in.
    """

    title: str
    data: DataConfig
    optimizer: OptimizerConfig
    model: ModelConfig = ModelConfig()
    attention: AttentionConfig = AttentionConfig("apnet")
    augment: AugmentConfig = AugmentConfig()
    sampler: SamplerConfig = SamplerConfig()
    loss: LossConfig = LossConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    seed: int = 1
    device: Device = "auto"
    amp: Amp = "none"

    def __post_init__(self) -> None:
        require(self.title.strip() != "", "title must not be empty", repr(self.title))
        if self.loss.triplet_weight > 0:
            need = "must be at least 2, for the triplet (or set loss.triplet_weight to 0)"
            require(self.sampler.ids >= 2, f"sampler.ids {need}", self.sampler.ids)
            require(self.sampler.images >= 2, f"sampler.images {need}", self.sampler.images)
        self.model.check_normalisation(self.data)
        self.model.check_batch(self.sampler.ids * self.sampler.images)
        require(0 <= self.seed < 2**32, "seed must be at least 0 and below 2**32", self.seed)

    def select(self, data: "ReidData") -> "ReidData":
        """Return the data set without the training images of which nobody has said who it is.

        Raises:
            UserError: that is all of them.
        """
        known = data.train.known
        if not known.any():
            raise UserError(
                f"train: apnet learns from labels, and in the train part of {data.name} nobody is labelled; give the "
                "ids, in a CSV file or as a folder a person, or train without them: train mla"
            )
        if known.all():
            return data
        note = f"{int((~known).sum()):,} train images of nobody known left out"
        return replace(data, train=data.train.where(known), notes=(*data.notes, note))

    def check_data(self, data: "ReidData") -> None:
        """Refuse images that this cannot be trained on.

        Raises:
            UserError: there are fewer people than a batch has, or no two, or the triplet has no two images of anybody.
        """
        images = Counter(data.train.ids.tolist())
        if len(images) < 2:
            raise UserError(
                f"train: {data.name} must have at least two people to tell apart in train, it has {len(images)}; check "
                "the ids, or train without them: train mla"
            )
        self.sampler.check_people(len(images))
        if self.loss.triplet_weight > 0 and max(images.values()) < 2:
            raise UserError(
                f"train: some of the {len(images)} people of train must have two images for the triplet, all have one; "
                "check the ids, or set --loss.triplet_weight 0"
            )
