"""Same person or not: false matches and false non-matches of pairs, open-set identification, calibration, drift.

NumPy on features, whoever made them; scikit-learn fits the one curve.
"""

from reference_pipelines.matching.calibration import Calibration, Verdict, calibrate
from reference_pipelines.matching.drift import Drift, DriftReference
from reference_pipelines.matching.identification import Identification, IdentificationPoint, identify
from reference_pipelines.matching.pairs import Pairs, collect_pairs
from reference_pipelines.matching.rates import (
    OperatingPoint,
    RealisedRates,
    error_curve,
    operating_points,
    realised_rates,
)

__all__ = [
    "Calibration",
    "Drift",
    "DriftReference",
    "Identification",
    "IdentificationPoint",
    "OperatingPoint",
    "Pairs",
    "RealisedRates",
    "Verdict",
    "calibrate",
    "collect_pairs",
    "error_curve",
    "identify",
    "operating_points",
    "realised_rates",
]
