"""What is said beside scores, from numbers written by hand."""

from pathlib import Path

import numpy as np
import pytest

from reference_pipelines.data.records import ImageList, ReidData
from reference_pipelines.runs.remarks import (
    of_clusters,
    of_corrupt,
    of_learning,
    of_log,
    of_neighbours,
    of_people,
    of_scores,
    of_triplet,
)
from tests.conftest import says


def data(train, query, gallery):
    parts = [
        ImageList(tuple(Path("x") for _ in ids), np.array(ids), np.ones(len(ids))) for ids in (train, query, gallery)
    ]
    return ReidData(Path("x"), "csv", *parts, junk=0, rendered=False)


def test_people_of_train_who_are_tested_on_are_counted():
    (said,) = of_people(data([1, 1, 2, 3], [2, 5], [2, 3, 5, 0]))
    assert says(said, "2 of the 3 people of train", "query or gallery")
    assert of_people(data([1, 2], [3], [3, 0])) == []
    # Unlabelled images bear one id, which is nobody's.
    assert of_people(data([1, 1], [1, 2], [1, 2])) == []


def test_images_that_are_left_out_are_counted():
    assert of_corrupt(0) == []
    assert of_corrupt(3) == ["3 images do not decode and are left out"]


SCORES = {"mAP": 0.5, "queries": 10, "skipped": 0, "remarks": []}


def test_scores_say_what_they_are_not_of():
    assert of_scores(SCORES, 0.1) == []
    said = of_scores({"mAP": 0.1, "queries": 1, "skipped": 4, "remarks": ["all zeros"]}, 0.1)
    assert said == [
        "all zeros",
        "4 of 5 queries have no match and are left out of the scores",
        "its scores are of one query, which gives no interval",
        "its mAP 10.0 is not above chance, 10.0",
    ]


@pytest.mark.parametrize(
    ("interval", "final", "said"),
    [
        ([0.1, 0.2], 0.21, []),
        ([0.1, 0.2], 0.2, ["its mAP has not moved: 15.0 [10.0, 20.0] at the start, 20.0 at the end"]),
        ([0.1, 0.2], 0.1, ["its mAP has not moved: 15.0 [10.0, 20.0] at the start, 10.0 at the end"]),
        ([0.1, 0.2], 0.09, ["its mAP fell: 15.0 [10.0, 20.0] at the start, 9.0 at the end"]),
        (None, 0.16, []),
        (None, 0.15, ["its mAP has not moved: 15.0 at the start, 15.0 at the end"]),
    ],
)
def test_a_map_that_has_not_moved_is_said(interval, final, said):
    assert of_learning({"mAP": 0.15, "interval": interval}, {"mAP": final}) == said


@pytest.mark.parametrize(
    ("people", "cameras", "follows"),
    [
        (0.35, 0.85, True),
        (0.46, 0.71, True),
        (0.54, 0.64, False),
        (0.9, 0.85, False),
        (None, 0.95, True),
        (None, 0.85, False),
        (0.2, None, False),
    ],
)
def test_clusters_that_follow_the_cameras_are_said(people, cameras, follows):
    said = of_clusters({"id_purity": people, "camera_purity": cameras})
    assert bool(said) == follows
    if follows:
        assert f"purity {cameras:.2f} by camera" in said[0]
        assert ("by person" in said[0]) == (people is not None)
    assert of_clusters({}) == []


def test_a_relaxed_radius_is_said():
    log = [{"epoch": 0}, {"eps": 0.4}, {"eps": 0.5}, {"eps": 0.6}, {"eps": None}]
    assert of_log(log[:2], 0.4) == []
    assert says(of_log(log, 0.4)[0], "2 of its epochs", "eps", "0.4 (0.5, 0.6)")


def test_what_an_engine_found_is_said():
    assert of_neighbours([{"epoch": 0}, {"eps": 0.4}], "exact") == []
    log = [{"epoch": 0}, {"recall": 0.9912}, {"recall": 0.98}, {"recall": 0.985}]
    assert says(of_neighbours(log, "faiss-hnsw")[0], "faiss-hnsw proposed", "0.9800 to 0.9912 (recall)")
    assert says(of_neighbours(log[:2], "faiss-hnsw")[0], "found 0.9912 (recall)")


def triplets(*pairs):
    return [{"epoch": 0}, *({"hardest_positive": one, "hardest_negative": other} for one, other in pairs)]


def test_a_triplet_that_draws_everything_together_is_told():
    """The first two are logs of runs of one recipe at half time: the first ended at 13.6 mAP, the other above 58."""
    assert says(of_triplet(triplets((6.321, 2.506), (1.496, 1.246)))[0], "1.25", "2.51", "1.50", "identity_init")
    assert of_triplet(triplets((10.9, 8.247), (4.061, 3.737))) == []
    assert of_triplet(triplets((6.0, 2.5), (3.0, 2.4))) == []  # far from one another as before
    assert of_triplet(triplets((6.0, 2.5))) == []
    assert of_triplet([{"epoch": 0}, {"epoch": 1, "loss": 1.0}]) == []
