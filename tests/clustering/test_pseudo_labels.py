"""The three ways to clusters, what happens where there are too few, and what is said of the clusters."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import mutual_info_score

from reference_pipelines.clustering import (
    cluster,
    dbscan,
    describe_clusters,
    jaccard_graph,
    kmeans,
    merge,
    normalised_mutual_information,
    purity,
)
from reference_pipelines.config.clustering import ClusteringConfig, MergingConfig
from reference_pipelines.errors import UserError
from reference_pipelines.neighbours import engines
from tests.conftest import says

SMALL = ClusteringConfig(k1=8, k2=3)


def people(count, images, spread=0.15, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(count, 16))
    return torch.as_tensor(np.repeat(centers, images, axis=0) + spread * rng.normal(size=(count * images, 16)))


def test_dbscan_runs_on_the_jaccard_graph():
    features = people(6, 10)
    found, eps, _ = cluster(features, SMALL)
    assert eps == 0.4
    graph = jaccard_graph(features, k1=8, k2=3, max_distance=0.4)
    assert found.tolist() == dbscan(graph, eps=0.4, min_samples=4).tolist()
    assert found.max() >= 2


def test_dbscan_runs_on_what_an_engine_proposes(monkeypatch):
    pytest.importorskip("faiss", reason="faiss is not installed")
    features = people(6, 10)
    config = dataclasses.replace(SMALL, engine="faiss-flat", recall=0.9)
    exact = cluster(features, SMALL)[0].tolist()
    assert cluster(features, config)[2] is None  # so few are searched exactly
    monkeypatch.setattr(engines, "SAMPLED_ROWS", 20)
    found, _, approximation = cluster(features, config)
    assert approximation == engines.Approximation(1.0, 0.9, 20)
    assert found.tolist() == exact


def test_kmeans_finds_the_groups_and_its_seed_fixes_it():
    features = people(5, 12)
    config = dataclasses.replace(SMALL, method="kmeans", kmeans=5)
    found, eps, _ = cluster(features, config, seed=3)
    assert eps is None
    assert found.tolist() == cluster(features, config, seed=3)[0].tolist()
    pairs = {(group, int(label)) for group, label in zip(np.repeat(np.arange(5), 12).tolist(), found, strict=True)}
    assert len(pairs) == len(set(found)) == 5
    assert len(set(kmeans(features, clusters=4, seed=3))) == 4


def test_kmeans_is_begun_once_from_its_seed():
    features = np.random.default_rng(0).normal(size=(60, 3))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    once, twice = (KMeans(8, n_init=times, random_state=0).fit(unit).labels_ for times in (1, 2))
    assert normalised_mutual_information(once, twice) < 1
    assert normalised_mutual_information(kmeans(features, clusters=8, seed=0), once) == pytest.approx(1)


def test_kmeans_over_fewer_distinct_points_than_clusters_numbers_what_it_finds():
    with pytest.warns(UserWarning, match="distinct clusters"):
        found = kmeans(np.repeat(np.eye(3), 4, axis=0), clusters=5, seed=0)
    assert sorted(set(found)) == [0, 1, 2]


def test_kmeans_closes_the_gap_that_an_empty_cluster_leaves(monkeypatch):
    monkeypatch.setattr("sklearn.cluster.KMeans.fit_predict", lambda self, points: np.array([2, 0, 2]))
    assert kmeans(np.eye(3), clusters=3, seed=0).tolist() == [1, 0, 1]


def test_merging_goes_on_from_the_epoch_before_at_its_steps():
    features = people(10, 4)
    steps = MergingConfig(first=2, every=3, share=0.25, size_weight=0.01, least=15)
    config = dataclasses.replace(SMALL, method="agglomerative", merging=steps)
    labels, counts = None, []
    for epoch in range(1, 13):
        before = labels
        labels, eps, _ = cluster(features, config, previous=before, epoch=epoch)
        assert eps is None
        counts.append(labels.max() + 1)
        if epoch == 6:
            assert labels.tolist() == merge(features, before, merges=10, size_weight=0.01).tolist()
    assert counts == [40, 40, 30, 30, 30, 20, 20, 20, 15, 15, 15, 15]


def test_too_few_clusters_stop_with_one_sentence():
    features = people(6, 10)
    alone = dataclasses.replace(SMALL, min_samples=60)
    with pytest.raises(UserError, match="at least two clusters, DBSCAN .*no cluster .*60 of 60 images .*noise"):
        cluster(features, alone)
    similar = torch.ones(20, 4) + 0.001 * torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="DBSCAN .*one cluster .* 0 of 20 images .*noise"):
        cluster(similar, dataclasses.replace(SMALL, eps=0.9))
    with pytest.raises(UserError, match="k-means .*one cluster .* 0 of 20 images"), pytest.warns(match="distinct"):
        cluster(torch.ones(20, 4), dataclasses.replace(SMALL, method="kmeans", kmeans=3))


def advice(features, **options):
    """What is said where the clustering finds too few."""
    with pytest.raises(UserError) as refused:
        cluster(features, dataclasses.replace(SMALL, **options))
    return str(refused.value).partition("noise; ")[2]


def test_beside_one_cluster_noise_asks_for_a_larger_radius():
    rng = np.random.default_rng(0)
    together = np.repeat(rng.normal(size=(1, 16)), 10, axis=0) + 0.1 * rng.normal(size=(10, 16))
    features = torch.tensor(np.concatenate([together, rng.normal(size=(6, 16))]), dtype=torch.float32)
    assert advice(features, eps=0.4).startswith("raise --clustering.eps (now 0.4)")
    found, eps, _ = cluster(features, dataclasses.replace(SMALL, eps=0.4, relax_eps=0.1))
    assert (found.max() + 1, eps) == (2, 0.5)


def test_an_advised_radius_gives_what_it_promises():
    features = people(3, 10, spread=1.0)
    for options, verb in (
        ({"k1": 20, "k2": 1, "eps": 0.05}, "raise"),
        ({"k1": 20, "k2": 1, "eps": 0.9}, "lower"),
    ):
        said = advice(features, **options)
        radius, count = re.match(
            rf"{verb} --clustering\.eps \(now {options['eps']}\): at (\S+) there are (\d+) c", said
        ).groups()
        found, *_ = cluster(features, dataclasses.replace(SMALL, **{**options, "eps": float(radius)}))
        assert found.max() + 1 == int(count) > 1


def test_where_no_radius_helps_another_option_is_named_that_does():
    features = people(6, 10)
    assert says(advice(features, min_samples=60), "--clustering.eps (now 0.4)", "--clustering.min_samples")
    tried = advice(features, min_samples=60, relax_eps=0.1, relax_limit=0.75)
    assert says(tried, "(now 0.4, ", " 0.7 ")
    assert cluster(features, dataclasses.replace(SMALL, min_samples=4))[0].max() > 0
    for k1 in (60, 100):
        assert f"--clustering.k1 {k1} each of the 60 images " in advice(features, k1=k1, eps=0.9)
    assert cluster(features, dataclasses.replace(SMALL, k1=10, eps=0.9))[0].max() > 0


@pytest.mark.parametrize("length", [0.0, 1e-20, 1.0])
def test_equal_features_are_named_whatever_their_length(length):
    said = advice(torch.full((20, 4), length), eps=0.9)
    assert says(said, "all images", "same feature", "other weights")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "kmeans", "kmeans": 21}, r"got 20 images; .*--clustering\.kmeans \(now 21\)"),
        ({"min_samples": 21}, r"got 20 images; .*--clustering\.min_samples \(now 21\)"),
    ],
)
def test_too_few_images_are_refused_whatever_their_features(options, said):
    config = dataclasses.replace(SMALL, **options)
    with pytest.raises(UserError, match=said):
        config.check_images(20)
    with pytest.raises(UserError, match=said):
        cluster(people(2, 10), config)
    config.check_images(21)


def test_eps_is_raised_until_there_are_two_clusters_and_it_is_said(capsys):
    features = people(3, 10, spread=1.0)
    config = ClusteringConfig(k1=20, k2=1, eps=0.05, relax_eps=0.1, relax_limit=0.75)
    with pytest.raises(UserError, match=r"no cluster .*\(now 0\.05\)"):
        cluster(features, dataclasses.replace(config, relax_eps=0.0))
    found, eps, _ = cluster(features, config)
    said = capsys.readouterr().out
    assert eps == float(said.rpartition(" ")[2]) > 0.05
    assert said == (
        f"clustering: DBSCAN found no cluster at eps 0.05; this epoch has {found.max() + 1} clusters, at eps {eps:g}\n"
    )

    def at(radius):
        graph = jaccard_graph(features, k1=20, k2=1, max_distance=radius)
        return dbscan(graph, eps=radius, min_samples=config.min_samples)

    assert found.tolist() == at(eps).tolist()
    last = cluster(features, dataclasses.replace(config, relax_limit=eps))
    assert (last[0].tolist(), last[1]) == (found.tolist(), eps)
    assert at(round(eps - 0.1, 9)).max() < 1


def test_eps_is_lowered_where_all_are_one_cluster(capsys):
    features = people(3, 10, spread=1.0)
    found, eps, _ = cluster(features, ClusteringConfig(k1=20, k2=1, eps=0.9, relax_eps=0.1))
    assert eps == 0.6
    graph = jaccard_graph(features, k1=20, k2=1, max_distance=0.6)
    assert found.tolist() == dbscan(graph, eps=0.6, min_samples=4).tolist()
    said = "clustering: DBSCAN found one cluster at eps 0.9; this epoch has 2 clusters, at eps 0.6\n"
    assert capsys.readouterr().out == said


def test_describe_clusters_by_hand():
    clusters = np.array([0, 0, 1, -1])
    found = describe_clusters(clusters, np.array([5, 6, 7, 7]), np.array([1, 1, 2, 2]))
    sizes = {"clusters": 2, "noise": 0.25, "smallest": 1, "median": 1.5, "largest": 2}
    # Of three images: H(clusters) = 0.6365, H(ids) = 1.0986, I = H(clusters).
    nmi = pytest.approx(2 * 0.63651 / (0.63651 + 1.09861), abs=1e-4)
    assert found == {**sizes, "id_purity": pytest.approx(2 / 3), "id_nmi": nmi, "camera_purity": 1.0}
    unknown = {"id_purity": None, "id_nmi": None, "camera_purity": None}
    assert describe_clusters(clusters) == {**sizes, **unknown}
    none = {"clusters": 0, "noise": 1.0, "smallest": 0, "median": 0.0, "largest": 0}
    assert describe_clusters(np.array([-1, -1])) == {**none, **unknown}


@pytest.mark.parametrize("labels", [[7, 7, 7, 7], [7, 8, 9, 10]])
def test_labels_that_tell_nothing_apart_have_no_purity(labels):
    clusters = np.array([0, 0, 1, 1])
    found = describe_clusters(clusters, np.array(labels), np.array(labels))
    assert (found["id_purity"], found["id_nmi"], found["camera_purity"]) == (None, None, None)
    known = describe_clusters(clusters, np.array([7, 7, 8, 8]), np.array(labels))
    assert (known["id_purity"], known["id_nmi"], known["camera_purity"]) == (1.0, 1.0, None)


def test_clusters_of_one_image_each_have_no_purity():
    found = describe_clusters(np.array([0, 1, 2, -1]), np.array([7, 7, 8, 8]), np.array([1, 1, 2, 2]))
    assert (found["clusters"], found["id_purity"], found["id_nmi"], found["camera_purity"]) == (3, None, None, None)


def test_purity_by_hand():
    clusters = np.array([0, 0, 0, 1, 1, -1])
    assert purity(clusters, np.array([7, 7, 8, 9, 9, 7])) == pytest.approx(4 / 5)
    assert purity(clusters, np.array([1, 2, 3, 1, 2, 1])) == pytest.approx(2 / 5)
    assert purity(np.array([-1, -1]), np.array([1, 2])) == 0.0


def test_purity_equals_the_loop_over_clusters():
    rng = np.random.default_rng(0)
    clusters, ids = rng.integers(-1, 12, size=200), rng.integers(100, 109, size=200)
    most = sum(np.bincount(ids[clusters == cluster]).max() for cluster in range(12))
    assert purity(clusters, ids) == pytest.approx(most / (clusters >= 0).sum())


def test_mutual_information_leaves_noise_out():
    clusters, ids = np.array([0, 0, 1, 1, 2, -1]), np.array([4, 4, 4, 9, 9, 9])
    kept_clusters, kept_ids = clusters[:5], ids[:5]
    entropies = mutual_info_score(kept_clusters, kept_clusters) + mutual_info_score(kept_ids, kept_ids)
    expected = 2 * mutual_info_score(kept_clusters, kept_ids) / entropies
    assert normalised_mutual_information(clusters, ids) == pytest.approx(expected)
    assert normalised_mutual_information(np.array([-1]), np.array([1])) == 0.0
    assert normalised_mutual_information(np.array([1, 0]), np.array([8, 9])) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k2": 31}, r"clustering\.k2 .* 1 .*at most clustering\.k1, got 31"),
        ({"eps": 1.0}, r"clustering\.eps .*between 0 and 1, got 1\.0"),
        ({"min_samples": 0}, r"clustering\.min_samples .* 1, got 0"),
        ({"relax_eps": -0.1}, r"clustering\.relax_eps .* 0 .*below 1, got -0\.1"),
        ({"relax_limit": 1.0}, r"clustering\.relax_limit .*between 0 and 1, got 1\.0"),
        ({"kmeans": 1}, r"clustering\.kmeans .* 2, got 1"),
    ],
)
def test_config_refusals(options, message):
    with pytest.raises(UserError, match=message):
        ClusteringConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first": -1}, "first .* 0, got -1"),
        ({"every": 0}, "every .* 1, got 0"),
        ({"share": 1.0}, r"share .*between 0 and 1, got 1\.0"),
        ({"size_weight": -1.0}, r"size_weight .* 0, got -1\.0"),
        ({"least": 1}, "least .* 2, got 1"),
    ],
)
def test_merging_config_refusals(options, message):
    with pytest.raises(UserError, match=rf"clustering\.merging\.{message}"):
        MergingConfig(**options)


@pytest.mark.parametrize("clusters", [0, 4])
def test_kmeans_refusals(clusters):
    with pytest.raises(ValueError, match=f"at least 1 .*at most .*3 points, got {clusters}"):
        kmeans(np.eye(3), clusters=clusters, seed=0)
