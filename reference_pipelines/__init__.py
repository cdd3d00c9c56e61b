"""The two papers as programs, built on the public names of attnreid.

The names are imported when they are asked for, so that the commands can answer before torch is there.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reference_pipelines.exporting.export import export
    from reference_pipelines.features.reading import FeatureStore
    from reference_pipelines.serving.clusters import cluster
    from reference_pipelines.serving.embedder import Embedder, load
    from reference_pipelines.serving.extraction import extract
    from reference_pipelines.serving.searching import search

__all__ = ["Embedder", "FeatureStore", "cluster", "export", "extract", "load", "search"]

_HOMES = {
    "Embedder": "serving.embedder",
    "FeatureStore": "features.reading",
    "cluster": "serving.clusters",
    "export": "exporting.export",
    "extract": "serving.extraction",
    "load": "serving.embedder",
    "search": "serving.searching",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
