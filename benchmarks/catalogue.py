"""All rows of the first table, in its order."""

from benchmarks import clustering, layers, layouts, loading, models, ranking, rendering

CASES = (
    *layers.CASES,
    *layouts.CASES,
    *models.CASES,
    *rendering.CASES,
    *loading.CASES,
    *clustering.CASES,
    *ranking.CASES,
)
