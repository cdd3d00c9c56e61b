"""The command line: python -m reference_pipelines COMMAND, or attnreid-pipelines COMMAND."""

import sys

from attnreid.command_line import start
from reference_pipelines.commands.cli import main


def run() -> int:
    """Run what this process was started with and return its exit status."""
    return start(main)


if __name__ == "__main__":
    sys.exit(run())
