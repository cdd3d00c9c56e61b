"""Writes cases.json: the inputs below and, for each, every score of it in exact fractions.

    python tests/protocol_kit/generate.py             writes cases.json
    python tests/protocol_kit/generate.py --check     tells whether cases.json is what this writes

Standard library alone. Nothing here knows the programs that are tried: a gallery is sorted whole, image by image, by
exact fractions, and every score is read off the sorted list. Where a case has values worked by hand they must come out.
"""

import argparse
import itertools
import json
import struct
import sys
from fractions import Fraction
from pathlib import Path

CASES = Path(__file__).with_name("cases.json")
FORMAT = 1
JUNK, DISTRACTOR = -1, 0
RANKS = [1, 5, 10]


# ---- What a ranking scores ----


def ranking(case, query):
    """Return the gallery images that count for a query, nearest first, equal distances by their number."""
    keys = distance_keys(case, query)
    cameras = case["query_cameras"], case["gallery_cameras"]
    counted = []
    for image, who in enumerate(case["gallery_ids"]):
        same = who == case["query_ids"][query]
        if who == JUNK:
            continue
        if same and cameras[0] is not None and cameras[1][image] == cameras[0][query]:
            continue
        counted.append((keys[image], image, same))
    return [(image, same) for _, image, same in sorted(counted)]


def distance_keys(case, query):
    """Return a number for each gallery image, exact and the smaller the nearer."""
    if "distances" in case:
        return [Fraction(value) for value in case["distances"][query]]
    asked = exact(case["query_features"][query])
    images = [exact(row) for row in case["gallery_features"]]
    if case["metric"] == "euclidean":
        return [sum((a - b) ** 2 for a, b in zip(asked, row, strict=True)) for row in images]
    return [-signed_square_of_cosine(asked, row) for row in images]


def exact(row):
    """Return numbers as what is computed with exactly; whole ones stay as they are."""
    return [value if isinstance(value, int) else Fraction(value) for value in row]


def signed_square_of_cosine(first, second):
    """Return cos * |cos|, which orders as the cosine does and needs no root; 0 where a feature has length 0."""
    dot = sum(a * b for a, b in zip(first, second, strict=True))
    lengths = sum(a * a for a in first) * sum(b * b for b in second)
    return Fraction(dot * abs(dot)) / lengths if lengths else Fraction(0)


def average_precision(hits):
    """The mean over the matches of the precision at each."""
    precisions = [Fraction(sum(hits[: place + 1]), place + 1) for place, hit in enumerate(hits) if hit]
    return sum(precisions, Fraction(0)) / len(precisions)


def average_precision_market(hits):
    """The area under precision over recall in trapezoids, image by image, from recall 0 and precision 1."""
    area, recall, precision, seen = Fraction(0), Fraction(0), Fraction(1), 0
    for place, hit in enumerate(hits, start=1):
        seen += 1 if hit else 0
        now = Fraction(seen, sum(hits)), Fraction(seen, place)
        area += (now[0] - recall) * (precision + now[1]) / 2
        recall, precision = now
    return area


def inverse_negative_penalty(hits):
    """How many matches there are, divided by the place of the last."""
    return Fraction(sum(hits), 1 + max(place for place, hit in enumerate(hits) if hit))


def score(case):
    """Return all scores of a case, as fractions; None where no query has a match."""
    lists, queries = [], []
    for query in range(len(case["query_ids"])):
        hits = [same for _, same in ranking(case, query)]
        if any(hits):
            lists.append(hits)
            queries.append(query)
    if not lists:
        return None
    each = {
        "average_precision": [average_precision(hits) for hits in lists],
        "average_precision_market": [average_precision_market(hits) for hits in lists],
        "inverse_negative_penalty": [inverse_negative_penalty(hits) for hits in lists],
    }
    found = {
        "queries": queries,
        "skipped": len(case["query_ids"]) - len(queries),
        "places": [[place for place, hit in enumerate(hits) if hit] for hits in lists],
        **each,
        "mAP": mean(each["average_precision"]),
        "mAP_market": mean(each["average_precision_market"]),
        "mINP": mean(each["inverse_negative_penalty"]),
        "cmc": {str(k): mean([Fraction(any(hits[:k])) for hits in lists]) for k in case["ranks"]},
    }
    if case.get("single_shot"):
        found["single_shot_cmc"], found["single_shot_variance"] = single_shot(case, queries)
    return found


def mean(values):
    return sum(values, Fraction(0)) / len(values)


def single_shot(case, queries):
    """Return CMC expected over all galleries of one image a person, and a bound of the variance of one draw of it.

    Each distractor is its own person, so all of them stay. The bound is the mean of p(1 - p) over the queries, which
    holds whether queries share a gallery or not.
    """
    expected, variance = {}, {}
    for k in case["ranks"]:
        chances = []
        for query in queries:
            people = {}
            for place, (image, same) in enumerate(ranking(case, query)):
                who = case["gallery_ids"][image]
                people.setdefault((who, image if who == DISTRACTOR else None), []).append((place, same))
            galleries = [sorted(chosen) for chosen in itertools.product(*people.values())]
            chances.append(Fraction(sum(any(same for _, same in each[:k]) for each in galleries), len(galleries)))
        expected[str(k)] = mean(chances)
        variance[str(k)] = mean([chance * (1 - chance) for chance in chances])
    return expected, variance


# ---- What a case may ask ----


def check(case):
    """Refuse a case whose result would depend on rounding that its rule does not speak of."""
    if "distances" in case:
        for row in case["distances"]:
            assert all(value == as_stored(value, case["dtype"]) for value in row), case["name"]
        return
    for side in ("query_features", "gallery_features"):
        assert all(value == as_stored(value, case["dtype"]) for row in case[side] for value in row), case["name"]
    for query in range(len(case["query_ids"])):
        keys = distance_keys(case, query)
        asked = case["query_features"][query]
        for one, other in itertools.combinations(range(len(keys)), 2):
            gap, size = abs(keys[one] - keys[other]), max(abs(keys[one]), abs(keys[other]))
            if gap:  # in float32 a distance is known to 2**-23 of itself, and its square to 2**-22
                assert gap >= size / 2**20, f"{case['name']}: images {one} and {other} are too near for float32"
            elif case["metric"] == "cosine":
                pair = asked, case["gallery_features"][one], case["gallery_features"][other]
                exact = all(sum(value != 0 for value in row) < 2 for row in pair)
                assert exact, f"{case['name']}: equal cosines of images {one} and {other} would be rounded"


def as_stored(value, dtype):
    """Return a number as its dtype holds it."""
    form = {"float16": "e", "float32": "f", "float64": "d"}[dtype]
    return struct.unpack(form, struct.pack(form, value))[0]


# ---- The cases ----


def case(name, says, *, hand=None, refused=False, ranks=RANKS, dtype="float32", single=False, **given):
    """Return a case with what is expected of it; `hand` holds scores that were worked by hand."""
    made = {"name": name, "says": says, "dtype": dtype, "ranks": list(ranks)}
    if single:
        made["single_shot"] = True
    for key in ("distances", "query_features", "gallery_features"):
        if key in given:
            made[key] = given.pop(key)
    if "query_features" in made:
        made["metric"] = given.pop("metric", "euclidean")
    for key in ("query_ids", "query_cameras", "gallery_ids", "gallery_cameras"):
        made[key] = given.pop(key)
    assert not given, given
    check(made)
    found = score(made)
    assert (found is None) == refused, f"{name}: {'no' if found is None else 'a'} query has a match"
    for key, value in (hand or {}).items():
        got = {k: Fraction(v) for k, v in value.items()} if isinstance(value, dict) else Fraction(value)
        assert found[key] == got, f"{name}: {key} is {found[key]}, by hand {value}"
    made["expected"] = {"refused": True} if refused else written(found)
    return made


def written(value):
    """Return fractions as "a/b" and all else as it is."""
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if isinstance(value, dict):
        return {key: written(each) for key, each in value.items()}
    return [written(each) for each in value] if isinstance(value, list) else value


def one(name, says, marks, distances=None, **given):
    """Return a case of one query: person 1, camera 1.

    `marks` has a letter an image: m a match, n another person, d a distractor, j junk, s the same person in the same
    camera, t another person in the same camera, k junk in the same camera. Without distances the images stand in
    their order, as features on a line.
    """
    ids = {"m": 1, "n": 2, "d": DISTRACTOR, "j": JUNK, "s": 1, "t": 3, "k": JUNK}
    cameras = {"m": 2, "n": 2, "d": 3, "j": 2, "s": 1, "t": 1, "k": 1}
    distances = list(range(1, len(marks) + 1)) if distances is None else distances
    place = given.pop("place", [[0], [[value] for value in distances]])
    who = {
        "query_ids": [1],
        "query_cameras": [1],
        "gallery_ids": [ids[mark] for mark in marks],
        "gallery_cameras": [cameras[mark] for mark in marks],
    }
    if given.pop("as_distances", False):
        return case(name, says, distances=[distances], **{**who, **given})
    return case(name, says, query_features=[place[0]], gallery_features=place[1], **{**who, **given})


class Dice:
    """Whole numbers that are the same in every language: the minimal standard generator (Park and Miller)."""

    def __init__(self, seed):
        self.state = seed

    def below(self, limit):
        self.state = self.state * 48271 % (2**31 - 1)
        return self.state % limit


def drawn(name, says, seed, queries, gallery, *, people=4, cameras=3, width=2, values=64, lowest=1, **given):
    """Return a case with whole features and labels from Dice; `lowest` 0 has distractors, -1 junk too."""
    dice = Dice(seed)

    def images(count, least):
        ids = [least + dice.below(people + 1 - least) for _ in range(count)]
        taken = [1 + dice.below(cameras) for _ in range(count)]
        return ids, taken, [[dice.below(values) for _ in range(width)] for _ in range(count)]

    asked, shown = images(queries, 1), images(gallery, lowest)
    return case(
        name,
        says,
        query_ids=asked[0],
        query_cameras=asked[1],
        gallery_ids=shown[0],
        gallery_cameras=shown[1],
        query_features=asked[2],
        gallery_features=shown[2],
        **given,
    )


def basic():
    yield one("basic/perfect", "All matches stand first.", "mmnn", hand={"mAP": "1", "mAP_market": "1", "mINP": "1"})
    yield one(
        "basic/by-hand",
        "Matches at places 1, 3 and 6.",
        "mnmnnm",
        hand={"mAP": "13/18", "mAP_market": "61/90", "mINP": "1/2", "cmc": {"1": "1", "5": "1", "10": "1"}},
    )
    yield one(
        "basic/last",
        "The only match stands last of six.",
        "nnnnnm",
        hand={"mAP": "1/6", "mAP_market": "1/12", "mINP": "1/6", "cmc": {"1": "0", "5": "0", "10": "1"}},
    )
    yield case(
        "basic/two-queries",
        "The scores are means over the queries: one is perfect, the other has its match second.",
        query_ids=[1, 2],
        query_cameras=[1, 1],
        gallery_ids=[1, 2, 3],
        gallery_cameras=[2, 2, 2],
        query_features=[[0], [0]],
        gallery_features=[[1], [2], [3]],
        hand={"mAP": "3/4", "mAP_market": "5/8", "mINP": "3/4", "cmc": {"1": "1/2", "5": "1", "10": "1"}},
    )
    yield case(
        "basic/distances",
        "The same from given distances, whose order in the gallery is not that of the ranking.",
        query_ids=[1, 2],
        query_cameras=[1, 1],
        gallery_ids=[3, 2, 1],
        gallery_cameras=[2, 2, 2],
        distances=[[3.0, 2.0, 1.0], [0.75, 0.5, 0.25]],
        hand={"mAP": "3/4"},
    )
    yield case(
        "basic/mean-over-queries",
        "A mean over queries, not over people: three queries of one person, one of another.",
        query_ids=[1, 1, 1, 2],
        query_cameras=[1, 1, 1, 1],
        gallery_ids=[1, 2],
        gallery_cameras=[2, 2],
        query_features=[[0], [0], [0], [0]],
        gallery_features=[[1], [2]],
        hand={"mAP": "7/8"},
    )
    yield one(
        "basic/negative-distances",
        "Distances may be negative, such as negated similarities.",
        "mnm",
        [-0.25, -0.75, 0.5],
        as_distances=True,
        hand={"mAP": "7/12"},
    )
    yield drawn("basic/drawn", "Eight queries, forty images, drawn.", 11, 8, 40, values=4096, width=2)


def ties():
    yield one(
        "ties/match-first",
        "A match and another at the same distance; the match comes first.",
        "mn",
        [1, 1],
        hand={"mAP": "1"},
    )
    yield one(
        "ties/match-second", "The same, and the match comes second.", "nm", [1, 1], hand={"mAP": "1/2", "mINP": "1/2"}
    )
    yield one(
        "ties/match-in-the-middle", "A match third of five at one distance.", "nnmnn", [2] * 5, hand={"mAP": "1/3"}
    )
    yield one(
        "ties/two-matches",
        "Matches first and last of four at one distance.",
        "mnnm",
        [2] * 4,
        hand={"mAP": "3/4", "mINP": "1/2"},
    )
    yield one(
        "ties/two-blocks",
        "Two blocks of equal distances, the farther one first in the gallery.",
        "nmnm",
        [2, 2, 1, 1],
        hand={"mAP": "1/2"},
    )
    yield one("ties/at-zero", "Ties at distance 0.", "nm", [0, 0], hand={"mAP": "1/2"})
    yield one(
        "ties/dropped-in-the-block",
        "In a block of ties an image that the query's camera took does not count.",
        "snm",
        [1, 1, 1],
        hand={"mAP": "1/2"},
    )
    yield one("ties/junk-in-the-block", "In a block of ties junk does not count.", "jnjm", [1] * 4, hand={"mAP": "1/2"})
    yield one(
        "ties/twenty", "The match is the last of 20 at one distance.", "n" * 19 + "m", [1] * 20, hand={"mAP": "1/20"}
    )
    yield one(
        "ties/hundred",
        "The match is the last of 100 at one distance.",
        "n" * 99 + "m",
        [1] * 100,
        hand={"mAP": "1/100", "cmc": {"1": "0", "5": "0", "10": "0"}},
    )
    yield one(
        "ties/hundred-first",
        "The match is the first of 100 at one distance.",
        "m" + "n" * 99,
        [1] * 100,
        hand={"mAP": "1"},
    )
    yield one(
        "ties/hundred-distances",
        "The last of 100 again, as given distances.",
        "n" * 99 + "m",
        [0.5] * 100,
        as_distances=True,
        hand={"mAP": "1/100"},
    )
    yield drawn(
        "ties/drawn", "Five queries, 120 images on a grid of nine points: ties everywhere.", 5, 5, 120, values=3
    )


def duplicates():
    yield one(
        "duplicates/match-and-other",
        "Another person's image has the match's features and comes first.",
        "nm",
        place=[[3, 4], [[0, 0], [0, 0]]],
        hand={"mAP": "1/2"},
    )
    yield one(
        "duplicates/of-the-match",
        "The match is there three times, each counts.",
        "mmmn",
        place=[[0, 0], [[3, 4]] * 3 + [[9, 9]]],
        hand={"mAP": "1", "mINP": "1"},
    )
    yield one(
        "duplicates/the-query-elsewhere",
        "The query's own features under another camera are a match.",
        "nm",
        place=[[5, 5], [[5, 6], [5, 5]]],
        hand={"mAP": "1"},
    )
    yield one(
        "duplicates/the-query-itself",
        "The query's own image in the gallery, of its camera, is dropped.",
        "snm",
        place=[[5, 5], [[5, 5], [5, 6], [5, 7]]],
        hand={"mAP": "1/2"},
    )


def junk():
    yield one(
        "junk/nearest",
        "Junk before the match is left out.",
        "jjm",
        hand={"mAP": "1", "cmc": {"1": "1", "5": "1", "10": "1"}},
    )
    yield one("junk/between", "Junk between matches is left out.", "mjnjm", hand={"mAP": "5/6", "mINP": "2/3"})
    yield one("junk/same-camera", "Junk of the query's camera is left out too.", "kknm", hand={"mAP": "1/2"})
    yield one("junk/last", "Junk after the last match changes nothing.", "nmjjj", hand={"mAP": "1/2", "mINP": "1/2"})
    yield drawn(
        "junk/drawn",
        "Six queries, 40 images, a sixth of them junk, a sixth distractors.",
        23,
        6,
        40,
        lowest=-1,
        values=4096,
    )


def distractors():
    yield one(
        "distractors/nearest",
        "A distractor before the match is a wrong one.",
        "dm",
        hand={"mAP": "1/2", "cmc": {"1": "0", "5": "1", "10": "1"}},
    )
    yield one(
        "distractors/many",
        "Nine distractors before the match.",
        "d" * 9 + "m",
        hand={"mAP": "1/10", "mINP": "1/10", "cmc": {"1": "0", "5": "0", "10": "1"}},
    )
    yield case(
        "distractors/same-camera",
        "A distractor of the query's camera stays.",
        query_ids=[1],
        query_cameras=[3],
        gallery_ids=[0, 1],
        gallery_cameras=[3, 2],
        query_features=[[0]],
        gallery_features=[[1], [2]],
        hand={"mAP": "1/2"},
    )
    yield one("distractors/and-junk", "Distractors count, junk does not.", "jdjm", hand={"mAP": "1/2"})


def same_camera():
    yield one(
        "same-camera/dropped",
        "The person's images of the query's camera are dropped, not counted as wrong.",
        "ssm",
        hand={"mAP": "1"},
    )
    yield one(
        "same-camera/between", "They are dropped between matches too.", "msnsm", hand={"mAP": "5/6", "mINP": "2/3"}
    )
    yield one(
        "same-camera/others-stay",
        "Other people's images of the query's camera stay.",
        "ttm",
        hand={"mAP": "1/3", "mINP": "1/3"},
    )
    yield case(
        "same-camera/by-query",
        "What is dropped differs by query: two queries of one person, two cameras.",
        query_ids=[1, 1],
        query_cameras=[1, 2],
        gallery_ids=[1, 2, 1],
        gallery_cameras=[1, 3, 2],
        query_features=[[0], [0]],
        gallery_features=[[1], [2], [3]],
        hand={"mAP": "3/4"},
    )
    yield case(
        "same-camera/nothing-dropped",
        "Queries of a camera of their own: nothing is dropped.",
        query_ids=[1, 2],
        query_cameras=[9, 9],
        gallery_ids=[1, 2, 1],
        gallery_cameras=[1, 1, 2],
        query_features=[[0], [0]],
        gallery_features=[[1], [2], [3]],
        hand={"mAP": "2/3"},
    )
    yield case(
        "same-camera/unknown",
        "Without cameras every image of the person is a match.",
        query_ids=[1],
        query_cameras=None,
        gallery_ids=[2, 1, 1],
        gallery_cameras=None,
        query_features=[[0]],
        gallery_features=[[1], [2], [3]],
        hand={"mAP": "7/12"},
    )
    yield drawn("same-camera/drawn", "Seven queries, 50 images, two cameras.", 31, 7, 50, cameras=2, values=4096)


def no_match():
    yield case(
        "no-match/one-of-two",
        "A query without a match is left out of every mean.",
        query_ids=[1, 5],
        query_cameras=[1, 1],
        gallery_ids=[2, 1],
        gallery_cameras=[2, 2],
        query_features=[[0], [0]],
        gallery_features=[[1], [2]],
        hand={"mAP": "1/2", "skipped": 1},
    )
    yield case(
        "no-match/own-camera-only",
        "A query whose person only its own camera saw has no match either.",
        query_ids=[1, 2],
        query_cameras=[1, 1],
        gallery_ids=[1, 2, 1],
        gallery_cameras=[1, 2, 1],
        query_features=[[0], [0]],
        gallery_features=[[1], [2], [3]],
        hand={"mAP": "1/2", "skipped": 1},
    )
    yield case(
        "no-match/most",
        "One of four queries has a match.",
        query_ids=[7, 8, 1, 9],
        query_cameras=[1, 1, 1, 1],
        gallery_ids=[2, 3, 1],
        gallery_cameras=[2, 2, 2],
        query_features=[[0], [0], [0], [0]],
        gallery_features=[[1], [2], [3]],
        hand={"mAP": "1/3", "skipped": 3},
    )
    yield one("no-match/none", "No query has a match: there is nothing to score.", "nn", refused=True)
    yield one(
        "no-match/none-but-own-camera", "No query has a match, only images of its own camera.", "ssn", refused=True
    )


def small():
    yield one(
        "one-query/one-image", "One query, one image, a match.", "m", hand={"mAP": "1", "mAP_market": "1", "mINP": "1"}
    )
    yield one("one-query/one-other", "One query, a match and another.", "nm", hand={"mAP": "1/2"})
    yield one("one-query/one-left", "One query, and one image left after what is dropped.", "sjm", hand={"mAP": "1"})


def single_shots():
    yield case(
        "single-shot/one-image-a-person",
        "One image a person: every draw is the gallery itself.",
        query_ids=[1, 2],
        query_cameras=[1, 1],
        gallery_ids=[3, 1, 2],
        gallery_cameras=[2, 2, 2],
        query_features=[[0], [0]],
        gallery_features=[[1], [2], [3]],
        single=True,
        hand={"single_shot_cmc": {"1": "0", "5": "1", "10": "1"}},
    )
    yield case(
        "single-shot/same-either-way",
        "Each person has two images of one place: the draw does not matter.",
        query_ids=[1],
        query_cameras=[1],
        gallery_ids=[3, 3, 1, 1, 2, 2],
        gallery_cameras=[2] * 6,
        query_features=[[0]],
        gallery_features=[[1], [1], [2], [2], [3], [3]],
        single=True,
        hand={"single_shot_cmc": {"1": "0", "5": "1", "10": "1"}},
    )
    yield case(
        "single-shot/half",
        "The other person stands before the match with one image of two: first in half of the draws.",
        query_ids=[1],
        query_cameras=[1],
        gallery_ids=[2, 1, 2],
        gallery_cameras=[2] * 3,
        query_features=[[0]],
        gallery_features=[[1], [2], [3]],
        single=True,
        hand={"single_shot_cmc": {"1": "1/2", "5": "1", "10": "1"}},
    )
    yield case(
        "single-shot/own-camera-is-not-drawn",
        "The person's image of the query's camera is never drawn.",
        query_ids=[1],
        query_cameras=[1],
        gallery_ids=[1, 2, 1],
        gallery_cameras=[1, 2, 2],
        query_features=[[0]],
        gallery_features=[[1], [2], [3]],
        single=True,
        hand={"single_shot_cmc": {"1": "0", "5": "1", "10": "1"}},
    )
    yield case(
        "single-shot/distractors-stay",
        "Two distractors are two people: both stay, and the match is third.",
        query_ids=[1],
        query_cameras=[1],
        gallery_ids=[0, 0, 1],
        gallery_cameras=[2] * 3,
        query_features=[[0]],
        gallery_features=[[1], [2], [3]],
        single=True,
        ranks=[1, 2, 3],
        hand={"single_shot_cmc": {"1": "0", "2": "0", "3": "1"}},
    )


def both_precisions():
    yield one(
        "both-ap/second",
        "A match at place 2: 1/2 as a mean of precisions, 1/4 by trapezoids.",
        "nm",
        hand={"mAP": "1/2", "mAP_market": "1/4"},
    )
    yield one("both-ap/third", "A match at place 3: 1/3 and 1/6.", "nnm", hand={"mAP": "1/3", "mAP_market": "1/6"})
    yield one(
        "both-ap/first-and-fourth", "Matches at places 1 and 4.", "mnnm", hand={"mAP": "3/4", "mAP_market": "17/24"}
    )
    yield one(
        "both-ap/alternating", "Every second image is a match.", "nmnmnm", hand={"mAP": "1/2", "mAP_market": "67/180"}
    )


def minp():
    yield one(
        "minp/hardest-last",
        "Three of four matches first, the fourth at place 10.",
        "mmm" + "n" * 6 + "m",
        hand={"mINP": "2/5", "mAP": "17/20"},
    )
    yield one("minp/one-match", "With one match it is 1 by its place.", "nnnm", hand={"mINP": "1/4"})
    yield case(
        "minp/mean",
        "A mean over the queries.",
        query_ids=[1, 2],
        query_cameras=[1, 1],
        gallery_ids=[1, 2, 1],
        gallery_cameras=[2, 2, 2],
        query_features=[[0], [0]],
        gallery_features=[[1], [2], [3]],
        hand={"mINP": "7/12"},
    )


def cmc():
    yield one(
        "cmc/beyond-the-gallery",
        "CMC@k for k beyond the gallery's three images is that of the last place.",
        "nnm",
        ranks=[1, 3, 5, 50],
        hand={"cmc": {"1": "0", "3": "1", "5": "1", "50": "1"}},
    )
    yield case(
        "cmc/lists-of-two-lengths",
        "Queries whose lists are two and three images long, CMC@3 of both.",
        query_ids=[1, 2],
        query_cameras=[1, 1],
        gallery_ids=[1, 2, 1],
        gallery_cameras=[1, 2, 2],
        query_features=[[0], [0]],
        gallery_features=[[1], [2], [3]],
        ranks=[1, 2, 3],
        hand={"cmc": {"1": "0", "2": "1", "3": "1"}},
    )
    yield one(
        "cmc/steps",
        "A match at place 4 of 6, CMC at every k.",
        "nnnmnn",
        ranks=[1, 2, 3, 4, 5, 6],
        hand={"cmc": {"1": "0", "2": "0", "3": "0", "4": "1", "5": "1", "6": "1"}},
    )
    yield drawn(
        "cmc/drawn",
        "Nine queries, 60 images, CMC at 1, 2, 5, 10, 20.",
        47,
        9,
        60,
        people=12,
        values=4096,
        ranks=[1, 2, 5, 10, 20],
    )


def half():
    yield one(
        "float16/squares-overflow",
        "Float16 features whose squared distances are beyond float16's 65,504.",
        "nm",
        place=[[0, 0], [[300, 400], [300, 300]]],
        dtype="float16",
        hand={"mAP": "1"},
    )
    yield one(
        "float16/near",
        "Float16 features whose distances differ by less than float16 tells.",
        "nm",
        place=[[0, 0, 0], [[12, 12, 12.0078125], [12, 12, 12]]],
        dtype="float16",
        hand={"mAP": "1"},
    )
    yield one(
        "float16/sum",
        "Float16 features whose squares' sum float16 would round.",
        "nm",
        place=[[0, 0, 0], [[60, 3, 1], [60, 3, 0.5]]],
        dtype="float16",
        hand={"mAP": "1"},
    )
    yield one(
        "float16/ties",
        "Equal float16 features stay equal.",
        "nm",
        place=[[1.5, 2.5], [[1, 2], [1, 2]]],
        dtype="float16",
        hand={"mAP": "1/2"},
    )
    yield one(
        "float16/cosine",
        "Float16 features by cosine, with lengths beyond what float16 can square.",
        "nm",
        place=[[400, 400], [[300, 400], [400, 380]]],
        dtype="float16",
        metric="cosine",
        hand={"mAP": "1"},
    )
    yield one(
        "float16/distances",
        "Float16 distances, two of them equal.",
        "nmm",
        [0.5, 0.5, 0.25],
        dtype="float16",
        as_distances=True,
        hand={"mAP": "5/6"},
    )


def precision():
    far = 4096
    yield one(
        "precision/common-part",
        "Features with a large part in common: 4096 + 1/4 and 4096 + 1/2 from 4096.",
        "nm",
        place=[[far] * 8, [[far + 0.5] + [far] * 7, [far + 0.25] + [far] * 7]],
        hand={"mAP": "1"},
    )
    yield one(
        "precision/equal-with-common-part",
        "The same with equal distances, whose order is the gallery's.",
        "nnm",
        place=[[far] * 8, [[far] * k + [far + 0.5] + [far] * (7 - k) for k in (0, 3, 6)]],
        hand={"mAP": "1/3"},
    )
    yield one(
        "precision/float64",
        "Distances that only double precision tells apart.",
        "nm",
        [1 + 2**-40, 1.0],
        dtype="float64",
        as_distances=True,
        hand={"mAP": "1"},
    )
    yield one(
        "precision/tiny",
        "Distances of 2**-60 and 2**-61.",
        "nm",
        [2**-60, 2**-61],
        as_distances=True,
        hand={"mAP": "1"},
    )


def labels():
    yield case(
        "labels/unseen-cameras",
        "Cameras that the other side does not have: nothing is dropped for them.",
        query_ids=[1, 2],
        query_cameras=[40, 41],
        gallery_ids=[2, 1, 2],
        gallery_cameras=[7, 1000, 40],
        query_features=[[0], [0]],
        gallery_features=[[1], [2], [3]],
        hand={"mAP": "2/3"},
    )
    yield case(
        "labels/camera-0-and-negative",
        "Cameras numbered 0 and -1 are cameras like others.",
        query_ids=[1, 1],
        query_cameras=[0, -1],
        gallery_ids=[1, 1, 2, 1],
        gallery_cameras=[0, -1, 0, 3],
        query_features=[[0], [0]],
        gallery_features=[[1], [2], [3], [4]],
        hand={"mAP": "5/6"},
    )
    yield case(
        "labels/large-ids",
        "Ids beyond what float32 tells apart: 16,777,216 and 16,777,217.",
        query_ids=[16777217],
        query_cameras=[1],
        gallery_ids=[16777216, 16777217],
        gallery_cameras=[2, 2],
        query_features=[[0]],
        gallery_features=[[1], [2]],
        hand={"mAP": "1/2"},
    )
    yield case(
        "labels/ids-beyond-32-bits",
        "Ids beyond 32 bits that are equal in their lower 32.",
        query_ids=[4294967299],
        query_cameras=[1],
        gallery_ids=[3, 4294967299],
        gallery_cameras=[2, 2],
        query_features=[[0]],
        gallery_features=[[1], [2]],
        hand={"mAP": "1/2"},
    )
    yield case(
        "labels/id-is-a-cameras-number",
        "Id and camera are two numbers: id 1 of camera 2 is not id 2 of camera 1.",
        query_ids=[1, 2],
        query_cameras=[2, 1],
        gallery_ids=[2, 1, 1, 2],
        gallery_cameras=[1, 2, 1, 2],
        query_features=[[0], [0]],
        gallery_features=[[1], [2], [3], [4]],
        hand={"mAP": "5/12"},
    )


def metrics():
    yield one(
        "metric/euclidean",
        "By distance the first image is nearer.",
        "nm",
        place=[[2, 1], [[2, 2], [8, 4]]],
        hand={"mAP": "1/2"},
    )
    yield one(
        "metric/cosine",
        "By angle the second is: its length does not count.",
        "nm",
        place=[[2, 1], [[2, 2], [8, 4]]],
        metric="cosine",
        hand={"mAP": "1"},
    )
    yield one(
        "metric/negative-cosine",
        "A match at an angle beyond 90 degrees is a match.",
        "nnm",
        place=[[1, 0], [[1, 1], [0, 1], [-1, 1]]],
        metric="cosine",
        hand={"mAP": "1/3"},
    )
    yield one(
        "metric/zero-feature",
        "A feature of length 0 has cosine 0 to every one.",
        "nmn",
        place=[[1, 0], [[1, 1], [0, 0], [-1, 1]]],
        metric="cosine",
        hand={"mAP": "1/2"},
    )


def empty():
    who = {"query_ids": [1], "query_cameras": [1], "gallery_ids": [1], "gallery_cameras": [2]}
    none = {"query_ids": [], "query_cameras": [], "query_features": []}
    yield case(
        "empty/no-query",
        "No query: there is nothing to score.",
        **{**who, **none},
        gallery_features=[[1]],
        refused=True,
    )
    nothing = {"gallery_ids": [], "gallery_cameras": [], "gallery_features": []}
    yield case(
        "empty/no-gallery",
        "No gallery: there is nothing to score.",
        **{**who, **nothing},
        query_features=[[1]],
        refused=True,
    )
    yield one("empty/all-junk", "Nothing but junk in the gallery.", "jjk", refused=True)


GROUPS = (
    basic,
    ties,
    duplicates,
    junk,
    distractors,
    same_camera,
    no_match,
    small,
    single_shots,
    both_precisions,
    minp,
    cmc,
    half,
    precision,
    labels,
    metrics,
    empty,
)


def document(cases):
    """Return the text of a file of cases; one case a line, so that a change is seen where it is."""
    names = [each["name"] for each in cases]
    assert len(names) == len(set(names)), "two cases have one name"
    lines = ",\n".join(json.dumps(each, ensure_ascii=False) for each in cases)
    return f'{{"format": {FORMAT}, "cases": [\n{lines}\n]}}\n'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where cases.json is another")
    wanted = document([each for group in GROUPS for each in group()])
    if parser.parse_args().check:
        same = CASES.exists() and CASES.read_text(encoding="utf-8") == wanted
        print("cases.json is what generate.py writes" if same else "cases.json is not what generate.py writes")
        return 0 if same else 1
    CASES.write_text(wanted, encoding="utf-8")
    print(f"written: {CASES} ({len(json.loads(wanted)['cases'])} cases)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
