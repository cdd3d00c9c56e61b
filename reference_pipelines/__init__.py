"""The two papers as programs, built on the public names of attnreid.

`load` is imported when it is asked for, so that the commands can answer before torch is there.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reference_pipelines.serving.embedder import Embedder, load

__all__ = ["Embedder", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from reference_pipelines.serving import embedder

    return getattr(embedder, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
