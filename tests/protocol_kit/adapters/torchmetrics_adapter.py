"""torchmetrics' RetrievalMAP and RetrievalHitRate."""

import numpy as np
import torch
from serving import counted, double_distances, labels, serve

NOTES = [
    '`RetrievalMAP` and, as CMC@k, `RetrievalHitRate(top_k=k)`, both with `empty_target_action="skip"`.',
    "It is handed pairs with a score: what does not count for a query (junk, images of its person and camera) is left "
    "out by the adapter.",
    "The score must be above 0 for a match to count, so the adapter hands over the order of the distances: the k-th "
    "distinct distance from the far end scores k, and equal distances score the same.",
]
REASONS = {
    "ties/*|rendered/*": (
        "it ranks by `topk` and `argsort` without `stable`, whose order of equal scores is not defined"
    ),
    "no-match/*": "documented: 0.0 where every query is skipped",
}


def evaluate(case):
    from torchmetrics.retrieval import RetrievalHitRate, RetrievalMAP

    query_ids, _, gallery_ids, _ = labels(case)
    pairs, distances = counted(case), double_distances(case)
    scores, hits, queries = [], [], []
    for query, keep in enumerate(pairs):
        _, order = np.unique(-distances[query, keep], return_inverse=True)
        scores.append(order + 1)
        hits.append(gallery_ids[keep] == query_ids[query])
        queries.append(np.full(keep.sum(), query))
    handed = [
        torch.from_numpy(np.concatenate([*rows, np.zeros(0)])).to(kind)
        for rows, kind in ((scores, torch.float32), (hits, torch.bool), (queries, torch.int64))
    ]

    def value(metric):
        metric.update(handed[0], handed[1], indexes=handed[2])
        return metric.compute().item()

    cmc = {k: value(RetrievalHitRate(empty_target_action="skip", top_k=k)) for k in case["ranks"]}
    return {"mAP": value(RetrievalMAP(empty_target_action="skip")), "cmc": cmc}


if __name__ == "__main__":
    serve("torchmetrics", "torchmetrics", evaluate, NOTES, "torch", "numpy", reasons=REASONS)
