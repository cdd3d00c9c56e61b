"""The two papers' programs by name, and a trained network back from a run of either."""

from reference_pipelines.pipelines.registry import PIPELINES, Pipeline

__all__ = ["PIPELINES", "Pipeline"]
