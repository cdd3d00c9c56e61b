"""The neighbour search against a sort of all distances, pair by pair."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_pipelines.neighbours import search as neighbours
from reference_pipelines.neighbours.search import find_neighbours, pair_similarities, unit_features

ON_DEVICE = pytest.mark.parametrize("way", ["compiled", "on any device"])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(neighbours, "SEARCH_BLOCK", 23)
    monkeypatch.setattr(neighbours, "UNSETTLED_ROWS", 5)


def points(count, dim=8, seed=0, dtype=torch.float64):
    return unit_features(torch.as_tensor(np.random.default_rng(seed).normal(size=(count, dim)), dtype=dtype), "test")


def sorted_neighbours(points, k):
    """Sort by falling similarity of two vectors at a time, then by index."""
    vectors = points.double().numpy()
    indices = []
    for vector in vectors:
        similarity = [float((vector * other).sum()) for other in vectors]
        indices.append(sorted(range(len(vectors)), key=lambda j: (-similarity[j], j))[:k])
    return np.array(indices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("count", "k"), [(100, 12), (46, 30), (24, 23), (23, 30), (7, 30), (2, 1), (1, 5)])
def test_equals_the_sort(count, k, dtype):
    unit = points(count, dtype=dtype)
    found = find_neighbours(unit, k, least=True)
    assert found.indices.shape == found.similarities.shape == (count, min(k, count))
    assert np.array_equal(found.indices, sorted_neighbours(unit, k))
    cosines = unit.double() @ unit.double().T
    np.testing.assert_allclose(found.similarities, cosines.gather(1, torch.as_tensor(found.indices).long()), atol=1e-14)
    np.testing.assert_allclose(found.least, cosines.amin(1), atol=1e-6 if dtype == torch.float32 else 1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_of_equally_near_ones_the_first_are_taken_and_not_the_point_itself(dtype):
    # Three vectors, 40 copies of each in turn: a point's nearest are the first copies.
    unit = points(3, seed=1, dtype=dtype).repeat(40, 1)
    found = find_neighbours(unit, 6)
    assert np.array_equal(found.indices, (np.arange(120) % 3)[:, None] + 3 * np.arange(6))


def test_points_that_are_all_alike():
    found = find_neighbours(unit_features(torch.ones(60, 5), "test"), 4, least=True)
    assert (found.indices == np.arange(4)).all()
    assert (found.least == found.similarities[0, 0]).all()


def test_rounding_of_the_products_decides_nothing(monkeypatch):
    # Neighbours that single precision cannot order: the pair by pair similarities do.
    rng = np.random.default_rng(2)
    near = np.repeat(rng.normal(size=(4, 64)), 30, axis=0) + 1e-5 * rng.normal(size=(120, 64))
    unit = unit_features(near.astype(np.float32), "test")
    expected = sorted_neighbours(unit, 10)
    assert np.array_equal(find_neighbours(unit, 10).indices, expected)
    similarity = unit @ unit.T
    assert not np.array_equal(similarity.sort(dim=1, descending=True, stable=True).indices[:, :10].numpy(), expected)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, 15), min_size=1, max_size=70),
    st.integers(1, 40),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_ties_of_different_points_go_by_index(rows, k, dtype):
    # Vectors of +-1/2 in four dimensions: all products are exact, and most are tied.
    signs = torch.tensor([[(row >> bit & 1) - 0.5 for bit in range(4)] for row in rows], dtype=dtype)
    assert np.array_equal(find_neighbours(signs, k).indices, sorted_neighbours(signs, k))


@pytest.mark.parametrize("block", [7, 10, 64, 2000])
@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_and_threads_change_nothing(block, threads, monkeypatch):
    unit = points(90, dim=32, seed=3, dtype=torch.float32)
    expected = find_neighbours(unit, 9)
    monkeypatch.setattr(neighbours, "SEARCH_BLOCK", block)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = find_neighbours(unit, 9)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(found.indices, expected.indices)
    assert np.array_equal(found.similarities, expected.similarities)


@ON_DEVICE
def test_competing(way):
    rng = np.random.default_rng(4)
    blocks = [torch.as_tensor(rng.normal(size=(11, columns))) for columns in (3, 20, 1, 15)]
    best, columns = torch.full((11, 6), -torch.inf, dtype=torch.float64), torch.zeros((11, 6), dtype=torch.int32)
    first = 0
    for block in blocks:
        if way == "compiled":
            neighbours.compete(best.numpy(), columns.numpy(), block.numpy(), first)
        else:
            neighbours._compete_on_device(best, columns, block, first)
        first += block.shape[1]
    expected = torch.cat(blocks, dim=1).topk(6, dim=1)
    assert torch.equal(best, expected.values)
    assert torch.equal(columns.long(), expected.indices)


@ON_DEVICE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_pair_similarities(way, dtype, monkeypatch):
    monkeypatch.setattr(neighbours, "_PAIRS_AT_ONCE", 7)
    unit = points(20, dtype=dtype)
    rows, columns = np.random.default_rng(5).integers(20, size=(2, 50)).astype(np.int32)
    compute = pair_similarities if way == "compiled" else neighbours._pair_similarities_on_device
    expected = (unit.double() @ unit.double().T)[rows, columns]
    np.testing.assert_allclose(compute(unit, rows, columns), expected, atol=1e-15)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_cuda_finds_what_the_cpu_finds(dtype):
    for unit in (points(300, dim=64, dtype=dtype), points(3, seed=1, dtype=dtype).repeat(40, 1)):
        assert np.array_equal(find_neighbours(unit.cuda(), 12).indices, find_neighbours(unit, 12).indices)


@pytest.mark.parametrize(("precision", "error"), [("highest", 18 * 2.0**-24), ("high", 2.0**-10), ("medium", 2.0**-7)])
def test_shortened_products_change_nothing(precision, error):
    unit = points(200, dim=16, seed=6, dtype=torch.float32)
    expected = find_neighbours(unit, 8)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        found = find_neighbours(unit, 8)
        assert neighbours._product_error(16, torch.float32) >= error  # few processors shorten them
    finally:
        torch.set_float32_matmul_precision(before)
    assert np.array_equal(found.indices, expected.indices)


def test_near_ties_of_a_collapsed_network_are_settled():
    # Cosines so near 1 that single precision leaves every row in doubt, with and without exact duplicates.
    rng = np.random.default_rng(9)
    near = 1 + 1e-4 * rng.normal(size=(40, 64))
    unit = unit_features(np.concatenate([near, near, near[:10]]).astype(np.float32), "test")
    assert np.array_equal(find_neighbours(unit, 7).indices, sorted_neighbours(unit, 7))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64], ids=str)
def test_other_types_are_computed_in_single_precision(dtype):
    features = torch.tensor([[3.0, 4.0], [1.0, 0.0]]).to(dtype)
    unit = unit_features(features, "test")
    assert unit.dtype == torch.float32
    assert torch.allclose(unit, torch.tensor([[0.6, 0.8], [1.0, 0.0]]))


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_neighbours_do_not_depend_on_the_length_of_features(scale):
    features = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    expected = find_neighbours(unit_features(features, "test"), 5)
    found = find_neighbours(unit_features(features * scale, "test"), 5)
    assert (found.indices == expected.indices).all()
