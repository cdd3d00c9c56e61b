"""Ranking a gallery for each query, and how good the ranking is."""

from reference_pipelines.retrieval.distances import Distances, feature_distances
from reference_pipelines.retrieval.evaluate import RetrievalResult, chance_level, evaluate, ranked_matches
from reference_pipelines.retrieval.rerank import rerank
from reference_pipelines.retrieval.scores import CameraPair
from reference_pipelines.retrieval.top import TopResult, evaluate_top, score_top

__all__ = [
    "CameraPair",
    "Distances",
    "RetrievalResult",
    "TopResult",
    "chance_level",
    "evaluate",
    "evaluate_top",
    "feature_distances",
    "ranked_matches",
    "rerank",
    "score_top",
]
