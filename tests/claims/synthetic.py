"""Ledgers with a known truth: runs whose ranks are drawn, two rows, any number of seeds."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from reference_pipelines.claims.listing import read_claims
from reference_pipelines.claims.verdicts import Line
from reference_pipelines.ledger.entry import Entry
from reference_pipelines.ranks.scoring import QueryRanks

PEOPLE, QUERIES = 200, 2  # so many queries a person
TEMPLATE = next(each for each in read_claims() if each.kind == "runs")


@dataclass(frozen=True)
class Drawn(Line):
    """A line whose ranks are not on the disk."""

    standing: QueryRanks

    def ranks(self):
        return self.standing


def logits(rng, lift, seeds, people=PEOPLE):
    """Return (2, seeds, people, queries) how well each query is answered: row, seed, person, and what they have alone.

    The first row is lifted by `lift`. A person is as hard for both rows, and a little harder for one.
    """
    who = rng.normal(0, 1.0, (1, 1, people, 1)) + rng.normal(0, 0.15, (2, 1, people, 1))
    found = who + rng.normal(0, 0.02, (2, seeds, 1, 1)) + rng.normal(0, 0.15, (2, seeds, people, 1))
    found = found + rng.normal(0, 0.2, (2, seeds, people, QUERIES))
    found[0] += lift
    return found


def first_ranks(found):
    """Return the rank of the one true match: a bounded and skewed score comes of it, as in life."""
    return np.minimum(np.floor(np.exp(0.8 - 1.5 * found)), 4000).astype(np.int32)


@cache
def truth(lift):
    """Return the difference of mAP in points, of a great many people and seeds."""
    rng, means = np.random.default_rng(12345), []
    for _ in range(200):  # a seed's effect is one number, so it takes many of them
        ranks = first_ranks(logits(rng, lift, 20, people=100))
        means.append((1 / (ranks[0] + 1.0)).mean() - (1 / (ranks[1] + 1.0)).mean())
    return 100 * float(np.mean(means))


def entry(row, seed, **changes):
    fields = {
        "slice": "synthetic",
        "number": seed + 1,
        "previous": "",
        "recorded": f"2026-01-01T00:00:{seed:02d}+00:00",
        "cell": {"paper": "apnet", "row": row, "dataset": "Market-1501", "scale": "demo"},
        "source": "run",
        "title": row,
        "pipeline": "apnet",
        "command": None,
        "config": {"seed": seed},
        "config_sha256": "",
        "recipe_sha256": row,
        "seed": seed,
        "trained_on": {},
        "tested_on": {"fingerprint": "ab12"},
        "protocol": {"flip": True},
        "selection": "last",
        "weights": None,
        "start_weights": None,
        "hardware": "",
        "versions": {},
        "commit": None,
        "code": None,
        "seconds": 1.0,
        "remarks": [],
        "scores": {},
        "ranks": {},
        "failure": None,
    }
    return Entry(**{**fields, **changes})


def ranks_of(first):
    """Return the ranks of (people, queries) queries with one match each."""
    people, queries = first.shape
    count = first.size
    ones = np.ones(count, dtype=np.int32)
    who = np.repeat(np.arange(people, dtype=np.int32), queries)
    return QueryRanks(first.ravel(), ones, 5000 * ones, np.arange(count, dtype=np.int32), who, 0)


def ledger(rng, lift, seeds):
    """Return the lines of two rows, "left" and "right", with so many seeds each."""
    drawn = first_ranks(logits(rng, lift, seeds))
    return [
        Drawn(Path("synthetic.jsonl"), entry(row, seed), ranks_of(drawn[side, seed]))
        for side, row in enumerate(("left", "right"))
        for seed in range(seeds)
    ]


def claim(direction="higher", margin=0.5, metric="mAP", **changes):
    values = {"left": "left", "right": "right", "dataset": "Market-1501", "metric": metric}
    return replace(TEMPLATE, direction=direction, margin=margin, **values, **changes)
