"""scikit-learn's average_precision_score, a query at a time, as the family of open-reid's code evaluates."""

import numpy as np
from serving import counted, double_distances, labels, serve

NOTES = [
    "`sklearn.metrics.average_precision_score` of each query's matches by negated distance, as open-reid's and SpCL's "
    "code calls it; the mean over the queries that have a match is the adapter's.",
    "It is handed the pairs that count. It gives no CMC.",
]
REASONS = {
    "*": "equal scores are one step of the curve, whatever their order",
}


def evaluate(case):
    from sklearn.metrics import average_precision_score

    query_ids, _, gallery_ids, _ = labels(case)
    pairs, distances = counted(case), double_distances(case)
    found = []
    for query, keep in enumerate(pairs):
        hits = gallery_ids[keep] == query_ids[query]
        if hits.any():
            found.append(average_precision_score(hits, -distances[query, keep]))
    return {"mAP": np.mean(found) if found else None}


if __name__ == "__main__":
    serve("scikit-learn", "scikit-learn", evaluate, NOTES, "numpy", reasons=REASONS)
