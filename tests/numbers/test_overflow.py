"""Features whose squares no longer fit their number format rank, cluster and calibrate as the same directions do."""

import numpy as np
import pytest
import torch

from reference_pipelines.clustering import jaccard_graph
from reference_pipelines.clustering.agglomerative import merge
from reference_pipelines.clustering.kmeans import kmeans
from reference_pipelines.matching import calibrate
from reference_pipelines.retrieval import evaluate, rerank
from reference_pipelines.retrieval.distances import feature_distances

IDS, CAMERAS = np.repeat(np.arange(1, 7), 6), np.tile([1, 2, 3], 12)
Q = CAMERAS == 1
RATES = (0.1, 0.2)


def features(dtype):
    """Return (36, 16) of six people, whole numbers up to 200, which every format holds."""
    drawn = np.random.default_rng(3)
    people = drawn.integers(-50, 50, (6, 16)).repeat(6, axis=0)
    return torch.from_numpy((people + drawn.integers(-90, 90, (36, 16))).astype(np.float64)).to(dtype)


# The squares of the longer ones are Inf in the format, or 0.
FORMATS = [(torch.float16, 256.0), (torch.float16, 2.0**-14), (torch.float32, 2.0**100), (torch.float32, 2.0**-100)]
every_format = pytest.mark.parametrize(("dtype", "factor"), FORMATS, ids=[f"{d} x {f:g}" for d, f in FORMATS])


def pair(dtype, factor):
    plain = features(torch.float64)
    long = plain.to(dtype) * factor
    squares = long.square()
    assert squares.isinf().any() or (squares == 0).any()
    assert long.isfinite().all()
    assert torch.equal(long.double() / factor, plain)
    return plain.float(), long


@every_format
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_scores_are_those_of_the_directions(dtype, factor, metric):
    plain, long = pair(dtype, factor)
    own, scaled = (
        evaluate(each[Q], IDS[Q], CAMERAS[Q], each[~Q], IDS[~Q], CAMERAS[~Q], metric=metric) for each in (plain, long)
    )
    assert (scaled.mAP, scaled.cmc, scaled.mINP) == (own.mAP, own.cmc, own.mINP)
    assert 0.3 < own.mAP < 1


@every_format
def test_distances_are_finite_and_those_of_the_directions(dtype, factor):
    plain, long = pair(dtype, factor)
    own, scaled = (feature_distances(each, each).rows(slice(0, 36)) for each in (plain, long))
    torch.testing.assert_close(scaled, own, rtol=0, atol=1e-6)
    scaled = feature_distances(long, long, "euclidean").rows(slice(0, 36))
    wanted = torch.cdist(plain.double(), plain.double(), compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(scaled.double() / factor, wanted, rtol=1e-6, atol=0)


@every_format
def test_clusters_and_reranking_are_those_of_the_directions(dtype, factor):
    plain, long = pair(dtype, factor)
    own, scaled = (jaccard_graph(each, k1=6, k2=2, max_distance=0.9) for each in (plain, long))
    np.testing.assert_allclose(scaled.toarray(), own.toarray(), atol=1e-6)
    for found in (lambda each: kmeans(each, clusters=6, seed=0), lambda each: merge(each, np.arange(36), merges=20)):
        np.testing.assert_array_equal(found(long), found(plain))
    own, scaled = (rerank(each[Q], each[~Q], k1=6, k2=2).rows(slice(0, 12)) for each in (plain, long))
    torch.testing.assert_close(scaled.float(), own.float(), rtol=0, atol=1e-5)


@every_format
def test_a_calibration_is_that_of_the_directions(dtype, factor):
    plain, long = pair(dtype, factor)
    own, scaled = (
        [
            point["threshold"]
            for point in calibrate(each.numpy(), IDS, CAMERAS, rates=RATES).to_plain()["pooled"]["points"]
        ]
        for each in (plain, long)
    )
    assert 0 < min(own) < max(own) < 1
    assert scaled == pytest.approx(own, abs=1e-6)


def test_squares_that_overflow_double_precision_are_refused():
    wide = features(torch.float64)
    wide[3] *= 1e160
    with pytest.raises(ValueError, match=r"gallery_features must be within 1e\+150 for Euclidean distances"):
        feature_distances(features(torch.float64), wide, "euclidean")
    assert feature_distances(wide, wide).rows(slice(0, 36)).isfinite().all()
