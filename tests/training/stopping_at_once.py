"""The command line, where the second process stops before it meets the first."""

import os
import signal
import sys

from reference_pipelines.commands.cli import main

if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGSTOP)
    sys.exit(main(sys.argv[1:]))
