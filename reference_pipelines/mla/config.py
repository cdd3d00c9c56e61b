"""What a recipe of MLA may say."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reference_pipelines.config.attention import AttentionConfig
from reference_pipelines.config.clustering import ClusteringConfig, MemoryConfig
from reference_pipelines.config.sampling import ClusterSamplerConfig
from reference_pipelines.config.sections import (
    Amp,
    AugmentConfig,
    DataConfig,
    Device,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
)
from reference_pipelines.errors import require

if TYPE_CHECKING:
    from reference_pipelines.data.records import ReidData


@dataclass(frozen=True)
class MlaConfig:
    """Unsupervised training of MLA.

    Args:
        title: the row's name in tables.
        data: the images.
        optimizer: Adam and its schedule.
        iterations: batches an epoch.
        model: the backbone.
        attention: what is put into it.
        clustering: how pseudo-labels are made.
        memory: the cluster memory.
        augment: random changes of a training image.
        sampler: the batches.
        evaluation: how the features are tested.
        seed: of everything random.
        device: where to compute.
        amp: what the forward pass of training computes in.
    """

    title: str
    data: DataConfig
    optimizer: OptimizerConfig
    iterations: int = 400
    model: ModelConfig = ModelConfig()
    attention: AttentionConfig = AttentionConfig("mla")
    clustering: ClusteringConfig = ClusteringConfig()
    memory: MemoryConfig = MemoryConfig()
    augment: AugmentConfig = AugmentConfig()
    sampler: ClusterSamplerConfig = ClusterSamplerConfig()
    evaluation: EvaluationConfig = EvaluationConfig(flip=False)
    seed: int = 1
    device: Device = "auto"
    amp: Amp = "none"

    def __post_init__(self) -> None:
        require(self.title.strip() != "", "title must not be empty", repr(self.title))
        require(self.iterations >= 1, "iterations must be at least 1", self.iterations)
        self.model.check_normalisation(self.data)
        self.model.check_batch(self.sampler.ids * self.sampler.images)
        require(0 <= self.seed < 2**32, "seed must be at least 0 and below 2**32", self.seed)

    def select(self, data: "ReidData") -> "ReidData":
        """Return the data set as it is: nobody need be known."""
        return data

    def check_data(self, data: "ReidData") -> None:
        """Refuse fewer images than are to be clustered.

        Raises:
            UserError: there are.
        """
        self.clustering.check_images(len(data.train))
