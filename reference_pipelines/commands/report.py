"""`report`: one HTML file about runs."""

from reference_pipelines.commands.options import ReportOptions
from reference_pipelines.reporting.report import write_report


def run(options: ReportOptions) -> None:
    """Write a report.

    Raises:
        UserError: a folder that is no run, no ledger, or a file that cannot be written.
    """
    out = write_report(
        options.runs, options.out, title=options.title, images=not options.no_images, ledger=options.ledger
    )
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB)")
