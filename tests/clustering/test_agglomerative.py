"""Bottom-up merging against a search of all pairs before every merge."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_pipelines.clustering import agglomerative, merge
from tests.oracles import clustering as oracle


def groups_of(clusters):
    return {frozenset(np.flatnonzero(clusters == cluster).tolist()) for cluster in np.unique(clusters)}


def numbered(values):
    return np.unique(values, return_inverse=True)[1]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(2, 24),
    before=st.integers(1, 24),
    part=st.floats(0, 1),
    size_weight=st.sampled_from([0.0, 0.005, 0.1]),
    nearest=st.sampled_from([1, 2, 16]),
)
def test_equals_the_search_of_all_pairs(seed, count, before, part, size_weight, nearest):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 3))
    clusters = numbered(rng.integers(before, size=count))
    merges = round(part * clusters.max())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agglomerative, "_NEAREST", nearest)
        patch.setattr(agglomerative, "_BLOCK", 50)
        merged = merge(features, clusters, merges=merges, size_weight=size_weight)
    expected = oracle.single_linkage(features, clusters.tolist(), merges, size_weight)
    assert groups_of(merged) == {frozenset(group) for group in expected}


def test_two_merges_by_hand():
    angles = np.radians([0, 50, 10, 90, 52])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert merge(features, np.arange(5), merges=1).tolist() == [0, 1, 2, 3, 1]
    assert merge(features, np.arange(5), merges=2).tolist() == [0, 1, 0, 2, 1]
    assert merge(features, np.array([0, 1, 0, 2, 1]), merges=1).tolist() == [0, 1, 0, 1, 1]
    assert merge(features, np.array([4, 3, 2, 1, 0]), merges=1).tolist() == [0, 1, 2, 3, 1]


def test_of_equally_near_pairs_the_first_are_merged():
    count = 100
    angles = np.random.default_rng(0).uniform(0.2, 0.7, count)
    features = np.zeros((count, 4, 3, count))  # of each group two are equal and two at an angle
    for group, angle in enumerate(angles):
        features[group, :2, 0, group] = features[group, 2, 1, group] = 1
        features[group, 3, 1:, group] = np.cos(angle), np.sin(angle)
    merged = merge(features.reshape(4 * count, -1), np.arange(4 * count), merges=count // 2).reshape(count, 4)
    assert (merged[:, 0] == merged[:, 1]).tolist() == [group < count // 2 for group in range(count)]


def test_a_cluster_too_large_to_be_near_anyone_is_merged_all_the_same():
    angles = np.radians([0, 1, 2, 3, 4, 20])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert merge(features, np.array([0, 0, 0, 0, 0, 1]), merges=1, size_weight=1.0).tolist() == [0] * 6


def test_size_keeps_large_clusters_from_growing():
    angles = np.radians([0, 1, 2, 3, 10, 100, 110])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    clusters = np.array([0, 0, 0, 0, 1, 2, 3])
    # Squared, 7 and 10 degrees are 0.0149 and 0.0304 apart; the one pair has 5 images, the other 2.
    assert merge(features, clusters, merges=1, size_weight=0.0051).tolist() == [0, 0, 0, 0, 0, 1, 2]
    assert merge(features, clusters, merges=1, size_weight=0.0053).tolist() == [0, 0, 0, 0, 1, 2, 2]


def test_identical_images_merge_first_however_many():
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(size=(4, 6)), 30, axis=0)
    merged = merge(features, np.arange(120), merges=116)
    assert merged.tolist() == np.repeat(np.arange(4), 30).tolist()


def test_clusters_larger_than_what_is_looked_up_merge_too():
    rng = np.random.default_rng(0)
    angles = np.radians(np.repeat([0, 50, 120], 40)) + 0.01 * rng.normal(size=120)
    features, clusters = np.stack([np.cos(angles), np.sin(angles)], axis=1), np.repeat([0, 1, 2], 40)
    assert merge(features, clusters, merges=1).tolist() == np.repeat([0, 0, 1], 40).tolist()
    assert merge(features, clusters, merges=2).tolist() == [0] * 120


def test_no_merge_only_numbers_by_the_first_image():
    assert merge(np.eye(4), np.array([2, 0, 2, 1]), merges=0).tolist() == [0, 1, 0, 2]


def test_steps_one_after_another_are_the_same_as_all_at_once():
    features = torch.randn(60, 5, generator=torch.Generator().manual_seed(1))
    clusters = np.arange(60)
    for _ in range(5):
        clusters = merge(features, clusters, merges=9)
    assert clusters.tolist() == merge(features, np.arange(60), merges=45).tolist()


@pytest.mark.parametrize(
    ("clusters", "options", "message"),
    [
        ([0, 1], {}, r"clusters .*\(3,\), .*got \(2,\)"),
        ([0, -1, 1], {}, "clusters .*member .*without noise"),
        ([0, 2, 2], {}, "clusters .*member .*without noise"),
        ([0, 1, 1], {"merges": 2}, "merges .*0 .*below .*2 clusters, got 2"),
        ([0, 1, 1], {"size_weight": -0.1}, r"size_weight .*0, got -0\.1"),
    ],
)
def test_refusals(clusters, options, message):
    with pytest.raises(ValueError, match=message):
        merge(np.eye(3), np.array(clusters), **{"merges": 1, **options})
