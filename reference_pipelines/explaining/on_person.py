"""How much of a map falls on the person, where it is known which pixels show them."""

from collections.abc import Sequence

import numpy as np

from reference_pipelines.reporting.overlay import grown


def share_on_person(values: np.ndarray, masks: Sequence[np.ndarray | None]) -> np.ndarray:
    """Return the part of each map that lies on the person, 0 to 1.

    A map that is the same everywhere gives the part of the image that the person covers.

    Args:
        values: (N, h, w), none below 0.
        masks: for each of the N images (H, W), 0..1; None where it is not known.

    Returns:
        (N,) float64; NaN where the mask is not known or the map is 0 everywhere.

    Raises:
        ValueError: another number of masks, or a negative value.
    """
    if len(masks) != len(values) or values.min(initial=0) < 0:
        raise ValueError(
            f"share_on_person: there must be a mask a map and no value below 0, got {len(masks)} masks of "
            f"{len(values)} maps, and {values.min(initial=0):.3g}"
        )
    shares = np.full(len(values), np.nan)
    for index, mask in enumerate(masks):
        if mask is not None and values[index].any():
            full = grown(values[index : index + 1], (mask.shape[0], mask.shape[1]))[0].astype(np.float64)
            shares[index] = (full * mask).sum() / full.sum()
    return shares
