"""`same`: whether two images show one person, at a stated false-match rate."""

import json
from dataclasses import asdict

from reference_pipelines.commands.options import SameOptions
from reference_pipelines.data.names import printable
from reference_pipelines.errors import UserError
from reference_pipelines.features.reading import FeatureStore
from reference_pipelines.matching import Drift
from reference_pipelines.reporting.matching import describe_drift, describe_verdict
from reference_pipelines.serving.embedder import Embedder, load


def run(options: SameOptions) -> None:
    """Judge the two images and print the verdict.

    Raises:
        UserError: no model, not calibrated, a rate that is not, an image that does not decode, or a gallery of another
            network.
    """
    model = load(options.model, device=options.device, flip=options.flip, who="same")
    drift = None if options.gallery is None else _drift(model, options)
    try:
        verdict = model.same(options.a, options.b, rate=options.rate, cameras=options.cameras, prior=options.prior)
    except ValueError as error:
        raise UserError(f"same: {str(error).partition(': ')[2]}") from None
    if options.json:
        unlike = None if drift is None else {**asdict(drift), "unlike": drift.unlike}
        print(json.dumps({"a": str(options.a), "b": str(options.b), **asdict(verdict), "gallery": unlike}, indent=1))
        return
    data = model.calibration().data
    print(printable(f"{describe_verdict(verdict)}\ncalibrated on {data['name']} ({data['part']})"))
    if drift is not None:
        print(printable(describe_drift(drift, str(options.gallery))))


def _drift(model: Embedder, options: SameOptions) -> Drift:
    """Return how unlike the calibration's images a gallery is.

    Raises:
        UserError: it is of another network or preprocessing, too small, or the calibration was.
    """
    assert options.gallery is not None
    store = FeatureStore(options.gallery, "same")
    mine, theirs = model.identity.to_plain(), store.meta.model
    keys = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
    if keys:
        listed = ", ".join(f"{key} ({mine.get(key)} and {theirs.get(key)})" for key in keys)
        raise UserError(
            f"same: {options.model} and {options.gallery} must be of one network and preprocessing, they differ in "
            f"{listed}; extract the gallery with this network"
        )
    store.check("same")
    reference = model.calibration().calibration.drift
    if reference is None:
        raise UserError(
            "same: the calibration must be of at least 100 images for --gallery, it is of fewer; calibrate on more"
        )
    try:
        return reference.compare(store.features)
    except ValueError as error:
        raise UserError(f"same: {str(error).removeprefix('drift: ')}") from None
