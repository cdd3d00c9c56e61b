"""`report`: one HTML file about runs."""

from reference_pipelines.commands.options import ReportOptions
from reference_pipelines.reporting.report import write_report


def run(options: ReportOptions) -> None:
    """Write a report."""
    print(write_report(options.runs, options.out))
