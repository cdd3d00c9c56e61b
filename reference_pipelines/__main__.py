"""The command line: python -m reference_pipelines COMMAND, or attnreid-pipelines COMMAND."""

import io
import sys

from reference_pipelines.commands.cli import main


def run() -> int:
    """Run what this process was started with and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that lacks a character of a title or a file name shows its code instead.
            stream.reconfigure(errors="backslashreplace")
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(run())
