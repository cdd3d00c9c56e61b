"""What the two pipelines' configs have in common, and how a run keeps one."""

import dataclasses
from pathlib import Path
from typing import Any, Protocol

from reference_pipelines.config.sections import (
    Amp,
    AugmentConfig,
    DataConfig,
    Device,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
)
from reference_pipelines.data import ReidData
from reference_pipelines.models.weights import NO_FILE


class PipelineConfig(Protocol):
    """A pipeline's config."""

    @property
    def title(self) -> str: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def device(self) -> Device: ...  # noqa: D102
    @property
    def data(self) -> DataConfig: ...  # noqa: D102
    @property
    def model(self) -> ModelConfig: ...  # noqa: D102
    @property
    def optimizer(self) -> OptimizerConfig: ...  # noqa: D102
    @property
    def augment(self) -> AugmentConfig: ...  # noqa: D102
    @property
    def evaluation(self) -> EvaluationConfig: ...  # noqa: D102
    @property
    def amp(self) -> Amp: ...  # noqa: D102

    def select(self, data: ReidData) -> ReidData:
        """Return the data set without the training images that the recipe cannot use."""

    def check_data(self, data: ReidData) -> None:
        """Refuse images that the recipe cannot be trained on, before anything is computed."""


def with_absolute_paths(config: Any, *, resumed: bool = False) -> Any:
    """Return a pipeline's config as a run keeps it: its files are the same ones wherever it is read again.

    The starting weights of a resumed run are left as it was given them: they are part of what may not change.
    """
    data, model = config.data, config.model
    data = dataclasses.replace(
        data,
        root=_absolute(data.root),
        also=tuple(map(_absolute, data.also)),
        test=None if data.test is None else _absolute(data.test),
    )
    if not resumed and model.weights not in NO_FILE:
        model = dataclasses.replace(model, weights=_absolute(model.weights))
    return dataclasses.replace(config, data=data, model=model)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())
