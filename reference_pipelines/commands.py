"""What each command does with its options."""

import dataclasses
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reference_pipelines.config import config_parser, load_config
from reference_pipelines.data import read
from reference_pipelines.data.rendering import render_market
from reference_pipelines.data.verification import format_verification, verify
from reference_pipelines.errors import UserError
from reference_pipelines.evaluation import EvaluationOptions, evaluate_run
from reference_pipelines.experiments.demo import run_demo
from reference_pipelines.experiments.difficulty import format_difficulty, measure_difficulty
from reference_pipelines.machine import available_cores
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.reporting.report import write_report
from reference_pipelines.reporting.table import (
    format_camera_pairs,
    format_evaluations,
    format_results,
    format_single_shot,
)
from reference_pipelines.training.device import pick_device
from reference_pipelines.training.processes import join_processes
from reference_pipelines.training.resume import changed_keys, find_checkpoint, finished
from reference_pipelines.training.run import CONFIG, how_to_go_on


def demo(options: Namespace) -> None:
    """Run the demo."""
    run_demo(options.out)


def train(options: Namespace, rest: Sequence[str]) -> None:
    """Train one recipe; `rest` are the config's arguments."""
    asks = bool({"-h", "--help"} & set(rest))
    if options.pipeline is None:
        if not asks:
            raise UserError(f"train: which paper? name one of {', '.join(PIPELINES)}")
        for name, each in PIPELINES.items():
            recipes = ", ".join(sorted(path.stem for path in each.recipes.glob("*.yaml")))
            print(f"train {name} --config RECIPE --out RUN_DIR [--any.key VALUE]   recipes: {recipes}, or a YAML file")
        print("train PIPELINE --help lists the keys.")
        return
    pipeline = PIPELINES[options.pipeline]
    if asks:
        config_parser(pipeline.config, f"train {options.pipeline} --out RUN_DIR").print_help()
        return
    if options.out is None:
        raise UserError("train: --out is missing; name a new folder for the run")
    with join_processes(lambda: how_to_go_on(options.out)) as processes:
        config: Any = processes.together(lambda: load_config(pipeline.config, rest, recipes=pipeline.recipes))
        result = pipeline.train(config, options.out, processes=processes)
        if processes.first:
            print("\n" + format_results([result]))


def resume(options: Namespace, rest: Sequence[str]) -> None:
    """Go on with a run from its newest whole checkpoint; `rest` are the config's arguments."""
    folder: Path = options.run
    with join_processes(lambda: how_to_go_on(folder)) as processes:
        found = processes.once(lambda: find_checkpoint(folder, processes.count))
        state = found.checkpoint.state
        pipeline = PIPELINES[state["pipeline"]]
        arguments = [f"--config={folder / CONFIG}", *rest]
        config: Any = processes.once(lambda: load_config(pipeline.config, arguments, prog="resume"))
        changed = processes.once(lambda: changed_keys(folder, found.checkpoint, config))
        epochs = config.optimizer.epochs
        done = processes.once(lambda: finished(folder, epochs))
        if processes.first:
            for note in found.notes:
                print(note, file=sys.stderr, flush=True)
            if done:
                print(f"{folder} is finished, {epochs} epochs; for more, resume it with a larger --optimizer.epochs")
            else:
                for key, (old, new) in changed.items():
                    print(f"{key}: {old} -> {new}", flush=True)
                print(f"{folder}: going on after epoch {found.checkpoint.epoch} of {epochs}", flush=True)
        if not done:
            result = pipeline.train(config, folder, processes=processes, checkpoint=found.checkpoint, changed=changed)
            if processes.first:
                print("\n" + format_results([result]))


def evaluate(options: Namespace) -> None:
    """Test a trained network."""
    names = [field.name for field in dataclasses.fields(EvaluationOptions)]
    chosen = EvaluationOptions(**{name: getattr(options, name) for name in names})
    numbers = evaluate_run(options.checkpoint, chosen, options.out)
    print(format_evaluations([numbers]))
    if options.single_shot:
        print("\n" + format_single_shot(numbers))
    if options.camera_pairs:
        pairs = numbers["scores"]["camera_pairs"]
        print("\n" + (format_camera_pairs(numbers) if pairs else "no camera pairs: the data set gives no cameras"))


def report(options: Namespace) -> None:
    """Write a report."""
    print(write_report(options.runs, options.out))


def data_render(options: Namespace) -> None:
    """Render pedestrians."""
    try:
        summary = render_market(
            options.root,
            size=options.size,
            domain=options.domain,
            occluded=options.occluded,
            image_size=tuple(options.image_size),
            seed=options.seed,
            workers=options.workers,
        )
    except (ValueError, OSError, RuntimeError) as error:
        raise UserError(str(error)) from None
    print(summary)


def data_verify(options: Namespace) -> int:
    """Look through a data set; return 1 if training or evaluation on it would be wrong."""
    workers = available_cores() if options.workers is None else options.workers
    if workers < 0:
        raise UserError(f"data verify: --workers must be at least 0, got {workers}")
    result = verify(options.root, options.layout, workers=workers)
    print(json.dumps(result.to_plain(), indent=2) if options.json else format_verification(result))
    return int(result.errors > 0)


def data_difficulty(options: Namespace) -> None:
    """Score chance, colours, untrained and trained networks on a data set."""
    if options.workers < 0:
        raise UserError(f"data difficulty: --workers must be at least 0, got {options.workers}")
    data = read(options.root, options.layout)
    device = pick_device(options.device)
    rows = measure_difficulty(data, options.runs, workers=options.workers, device=device)
    if options.json:
        print(json.dumps({"data": data.describe(), "rows": [dataclasses.asdict(row) for row in rows]}, indent=2))
    else:
        print(f"{data}\n\n{format_difficulty(rows)}")
