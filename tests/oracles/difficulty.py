"""The colour histogram pixel by pixel, and retrieval by camera query by query."""

import colorsys
import math
from itertools import permutations


def histogram(image, *, centred):
    """Return the 1,024 values for an image given as rows of (red, green, blue) in 0 ... 255."""
    height, width = len(image), len(image[0])
    middle, spread = (width - 1) / 2, 0.06 * width
    weight = [math.exp(-((x - middle) ** 2) / (2 * spread**2)) if centred else 1.0 for x in range(width)]
    gains = [1.0, 1.0, 1.0]
    if centred:
        for channel in range(3):
            total = sum(weight[x] * image[y][x][channel] for y in range(height) for x in range(width))
            gains[channel] = 0.45 * 255 / (total / (height * sum(weight)))
    stripes = [[0.0] * 128 for _ in range(8)]
    for y in range(height):
        for x in range(width):
            colour = [min(value * gain, 255) for value, gain in zip(image[y][x], gains, strict=True)]
            hue, saturation, value = colorsys.rgb_to_hsv(*colour)
            places = [
                min(int(part * count), count - 1) for part, count in ((hue, 8), (saturation, 4), (value / 255, 4))
            ]
            stripes[y * 8 // height][places[0] * 16 + places[1] * 4 + places[2]] += weight[x]
    return [math.sqrt(value / sum(stripe)) for stripe in stripes for value in stripe]


def by_camera(similarity, query_ids, query_cameras, gallery_ids, gallery_cameras):
    """Return mAP and rank-1 by camera from a matrix of similarities."""
    precisions, firsts = [], []
    for query, row in enumerate(similarity):
        others = [i for i in range(len(row)) if gallery_ids[i] != query_ids[query]]
        others.sort(key=lambda i: (-row[i], i))
        hits = [gallery_cameras[i] == query_cameras[query] for i in others]
        if any(hits):
            precisions.append(average_precision(hits))
            firsts.append(float(hits[0]))
    return sum(precisions) / len(precisions), sum(firsts) / len(firsts)


def average_precision(hits):
    """Return the mean of the precisions at the hits."""
    at_hits = [sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit]
    return sum(at_hits) / len(at_hits)


def expected_average_precision(hits):
    """Return the mean over every order of a short list."""
    orders = list(permutations(hits))
    return sum(average_precision(order) for order in orders) / len(orders)
