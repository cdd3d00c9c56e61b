"""What each command does with its options."""

import dataclasses
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reference_pipelines.commands.arguments import Counts, refuse_unknown, separate
from reference_pipelines.commands.evaluate import EvaluationOptions, evaluate_run
from reference_pipelines.config import config_parser, load_config, word_counts
from reference_pipelines.data import read
from reference_pipelines.data.verification import format_verification, verify
from reference_pipelines.distributed.device import pick_device
from reference_pipelines.distributed.processes import join_processes
from reference_pipelines.errors import UserError, closest
from reference_pipelines.experiments.demo import run_demo
from reference_pipelines.experiments.difficulty import format_difficulty, measure_difficulty
from reference_pipelines.machine import available_cores
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.rendering import render_market
from reference_pipelines.reporting.report import write_report
from reference_pipelines.reporting.table import (
    format_camera_pairs,
    format_evaluations,
    format_results,
    format_single_shot,
)
from reference_pipelines.runs.folder import CONFIG, how_to_go_on
from reference_pipelines.runs.resume import changed_keys, find_checkpoint, finished


def demo(options: Namespace) -> None:
    """Run the demo."""
    run_demo(options.out)


def train(arguments: Sequence[str]) -> None:
    """Train one recipe; `arguments` are the paper, --out and the config's, in any order."""
    if {"-h", "--help"} & set(arguments):
        _help_train(next((word for word in arguments if word in PIPELINES), None))
        return
    name = _find_paper(arguments)
    pipeline = PIPELINES[name]
    counts = {"--out": 1, **word_counts(pipeline.config)}
    words = separate("train", arguments, counts, ends=lambda word: word == name)
    for option in words.options.keys() - counts.keys():
        for other, each in PIPELINES.items():
            if option in word_counts(each.config):
                raise UserError(f"train: there is no option {option} for {name}; it is one of {other}")
    refuse_unknown("train", words.options, counts)
    words.bare.remove(name)
    out = words.options.pop("--out", None)
    keys = [*words.bare, *words.arguments()]
    if "--print_config" in words.options:
        load_config(pipeline.config, keys, recipes=pipeline.recipes)  # prints it and exits
    if out is None:
        raise UserError("train: --out is missing; name a new folder for the run")
    folder = Path(out)
    with join_processes(lambda: how_to_go_on(folder)) as processes:
        config: Any = processes.together(lambda: load_config(pipeline.config, keys, recipes=pipeline.recipes))
        result = pipeline.train(config, folder, processes=processes)
        if processes.first:
            print("\n" + format_results([result]))


def _help_train(name: str | None) -> None:
    if name is not None:
        config_parser(PIPELINES[name].config, f"train {name} --out RUN_DIR").print_help()
        return
    for paper, each in PIPELINES.items():
        recipes = ", ".join(sorted(path.stem for path in each.recipes.glob("*.yaml")))
        print(f"train {paper} --config RECIPE --out RUN_DIR [--any.key VALUE]   recipes: {recipes}, or a YAML file")
    print(f"train {'|'.join(PIPELINES)} --help lists the keys.")


def _find_paper(arguments: Sequence[str]) -> str:
    """Return the one word that belongs to no option, which must be a paper."""
    words = separate("train", arguments, _all_counts({"--out": 1}), ends=PIPELINES.__contains__)
    if not words.bare:
        refuse_unknown("train", words.options, _all_counts({"--out": 1}))
        raise UserError(f"train: which paper? name one of {', '.join(PIPELINES)}")
    if words.bare[0] not in PIPELINES:
        hint = closest(words.bare[0], PIPELINES)
        raise UserError(f"train: the paper must be one of {', '.join(PIPELINES)}, got {words.bare[0]!r}{hint}")
    return words.bare[0]


def _all_counts(more: Counts) -> Counts:
    """Return how many words the options of every paper take: any number where papers differ."""
    counts = dict(more)
    for pipeline in PIPELINES.values():
        for name, count in word_counts(pipeline.config).items():
            counts[name] = count if counts.get(name, count) == count else None
    return counts


def resume(arguments: Sequence[str]) -> None:
    """Go on with a run from its newest whole checkpoint; `arguments` are its folder and the config's, in any order."""
    words = separate("resume", arguments, _all_counts({}), ends=lambda word: Path(word).is_dir())
    if not words.bare:
        refuse_unknown("resume", words.options, _all_counts({}))
        raise UserError("resume: which run? name its folder")
    if "--config" in words.options:
        raise UserError("resume: a run goes on with its own config; leave --config out, and give the keys that change")
    folder = Path(words.bare[0])
    with join_processes(lambda: how_to_go_on(folder)) as processes:
        found = processes.once(lambda: find_checkpoint(folder, processes.count))
        pipeline = PIPELINES[found.checkpoint.state.description.pipeline]
        config: Any = processes.once(
            lambda: load_config(
                pipeline.config, _with_own_config(words.bare[0], arguments, pipeline.config), prog="resume"
            )
        )
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


def _with_own_config(run: str, arguments: Sequence[str], schema: type) -> list[str]:
    """Return the arguments of `resume` without the run's folder and with its config."""
    words = separate("resume", arguments, word_counts(schema), ends=lambda word: word == run)
    words.bare.remove(run)
    return [f"--config={Path(run) / CONFIG}", *words.bare, *words.arguments()]


def evaluate(options: Namespace) -> None:
    """Test a trained network."""
    names = [field.name for field in dataclasses.fields(EvaluationOptions)]
    chosen = EvaluationOptions(**{name: getattr(options, name) for name in names})

    def show(numbers: dict[str, Any]) -> None:
        print(format_evaluations([numbers]))
        if options.single_shot:
            print("\n" + format_single_shot(numbers))
        if options.camera_pairs:
            pairs = numbers["scores"]["camera_pairs"]
            print("\n" + (format_camera_pairs(numbers) if pairs else "no camera pairs: the data set gives no cameras"))
        sys.stdout.flush()

    evaluate_run(options.checkpoint, chosen, options.out, show=show)


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
        said = str(error).replace("render_market:", "data render:").replace(" image_size ", " --image-size ")
        raise UserError(said.replace("workers=0", "--workers 0")) from None
    print(summary)


def data_verify(options: Namespace) -> int:
    """Look through a data set; return 1 if training or evaluation on it would be wrong."""
    workers = available_cores() if options.workers is None else options.workers
    result = verify(options.root, options.layout, workers=workers)
    print(json.dumps(result.to_plain(), indent=2) if options.json else format_verification(result))
    return int(result.errors > 0)


def data_difficulty(options: Namespace) -> None:
    """Score chance, colours, untrained and trained networks on a data set."""
    data = read(options.root, options.layout)
    device = pick_device(options.device)
    rows = measure_difficulty(data, options.runs, workers=options.workers, device=device)
    if options.json:
        print(json.dumps({"data": data.describe(), "rows": [dataclasses.asdict(row) for row in rows]}, indent=2))
    else:
        print(f"{data}\n\n{format_difficulty(rows)}")
