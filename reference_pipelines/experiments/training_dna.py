"""The first steps of every recipe: python -m reference_pipelines.experiments.training_dna shows a divergence soon.

Each recipe trains a few steps on small rendered images from seeded random weights, with its own losses, optimiser,
augmentation and sampler. What the batches are, the losses and the norms of the gradients are written, or compared with
what another machine has written.
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnreid.command_line import UserError, read_options, typed
from attnreid.files import write_text
from reference_pipelines.apnet.losses import SupervisedObjective
from reference_pipelines.clustering import ClusterMemory
from reference_pipelines.config.loading import load_config
from reference_pipelines.data import ReidData, read
from reference_pipelines.data.dataset import Batch, load_batches
from reference_pipelines.data.sampler import Batches, cluster_batches, identity_batches
from reference_pipelines.data.transforms import train_transform
from reference_pipelines.distributed.device import describe_hardware
from reference_pipelines.mla.objective import ClusterObjective
from reference_pipelines.models import Embedding
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.rendering import render_market
from reference_pipelines.runs.provenance import provenance
from reference_pipelines.runs.state import seed_generators
from reference_pipelines.training.loop import Objective, Trainer

_PEOPLE = 16
_SIZE = (128, 64)
_BATCH = 16
_CLOSE = 1e-2  # other processors round otherwise, and Adam's first steps go by the sign of small gradients


@dataclass(frozen=True)
class Step:
    """One step of training.

    Args:
        batch: digest of which images it has, in which order, and of the seeds of their augmentation.
        brightness: mean of its pixels after augmentation.
        loss: before the step.
        gradient: norm of all parameters' gradients.
    """

    batch: str
    brightness: float
    loss: float
    gradient: float


@dataclass(frozen=True)
class DnaOptions:
    """The first steps of every recipe.

    Args:
        out: JSON file to write, or to compare with.
        compare: with what stands in the file instead of writing it.
        steps: how many.
        only: recipes, such as apnet/demo; all when left out.
    """

    out: Path = typed(metavar="FILE")
    compare: bool = False
    steps: int = typed(20, least=1)
    only: tuple[str, ...] = ()


class _Noted:
    """An objective that notes what it sees of each step."""

    def __init__(self, objective: Objective, model: torch.nn.Module, draws: Batches) -> None:
        self.objective, self.model = objective, model
        self.steps: list[Step] = []
        self.brightness = 0.0
        self._left = iter(draws)
        self._loss = 0.0

    def watch(self, loaded: Iterator[Batch]) -> Iterator[Batch]:
        """Pass batches on."""
        for batch in loaded:
            self.brightness = float(batch.images.double().mean())
            yield batch

    def loss(self, embedding: Embedding, indices: Tensor) -> Tensor:
        """Return the loss."""
        loss = self.objective.loss(embedding, indices)
        self._loss = float(loss.detach())
        return loss

    def after_step(self, embedding: Embedding, indices: Tensor) -> None:
        """Note the step."""
        drawn = json.dumps([tuple(draw) for draw in next(self._left)])
        gradients = [each.grad.double().square().sum() for each in self.model.parameters() if each.grad is not None]
        norm = float(torch.stack(gradients).sum().sqrt())
        digest = hashlib.sha256(drawn.encode()).hexdigest()[:16]
        self.steps.append(Step(digest, self.brightness, self._loss, norm))
        self.objective.after_step(embedding, indices)

    def measured(self) -> Mapping[str, float]:
        """Return nothing."""
        return {}


def first_steps(pipeline: str, config: Any, data: ReidData, steps: int) -> list[Step]:
    """Train the first steps of a config on the CPU, from random weights, and return them.

    Clusters are the people, so that the first steps of unsupervised training do not hang on how the features of random
    weights cluster.

    Args:
        pipeline: "apnet" or "mla".
        config: of the pipeline.
        data: whose training images are taken.
        steps: how many; as many epochs as it takes.
    """
    program, images = PIPELINES[pipeline].program(), data.train
    labels = images.labels()
    seed_generators(config.seed)
    silent: Any = {"say": lambda line: None}
    if pipeline == "apnet":
        silent["classes"] = int(labels.max()) + 1
    model: Any = program.build_model(config, **silent)
    trainer = Trainer(model, config.optimizer, amp=config.amp, bn_chunks=config.model.bn_chunks)
    transform = train_transform(
        config.data.image_size, config.augment, config.data.interpolation, config.data.normalisation
    )
    objective: Objective
    if pipeline == "apnet":
        objective = SupervisedObjective(torch.as_tensor(labels), config.loss, features=model.features)
    else:
        generator = torch.Generator().manual_seed(config.seed)
        centers = torch.randn(int(labels.max()) + 1, model.neck.num_features, generator=generator)
        objective = ClusterObjective(torch.as_tensor(labels), ClusterMemory(centers, config.memory))
    found: list[Step] = []
    epoch = 0
    while len(found) < steps:
        epoch += 1
        draws = _batches(pipeline, config, data, steps, epoch)[: steps - len(found)]
        noted = _Noted(objective, model, draws)
        load = partial(load_batches, images.paths, transform, workers=0)
        trainer.train_epoch(draws, lambda own, noted=noted, load=load: noted.watch(load(own)), noted, title="")  # type: ignore[misc]
        trainer.schedule.step()
        found += noted.steps
    return found


def _batches(pipeline: str, config: Any, data: ReidData, steps: int, epoch: int) -> Batches:
    labels, seed = data.train.labels(), (config.seed, epoch)
    if pipeline == "apnet":
        return identity_batches(labels, config.sampler, seed)
    return cluster_batches(labels, data.train.cameras, config.sampler, min(config.iterations, steps), seed)


def shrunk(pipeline: str, recipe: str, root: Path) -> Any:
    """Return a recipe for small images, small batches and random weights; all else is the recipe's own."""
    words = ["--config", recipe, f"--data.root={root}", "--data.workers=0", "--model.weights=none", "--device=cpu"]
    config: Any = load_config(PIPELINES[pipeline].config, words, recipes=PIPELINES[pipeline].recipes)
    data = replace(config.data, image_size=_SIZE)
    return replace(config, data=data, sampler=replace(config.sampler, ids=_BATCH // config.sampler.images))


def recipes() -> list[tuple[str, str]]:
    """Return every shipped recipe, the paper first."""
    return [(name, path.stem) for name, each in PIPELINES.items() for path in sorted(each.recipes.glob("*.yaml"))]


def differences(mine: Sequence[Step], theirs: Sequence[Mapping[str, Any]]) -> str:
    """Return where two courses part, "" where they do not."""
    for number, (step, other) in enumerate(zip(mine, theirs, strict=False), start=1):
        if step.batch != other["batch"]:
            return f"step {number} has other images, or other augmentation"
        for name in ("brightness", "loss", "gradient"):
            one, two = getattr(step, name), other[name]
            if abs(one - two) > _CLOSE * max(abs(two), 1.0):
                return f"step {number}: {name} is {one:.6g}, it was {two:.6g}"
    return ""


def main(words: Sequence[str]) -> int:
    """Train the first steps of every recipe and write or compare them; 1 where one differs."""
    try:
        options = read_options("training_dna", DnaOptions, list(words), see="--help")
        known = [f"{pipeline}/{name}" for pipeline, name in recipes()]
        wrong = [name for name in options.only if name not in known]
        if wrong:
            raise UserError(f"training_dna: --only must be among {', '.join(known)}, got {wrong[0]!r}")
        theirs = json.loads(options.out.read_text(encoding="utf-8"))["recipes"] if options.compare else {}
    except (UserError, OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found, differing = {}, False
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        render_market(
            root,
            train_ids=_PEOPLE,
            test_ids=1,
            cameras=2,
            images_per_camera=2,
            distractors=0,
            junk=0,
            image_size=_SIZE,
            seed=0,
            workers=1,
            progress=False,
        )
        data = read(root)
        for pipeline, name in recipes():
            title = f"{pipeline}/{name}"
            if options.only and title not in options.only:
                continue
            steps = first_steps(pipeline, shrunk(pipeline, name, root), data, options.steps)
            found[title] = [vars(step) for step in steps]
            said = differences(steps, theirs.get(title, [])) if options.compare else ""
            if options.compare and title not in theirs:
                said = "not in the file"
            differing = differing or bool(said)
            print(f"{title}: {said or 'the same' if options.compare else f'loss {steps[-1].loss:.4g}'}", flush=True)
    if not options.compare:
        about = {"hardware": describe_hardware(torch.device("cpu")), **provenance()["versions"]}
        write_text(options.out, json.dumps({"made_with": about, "recipes": found}, indent=1) + "\n")
    return int(differing)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
