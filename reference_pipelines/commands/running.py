"""What `train` and `resume` do once their words are understood."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnreid.command_line import separate
from reference_pipelines.config.loading import load_config, word_counts
from reference_pipelines.distributed.processes import join_processes
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.reporting.table import format_results
from reference_pipelines.runs.folder import CONFIG, how_to_go_on
from reference_pipelines.runs.resume import Resumption, changed_keys, find_checkpoint, finished


def train(name: str, load: Callable[[], Any], folder: Path, *, tensorboard: bool = False) -> None:
    """Train a paper's config, which `load` reads, into a new folder."""
    with join_processes(lambda: how_to_go_on(folder)) as processes:
        config = processes.together(load)
        result = PIPELINES[name].train(config, folder, processes=processes, tensorboard=tensorboard)
        if processes.first:
            print("\n" + format_results([result]))


def resume(run: str, arguments: Sequence[str], *, tensorboard: bool = False) -> None:
    """Go on with a run from its newest whole checkpoint; `arguments` are its folder and the config's keys."""
    folder = Path(run)
    with join_processes(lambda: how_to_go_on(folder)) as processes:
        found = processes.once(lambda: find_checkpoint(folder, processes.count))
        pipeline = PIPELINES[found.checkpoint.state.description.pipeline]
        config: Any = processes.once(
            lambda: load_config(pipeline.config, _with_own_config(run, arguments, pipeline.config), prog="resume")
        )
        changed = processes.once(lambda: changed_keys(folder, found.checkpoint, config))
        done = processes.once(lambda: finished(folder, found.checkpoint, config.optimizer.epochs))
        if processes.first:
            _say(folder, found, changed, config.optimizer.epochs, done)
        if not done:
            going_on = {"checkpoint": found.checkpoint, "changed": changed, "tensorboard": tensorboard}
            result = pipeline.train(config, folder, processes=processes, **going_on)
            if processes.first:
                print("\n" + format_results([result]))


def _with_own_config(run: str, arguments: Sequence[str], schema: type) -> list[str]:
    """Return the arguments of `resume` without the run's folder and with its config."""
    words = separate("resume", arguments, word_counts(schema), ends=lambda word: word == run)
    words.bare.remove(run)
    return [f"--config={Path(run) / CONFIG}", *words.bare, *words.arguments()]


def _say(folder: Path, found: Resumption, changed: Mapping[str, list[Any]], epochs: int, done: bool) -> None:
    for note in found.notes:
        print(note, file=sys.stderr, flush=True)
    if done:
        print(f"{folder} is finished, {epochs} epochs; for more, resume it with a larger --optimizer.epochs")
        return
    for key, (old, new) in changed.items():
        print(f"{key}: {old} -> {new}", flush=True)
    print(f"{folder}: going on after epoch {found.checkpoint.epoch} of {epochs}", flush=True)
