"""What both papers' programs do around their epochs: read, seed, evaluate at the start, log, save, resume, report."""

import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from reference_pipelines.config.loading import to_plain
from reference_pipelines.config.recipes import nearest_recipe, title_of
from reference_pipelines.config.sections import (
    Amp,
    AugmentConfig,
    DataConfig,
    Device,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
)
from reference_pipelines.data import ReidData, read
from reference_pipelines.data.dataset import Batch, load_batches
from reference_pipelines.data.decoding import find_corrupt, without_corrupt
from reference_pipelines.data.records import PARTS
from reference_pipelines.data.sampler import Batches
from reference_pipelines.data.transforms import train_transform
from reference_pipelines.distributed.device import describe_hardware, pick_device
from reference_pipelines.distributed.processes import Processes
from reference_pipelines.errors import UserError
from reference_pipelines.evaluation.evaluator import Evaluator, as_numbers
from reference_pipelines.evaluation.extraction import extract_features
from reference_pipelines.models.weights import load_whole, weights_file
from reference_pipelines.reporting.examples import save_examples
from reference_pipelines.retrieval import RetrievalResult
from reference_pipelines.runs import remarks
from reference_pipelines.runs.checkpoint import Checkpoint, saved_epochs
from reference_pipelines.runs.folder import Run, code_digest, file_digest, provenance, resume_command
from reference_pipelines.runs.state import (
    generator_state,
    optimizer_state,
    restore_generators,
    restore_optimizer,
    seed_generators,
)
from reference_pipelines.training.loop import Objective, Trainer

_LABELS = "labels"  # among a checkpoint's tensors
_NO_FILE = ("none", "imagenet")  # starting weights that are no file
_WORTH_WORKERS = 2000  # images that this process decodes in about the time that workers take to start


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
    def augment(self) -> AugmentConfig: ...  # noqa: D102
    @property
    def evaluation(self) -> EvaluationConfig: ...  # noqa: D102
    @property
    def amp(self) -> Amp: ...  # noqa: D102

    def check_data(self, data: ReidData) -> None:
        """Refuse images that the recipe cannot be trained on, before anything is computed."""


class Session:
    """One training run from its data to its result, as a context.

    Args:
        pipeline: "apnet" or "mla".
        config: the pipeline's config.
        out: the run folder; new or empty where there is no checkpoint.
        processes: who trains together; this one alone when left out.
        checkpoint: where to go on.
        changed: keys of the config that are not as they were at the checkpoint.
    """

    def __init__(
        self,
        pipeline: str,
        config: PipelineConfig,
        out: Path,
        *,
        processes: Processes | None = None,
        checkpoint: Checkpoint | None = None,
        changed: Mapping[str, Any] | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.config = with_absolute_paths(config, resumed=checkpoint is not None)
        self.processes = processes or Processes()
        self.checkpoint = checkpoint
        self.changed = dict(changed or {})
        self.device = self.processes.together(lambda: pick_device(config.device, self.processes.local_rank))
        self.data, left_out = self._read()
        self.fingerprint = self.data.fingerprint()
        self._check_data()
        self.remarks = [*remarks.of_people(self.data), *remarks.of_corrupt(left_out)]
        self.recipe = nearest_recipe(pipeline, config)
        self.title = title_of(config.title, self.recipe)
        weights = weights_file(self.config.model.weights)
        self.weights_digest = None if weights is None else file_digest(weights)
        self.run = Run(out, self.config)
        self.evaluator = Evaluator(self.data, self.config.data, config.evaluation, self.device, self.processes)
        self.about = self._describe()
        self.start: dict[str, Any] = {}
        self.best: dict[str, Any] = {}
        self.resumed: list[dict[str, Any]] = []
        self.measured: dict[str, Any] = {}
        self.train_seconds = 0.0
        self.epoch = 0
        self._began = 0.0
        self._final: tuple[Tensor, Tensor, RetrievalResult] | None = None
        if self.processes.first:
            for remark in self.remarks:
                print(f"warning: {self.title}: {remark}", file=sys.stderr, flush=True)
        self.say(f"{self.title}: {self.data}, fingerprint {self.fingerprint}")
        self.processes.once(self._open)
        self._check_images()
        seed_generators(config.seed)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        """Take the folder back if nothing worth keeping was written, and have a mistake's sentence say what is kept."""
        if self.processes.first:
            if isinstance(error, UserError):
                error.args = (f"{error}{self._what_is_kept()}",)
            elif isinstance(error, Exception):  # a bug: the traceback says it, and what is kept
                error.add_note(f"The run has stopped{self._what_is_kept()}.")
            elif error is not None:  # a signal
                self.run.discard(untrained=False)
            self.run.unlock()

    def _what_is_kept(self) -> str:
        folder = self.run.folder
        if self.run.discard(untrained=True):
            return f"; nothing was trained yet, so {folder} was removed"
        saved = saved_epochs(folder)
        if not saved:
            return ""
        command = resume_command(folder)
        return f"; what was saved after epoch {saved[-1]} is kept, and `{command}` goes on with the same settings"

    def _read(self) -> tuple[ReidData, int]:
        """Return the images, and how many were left out because they do not decode."""
        wanted = self.config.data

        def read_whole() -> ReidData:
            return read(wanted.root, wanted.layout).require("train", "train", "query", "gallery")

        data = self.processes.together(read_whole)
        if not wanted.skip_corrupt:
            return data, 0
        whole = self.processes.once(lambda: without_corrupt(data, workers=wanted.workers))
        return whole, sum(len(data.part(part)) - len(whole.part(part)) for part in PARTS)

    def _check_images(self) -> None:
        """Decode every training image once, before an epoch is spent on the others; a resumed run has read them."""
        wanted = self.config.data
        if wanted.skip_corrupt or self.checkpoint is not None:
            return
        paths = list(dict.fromkeys(self.data.train.paths))
        workers = wanted.workers if len(paths) > _WORTH_WORKERS else 0

        def decode() -> None:
            corrupt = find_corrupt(self.processes.share(paths), workers=workers)
            if corrupt:
                path, reason = corrupt[0]
                also = f" and {len(corrupt) - 1} more" if len(corrupt) > 1 else ""
                raise UserError(
                    f"data: cannot read the image {path} ({reason}){also}, of the {len(paths):,} of train; replace or "
                    "remove what does not decode (data verify names all), or train without it: --data.skip_corrupt true"
                )

        try:
            self.processes.together(decode)
        except BaseException:
            if self.processes.first:
                self.run.discard(untrained=True)
                self.run.unlock()
            raise

    def _check_data(self) -> None:
        """Refuse other images than those of the other processes, or of the checkpoint."""
        root = self.config.data.root
        if not self.processes.agree(self.fingerprint):
            raise UserError(
                f"data: {root} must hold the same images for every process, and it does not; "
                "copy them to every machine alike, or share the folder"
            )
        before = self.fingerprint if self.checkpoint is None else self.checkpoint.state["fingerprint"]
        if before != self.fingerprint:
            raise UserError(
                f"resume: the images in {root} must be those that the run was trained on (fingerprint {before}), "
                f"they are others (fingerprint {self.fingerprint}); give the right folder with --data.root, "
                "or train anew"
            )
        self.config.check_data(self.data)

    def say(self, line: str) -> None:
        """Print a line, once."""
        if self.processes.first:
            print(line, flush=True)

    def _open(self) -> None:
        try:
            if self.checkpoint is None:
                self.run.open_new()
            else:
                self.run.open_again(self.checkpoint)
        except BaseException:
            self.run.unlock()
            raise

    @property
    def model_config(self) -> ModelConfig:
        """The network to build; where a checkpoint replaces its weights, nothing else has to be there."""
        if self.checkpoint is None:
            return self.config.model
        return dataclasses.replace(self.config.model, weights="none")

    def place(self, model: nn.Module) -> None:
        """Move the network to the device and make it ready to train: evaluated untrained, or as it was saved."""
        model = model.to(self.device).to(memory_format=torch.channels_last)
        self.trainer = Trainer(
            model,
            self.config.optimizer,
            amp=self.config.amp,
            processes=self.processes,
            bn_chunks=self.config.model.bn_chunks,
        )
        if self.checkpoint is None:
            result = self.evaluator(model)
            self.start = as_numbers(result)
            self._save({"mAP": result.mAP, "rank1": result.cmc[1]}, {})
        else:
            self._restore(self.checkpoint)
        self._began = time.perf_counter()

    def epochs(self) -> Iterator[int]:
        """Yield the epochs (1-based) that are to be done."""
        while self.epoch < self.config.optimizer.epochs:
            yield self.epoch + 1

    @property
    def epoch_title(self) -> str:
        """What the epoch under way is called."""
        return f"epoch {self.epoch + 1}/{self.config.optimizer.epochs}"

    def last_labels(self) -> np.ndarray | None:
        """Return the pseudo-labels (N,) of the last epoch done, None before the first."""
        saved = None if self.checkpoint is None else self.checkpoint.training.get(_LABELS)
        return None if saved is None else saved.numpy()

    def training_features(self) -> Tensor:
        """Return the features (N, D) of the training images, without augmentation; only the first process has them."""
        self.trainer.model.eval()
        return extract_features(
            self.trainer.model,
            self.data.train,
            self.config.data,
            batch_size=self.config.evaluation.batch_size,
            flip=False,
            device=self.device,
            title=f"{self.epoch_title} features",
            processes=self.processes,
        )

    def train_epoch(
        self,
        batches: Batches,
        objective: Objective,
        *,
        labels: np.ndarray | None = None,
        tensors: Mapping[str, Tensor] | None = None,
        **measured: Any,
    ) -> None:
        """Train one epoch, evaluate where that is due, log and save.

        Args:
            batches: the global batches.
            objective: the loss.
            labels: pseudo-labels (N,) to save.
            tensors: of the objective, saved as they are after the epoch.
            measured: goes into the log.
        """
        config = self.config
        transform = train_transform(config.data.image_size, config.augment, config.data.interpolation)

        def load(own: Batches) -> Iterator[Batch]:
            return load_batches(self.data.train.paths, transform, own, workers=config.data.workers)

        rate = self.trainer.schedule.get_last_lr()[0]
        self.measured = measured
        loss = self.trainer.train_epoch(batches, load, objective, title=self.epoch_title)
        self.trainer.schedule.step()
        self.train_seconds += time.perf_counter() - self._began
        self.epoch += 1
        scores: dict[str, Any] = {}
        if self.epoch % config.evaluation.every == 0 or self.epoch == config.optimizer.epochs:
            result = self._evaluate()
            scores = {"mAP": result.mAP, "rank1": result.cmc[1]}
        saved = dict(tensors or {})
        if labels is not None:
            saved[_LABELS] = torch.as_tensor(labels)
            self.processes.once(lambda: self.run.save_labels(self.epoch, labels))
        self._save({"loss": loss, "learning_rate": rate, **measured, **scores}, saved)
        self._began = time.perf_counter()

    def _evaluate(self) -> RetrievalResult:
        query, gallery = self.evaluator.features(self.trainer.model)
        result = self.evaluator.score(query, gallery)
        if self.epoch == self.config.optimizer.epochs:
            self._final = (query, gallery, result)
        return result

    def _save(self, measured: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Log the epoch and save all that the next one depends on; the first process does."""
        best = self._is_best(measured)

        def save() -> None:
            self.run.end_epoch({"epoch": self.epoch, **measured}, self._capture(tensors), best=best)

        self.processes.once(save)

    def _is_best(self, measured: Mapping[str, Any]) -> bool:
        """Return whether the epoch's mAP is above all before, and note it then."""
        best = measured.get("mAP") is not None and measured["mAP"] > self.best.get("mAP", -1.0)
        if best:
            self.best = {"epoch": self.epoch, "mAP": measured["mAP"]}
        return best

    def _evaluate_after_all(self) -> None:
        """Evaluate a run that was resumed with nothing left to train, and log it where the epoch was not evaluated."""
        result = self._evaluate()
        assert self.checkpoint is not None
        if "mAP" in self.checkpoint.state["log"][-1]:
            return
        scores = {"mAP": result.mAP, "rank1": result.cmc[1]}
        best = self._is_best(scores)

        def save() -> None:
            again = dataclasses.replace(self._capture({}), training=self.checkpoint.training)  # type: ignore[union-attr]
            self.run.complete_epoch(scores, again, best=best)

        self.processes.once(save)

    def _describe(self) -> dict[str, Any]:
        """Return what a table says of the run besides its scores; checkpoints keep it for a run that is cut off."""
        return {
            "title": self.title,
            "recipe": self.recipe,
            "data": self.data.describe(),
            "weights": self.config.model.weights,
            "chance": self.evaluator.chance(),
            "hardware": describe_hardware(self.device),
            "remarks": self.remarks,
        }

    def _capture(self, tensors: Mapping[str, Tensor]) -> Checkpoint:
        trainer = self.trainer
        of_optimizer, groups = optimizer_state(trainer.optimizer)
        of_generators, generators = generator_state(self.device)
        state = {
            "pipeline": self.pipeline,
            "about": self.about,
            "config": to_plain(self.config),
            "fingerprint": self.fingerprint,
            "weights_digest": self.weights_digest,
            "processes": self.processes.count,
            "code": code_digest(),
            "versions": provenance()["versions"],
            "groups": groups,
            "schedule": trainer.schedule.state_dict(),
            "scaler": trainer.scaler.state_dict(),
            "generators": generators,
            "start": self.start,
            "best": self.best,
            "measured": self.measured,
            "resumed": self.resumed,
            "train_seconds": self.train_seconds,
            "seconds": self.run.seconds(),
        }
        return Checkpoint(self.epoch, trainer.model.state_dict(), {**of_optimizer, **of_generators, **tensors}, state)

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Put everything back as it was when the checkpoint was saved."""
        state, trainer = checkpoint.state, self.trainer
        load_whole(
            trainer.model,
            checkpoint.model,
            f"resume: the checkpoint after epoch {checkpoint.epoch} must fit the network that its config builds here",
            "resume with the code that the run was made with, or train anew",
        )
        restore_optimizer(trainer.optimizer, checkpoint.training, state["groups"])
        trainer.schedule.load_state_dict(state["schedule"])
        trainer.scaler.load_state_dict(state["scaler"])
        restore_generators(self.device, checkpoint.training, state["generators"])
        self.epoch = checkpoint.epoch
        self.start, self.best, self.measured = state["start"], state["best"], state["measured"]
        self.train_seconds = state["train_seconds"]
        self.weights_digest = state["weights_digest"]
        how = {"epoch": self.epoch, "code": code_digest(), "processes": self.processes.count, "changed": self.changed}
        self.resumed = [*state["resumed"], how]

    def finish(self, more_remarks: Sequence[str] = (), **extra: Any) -> dict[str, Any]:
        """Keep examples for the report and write the result.

        Args:
            more_remarks: the pipeline's own.
            extra: of the pipeline, for the result.
        """
        if self._final is None:
            self._evaluate_after_all()
        assert self._final is not None
        query, gallery, result = self._final
        scores = as_numbers(result)
        said = [
            *self.remarks,
            *remarks.of_scores(scores, self.about["chance"]),
            *remarks.of_learning(self.start, scores),
            *more_remarks,
        ]

        def write() -> dict[str, Any]:
            save_examples(self.run.folder, self.trainer.model, self.evaluator, query, gallery, result)
            return self.run.finish(
                {
                    "pipeline": self.pipeline,
                    **self.about,
                    "remarks": said,
                    "weights_digest": self.weights_digest,
                    "start": self.start,
                    "best": {**self.best, "chosen_on": "the test set: best.safetensors has the highest mAP on it"},
                    "final": scores,
                    "train_seconds": round(self.train_seconds, 1),
                    "processes": self.processes.count,
                    "resumed": self.resumed,
                    **extra,
                }
            )

        return self.processes.once(write)


def with_absolute_paths(config: Any, *, resumed: bool = False) -> Any:
    """Return the config as it is kept: its files are the same ones wherever it is read again.

    The starting weights of a resumed run are left as it was given them: they are part of what may not change.
    """
    data, model = config.data, config.model
    data = dataclasses.replace(data, root=str(Path(data.root).expanduser().absolute()))
    if not resumed and model.weights not in _NO_FILE:
        model = dataclasses.replace(model, weights=str(Path(model.weights).expanduser().absolute()))
    return dataclasses.replace(config, data=data, model=model)
