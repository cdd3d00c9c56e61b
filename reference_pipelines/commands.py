"""What each command does with its options."""

from argparse import Namespace
from collections.abc import Sequence

from reference_pipelines.config import config_parser, load_config
from reference_pipelines.data.rendering import render_market
from reference_pipelines.errors import UserError
from reference_pipelines.experiments.demo import run_demo
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.reporting.report import write_report
from reference_pipelines.reporting.table import format_table, table_rows


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
    result = pipeline.train(load_config(pipeline.config, rest, recipes=pipeline.recipes), options.out)
    print("\n" + format_table(table_rows([result])))


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
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from None
    print(summary)
