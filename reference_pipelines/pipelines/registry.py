"""The two papers' programs by name: what a recipe of each may say, and what trains and builds its network."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from reference_pipelines.apnet.config import ApnetConfig
from reference_pipelines.mla.config import MlaConfig

if TYPE_CHECKING:
    from torch import nn


class Program(Protocol):
    """What a paper's module of training has."""

    @property
    def train(self) -> Callable[..., dict[str, Any]]: ...  # noqa: D102
    @property
    def build_model(self) -> "Callable[..., nn.Module]": ...  # noqa: D102


@dataclass(frozen=True)
class Pipeline:
    """A paper's program.

    Args:
        config: the dataclass that its recipes fill.
        recipes: the folder of its recipes.
        program: imports what trains and builds, and torch with it.
    """

    config: type
    recipes: Path
    program: Callable[[], Program]

    def train(self, config: Any, out: Path, **options: Any) -> dict[str, Any]:
        """Train a config into the run folder `out` and return its result; `options` are those of `Session`."""
        return self.program().train(config, out, **options)

    def build(self, config: Any, **options: Any) -> "nn.Module":
        """Return a config's network with its attention and without a classifier; `options` are those of build_model."""
        return self.program().build_model(config, **options)


def _apnet() -> Program:
    from reference_pipelines.apnet import train

    return train


def _mla() -> Program:
    from reference_pipelines.mla import train

    return train


_PACKAGE = Path(__file__).parents[1]

PIPELINES = {
    "apnet": Pipeline(ApnetConfig, _PACKAGE / "apnet" / "recipes", _apnet),
    "mla": Pipeline(MlaConfig, _PACKAGE / "mla" / "recipes", _mla),
}
