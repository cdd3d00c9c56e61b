"""The command line: python -m reference_pipelines COMMAND, or attnreid-pipelines COMMAND."""

import sys

from attnreid.command_line import plain_streams
from reference_pipelines.commands.cli import main


def run() -> int:
    """Run what this process was started with and return its exit status."""
    plain_streams()
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(run())
