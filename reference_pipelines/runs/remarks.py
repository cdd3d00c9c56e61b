"""What makes a run's figures say less than they seem to, in sentences that stay with them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reference_pipelines.data import ReidData

# Clusters follow the cameras where they are purer by camera than by person, and purer than this. Where nobody knows
# the people it takes more: people who are seen by few cameras make pure clusters too.
_CAMERA_PURITY, _ALONE = 0.7, 0.9
_APART = 1.1  # hardest positive by hardest negative: 1.15 to 1.3 in runs that learnt little, 0.99 to 1.09 in others


def of_people(data: ReidData) -> list[str]:
    """Say how many people are both trained on and tested on; one id alone is nobody's, as of unlabelled images."""
    people = set(data.train.people().tolist())
    shared = people & {*data.query.people().tolist(), *data.gallery.people().tolist()}
    if not shared or len(people) == 1:
        return []
    return [
        f"{len(shared)} of the {len(people)} people of train are in query or gallery too: the scores are in part of "
        "people trained on, and too high (data verify names them)"
    ]


def of_parts(data: ReidData) -> list[str]:
    """Say that nothing is tested where there is no query and gallery."""
    if data.tested:
        return []
    return ["it has no scores, because there are no query and gallery; a labelled data set with both: --data.test"]


def of_corrupt(left_out: int) -> list[str]:
    """Say how many images do not decode and are left out."""
    return [f"{left_out} images do not decode and are left out"] if left_out else []


def of_scores(scores: Mapping[str, Any], chance: float | None = None) -> list[str]:
    """Say what of the scores was not measured, or says nothing; `scores` are those of a result or an evaluation."""
    found = list(scores.get("remarks", ()))
    queries, skipped = scores["queries"], scores["skipped"]
    if skipped:
        found.append(f"{skipped} of {queries + skipped} queries have no match and are left out of the scores")
    if queries == 1:
        found.append("its scores are of one query, which gives no interval")
    if chance is not None and scores["mAP"] <= chance:
        found.append(f"its mAP {_percent(scores['mAP'])} is not above chance, {_percent(chance)}")
    return found


def of_learning(start: Mapping[str, Any], final: Mapping[str, Any]) -> list[str]:
    """Say where mAP is not above that of the network before training, beyond the interval of that."""
    before, after = start["mAP"], final["mAP"]
    low, high = start["interval"] or (before, before)
    if after > high:
        return []
    moved = "fell" if after < low else "has not moved"
    interval = f" [{_percent(low)}, {_percent(high)}]" if start["interval"] else ""
    return [f"its mAP {moved}: {_percent(before)}{interval} at the start, {_percent(after)} at the end"]


def of_clusters(clustering: Mapping[str, Any]) -> list[str]:
    """Say where the last clusters follow the cameras and not the people."""
    cameras, people = clustering.get("camera_purity"), clustering.get("id_purity")
    if cameras is None or cameras < (_ALONE if people is None else max(_CAMERA_PURITY, people)):
        return []
    beside = "" if people is None else f", {people:.2f} by person"
    return [
        f"its clusters follow the cameras (purity {cameras:.2f} by camera{beside}), so that it learns cameras and not "
        "people: start from better weights with --model.weights"
    ]


def of_log(entries: Sequence[Mapping[str, Any]], eps: float) -> list[str]:
    """Say in how many epochs DBSCAN's radius was not the recipe's, as `clustering.relax_eps` allows."""
    others = [entry["eps"] for entry in entries if entry.get("eps") not in (None, eps)]
    if not others:
        return []
    ends = ", ".join(f"{end:g}" for end in np.unique([min(others), max(others)]))
    return [f"{len(others)} of its epochs clustered at another eps than {eps:g} ({ends}), as clustering.relax_eps says"]


def of_neighbours(entries: Sequence[Mapping[str, Any]], engine: str) -> list[str]:
    """Say what part of the neighbours an engine found, where the clusters are not those of an exact search."""
    recalls = [entry["recall"] for entry in entries if entry.get("recall") is not None]
    if not recalls:
        return []
    ends = " to ".join(f"{end:.4f}" for end in np.unique([min(recalls), max(recalls)]))
    return [f"its clusters are of the neighbours that {engine} proposed, of which it found {ends} (recall)"]


def of_triplet(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say where the distances that the triplet sees have shrunk together without telling people apart.

    So it was in runs that stayed near chance: the farthest image of the same person stays farther than the nearest of
    another, while both come nearer than half of what the negative was in the first epoch.
    """
    seen = [entry for entry in entries if entry.get("hardest_negative") is not None]
    if len(seen) < 2:
        return []
    positive, negative, first = seen[-1]["hardest_positive"], seen[-1]["hardest_negative"], seen[0]["hardest_negative"]
    if positive < _APART * negative or negative > first / 2:
        return []
    return [
        f"its triplet has drawn the features together: the nearest image of another person is at {negative:.2f}, at "
        f"{first:.2f} in the first epoch, and the farthest of the same person at {positive:.2f}; start the attention "
        "as the identity (--attention.identity_init true) or leave the triplet out (--loss.triplet_weight 0)"
    ]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
