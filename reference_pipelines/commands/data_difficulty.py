"""`data difficulty`: chance, colours, untrained and trained networks on a data set."""

import dataclasses
import json

from reference_pipelines.commands.options import DifficultyOptions
from reference_pipelines.data import read
from reference_pipelines.distributed.device import pick_device
from reference_pipelines.experiments.difficulty import format_difficulty, measure_difficulty


def run(options: DifficultyOptions) -> None:
    """Score them."""
    data = read(options.root, options.layout)
    device = pick_device(options.device)
    rows = measure_difficulty(data, options.run, workers=options.workers, device=device)
    if options.json:
        print(json.dumps({"data": data.describe(), "rows": [dataclasses.asdict(row) for row in rows]}, indent=2))
    else:
        print(f"{data}\n\n{format_difficulty(rows)}")
