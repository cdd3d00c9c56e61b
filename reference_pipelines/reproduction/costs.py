"""What each row of Table III costs: counted on the network itself, on the meta device."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from attnreid.counting import count_multiply_adds
from reference_pipelines.config.loading import load_config
from reference_pipelines.pipelines import PIPELINES
from reference_pipelines.reproduction.catalogue import Row, scales

_SIZE = (224, 224)


def costs_of(rows: Sequence[Row]) -> dict[str, float]:
    """Return the thousand millions of multiply-adds of each row's network at 224x224, with the paper's recipe."""
    found = {}
    for row in rows:
        recipe = scales()["paper"].recipes[row.recipe]
        pipeline = PIPELINES[recipe.pipeline]
        values = {**recipe.change, **row.change, "data.root": ".", "model.weights": "none"}
        words = ["--config", recipe.config, *(f"--{key}={value}" for key, value in values.items())]
        config: Any = load_config(pipeline.config, words, recipes=pipeline.recipes)
        config = replace(config, data=replace(config.data, image_size=_SIZE))
        with torch.device("meta"):
            model = pipeline.build(config)
        found[row.name] = _count(model.to("meta").eval()) / 1e9
    return found


def _count(model: torch.nn.Module) -> int:
    return count_multiply_adds(lambda: model(torch.empty(1, 3, *_SIZE, device="meta")))
