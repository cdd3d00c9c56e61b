"""The search in a gallery against NumPy's sort of all products in double precision."""

import numpy as np
import pytest

from reference_pipelines.neighbours import gallery as module
from reference_pipelines.neighbours import search as among_all
from reference_pipelines.neighbours.gallery import find_in_gallery


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "GALLERY_BLOCK", 37)
    monkeypatch.setattr(among_all, "SEARCH_BLOCK", 10)
    monkeypatch.setattr(among_all, "UNSETTLED_ROWS", 4)


def unit(count, dim=16, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def sort(query, gallery, k):
    """Return indices and similarities; each product is summed by itself, so that those of duplicates are equal."""
    products = (query[:, None].astype(np.float64) * gallery[None].astype(np.float64)).sum(axis=2)
    order = np.argsort(-products, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(products, order, axis=1)


@pytest.mark.parametrize(("queries", "count", "k"), [(9, 100, 10), (1, 37, 37), (5, 38, 50), (3, 1, 10), (4, 75, 1)])
def test_equals_the_sort(queries, count, k):
    query, gallery = unit(queries, seed=1), unit(count, seed=2)
    found = find_in_gallery(query, gallery, k)
    indices, similarities = sort(query, gallery, k)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.similarities, similarities, atol=1e-14)


def test_ties_are_in_the_order_of_the_gallery_across_blocks():
    query, gallery = unit(6, seed=1), np.tile(unit(9, seed=2), (12, 1))
    found = find_in_gallery(query, gallery, 30)
    np.testing.assert_array_equal(found.indices, sort(query, gallery, 30)[0])


def test_what_single_precision_confuses_is_told_apart():
    base = unit(1, dim=64, seed=3)
    gallery = np.repeat(base, 60, axis=0)
    gallery[np.arange(60), np.arange(60)] = np.nextafter(gallery[np.arange(60), np.arange(60)], np.float32(2))
    query = unit(3, dim=64, seed=4)
    found = find_in_gallery(query, gallery, 20)
    np.testing.assert_array_equal(found.indices, sort(query, gallery, 20)[0])


def test_a_gallery_on_the_disk_is_read_a_block_at_a_time(tmp_path):
    query, gallery = unit(4, seed=1), unit(100, seed=2)
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    taken = []

    class Watched:
        def __len__(self):
            return len(mapped)

        def __getitem__(self, rows):
            taken.append(len(mapped[rows]))
            return mapped[rows]

    found = find_in_gallery(query, Watched(), 5)
    np.testing.assert_array_equal(found.indices, sort(query, gallery, 5)[0])
    assert taken == [37, 37, 26]
