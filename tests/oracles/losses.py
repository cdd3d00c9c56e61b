"""The batch-hard triplet loss of APNet's Eq. 6, one anchor at a time."""

import math


def batch_hard_triplet(features, labels, margin):
    """Return the mean hinge over anchors; `features` is a list of lists."""

    def distance(a, b):
        return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))

    total = 0.0
    for anchor, label in zip(features, labels, strict=True):
        others = list(zip(features, labels, strict=True))
        positive = max(distance(anchor, other) for other, its in others if its == label)
        negative = min(distance(anchor, other) for other, its in others if its != label)
        total += max(0.0, positive - negative + margin)
    return total / len(features)


def smoothed_cross_entropy(logits, labels, smoothing):
    """Return Eq. 8 averaged over the batch."""
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        log_sum = math.log(sum(math.exp(value) for value in row))
        for k, value in enumerate(row):
            target = (1 - smoothing) * (k == label) + smoothing / len(row)
            total -= target * (value - log_sum)
    return total / len(logits)
