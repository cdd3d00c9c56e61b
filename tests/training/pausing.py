"""The command line, where a phase of the second epoch takes its time: a process is killed or stopped meanwhile.

The variable PHASE names it. Whoever comes to it leaves a mark, MARK and its rank, and goes on after a second and a
half.
"""

import os
import sys
import time
from pathlib import Path

from reference_pipelines.commands.cli import main
from reference_pipelines.mla import train as mla
from reference_pipelines.runs.folder import Run
from reference_pipelines.training.loop import Trainer
from reference_pipelines.training.session import Session

PHASES = {
    "extraction": (Session, "training_features"),
    "clustering": (mla, "make_pseudo_labels"),
    "training": (Trainer, "_step"),
    "checkpoint": (Run, "save"),
}


def pause(where, name, calls):
    """Have a function wait at one of its calls."""
    function, left = getattr(where, name), [calls]

    def waiting(*arguments, **options):
        left[0] -= 1
        if left[0] == 0:
            Path(f"{os.environ['MARK']}{os.environ['RANK']}").touch()
            time.sleep(1.5)
        return function(*arguments, **options)

    setattr(where, name, waiting)


if __name__ == "__main__":
    phase = os.environ["PHASE"]
    # The second epoch: of three steps each, and after the checkpoints of how it began and of the first.
    pause(*PHASES[phase], {"training": 5, "checkpoint": 3}.get(phase, 2))
    sys.exit(main(sys.argv[1:]))
