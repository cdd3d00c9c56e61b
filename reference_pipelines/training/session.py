"""What both papers' programs do around their epochs: read, seed, evaluate at the start, log, save, report."""

import time
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from reference_pipelines.config import DataConfig, Device, EvaluationConfig, OptimizerConfig
from reference_pipelines.data import ReidData, read
from reference_pipelines.models import ModelConfig
from reference_pipelines.reporting.examples import save_examples
from reference_pipelines.training.device import describe_hardware, pick_device
from reference_pipelines.training.evaluation import Evaluator, as_numbers
from reference_pipelines.training.run import Run, file_digest


class PipelineConfig(Protocol):
    """What the two pipelines' configs have in common."""

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
    def evaluation(self) -> EvaluationConfig: ...  # noqa: D102


class Session:
    """One training run from its data to its result, as a context.

    Args:
        pipeline: "apnet" or "mla".
        config: the pipeline's config.
        out: the run folder, new or empty.
    """

    def __init__(self, pipeline: str, config: PipelineConfig, out: Path) -> None:
        self.pipeline = pipeline
        self.config = config
        self.device = pick_device(config.device)
        self.data: ReidData = read(config.data.root, config.data.layout).require("train", "train", "query", "gallery")
        self.weights_digest = file_digest(Path(config.model.weights))
        self.run = Run(out, config)
        self.evaluator = Evaluator(self.data, config.data, config.evaluation, self.device)
        self.start: dict[str, Any] = {}
        self.last: dict[str, Any] = {}
        self.train_seconds = 0.0
        self._began = 0.0
        torch.manual_seed(config.seed)
        print(f"{config.title}: {self.data}", flush=True)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *error: object) -> None:
        """Take the folder back if nothing worth keeping was written, so that a corrected command can use it."""
        if error[0] is not None:
            self.run.discard_unless_saved()

    def place(self, model: nn.Module) -> nn.Module:
        """Move the network to the device, evaluate it untrained, and return it."""
        model = model.to(self.device).to(memory_format=torch.channels_last)
        result = self.evaluator(model)
        self.start = as_numbers(result)
        self.run.log(epoch=0, mAP=result.mAP, rank1=result.cmc[1])
        self._began = time.perf_counter()
        return model

    def end_epoch(self, model: nn.Module, epoch: int, **measured: Any) -> None:
        """Log one epoch (1-based), with an evaluation where one is due, and save the weights."""
        self.train_seconds += time.perf_counter() - self._began
        scores: dict[str, Any] = {}
        if epoch % self.config.evaluation.every == 0 and epoch < self.config.optimizer.epochs:
            result = self.evaluator(model)
            scores = {"mAP": result.mAP, "rank1": result.cmc[1]}
        if epoch < self.config.optimizer.epochs:
            self.run.log(epoch=epoch, **measured, **scores)
        self.last = measured
        self.run.save(model)
        self._began = time.perf_counter()

    def finish(self, model: nn.Module, **extra: Any) -> dict[str, Any]:
        """Evaluate the trained network, keep examples for the report, and write the result."""
        query, gallery = self.evaluator.features(model)
        result = self.evaluator.score(query, gallery)
        self.run.log(epoch=self.config.optimizer.epochs, **self.last, mAP=result.mAP, rank1=result.cmc[1])
        save_examples(self.run.folder, model, self.evaluator, query, gallery, result)
        return self.run.finish(
            {
                "pipeline": self.pipeline,
                "title": self.config.title,
                "data": self.data.describe(),
                "weights": self.config.model.weights,
                "weights_digest": self.weights_digest,
                "chance": self.evaluator.chance(),
                "start": self.start,
                "final": as_numbers(result),
                "train_seconds": round(self.train_seconds, 1),
                "hardware": describe_hardware(self.device),
                **extra,
            }
        )
