"""`data verify`: what a data set is, and what is wrong with it."""

import json

from reference_pipelines.commands.options import VerifyOptions
from reference_pipelines.data.verification import format_verification, verify
from reference_pipelines.machine import available_cores


def run(options: VerifyOptions) -> int:
    """Look through a data set; return 1 if training or evaluation on it would be wrong."""
    workers = available_cores() if options.workers is None else options.workers
    result = verify(options.root, options.layout, workers=workers)
    print(json.dumps(result.to_plain(), indent=2) if options.json else format_verification(result))
    return int(result.errors > 0)
