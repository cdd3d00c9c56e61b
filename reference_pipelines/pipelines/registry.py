"""The two papers' programs by name: the schema of each one's recipes, what trains it, and what builds its network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from reference_pipelines.apnet import train as apnet
from reference_pipelines.mla import train as mla


class Pipeline(NamedTuple):
    """A paper's program.

    Args:
        config: the dataclass that its recipes fill.
        train: trains a config into a run folder and returns its result; takes the options of `Session`.
        build: returns a config's network with its attention and without a classifier.
        recipes: the folder of its recipes.
    """

    config: type
    train: Callable[..., dict[str, Any]]
    build: Callable[[Any], nn.Module]
    recipes: Path


PIPELINES = {
    "apnet": Pipeline(apnet.ApnetConfig, apnet.train, apnet.build_model, Path(apnet.__file__).parent / "recipes"),
    "mla": Pipeline(mla.MlaConfig, mla.train, mla.build_model, Path(mla.__file__).parent / "recipes"),
}
