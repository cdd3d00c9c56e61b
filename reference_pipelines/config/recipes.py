"""The recipes that are shipped, and what of a run is otherwise than in the one that is nearest to it."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from reference_pipelines.config.loading import defaults_of, flat, to_plain

_PACKAGE = Path(__file__).parents[1]
# None of these changes what is trained or how it is tested, or it is not the recipe's to say; a seed is another try.
_FREE = (
    *("title", "device", "seed", "data.root", "data.also", "data.test", "data.layout"),
    *("data.workers", "data.skip_corrupt"),
    *("evaluation.every", "evaluation.batch_size"),
)
_WEIGHTS = "model.weights"
_SHOWN = 8


def nearest_recipe(pipeline: str, config: Any) -> dict[str, Any]:
    """Return the shipped recipe of which the fewest keys are changed in a config, and those.

    Args:
        pipeline: "apnet" or "mla".
        config: the pipeline's config.

    Returns:
        `name`, `title`, and `changed`: the dotted key -> [the recipe's value, the config's], attention first.
    """
    now = flat(to_plain(config))
    defaults = defaults_of(type(config))
    found = []
    for path in sorted((_PACKAGE / pipeline / "recipes").glob("*.yaml")):
        recipe = {**defaults, **_read(path)}
        changed = {key: [recipe.get(key), now[key]] for key in now if recipe.get(key) != now[key]}
        changed = {key: values for key, values in changed.items() if _counts(key, values[0])}
        title = str(recipe["title"])
        found.append((len(changed), title != now["title"], path.stem, title, changed))
    _, _, name, title, changed = min(found, key=lambda each: each[:3])
    ordered = sorted(changed, key=lambda key: not key.startswith("attention."))
    return {"name": name, "title": title, "changed": {key: changed[key] for key in ordered}}


def title_of(title: str, recipe: Mapping[str, Any]) -> str:
    """Return what to call a run: its own title; where that is the recipe's, with the first of what was changed."""
    if title != recipe["title"] or not recipe["changed"]:
        return title
    of_attention = sum(key.startswith("attention.") for key in recipe["changed"])
    return f"{title}, changed: {list_changes(recipe['changed'], min(max(of_attention, 1), 2))}"


def list_changes(changed: Mapping[str, list[Any]], most: int = _SHOWN) -> str:
    """Return the changed keys and their new values, at most so many."""
    shown = [f"{key} {value if isinstance(value, str) else json.dumps(value)}" for key, (_, value) in changed.items()]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


@functools.cache
def _read(path: Path) -> dict[str, Any]:
    return flat(yaml.safe_load(path.read_text(encoding="utf-8")))


def _counts(key: str, value: Any) -> bool:
    """Return whether a key says what was trained; a recipe without weights leaves them to the command line."""
    return key not in _FREE and (key != _WEIGHTS or value != "none")
