"""attnreid's `reference_pipelines.retrieval.evaluate`."""

import warnings

import torch
from serving import serve

from reference_pipelines import retrieval

DRAWS = 400
NOTES = ["`reference_pipelines.retrieval.evaluate`, features or distances as they stand in the case."]


def evaluate(case):
    if "distances" in case:
        kind = {"distances": torch.tensor(case["distances"], dtype=getattr(torch, case["dtype"]))}
        query = gallery = None
    else:
        kind = {"metric": case["metric"]}
        query, gallery = (
            torch.tensor(case[f"{side}_features"], dtype=getattr(torch, case["dtype"])) for side in ("query", "gallery")
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # queries that are equally far from all images are warned of
        result = retrieval.evaluate(
            query,
            case["query_ids"],
            case["query_cameras"],
            gallery,
            case["gallery_ids"],
            case["gallery_cameras"],
            ranks=tuple(case["ranks"]),
            single_shot=DRAWS if case.get("single_shot") else 0,
            **kind,
        )
    ranked = result.ranks.ranked
    scores = {
        "mAP": result.mAP,
        "mAP_market": result.mAP_market,
        "mINP": result.mINP,
        "cmc": result.cmc,
        "average_precision": result.average_precision,
        "average_precision_market": ranked.average_precision_market(),
        "inverse_negative_penalty": ranked.inverse_negative_penalty(),
        "queries": result.queries,
        "skipped": result.skipped,
        "places": [
            ranked.ranks[start : start + size].tolist() for start, size in zip(ranked.starts, ranked.sizes, strict=True)
        ],
    }
    if result.single_shot_cmc is not None:
        scores |= {"single_shot_cmc": result.single_shot_cmc, "draws": DRAWS}
    return scores


if __name__ == "__main__":
    serve("attnreid", "attnreid", evaluate, NOTES, "torch", "numpy")
