"""All rows of the first table, in its order."""

from benchmarks import clustering, extraction, layers, layouts, loading, models, ranking, rendering

CASES = (
    *layers.CASES,
    *layouts.CASES,
    *models.CASES,
    *rendering.CASES,
    *loading.CASES,
    *extraction.CASES,
    *clustering.CASES,
    *ranking.CASES,
)
