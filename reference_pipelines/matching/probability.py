"""From a similarity to the probability that both images show one person.

Isotonic regression (pool adjacent violators) of "one person" on the similarity, with genuine and impostor pairs
weighing the same in all. It supposes only that more alike is not less probable. Another share of genuine pairs among
those that are asked about, the prior, moves the odds by its own.
"""

from dataclasses import dataclass

import numpy as np

from reference_pipelines.matching.pairs import BINS, CENTRES, Pairs

BALANCED = 0.5


@dataclass(frozen=True)
class Probability:
    """A curve that rises.

    Args:
        similarities: (k,) its corners.
        values: (k,) probabilities there, for as many genuine pairs as others; never 0 or 1.
    """

    similarities: tuple[float, ...]
    values: tuple[float, ...]

    def at(self, similarity: float, prior: float = BALANCED) -> float:
        """Return the probability at a similarity.

        Args:
            similarity: of the two images.
            prior: part of the pairs that show one person, before looking.

        Raises:
            ValueError: a prior that is not above 0 and below 1.
        """
        if not 0 < prior < 1:
            raise ValueError(f"same: prior must be above 0 and below 1, got {prior}; 0.5 takes both for as frequent")
        value = float(np.interp(similarity, self.similarities, self.values))
        odds = value / (1 - value) * prior / (1 - prior)
        return odds / (1 + odds)


def fit_probability(pairs: Pairs) -> Probability | None:
    """Return the curve of the pairs, fitted to their histograms; None without genuine pairs.

    Of n people with genuine pairs no probability can be told from 0 or 1 by more than 1 / (n + 2), which all values
    keep away.
    """
    from sklearn.isotonic import IsotonicRegression  # what only reads a calibration does without

    people = len(np.unique(pairs.genuine_people))
    if not people:
        return None
    weights = [counts / counts.sum() for counts in (pairs.genuine_histogram, pairs.impostor_histogram)]
    margin = 1 / (people + 2)
    curve = IsotonicRegression(y_min=margin, y_max=1 - margin, out_of_bounds="clip")
    filled = np.concatenate(weights) > 0
    truths = np.repeat([1.0, 0.0], BINS)
    curve.fit(np.tile(CENTRES, 2)[filled], truths[filled], sample_weight=np.concatenate(weights)[filled])
    return Probability(tuple(map(float, curve.X_thresholds_)), tuple(map(float, curve.y_thresholds_)))
