"""Features on the disk: a folder that is written a batch at a time and read without loading it."""

from reference_pipelines.features.reading import FeatureStore, is_store

__all__ = ["FeatureStore", "is_store"]
