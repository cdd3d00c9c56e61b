"""Steps of training: what both pipelines do with a network and their batches."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from reference_pipelines.config.sections import Amp, OptimizerConfig
from reference_pipelines.data.dataset import Batch, Draw
from reference_pipelines.data.sampler import Batches
from reference_pipelines.distributed.batch_statistics import set_batch_statistics, share_running_statistics
from reference_pipelines.distributed.processes import ALONE, Processes, share_sizes
from reference_pipelines.errors import UserError
from reference_pipelines.models import Embedding
from reference_pipelines.progress import progress_bar
from reference_pipelines.training.optimizer import build_optimizer

LOOK_EVERY = 50  # steps; a look at a loss waits for the device, and a GPU that is waited for each step idles

_HALF = {"none": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Objective(Protocol):
    """A loss of a batch, and what follows the optimiser's step (the cluster memory's update)."""

    def loss(self, embedding: Embedding, indices: Tensor) -> Tensor:
        """Return the scalar loss of a batch; `indices` (B,) are the images' places in the training list."""

    def after_step(self, embedding: Embedding, indices: Tensor) -> None:
        """Update what the optimiser does not own; left out where the optimiser leaves a step out."""

    def measured(self) -> Mapping[str, float]:
        """Return what else an epoch's line of the log says, of the steps since the last call."""


class Trainer:
    """A network with its optimiser, trained on global batches of which each process computes its share.

    Args:
        model: on its device; its batch norms are made to take `bn_chunks`' statistics, in place.
        config: Adam and its schedule.
        amp: what the forward pass computes in; the losses are in single precision. float16 scales them, and the
            optimiser leaves a step out whose gradients overflow.
        processes: who trains together.
        bn_chunks: parts of every batch, over all processes, with batch statistics of their own.
    """

    def __init__(
        self,
        model: nn.Module,
        config: OptimizerConfig,
        *,
        amp: Amp = "none",
        processes: Processes = ALONE,
        bn_chunks: int = 1,
    ) -> None:
        self.model = set_batch_statistics(model, bn_chunks)
        self.bn_chunks = bn_chunks
        self.processes = processes
        self.device = next(model.parameters()).device
        self.optimizer, self.schedule = build_optimizer(model, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp == "float16")
        self._half = _HALF[amp]
        self._network = self.processes.joined(model)
        self._stepped = False
        self._steps = 0
        self.optimizer.register_step_post_hook(self._note_step)

    def train_epoch(
        self, batches: Batches, load: Callable[[Batches], Iterator[Batch]], objective: Objective, *, title: str
    ) -> float:
        """Train on every global batch and return the mean loss.

        Args:
            batches: the draws of each, of all processes.
            load: loads this process's share of them.
            objective: the loss.
            title: what messages and the progress bar call it.

        Raises:
            UserError: a batch is too small for the processes or cannot be cut into equal chunks, an image does not
                decode, or the loss, the gradients of all steps or the features after the last are NaN or Inf.
        """
        processes = self.processes
        self._check_shares(batches)
        self.model.train()
        losses = _Losses(title, look_every=1 if self.device.type == "cpu" else LOOK_EVERY)
        before = self._steps
        own = [list(processes.share(batch)) for batch in batches]
        with progress_bar(load(own), len(batches), title, shown=processes.first) as bar:
            loaded = iter(bar)
            for draws in batches:
                batch: Batch = processes.together(lambda: next(loaded))
                images = batch.images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
                self._step(images, self._indices(draws), objective, losses)
            next(loaded, None)  # lets the loader and the bar end
        losses.check()
        self._check_that_steps_were_taken(self._steps - before, len(batches), title)
        share_running_statistics(self.model)
        processes.together(lambda: self._check_finite(images, title))
        return losses.mean()

    def _check_shares(self, batches: Batches) -> None:
        for size in sorted({len(batch) for batch in batches}):
            shares = share_sizes(size, self.processes.count)
            if size % self.bn_chunks or size < 2 * self.bn_chunks:
                raise UserError(
                    f"train: every batch must divide into the {self.bn_chunks} model.bn_chunks without a remainder, at "
                    f"least 2 images each, and one has {size} images (a batch is smaller than --sampler.ids x "
                    "--sampler.images where there are fewer clusters than --sampler.ids); make --sampler.images a "
                    f"multiple of {self.bn_chunks}, which fits any number of clusters from 2 on"
                )
            if not min(shares):
                raise UserError(
                    f"train: each of the {len(shares)} processes must have an image of every batch, and a batch of "
                    f"{size} is cut into {max(shares)} a process, which leaves none for the last; "
                    "start fewer processes or enlarge --sampler.ids or --sampler.images"
                )

    def _indices(self, draws: Sequence[Draw]) -> Tensor:
        """Return the places of a batch's images in the training list, on the device, which is not waited for."""
        indices = torch.tensor([draw.image for draw in draws], pin_memory=self.device.type == "cuda")
        return indices.to(self.device, non_blocking=True)

    def _step(self, images: Tensor, indices: Tensor, objective: Objective, losses: "_Losses") -> None:
        with torch.autocast(self.device.type, self._half, enabled=self._half is not None):
            own: Embedding = self._network(images)
        embedding = self._of_all(own, share_sizes(len(indices), self.processes.count))
        loss = objective.loss(embedding, indices)
        losses.add(loss.detach())
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self._stepped = False
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self._stepped:
            objective.after_step(embedding, indices)

    def _note_step(self, *_: object) -> None:
        self._stepped = True
        self._steps += 1

    def _check_that_steps_were_taken(self, taken: int, batches: int, title: str) -> None:
        """Refuse an epoch of half precision that learnt nothing, once the loss is not even scaled up any more."""
        if batches and not taken and self.scaler.is_enabled() and self.scaler.get_scale() < 1:
            raise UserError(
                f"train: the gradients must be finite in a step of {title}, they are NaN or Inf in all {batches}, "
                "which are left out; train with --amp bfloat16 or none, or lower --optimizer.learning_rate"
            )

    def _of_all(self, own: Embedding, sizes: Sequence[int]) -> Embedding:
        """Return the embedding of the global batch, in single precision at least."""
        parts = [part if part is None else part.to(torch.promote_types(part.dtype, torch.float32)) for part in own]
        if self.processes.count == 1:
            return Embedding(*parts)  # type: ignore[arg-type]
        present = [part for part in parts if part is not None]
        rows = self.processes.gather(torch.cat(present, dim=1), sizes)
        gathered = iter(rows.split([part.shape[1] for part in present], dim=1))
        return Embedding(*(part if part is None else next(gathered) for part in parts))  # type: ignore[arg-type]

    @torch.no_grad()
    def _check_finite(self, images: Tensor, title: str) -> None:
        """Refuse weights that the last step has ruined, before they replace the ones saved."""
        self.model.eval()
        if not torch.isfinite(self.model(images).features).all():
            raise _ruined("the features", title)
        for name, value in self._kept():
            if not torch.isfinite(value).all():
                raise _ruined(name, title)

    def _kept(self) -> Iterator[tuple[str, Tensor]]:
        """Yield what a checkpoint holds, with its name in a sentence; the features need not show what of it is bad."""
        for name, value in self.model.state_dict().items():
            yield f"the values of {name}", value
        for name, parameter in self.model.named_parameters():
            for of, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    yield f"the optimiser's {of} of {name}", value


def _ruined(what: str, title: str) -> UserError:
    return UserError(
        f"train: {what} are NaN or Inf after the last step of {title}; "
        "lower --optimizer.learning_rate or lengthen the warm-up"
    )


class _Losses:
    """The losses of an epoch's steps, of which none may be NaN or Inf.

    They are looked at every so many steps and at the end: what comes of a bad one meanwhile is not saved, as the
    epoch is not.

    Args:
        title: what messages call the epoch.
        look_every: steps.
    """

    def __init__(self, title: str, *, look_every: int) -> None:
        self.title = title
        self.look_every = look_every
        self._seen: list[float] = []
        self._unseen: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """Add the next step's."""
        self._unseen.append(loss)
        if len(self._unseen) == self.look_every:
            self.check()

    def check(self) -> None:
        """Look at those that nobody has looked at.

        Raises:
            UserError: one is NaN or Inf; the first is named.
        """
        for loss in torch.stack(self._unseen).tolist() if self._unseen else ():
            self._seen.append(loss)
            if not math.isfinite(loss):
                raise UserError(
                    f"train: the loss is {loss} at step {len(self._seen)} of {self.title}; "
                    "lower --optimizer.learning_rate or lengthen the warm-up"
                )
        self._unseen.clear()

    def mean(self) -> float:
        """Return the mean of all that were looked at."""
        return math.fsum(self._seen) / len(self._seen)
