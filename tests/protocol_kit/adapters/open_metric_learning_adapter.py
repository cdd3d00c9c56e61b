"""open-metric-learning's EmbeddingMetrics."""

import numpy as np
import torch
from serving import features, labels, serve, without_junk

NOTES = [
    "`EmbeddingMetrics` on a data set of queries and gallery, with `map_top_k` of the gallery's size and `cmc_top_k`; "
    "features in float32.",
    "The query's own camera: its data sets' `sequence` column, by person and camera.",
    "It ranks by Euclidean distance; features of cosine cases are brought to length 1 by its `normalise`.",
    "Labels are a LongTensor, as its `batched_knn` annotates them: with the array that the data set's interface names, "
    "a single query is an error.",
    "Junk is left out by the adapter.",
]
REASONS = {
    "ties/*|rendered/*": "it ranks by `topk`, whose order of equal distances is not defined",
    "rendered/common-part": (
        "`torch.cdist` takes the expanded product for more than 25 rows, which loses differences of long vectors"
    ),
    "no-match/*|rendered/people-gone": "a query without a match counts as 0 in the means, with a warning",
    "metric/zero-feature": "its `normalise` divides by the length, which gives NaN for a feature of zeros",
}


def evaluate(case):
    from oml.interfaces.datasets import IQueryGalleryLabeledDataset
    from oml.metrics import EmbeddingMetrics
    from oml.utils.misc_torch import normalise

    case = without_junk(case)
    both = torch.from_numpy(np.concatenate(features(case)).astype(np.float32))
    if case["metric"] == "cosine":
        both = normalise(both)
    query_ids, query_cameras, gallery_ids, gallery_cameras = labels(case)
    ids, cameras = np.concatenate([query_ids, gallery_ids]), np.concatenate([query_cameras, gallery_cameras])

    class Given(IQueryGalleryLabeledDataset):
        def __init__(self):
            self.extra_data = {"sequence": [f"{who} {camera}" for who, camera in zip(ids, cameras, strict=True)]}

        def __len__(self):
            return len(ids)

        def get_labels(self):
            return torch.from_numpy(ids)

        def get_query_ids(self):
            return torch.arange(len(query_ids))

        def get_gallery_ids(self):
            return torch.arange(len(query_ids), len(ids))

    size = len(gallery_ids)
    metrics = EmbeddingMetrics(
        Given(), cmc_top_k=tuple(case["ranks"]), precision_top_k=(), map_top_k=(size,), pcf_variance=(), verbose=False
    )
    metrics.setup(len(ids))
    metrics.update(both, list(range(len(ids))))
    found = metrics.compute_metrics()["OVERALL"]
    return {"mAP": found["map"][size], "cmc": {k: found["cmc"][k] for k in case["ranks"]}}


if __name__ == "__main__":
    serve("open-metric-learning", "open-metric-learning", evaluate, NOTES, "torch", "numpy", reasons=REASONS)
