"""Readers of the public layouts, the rendered pedestrians, samplers and transforms."""

from reference_pipelines.data.records import ImageList, ReidData, read

__all__ = ["ImageList", "ReidData", "read"]
