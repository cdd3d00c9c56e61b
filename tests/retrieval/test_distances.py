"""Distances a block at a time: as exact as they promise, on features that cancel, tie or repeat."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_pipelines.retrieval import distances as module
from reference_pipelines.retrieval import evaluate, feature_distances

EPS = torch.finfo(torch.float32).eps


def exact(query, gallery):
    """Return the Euclidean distances by differences, in extended precision."""
    apart = np.asarray(query, dtype=np.longdouble)[:, None] - np.asarray(gallery, dtype=np.longdouble)
    return np.sqrt((apart**2).sum(axis=2))


def whole(distances):
    return distances.rows(slice(0, distances.shape[0]))


def assert_as_exact_as_float32(query, gallery):
    found = whole(feature_distances(query, gallery, "euclidean"))
    assert found.dtype == torch.float32
    expected = exact(query, gallery)
    assert (np.abs(found.numpy() - expected) <= 2 * EPS * expected).all()


@pytest.fixture(params=[4096, 7])
def columns(request, monkeypatch):
    monkeypatch.setattr(module, "_COLUMNS", request.param)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("offset", [0.0, 10.0, 1e4])
@pytest.mark.parametrize("few", [0, 16])
def test_euclidean_keeps_near_ties_of_long_features(offset, few, columns, monkeypatch):
    monkeypatch.setattr(module, "_FEW", few)
    query, gallery = random(9, 16) + offset, random(30, 16, seed=1) + offset
    gallery[:9] = query  # no distance at all
    gallery[9:18] = query * (1 + EPS)  # the nearest there is
    gallery[18:27] = query + 1e-3
    assert_as_exact_as_float32(query, gallery)
    assert (whole(feature_distances(query, gallery, "euclidean")).diagonal() == 0).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1e-25, 1e-3, 1.0, 1e25]), st.sampled_from([1e-7, 1e-4, 1.0]))
def test_euclidean_is_as_exact_as_float32_at_any_scale(seed, scale, spread):
    centre = random(1, 5, seed=seed)
    query, gallery = (scale * (centre + spread * random(n, 5, seed=seed + n)) for n in (4, 6))
    assert_as_exact_as_float32(query, gallery)


def test_of_float64_features_the_distances_are_float64():
    query, gallery = random(4, 3).double() + 1e6, random(5, 3).double() + 1e6
    for metric in ("cosine", "euclidean"):
        assert whole(feature_distances(query.float(), gallery, metric)).dtype == torch.float64
    found = whole(feature_distances(query, gallery, "euclidean")).numpy()
    np.testing.assert_allclose(found, exact(query, gallery).astype(np.float64), rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_half_precision_is_computed_in_single(dtype, metric):
    query, gallery = random(4, 64).to(dtype), random(5, 64, seed=1).to(dtype)
    found = whole(feature_distances(query, gallery, metric))
    torch.testing.assert_close(found, whole(feature_distances(query.float(), gallery.float(), metric)), rtol=0, atol=0)


def test_cosine_is_one_minus_the_cosine_and_an_empty_vector_has_none():
    query = torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    gallery = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0], [1.0, 1.0]])
    expected = torch.tensor([[0.0, 1.0, 2.0, 1 - 2**-0.5], [1.0] * 4])
    torch.testing.assert_close(whole(feature_distances(query, gallery)), expected)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_block_is_those_rows_and_nothing_larger_is_made(metric):
    distances = feature_distances(random(20, 8), random(30, 8, seed=1), metric)
    assert distances.shape == (20, 30)
    assert distances.rows(slice(5, 12)).shape == (7, 30)
    torch.testing.assert_close(distances.rows(slice(5, 12)), whole(distances)[5:12])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_features_are_not_written_to(metric):
    query, gallery = random(4, 8), random(5, 8)
    before = query.clone(), gallery.clone()
    whole(feature_distances(query, gallery, metric))
    assert torch.equal(query, before[0])
    assert torch.equal(gallery, before[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_on_a_gpu_the_figures_are_the_same(metric):
    rng = np.random.default_rng(0)
    ids, cameras = rng.integers(1, 40, 600), rng.integers(1, 4, 600)
    features = random(600, 32) + random(40, 32, seed=1)[ids]
    arguments = (features[:200], ids[:200], cameras[:200], features[200:], ids[200:], cameras[200:])
    assert whole(feature_distances(features[:2], features, metric, device="cuda")).is_cuda
    on_cpu = evaluate(*arguments, metric=metric)
    on_gpu = evaluate(*arguments, metric=metric, device="cuda")
    assert on_gpu.average_precision == pytest.approx(on_cpu.average_precision, abs=1e-4)
