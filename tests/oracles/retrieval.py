"""The Market-1501 protocol, one gallery image at a time: every list is sorted whole, every sum is of fractions."""

from fractions import Fraction
from itertools import permutations, product

import numpy as np


def ranking(row, query_id, query_camera, gallery_ids, gallery_cameras):
    """Return the gallery indices that count, nearest first, and which of them are of the query's person."""
    order, hits = [], []
    for image in np.argsort(np.asarray(row), kind="stable").tolist():
        if gallery_ids[image] == -1:
            continue
        if gallery_ids[image] == query_id and gallery_cameras[image] == query_camera:
            continue
        order.append(image)
        hits.append(bool(gallery_ids[image] == query_id))
    return order, hits


def average_precision(hits):
    seen, total = 0, Fraction(0)
    for place, hit in enumerate(hits, start=1):
        if hit:
            seen += 1
            total += Fraction(seen, place)
    return total / seen


def average_precision_market(hits):
    """The area under the precision-recall curve, a trapezoid an image."""
    matches = sum(hits)
    area, seen, recall, precision = Fraction(0), 0, Fraction(0), Fraction(1)
    for place, hit in enumerate(hits, start=1):
        seen += hit
        new_recall, new_precision = Fraction(seen, matches), Fraction(seen, place)
        area += (new_recall - recall) * (precision + new_precision) / 2
        recall, precision = new_recall, new_precision
    return area


def inverse_negative_penalty(hits):
    hardest = max(place for place, hit in enumerate(hits, start=1) if hit)
    return Fraction(sum(hits), hardest)


def mean(values):
    return float(sum(values, Fraction(0)) / len(values))


def evaluate(distances, query_ids, query_cameras, gallery_ids, gallery_cameras, ranks):
    """Return all figures by name; `distances` is a list of rows. Without a match anywhere: None."""
    lists, queries = [], []
    for query, row in enumerate(distances):
        _, hits = ranking(row, query_ids[query], query_cameras[query], gallery_ids, gallery_cameras)
        if any(hits):
            lists.append(hits)
            queries.append(query)
    if not lists:
        return None
    return {
        "mAP": mean([average_precision(hits) for hits in lists]),
        "mAP_market": mean([average_precision_market(hits) for hits in lists]),
        "mINP": mean([inverse_negative_penalty(hits) for hits in lists]),
        "cmc": {k: mean([Fraction(any(hits[:k])) for hits in lists]) for k in ranks},
        "average_precision": [float(average_precision(hits)) for hits in lists],
        "queries": queries,
        "skipped": len(query_ids) - len(queries),
    }


def camera_pairs(distances, query_ids, query_cameras, gallery_ids, gallery_cameras):
    """Return {(query camera, gallery camera): (queries, mAP, rank 1)}, the other cameras' matches taken for junk."""
    found = {}
    for query_camera, gallery_camera in product(sorted(set(query_cameras)), sorted(set(gallery_cameras))):
        precisions, firsts = [], []
        for query, row in enumerate(distances):
            if query_cameras[query] != query_camera:
                continue
            ids = [
                -1 if who == query_ids[query] and camera != gallery_camera else who
                for who, camera in zip(gallery_ids, gallery_cameras, strict=True)
            ]
            _, hits = ranking(row, query_ids[query], query_camera, ids, gallery_cameras)
            if any(hits):
                precisions.append(average_precision(hits))
                firsts.append(Fraction(hits[0]))
        if precisions:
            found[query_camera, gallery_camera] = (len(precisions), mean(precisions), mean(firsts))
    return found


def single_shot(distances, query_ids, query_cameras, gallery_ids, gallery_cameras, ranks):
    """Return {k: CMC@k} expected over all galleries of one image a person; each distractor (id 0) is its own."""
    at = {k: [] for k in ranks}
    for query, row in enumerate(distances):
        order, hits = ranking(row, query_ids[query], query_cameras[query], gallery_ids, gallery_cameras)
        if not any(hits):
            continue
        people = {}
        for image in order:
            people.setdefault(gallery_ids[image] or ("distractor", image), []).append(image)
        galleries = [set(chosen) for chosen in product(*people.values())]
        for k in ranks:
            inside = 0
            for gallery in galleries:
                drawn = [hit for image, hit in zip(order, hits, strict=True) if image in gallery]
                inside += any(drawn[:k])
            at[k].append(Fraction(inside, len(galleries)))
    return {k: mean(values) for k, values in at.items()}


def chance(query_ids, query_cameras, gallery_ids, gallery_cameras):
    """Return the mean mAP over all orders of the gallery."""
    orders = list(permutations(range(len(gallery_ids))))
    results = [
        evaluate([order] * len(query_ids), query_ids, query_cameras, gallery_ids, gallery_cameras, ())
        for order in orders
    ]
    return None if results[0] is None else sum(result["mAP"] for result in results) / len(results)
