"""All rows of the first table, in its order."""

from benchmarks import layers, models, rendering

CASES = (*layers.CASES, *models.CASES, *rendering.CASES)
