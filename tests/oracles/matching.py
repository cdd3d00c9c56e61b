"""Pairs, error rates and open-set identification, one pair and one resample at a time."""

import math

import numpy as np


def pairs(similarities, ids, cameras, between=None, same_camera=False):
    """Return the genuine pairs (similarity, person) and the impostor pairs (similarity, person, person)."""
    genuine, impostor = [], []
    for i in range(len(ids)):
        for j in range(i + 1, len(ids)):
            if ids[i] <= 0 or ids[j] <= 0:
                continue
            if between is not None and {cameras[i], cameras[j]} != set(between):
                continue
            if ids[i] != ids[j]:
                impostor.append((similarities[i][j], ids[i], ids[j]))
            elif cameras is None or same_camera or cameras[i] != cameras[j]:
                genuine.append((similarities[i][j], ids[i]))
    return genuine, impostor


def threshold(impostor, rate, weights=None):
    """Return the least similarity of an impostor pair, or just above the highest, at which FMR is at most the rate."""
    weights = weights or {}
    weighted = [(s, weights.get(a, 1) * weights.get(b, 1)) for s, a, b in impostor]
    total = sum(weight for _, weight in weighted)
    best = math.inf
    for candidate in [*{s for s, _ in weighted}, math.inf]:
        above = sum(weight for s, weight in weighted if s >= candidate)
        if above <= rate * total * (1 + 1e-12):
            best = min(best, candidate)
    return best


def false_match_rate(impostor, least, weights=None):
    weights = weights or {}
    weighted = [(s, weights.get(a, 1) * weights.get(b, 1)) for s, a, b in impostor]
    return sum(weight for s, weight in weighted if s >= least) / sum(weight for _, weight in weighted)


def false_non_match_rate(genuine, least, weights=None):
    weights = weights or {}
    weighted = [(s, weights.get(a, 1)) for s, a in genuine]
    return sum(weight for s, weight in weighted if s < least) / sum(weight for _, weight in weighted)


def identification(query, gallery, similarities, away, rate, weights=None):
    """Return TPIR at a rate, one probe at a time; query and gallery are lists of (person, camera).

    None where the weights leave no probe on one side.
    """
    wrong, mated = [], []
    for q, (person, camera) in enumerate(query):
        if person <= 0:
            continue
        weight = 1 if weights is None else weights[person]
        best, match = None, False
        for g, (other, taken_by) in enumerate(gallery):
            if other == -1 or other in away or (other == person and taken_by == camera):
                continue
            match |= other == person
            if best is None or similarities[q][g] > best[0]:
                best = (similarities[q][g], other)
        if person in away:
            wrong.append((best[0], weight))
        elif match:
            mated.append((best[0], best[1] == person, weight))
    total, whole = sum(weight for _, weight in wrong), sum(weight for *_, weight in mated)
    if not total or not whole:
        return None, len(mated), len(wrong)
    least = min(
        candidate
        for candidate in [*(s for s, _ in wrong), math.inf]
        if sum(weight for s, weight in wrong if s >= candidate) <= rate * total + 1e-9
    )
    below = max([s for s, _ in wrong if s < least], default=-math.inf)
    return sum(weight for s, right, weight in mated if right and s > below) / whole, len(mated), len(wrong)


def cosine(features):
    rows = [[float(x) for x in row] for row in np.asarray(features)]
    lengths = [math.sqrt(sum(x * x for x in row)) or 1.0 for row in rows]
    return [
        [sum(x * y for x, y in zip(a, b, strict=True)) / (m * n) for b, n in zip(rows, lengths, strict=True)]
        for a, m in zip(rows, lengths, strict=True)
    ]
