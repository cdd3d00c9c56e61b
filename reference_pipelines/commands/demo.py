"""`demo`: both papers, small."""

from reference_pipelines.commands.options import DemoOptions
from reference_pipelines.reproduction.demo import run_demo


def run(options: DemoOptions) -> None:
    """Run the demo."""
    run_demo(options.out)
