"""The command line: python -m reference_pipelines COMMAND."""

import sys

from reference_pipelines.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
