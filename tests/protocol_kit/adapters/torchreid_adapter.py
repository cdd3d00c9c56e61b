"""torchreid's `evaluate_rank` on `compute_distance_matrix`'s distances."""

import numpy as np
import torch
from serving import features, labels, serve, without_junk

NOTES = [
    "`torchreid.reid.metrics.evaluate_rank(..., max_rank)` with the largest k of the case; features through "
    "`compute_distance_matrix`, in the case's dtype.",
    "Junk is left out by the adapter, as torchreid's own readers leave it out.",
    "Single shot: `use_metric_cuhk03=True`, which draws 10 galleries a query.",
]
REASONS = {
    "ties/*|rendered/pixels|rendered/coarse|rendered/people-gone|rendered/no-cameras": (
        "it ranks by `numpy.argsort`, whose order of equal distances is not defined: it may differ by NumPy "
        "and processor"
    ),
    "single-shot/distractors-stay": "id 0 is taken for one person, so one of the distractors is drawn",
    "cmc/lists-of-two-lengths": "the queries' curves are put in one array, which takes them of one length only",
    "float16/*|rendered/float16": "distances are computed in the features' dtype, and squares reach float16's limit",
    "precision/common-part|rendered/common-part": (
        "squared distances come from the expanded product in float32, which loses differences of long vectors"
    ),
}
DRAWS = 10


def evaluate(case):
    from torchreid.reid.metrics import compute_distance_matrix, evaluate_rank

    case = without_junk(case)
    if "distances" in case:
        distances = np.array(case["distances"], dtype=case["dtype"])
    else:
        query, gallery = (torch.from_numpy(each) for each in features(case))
        distances = compute_distance_matrix(query, gallery, case["metric"]).numpy()
    query_ids, query_cameras, gallery_ids, gallery_cameras = labels(case)
    last = max(case["ranks"])
    cmc, mAP = evaluate_rank(distances, query_ids, gallery_ids, query_cameras, gallery_cameras, max_rank=last)
    scores = {"mAP": mAP, "cmc": at(cmc, case["ranks"])}
    if case.get("single_shot"):
        drawn, _ = evaluate_rank(
            distances, query_ids, gallery_ids, query_cameras, gallery_cameras, max_rank=last, use_metric_cuhk03=True
        )
        scores |= {"single_shot_cmc": at(drawn, case["ranks"]), "draws": DRAWS}
    return scores


def at(cmc, ranks):
    """Return CMC at the k that the curve reaches."""
    return {k: cmc[k - 1] for k in ranks if k <= len(cmc)}


if __name__ == "__main__":
    serve("torchreid", "torchreid", evaluate, NOTES, "torch", "numpy", reasons=REASONS)
