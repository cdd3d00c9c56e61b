"""The two papers as programs, built on the public names of attnreid.

They are imported when they are asked for, so that the commands can answer before torch is there.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reference_pipelines.serving.embedder import Embedder, load
    from reference_pipelines.serving.export import export

__all__ = ["Embedder", "export", "load"]

_HOMES = {"Embedder": "embedder", "export": "export", "load": "embedder"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"reference_pipelines.serving.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
