"""mAP and CMC by the rules of the Market-1501 protocol, one gallery image at a time."""


def evaluate(distances, query_ids, query_cameras, gallery_ids, gallery_cameras, ranks):
    """Return mAP, {k: CMC@k} and how many queries had no match; `distances` is a list of lists."""
    precisions, hits_at, skipped = [], {k: [] for k in ranks}, 0
    for q, row in enumerate(distances):
        candidates = []
        for g, distance in enumerate(row):
            if gallery_ids[g] == -1:
                continue
            if gallery_ids[g] == query_ids[q] and gallery_cameras[g] == query_cameras[q]:
                continue
            candidates.append((distance, g))
        candidates.sort()
        hits, precision_sum, first = 0, 0.0, None
        for position, (_, g) in enumerate(candidates, start=1):
            if gallery_ids[g] == query_ids[q]:
                hits += 1
                precision_sum += hits / position
                if first is None:
                    first = position
        if hits == 0:
            skipped += 1
            continue
        precisions.append(precision_sum / hits)
        for k in ranks:
            hits_at[k].append(first <= k)
    count = len(precisions)
    return sum(precisions) / count, {k: sum(hits_at[k]) / count for k in ranks}, skipped
