"""reid's `ReIDModel.evaluate`, by a model whose embeddings are the case's features."""

import numpy as np
import torch
from serving import features, labels, serve

NOTES = [
    "`ReIDModel.evaluate` with `RetrievalProtocol(distance=...)`, by a model whose embeddings are the case's features, "
    "in float32 as its models give them.",
    "Of distances: `reid.eval.metrics._compute_reid_metrics`, which that method calls.",
    "It reports CMC at 1, 5 and 10.",
]
REASONS = {
    "ties/*|rendered/pixels|rendered/coarse|rendered/float16|rendered/people-gone|rendered/no-cameras": (
        "it ranks by `numpy.argsort`, whose order of equal distances is not defined: it may differ by NumPy "
        "and processor"
    ),
    "precision/common-part|rendered/common-part": (
        "squared distances come from the expanded product in float32, which loses differences of long vectors"
    ),
}


def evaluate(case):
    from reid import ReIDModel, ReIDSplit, RetrievalProtocol
    from reid.eval.metrics import _compute_reid_metrics

    query_ids, query_cameras, gallery_ids, gallery_cameras = labels(case)
    if "distances" in case:
        distances = np.array(case["distances"], dtype=case["dtype"])
        found = _compute_reid_metrics(distances, query_ids, gallery_ids, query_cameras, gallery_cameras)
        scored, values = found.num_queries, RetrievalProtocol().metric_values(found)
    else:
        query, gallery = (each.astype(np.float32) for each in features(case))
        names = [[f"{side}/{i}" for i in range(len(each))] for side, each in (("q", query), ("g", gallery))]
        rows = dict(zip(names[0] + names[1], np.concatenate([query, gallery]), strict=True))

        class Given(ReIDModel):
            def __init__(self):
                self._device = torch.device("cpu")

            def extract_embeddings_from_paths(self, image_paths, **options):
                return np.stack([rows[path] for path in image_paths])

        found = Given().evaluate(
            ReIDSplit(names[0], query_ids, query_cameras),
            ReIDSplit(names[1], gallery_ids, gallery_cameras),
            protocol=RetrievalProtocol(distance=case["metric"]),
            verbose=False,
        )
        scored, values = found.num_queries, found.metrics
    cmc = {k: values[f"rank{k}"] / 100 for k in case["ranks"] if f"rank{k}" in values}
    skipped = len(query_ids) - scored
    return {"mAP": values["map"] / 100, "mINP": values["minp"] / 100, "cmc": cmc, "skipped": skipped}


if __name__ == "__main__":
    serve("reid", "reid", evaluate, NOTES, "torch", "numpy", reasons=REASONS)
