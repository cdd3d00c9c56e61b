"""Finished runs without a training: what `train` leaves in a folder, with ranks that are drawn."""

import json
from pathlib import Path

import numpy as np

from reference_pipelines.ledger.verifying import scores_of
from reference_pipelines.ranks.files import write_ranks
from reference_pipelines.ranks.scoring import QueryRanks

DATA = {"name": "rendered plaza", "layout": "market1501", "rendered": True, "summary": "…", "fingerprint": "ab12"}


def drawn(seed, queries=24, images=40):
    """Return ranks of random rankings of 8 people's queries."""
    rng = np.random.default_rng(seed)
    matches = rng.integers(1, 5, queries)
    ranks = np.concatenate([np.sort(rng.choice(images, count, replace=False)) for count in matches])
    arrays = (ranks, matches, np.full(queries, images), np.arange(queries), np.arange(queries) // 3 + 1)
    return QueryRanks(*(each.astype(np.int32) for each in arrays), skipped=0)


def finished_run(folder: Path, seed: int = 0, ranks: QueryRanks | None = None, **changes) -> Path:
    """Write a run folder as a finished training leaves it, as far as the ledger looks at it."""
    folder.mkdir(parents=True)
    ranks = drawn(seed) if ranks is None else ranks
    (folder / "model.safetensors").write_bytes(b"weights %d" % seed)
    config = {
        "title": "APNet-C2",
        "seed": seed,
        "device": "cpu",
        "data": {"root": str(folder), "workers": 0, "image_size": [64, 32]},
        "model": {"weights": "none"},
        "evaluation": {"flip": True},
    }
    result = {
        "title": "APNet-C2",
        "pipeline": "apnet",
        "command": "python -m reference_pipelines train apnet",
        "config": config,
        "hardware": "cpu",
        "versions": {"torch": "2.14.1"},
        "commit": "abc",
        "code": "def",
        "seconds": 1.5,
        "remarks": [],
        "data": DATA,
        "weights_digest": None,
        "final": {**scores_of(ranks, (1, 5, 10, 20)), "camera_pairs": []},
        "ranks": write_ranks(folder / "ranks.npz", ranks),
        **changes,
    }
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def cell(row="APNet-C_2", dataset="Market-1501", scale="demo"):
    return {"paper": "apnet", "row": row, "dataset": dataset, "scale": scale}
