"""The command line, where the clustering takes its time: `test_faults.py` kills a process meanwhile.

With the variable SLOWLY it waits so many seconds, and leaves a mark when it begins; it holds the interpreter's lock as
long as compiled code does.
"""

import os
import sys
import time
from pathlib import Path

from reference_pipelines.commands.cli import main
from reference_pipelines.mla import train as mla

make_pseudo_labels = mla.make_pseudo_labels


def slowly(*arguments):
    Path(os.environ["MARK"]).touch()
    end = time.monotonic() + float(os.environ["SLOWLY"])
    while time.monotonic() < end:
        sum(range(10_000_000))  # one call of compiled code, some tenths of a second
    return make_pseudo_labels(*arguments)


mla.make_pseudo_labels = slowly

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
