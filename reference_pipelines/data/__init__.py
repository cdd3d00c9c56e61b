"""Readers of the public layouts, decoding, loading, samplers, transforms, and what is wrong with a folder."""

from reference_pipelines.data.layouts import LAYOUTS, read
from reference_pipelines.data.records import ImageList, ReidData

__all__ = ["LAYOUTS", "ImageList", "ReidData", "read"]
