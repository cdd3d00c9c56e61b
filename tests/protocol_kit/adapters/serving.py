"""What the adapters in Python share: they answer a line of JSON to each line, and hand data over in the same way."""

import json
import math
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

Case = dict[str, Any]
Scores = dict[str, Any]


class NotSupportedError(Exception):
    """The library has no way to say what the case asks; the message is the reason."""


def serve(
    name: str,
    package: str,
    evaluate: Callable[[Case], Scores],
    notes: list[str],
    *also: str,
    reasons: dict[str, str] | None = None,
) -> None:
    """Answer every case on standard input; what the library prints goes to standard error.

    Args:
        name: the library's name.
        package: the distribution whose version is told.
        evaluate: returns the scores of a case; whatever it raises but NotSupportedError is the library's refusal.
        notes: how the adapter calls the library, and what it does for it.
        also: further distributions whose versions matter.
        reasons: why cases deviate, by a pattern of their names, as read in the library's source.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    versions = {each: version(each) for each in also}
    hello = {"name": name, "version": version(package), "versions": versions, "notes": notes, "reasons": reasons or {}}
    _write(answers, hello)
    for line in sys.stdin:
        try:
            answer = {"scores": _plain(evaluate(json.loads(line)))}
        except NotSupportedError as error:
            answer = {"not_supported": str(error)}
        except Exception as error:
            answer = {"refused": f"{type(error).__name__}: {error}"[:300]}
        _write(answers, answer)


def _write(file: Any, content: dict[str, Any]) -> None:
    file.write(json.dumps(content) + "\n")
    file.flush()


def _plain(value: Any) -> Any:
    """Return arrays and their numbers as JSON has them; what is no number is null."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def features(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return (Q, D) and (G, D) features in the case's dtype; of a side without images (0, D)."""
    if "distances" in case:
        raise NotSupportedError("it takes features, not distances")
    sides = [np.array(case[f"{side}_features"], dtype=case["dtype"]) for side in ("query", "gallery")]
    width = max(each.shape[-1] for each in sides if each.ndim == 2)
    query, gallery = (each.reshape(-1, width) for each in sides)
    return query, gallery


def labels(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return query ids, query cameras, gallery ids, gallery cameras; where no camera is known each side has its own."""
    found = []
    for side, own in (("query", 0), ("gallery", 1)):
        ids = np.array(case[f"{side}_ids"], dtype=np.int64)
        cameras = case[f"{side}_cameras"]
        found += [ids, np.full(len(ids), own) if cameras is None else np.array(cameras, dtype=np.int64)]
    return found[0], found[1], found[2], found[3]


def without_junk(case: Case) -> Case:
    """Return the case without the gallery's junk (id -1)."""
    kept = [image for image, who in enumerate(case["gallery_ids"]) if who != -1]
    made = dict(case)
    for key in ("gallery_ids", "gallery_cameras", "gallery_features"):
        if made.get(key) is not None:
            made[key] = [made[key][image] for image in kept]
    if "distances" in made:
        made["distances"] = [[row[image] for image in kept] for row in made["distances"]]
    return made


def double_distances(case: Case) -> np.ndarray:
    """Return (Q, G) distances in double precision, for libraries that make none: Euclidean, or 1 - cosine."""
    if "distances" in case:
        rows = np.array(case["distances"], dtype=case["dtype"]).astype(np.float64)
        return rows.reshape(len(case["query_ids"]), -1)
    query, gallery = (each.astype(np.float64) for each in features(case))
    if case["metric"] == "euclidean":
        return np.sqrt(np.square(query[:, None] - gallery[None]).sum(axis=2))
    lengths = [np.linalg.norm(each, axis=1, keepdims=True) for each in (query, gallery)]
    units = [each / np.where(size > 0, size, 1) for each, size in zip((query, gallery), lengths, strict=True)]
    distances: np.ndarray = 1 - units[0] @ units[1].T
    return distances


def counted(case: Case) -> np.ndarray:
    """Return (Q, G) which images count for which query, for libraries that are handed the pairs one by one."""
    query_ids, query_cameras, gallery_ids, gallery_cameras = labels(case)
    own = (query_ids[:, None] == gallery_ids) & (query_cameras[:, None] == gallery_cameras)
    pairs: np.ndarray = ~own & (gallery_ids != -1)
    return pairs
