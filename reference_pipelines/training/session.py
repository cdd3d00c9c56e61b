"""What both papers' programs do around their epochs: read, seed, evaluate at the start, train, test, resume."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reference_pipelines.data import ReidData
from reference_pipelines.data.dataset import Batch, load_batches
from reference_pipelines.data.sampler import Batches
from reference_pipelines.data.transforms import train_transform
from reference_pipelines.distributed.device import pick_device
from reference_pipelines.distributed.processes import ALONE, Processes
from reference_pipelines.evaluation.evaluator import Evaluator, as_numbers
from reference_pipelines.evaluation.extraction import extract_features
from reference_pipelines.models import ReidModel
from reference_pipelines.models.weights import load_whole
from reference_pipelines.retrieval import RetrievalResult
from reference_pipelines.runs.checkpoints import Checkpoint
from reference_pipelines.runs.folder import Run
from reference_pipelines.runs.state import seed_generators
from reference_pipelines.training.board import check_tensorboard
from reference_pipelines.training.describing import describe_run, go_on
from reference_pipelines.training.held_out import hold_out
from reference_pipelines.training.images import check_that_all_decode, check_the_same, read_images
from reference_pipelines.training.loop import Objective, Trainer
from reference_pipelines.training.pipeline_config import PipelineConfig, with_absolute_paths
from reference_pipelines.training.record import Record


class Tested(NamedTuple):
    """The network after the last epoch, on query (Q, D) and gallery (G, D); the first process has the features."""

    query: Tensor
    gallery: Tensor
    result: RetrievalResult


class Session:
    """One training run from its data to its result, as a context; nothing is read or computed before it is entered.

    Args:
        pipeline: "apnet" or "mla".
        config: the pipeline's config.
        out: the run folder; new or empty where there is no checkpoint.
        processes: who trains together; this one alone when left out.
        checkpoint: where to go on.
        changed: keys of the config that are not as they were at the checkpoint, with the old and the new value.
        tensorboard: write what the log has, and the examples, for TensorBoard, too.
    """

    def __init__(
        self,
        pipeline: str,
        config: PipelineConfig,
        out: Path,
        *,
        processes: Processes = ALONE,
        checkpoint: Checkpoint | None = None,
        changed: Mapping[str, list[Any]] | None = None,
        tensorboard: bool = False,
    ) -> None:
        self.pipeline = pipeline
        self.config: Any = with_absolute_paths(config, resumed=checkpoint is not None)
        self.processes = processes
        self.checkpoint = checkpoint
        self.changed = dict(changed or {})
        self.out = out
        self.tensorboard = tensorboard
        self._tested: Tested | None = None

    def __enter__(self) -> "Session":
        """Read the images and open the folder.

        Raises:
            UserError: the device, the images or the folder are not what they must be; nothing is left behind. Or
                TensorBoard is asked for and not installed.
        """
        if self.tensorboard:
            check_tensorboard()
        config, processes, checkpoint = self.config, self.processes, self.checkpoint
        self.device = processes.together(lambda: pick_device(config.device, processes.local_rank))
        whole, left_out = read_images(config.data, processes)
        before = None if checkpoint is None else checkpoint.state.description.fingerprint
        check_the_same(config.data.root, whole.fingerprint(), before, processes)
        chosen = config.select(whole)
        self.data, apart = hold_out(chosen, config.evaluation.held_out, config.seed)
        config.check_data(self.data)
        testing = config.data, config.evaluation, self.device, processes
        self.evaluator = Evaluator(whole, *testing) if whole.tested else None
        self._held_out = None if apart is None else Evaluator(apart, *testing)
        run, log = describe_run(self.pipeline, config, whole, left_out, self.evaluator, self.device, processes), []
        if checkpoint is not None:
            run, log = go_on(run, checkpoint, self.changed), checkpoint.state.log
        self.record = Record(Run(self.out, config), run, log, processes, board=self.tensorboard)
        for remark in run.remarks:
            self.record.warn(remark)
        self.record.say(f"{run.title}: {chosen}, fingerprint {run.fingerprint}")
        self.record.open(checkpoint)
        try:
            if checkpoint is None and not config.data.skip_corrupt:  # a resumed run has read them
                check_that_all_decode(whole, config.data.workers, processes)
            seed_generators(config.seed)
        except BaseException as error:
            self.record.close(error)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        """Let go of the folder, which goes too if nothing worth keeping is in it."""
        self.record.close(error)

    @property
    def network_config(self) -> Any:
        """The config of the network to build; where a checkpoint has its weights, those it began with may be gone."""
        if self.checkpoint is None:
            return self.config
        return replace(self.config, model=replace(self.config.model, weights="none"))

    @property
    def tested_data(self) -> ReidData:
        """The images as they are tested, a tracklet being one; those that are trained on where nothing is tested."""
        return self.data if self.evaluator is None else self.evaluator.data

    @property
    def epoch(self) -> int:
        """How many epochs are done."""
        return self.record.description.epoch

    def place(self, model: ReidModel) -> None:
        """Move the network to the device and make it ready to train: evaluated untrained, or as it was saved."""
        config, checkpoint = self.config, self.checkpoint
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.record.description = replace(self.record.description, classes=model.classes)
        if checkpoint is not None:
            # The first process alone has the file for certain; the trainer gives its weights to the others.
            self.processes.once(lambda: self._load(checkpoint))
        self.trainer = Trainer(
            self.model,
            config.optimizer,
            amp=config.amp,
            processes=self.processes,
            bn_chunks=config.model.bn_chunks,
        )
        if checkpoint is not None:
            self._restore(checkpoint)
        else:
            result = None if self.evaluator is None else self.evaluator(self.model)
            start = {} if result is None else as_numbers(result)
            self.record.description = replace(self.record.description, start=start)
            self.record.end_epoch(self.trainer, {}, result, held_out=self._evaluate_held_out())
        self._began = time.perf_counter()

    def _load(self, checkpoint: Checkpoint) -> None:
        load_whole(
            self.model,
            checkpoint.place,
            f"resume: the checkpoint after epoch {checkpoint.epoch} must fit the network that its config builds here",
            "resume with the code that the run was made with, or train anew",
        )

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Put everything else back as it was when the checkpoint was saved."""
        state, trainer = checkpoint.state, self.trainer
        state.optimizer.restore(trainer.optimizer)
        trainer.schedule.load_state_dict(state.schedule)
        trainer.scaler.load_state_dict(state.scaler)
        state.generators.restore(self.device)

    def last_labels(self) -> np.ndarray | None:
        """Return the pseudo-labels (N,) of the last epoch before this session, None before the first."""
        saved = None if self.checkpoint is None else self.checkpoint.state.labels
        return None if saved is None else saved.numpy()

    def training_features(self) -> Tensor:
        """Return the features (N, D) of the training images, without augmentation; only the first process has them."""
        self.model.eval()
        return extract_features(
            self.model,
            self.data.train,
            self.config.data,
            batch_size=self.config.evaluation.batch_size,
            flip=False,
            device=self.device,
            title=f"{self._next_title} features",
            processes=self.processes,
        )

    @property
    def _next_title(self) -> str:
        return f"epoch {self.epoch + 1}/{self.config.optimizer.epochs}"

    def train_epoch(
        self,
        batches: Batches,
        objective: Objective,
        *,
        labels: np.ndarray | None = None,
        learnt: Mapping[str, Tensor] | None = None,
        measured: Mapping[str, Any] | None = None,
    ) -> None:
        """Train the next epoch, evaluate where that is due, log and save.

        Args:
            batches: the global batches.
            objective: the loss.
            labels: pseudo-labels (N,) to save.
            learnt: tensors of the objective, saved as they are after the epoch.
            measured: goes into the log.
        """
        config = self.config
        transform = train_transform(
            config.data.image_size, config.augment, config.data.interpolation, config.data.normalisation
        )

        def load(own: Batches) -> Iterator[Batch]:
            return load_batches(self.data.train.paths, transform, own, workers=config.data.workers)

        rate = self.trainer.schedule.get_last_lr()[0]
        loss = self.trainer.train_epoch(batches, load, objective, title=self._next_title)
        self.trainer.schedule.step()
        seconds = time.perf_counter() - self._began
        run = self.record.description
        self.record.description = replace(
            run, epoch=run.epoch + 1, measured=dict(measured or {}), train_seconds=run.train_seconds + seconds
        )
        last = self.epoch == config.optimizer.epochs
        due = last or self.epoch % config.evaluation.every == 0
        tested, held_out = (self._evaluate(), self._evaluate_held_out()) if due else (None, None)
        result = None if tested is None else tested.result
        entry = {"loss": loss, "learning_rate": rate, **objective.measured(), **(measured or {})}
        self.record.end_epoch(self.trainer, entry, result, labels, learnt, held_out)
        self._began = time.perf_counter()

    def _evaluate(self) -> Tested | None:
        if self.evaluator is None:
            return None
        query, gallery = self.evaluator.features(self.model)
        tested = Tested(query, gallery, self.evaluator.score(query, gallery))
        if self.epoch == self.config.optimizer.epochs:
            self._tested = tested
        return tested

    def _evaluate_held_out(self) -> RetrievalResult | None:
        return None if self._held_out is None else self._held_out(self.model)

    def test(self) -> Tested | None:
        """Return what the network does after the last epoch; one that was not meant to be the last is evaluated now.

        None where there is no query and gallery.
        """
        if self._tested is not None:
            return self._tested
        tested = self._evaluate()
        if not {"mAP", "held_out_mAP"} & set(self.record.log[-1]):
            held_out = self._evaluate_held_out()
            if tested is not None or held_out is not None:
                assert self.checkpoint is not None
                result = None if tested is None else tested.result
                self.record.complete_epoch(self.trainer, self.checkpoint, result, held_out)
        return tested

    def finish(self, remarks: Sequence[str] = (), **extra: Any) -> dict[str, Any]:
        """Write the result, and return it.

        Args:
            remarks: what of the pipeline speaks against the scores.
            extra: of the pipeline, for the result.
        """
        tested = self.test()
        return self.record.finish(None if tested is None else tested.result, remarks, **extra)
