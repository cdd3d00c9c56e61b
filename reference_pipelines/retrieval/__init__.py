"""Ranking a gallery for each query, and how good the ranking is."""

from reference_pipelines.retrieval.evaluate import RetrievalResult, chance_level, evaluate, ranked_matches

__all__ = ["RetrievalResult", "chance_level", "evaluate", "ranked_matches"]
