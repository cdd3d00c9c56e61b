"""`calibrate`: thresholds for stated false-match rates, kept beside the weights."""

import json

from reference_pipelines.commands.options import CalibrateOptions
from reference_pipelines.data.names import printable
from reference_pipelines.errors import UserError
from reference_pipelines.machine import available_cores
from reference_pipelines.matching.rates import check_rates
from reference_pipelines.reporting.matching import format_calibration
from reference_pipelines.serving.calibrating import calibrate_model
from reference_pipelines.serving.embedder import load

_MOST_WORKERS = 8


def run(options: CalibrateOptions) -> None:
    """Calibrate a network, write what was learnt and print it.

    Raises:
        UserError: no model, no such data, too few people, or a file that cannot be written.
    """
    try:
        check_rates(options.rate, "calibrate")
    except ValueError as error:
        raise UserError(str(error).replace("calibrate: rates", "calibrate: --rate")) from None
    model = load(
        options.model, device=options.device, flip=options.flip, batch_size=options.batch_size, who="calibrate"
    )
    workers = min(available_cores(), _MOST_WORKERS) if options.workers is None else options.workers
    stored = calibrate_model(
        model,
        options.data,
        part=options.part,
        layout=options.layout,
        rates=options.rate,
        seed=options.seed,
        workers=workers,
    )
    if options.json:
        print(json.dumps({"data": stored.data, **stored.calibration.to_plain()}, indent=1))
        return
    print(printable(f"{model.title}, calibrated on {stored.data['summary']} ({options.part})\n"))
    print(printable(f"{format_calibration(stored.calibration)}\n\nwritten to {stored.file}"))
