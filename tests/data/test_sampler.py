"""P x K batches as data."""

from collections import Counter

import numpy as np
import pytest

from reference_pipelines.config.sampling import ClusterSamplerConfig, SamplerConfig
from reference_pipelines.data.sampler import cluster_batches, identity_batches, in_order
from reference_pipelines.errors import UserError

LABELS = np.repeat(np.arange(7), [9, 4, 1, 5, 8, 4, 12])


def indices(batch):
    return [draw.image for draw in batch]


def test_in_order():
    assert [indices(batch) for batch in in_order(5, 2)] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("epoch", ["chunks", "ids"])
def test_a_batch_holds_p_people_with_k_images_each(epoch):
    batches = identity_batches(LABELS, SamplerConfig(ids=3, images=4, epoch=epoch), (0, 1))
    assert batches
    for batch in batches:
        assert sorted(Counter(LABELS[indices(batch)]).values()) == [4, 4, 4]


def test_chunks_use_an_image_once_and_ids_use_a_person_once():
    chunks = identity_batches(LABELS, SamplerConfig(ids=1, images=4, epoch="chunks"), (0, 1))
    drawn = Counter(index for batch in chunks for index in indices(batch))
    single = np.flatnonzero(LABELS == 2)[0]
    assert all(count == 1 for index, count in drawn.items() if index != single)
    assert drawn[single] == 4  # one image, with replacement
    people = Counter(LABELS[indices(batch)[0]] for batch in chunks)
    assert people == {0: 2, 1: 1, 2: 1, 3: 1, 4: 2, 5: 1, 6: 3}
    once = identity_batches(LABELS, SamplerConfig(ids=1, images=4, epoch="ids"), (0, 1))
    assert sorted(LABELS[indices(batch)[0]] for batch in once) == list(range(7))


def test_a_seed_fixes_everything_and_another_changes_it():
    config = SamplerConfig(ids=2, images=4)
    assert identity_batches(LABELS, config, (0, 1)) == identity_batches(LABELS, config, (0, 1))
    assert identity_batches(LABELS, config, (0, 1)) != identity_batches(LABELS, config, (0, 2))


def test_fewer_people_than_p_is_refused():
    with pytest.raises(UserError, match=r"8 different people, .* 7; .*--sampler\.ids .*7"):
        identity_batches(LABELS, SamplerConfig(ids=8), (0,))


CLUSTERS = np.array([0] * 6 + [1] * 3 + [2] * 1 + [-1] * 4 + [3] * 10)
CAMERAS = np.array([1, 1, 1, 2, 2, 3] + [1, 1, 1] + [2] + [1] * 4 + [1] * 9 + [2])


def drawn_by_cluster(config, iterations=40):
    for batch in cluster_batches(CLUSTERS, CAMERAS, config, iterations, (5, 1)):
        for start in range(0, len(batch), config.images):
            yield indices(batch)[start : start + config.images]


def test_cluster_batches_never_draw_noise_and_keep_p_times_k():
    batches = cluster_batches(CLUSTERS, CAMERAS, ClusterSamplerConfig(ids=2, images=4), 25, (0,))
    assert len(batches) == 25
    for batch in batches:
        labels = CLUSTERS[indices(batch)]
        assert (labels >= 0).all()
        assert sorted(Counter(labels).values()) == [4, 4]


def test_each_cluster_comes_once_a_pass():
    order = [CLUSTERS[group[0]] for group in drawn_by_cluster(ClusterSamplerConfig(ids=2, images=4))]
    for start in range(0, len(order), 4):
        assert sorted(order[start : start + 4]) == [0, 1, 2, 3]


def test_other_cameras_are_preferred_and_can_be_ignored():
    for group in drawn_by_cluster(ClusterSamplerConfig(ids=4, images=4)):
        first, *rest = group
        label = CLUSTERS[first]
        elsewhere = {i for i in np.flatnonzero(label == CLUSTERS) if CAMERAS[i] != CAMERAS[first]}
        if elsewhere:
            assert set(rest) <= elsewhere
            assert len(elsewhere) < 4 or len(set(rest)) == 3  # with replacement only below K
        elif label == 2:
            assert set(rest) == {first}
        else:
            assert first not in rest
    ignoring = list(drawn_by_cluster(ClusterSamplerConfig(ids=4, images=4, other_cameras=False)))
    cameras = [set(CAMERAS[group]) for group in ignoring if CLUSTERS[group[0]] == 3]
    assert any(len(seen) == 1 for seen in cameras)


def test_clusters_that_fill_no_batch_wait_for_the_next_pass():
    order = [CLUSTERS[group[0]] for group in drawn_by_cluster(ClusterSamplerConfig(ids=3, images=2), iterations=60)]
    passes = [order[start : start + 3] for start in range(0, len(order), 3)]
    assert all(len(set(together)) == 3 for together in passes)
    left_out = Counter(({0, 1, 2, 3} - set(together)).pop() for together in passes)
    assert set(left_out) == {0, 1, 2, 3}


def test_any_image_of_a_cluster_may_be_its_first():
    firsts = {group[0] for group in drawn_by_cluster(ClusterSamplerConfig(ids=4, images=2), iterations=200)}
    assert firsts == set(np.flatnonzero(CLUSTERS >= 0))


def test_one_image_a_cluster_is_the_first_one_alone():
    alone = np.arange(6)
    config = ClusterSamplerConfig(ids=6, images=1)
    batches = cluster_batches(alone, np.ones(6), config, 3, (0,))
    assert [sorted(indices(batch)) for batch in batches] == [list(range(6))] * 3
    assert all(len(group) == 1 for group in drawn_by_cluster(config))


def test_fewer_clusters_than_p_make_smaller_batches():
    batches = cluster_batches(CLUSTERS, CAMERAS, ClusterSamplerConfig(ids=8, images=2), 3, (0,))
    assert [len(batch) for batch in batches] == [8, 8, 8]


def test_all_noise_is_refused():
    with pytest.raises(ValueError, match="every label .*noise"):
        cluster_batches(np.array([-1, -1]), np.array([1, 2]), ClusterSamplerConfig(), 3, (0,))
