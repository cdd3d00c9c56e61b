"""fastreid's `evaluation/rank.py`, loaded by itself: the package asks for torch 1.13.1 and an older Python."""

import importlib.util
from importlib.metadata import distribution

import numpy as np
from serving import NotSupportedError, double_distances, labels, serve, without_junk

NOTES = [
    "`fastreid/evaluation/rank.py`'s `evaluate_rank`, loaded by itself: the package requires torch 1.13.1 exactly and "
    "does not import on Python 3.10 and later.",
    "It is handed distances: of features, those that the adapter makes in double precision.",
    "Junk is left out by the adapter.",
]
REASONS = {
    "ties/*|rendered/*": (
        "it ranks by `numpy.argsort`, whose order of equal distances is not defined: it may differ by NumPy "
        "and processor"
    ),
    "cmc/lists-of-two-lengths": "the queries' curves are put in one array, which takes them of one length only",
}


def load():
    path = distribution("fastreid").locate_file("fastreid/evaluation/rank.py")
    spec = importlib.util.spec_from_file_location("fastreid_rank", str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def evaluate(case):
    if case.get("dtype") == "float16" and "distances" not in case:
        raise NotSupportedError("the distances are the adapter's, not the library's")
    case = without_junk(case)
    query_ids, query_cameras, gallery_ids, gallery_cameras = labels(case)
    cmc, precision, penalty = load().evaluate_rank(
        double_distances(case), query_ids, gallery_ids, query_cameras, gallery_cameras, max_rank=max(case["ranks"])
    )
    scores = {"mAP": np.mean(precision), "mINP": np.mean(penalty)}
    return scores | {"cmc": {k: cmc[k - 1] for k in case["ranks"] if k <= len(cmc)}}


if __name__ == "__main__":
    serve("fastreid", "fastreid", evaluate, NOTES, "numpy", reasons=REASONS)
