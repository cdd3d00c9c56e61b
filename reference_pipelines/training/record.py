"""What a session writes: the log, a checkpoint an epoch, and the result, with all that is known of the run so far."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reference_pipelines.distributed.processes import Processes
from reference_pipelines.errors import STOPPED, UserError, writing
from reference_pipelines.evaluation.evaluator import as_numbers
from reference_pipelines.retrieval import RetrievalResult
from reference_pipelines.runs import remarks
from reference_pipelines.runs.checkpoints import Checkpoint, saved_epochs
from reference_pipelines.runs.description import RunDescription
from reference_pipelines.runs.folder import Run, resume_command
from reference_pipelines.runs.state import GeneratorState, OptimizerState, TrainingState
from reference_pipelines.training.board import Board
from reference_pipelines.training.loop import Trainer


class Record:
    """A run as it is written; the first process writes and prints.

    Args:
        run: its folder.
        description: of the run as it begins, or goes on.
        log: the lines so far.
        processes: who trains together.
        board: write for TensorBoard, too.
    """

    def __init__(
        self,
        run: Run,
        description: RunDescription,
        log: Sequence[Mapping[str, Any]],
        processes: Processes,
        *,
        board: bool = False,
    ) -> None:
        self.run = run
        self.description = description
        self.log = [dict(entry) for entry in log]
        self.processes = processes
        self._with_board = board and processes.first
        self._board: Board | None = None

    def say(self, line: str) -> None:
        """Print a line."""
        if self.processes.first:
            print(line, flush=True)

    def warn(self, remark: str) -> None:
        """Print what speaks against the run."""
        if self.processes.first:
            print(f"warning: {self.description.title}: {remark}", file=sys.stderr, flush=True)

    def open(self, checkpoint: Checkpoint | None) -> None:
        """Make the folder, or go on in it after a checkpoint."""

        def opened() -> None:
            try:
                if checkpoint is None:
                    self.run.open_new()
                else:
                    self.run.open_again(checkpoint)
            except BaseException:
                self.run.unlock()
                raise

        self.processes.once(opened)

    def close(self, error: BaseException | None = None) -> None:
        """Let go of the folder, remove it if nothing worth keeping is in it, and have an error say what is kept."""
        if not self.processes.first:
            return
        if self._board is not None:
            self._board.close()
        if isinstance(error, UserError):
            error.args = (f"{error}{self._what_is_kept()}",)
        elif isinstance(error, Exception):  # a bug: the traceback says it, and what is kept
            error.add_note(f"{STOPPED}{self._what_is_kept()}.")
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

    def end_epoch(
        self,
        trainer: Trainer,
        entry: Mapping[str, Any],
        result: RetrievalResult | None,
        labels: np.ndarray | None = None,
        learnt: Mapping[str, Tensor] | None = None,
        held_out: RetrievalResult | None = None,
    ) -> None:
        """Log an epoch and save all that the next one depends on.

        Args:
            trainer: has the network and what trains it.
            entry: for the line of the log.
            result: of the evaluation, where the epoch was evaluated.
            held_out: of that on the people who are held out, if there are any.
            labels: pseudo-labels (N,) that it was trained on.
            learnt: tensors of its objective.
        """
        seconds = self.run.seconds()
        scores = {**_scores(result), **_of_held_out(held_out)}
        entry = {"epoch": self.description.epoch, **entry, **scores, "seconds": round(seconds, 2)}
        self.log.append(entry)
        self.description = replace(self.description, seconds=seconds)
        self._note_scores(result, held_out)
        state = TrainingState(
            description=self.description,
            log=self.log,
            optimizer=OptimizerState.of(trainer.optimizer),
            schedule=trainer.schedule.state_dict(),
            scaler=trainer.scaler.state_dict(),
            generators=GeneratorState.of(trainer.device),
            labels=None if labels is None else torch.as_tensor(labels),
            objective=dict(learnt or {}),
        )

        def save() -> None:
            if labels is not None:
                self.run.save_labels(self.description.epoch, labels)
            self.run.save(trainer.model, state)

        self.processes.once(save)
        self._show(entry)
        self.say("  ".join(f"{name} {_short(value)}" for name, value in entry.items() if value is not None))

    def complete_epoch(
        self,
        trainer: Trainer,
        checkpoint: Checkpoint,
        result: RetrievalResult | None,
        held_out: RetrievalResult | None,
    ) -> None:
        """Add scores to the last epoch, saved by `checkpoint`: it was not meant to be the last and so not evaluated."""
        scores = {**_scores(result), **_of_held_out(held_out)}
        self.log[-1] |= scores
        self._note_scores(result, held_out)
        state = replace(checkpoint.state, description=self.description, log=self.log)
        self.processes.once(lambda: self.run.save(trainer.model, state))
        self._show({"epoch": self.description.epoch, **scores})

    def _show(self, entry: Mapping[str, Any]) -> None:
        """Show a new line on the board, which begins with the first epoch: a run that stops before leaves nothing."""
        if not self._with_board or not self.description.epoch:
            return
        with writing(self.run.folder):
            if self._board is None:
                self._board = Board(self.run.folder, self.log)
            else:
                self._board.add(entry)

    def _note_scores(self, result: RetrievalResult | None, held_out: RetrievalResult | None) -> None:
        """Note the last epoch's scores, if there are any, and whether they are the best so far."""
        epoch, best = self.description.epoch, dict(self.description.best)
        if result is not None and result.mAP > best.get("mAP", -1.0):
            best |= {"epoch": epoch, "mAP": result.mAP}
        if held_out is not None and held_out.mAP > best.get("held_out", {}).get("mAP", -1.0):
            best["held_out"] = {"epoch": epoch, "mAP": held_out.mAP}
        scored = self.description.scored if result is None else {"epoch": epoch, **_scores(result)}
        self.description = replace(self.description, scored=scored, best=best)

    def finish(self, result: RetrievalResult | None, more_remarks: Sequence[str], **extra: Any) -> dict[str, Any]:
        """Write the result of the run, and return it; `result` is None where nothing was tested."""
        run, scores = self.description, None if result is None else as_numbers(result)
        said = [*run.remarks]
        if scores is not None:
            said += [*remarks.of_scores(scores, run.chance), *remarks.of_learning(run.start, scores)]
        said += more_remarks
        kept = ("pipeline", "title", "recipe", "data", "weights", "chance", "hardware", "weights_digest", "start")
        best = dict(run.best)
        if "mAP" in best:
            best["chosen_on"] = "the test set: best.safetensors has the highest mAP on it"
        if "held_out" in best:
            best["held_out"] = {**best["held_out"], "chosen_on": "training people who were held out"}
        written = {
            **{name: getattr(run, name) for name in (*kept, "processes", "resumed")},
            "remarks": said,
            "best": best,
            "final": scores,
            "train_seconds": round(run.train_seconds, 1),
            **extra,
        }
        finished = self.processes.once(lambda: self.run.finish(written, None if result is None else result.ranks))
        if self._with_board:
            with writing(self.run.folder):
                self._board = self._board or Board(self.run.folder, self.log)
                self._board.add_examples(self.run.folder, run.epoch)
        return finished


def _scores(result: RetrievalResult | None) -> dict[str, float]:
    return {} if result is None else {"mAP": result.mAP, "rank1": result.cmc[1]}


def _of_held_out(result: RetrievalResult | None) -> dict[str, float]:
    return {} if result is None else {"held_out_mAP": result.mAP}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
