"""pytorch-metric-learning's AccuracyCalculator."""

import torch
from serving import NotSupportedError, features, labels, serve, without_junk

NOTES = [
    "`AccuracyCalculator(k=None)`: `mean_average_precision`, and `precision_at_1` as CMC@1. Neighbours of Euclidean "
    "cases by its default (faiss), of cosine ones by `CustomKNN(CosineSimilarity())`.",
    "All queries share one gallery, so a case in which an image of the query's person and camera must be dropped "
    "cannot be said.",
    "Junk is left out by the adapter.",
]
REASONS = {
    "labels/large-ids": "ids are converted to float32",
}


def evaluate(case):
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    case = without_junk(case)
    query, gallery = (torch.from_numpy(each) for each in features(case))
    query_ids, query_cameras, gallery_ids, gallery_cameras = labels(case)
    if ((query_ids[:, None] == gallery_ids) & (query_cameras[:, None] == gallery_cameras)).any():
        raise NotSupportedError("one gallery for all queries: images of the query's camera cannot be dropped")
    calculator = AccuracyCalculator(
        include=("mean_average_precision", "precision_at_1"),
        k=None,
        knn_func=None if case["metric"] == "euclidean" else CustomKNN(CosineSimilarity()),
        device=torch.device("cpu"),
    )
    found = calculator.get_accuracy(query, torch.from_numpy(query_ids), gallery, torch.from_numpy(gallery_ids))
    scores = {"mAP": found["mean_average_precision"]}
    return scores | ({"cmc": {1: found["precision_at_1"]}} if 1 in case["ranks"] else {})


if __name__ == "__main__":
    serve(
        "pytorch-metric-learning",
        "pytorch-metric-learning",
        evaluate,
        NOTES,
        "torch",
        "numpy",
        "faiss-cpu",
        reasons=REASONS,
    )
