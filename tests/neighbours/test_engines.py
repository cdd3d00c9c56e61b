"""What engines propose against the exact search, and how hard they are made to look."""

import sys

import numpy as np
import pytest
import torch

from reference_pipelines.errors import UserError
from reference_pipelines.neighbours import engines
from reference_pipelines.neighbours.engines import Approximation, check_engine, least_effort
from reference_pipelines.neighbours.gallery import find_in_gallery
from reference_pipelines.neighbours.search import find_neighbours, pair_similarities, unit_features

ROWS = 200
FAISS = ("faiss-flat", "faiss-hnsw")


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    monkeypatch.setattr(engines, "SAMPLED_ROWS", ROWS)


def clustered(count, seed=0):
    rng = np.random.default_rng(seed)
    people = rng.normal(size=(count // 10, 32))
    rows = people[rng.integers(len(people), size=count)] + 0.4 * rng.normal(size=(count, 32))
    return unit_features(rows.astype(np.float32), "test")


class Misses:
    """An index that finds the nearest but the first so many, which fall as its effort rises, and notes its searches."""

    def __init__(self, vectors, misses):
        self.vectors, self.misses, self.efforts, self.searched = vectors, misses, tuple(misses), []

    def search(self, query, width, effort):
        self.searched.append((len(query), effort))
        order = np.argsort(-(query @ self.vectors.T), axis=1, kind="stable")[:, :width]
        order[:, : self.misses[effort]] = -1
        return order


@pytest.fixture
def index(monkeypatch):
    """Return what has an index searched in place of an engine's."""

    def use(index):
        monkeypatch.setattr(engines, "require_engine", lambda engine: None)
        monkeypatch.setattr(engines, "build_index", lambda engine, vectors, processes=None: index)
        return index

    return use


def searches(points, k, **options):
    """Return the search among all points and that of them in themselves as a gallery."""
    vectors = points.numpy()
    return find_neighbours(points, k, **options), find_in_gallery(vectors, vectors, k, **options)


@pytest.mark.parametrize("engine", FAISS)
def test_the_recall_is_what_is_found_of_the_sampled_rows_and_at_least_the_target(engine):
    pytest.importorskip("faiss", reason="faiss is not installed")
    points, k = clustered(1500), 12
    exact = find_neighbours(points, k)
    rows = engines.sample_rows(len(points))
    for found in searches(points, k, engine=engine, recall=0.95):
        hits = [len({*a} & {*b}) for a, b in zip(found.indices[rows], exact.indices[rows], strict=True)]
        assert found.approximation == Approximation(pytest.approx(np.mean(hits) / k), 0.95, ROWS)
        assert found.approximation.recall >= 0.95
        pairs = np.repeat(np.arange(1500, dtype=np.int32), k), found.indices.ravel().astype(np.int32)
        assert np.array_equal(found.similarities.ravel(), pair_similarities(points, *pairs))
        assert (np.diff(found.similarities, axis=1) <= 0).all()


def test_a_graph_finds_more_the_harder_it_looks():
    pytest.importorskip("faiss", reason="faiss is not installed")
    vectors = unit_features(np.random.default_rng(1).normal(size=(2000, 64)).astype(np.float32), "test").numpy()
    index = engines.build_index("faiss-hnsw", vectors)
    true = np.argsort(-(vectors[:100] @ vectors.T), axis=1)[:, :10]
    hits = [
        np.mean([len({*a} & {*b}) for a, b in zip(index.search(vectors[:100], 10, effort), true, strict=True)])
        for effort in (10, index.efforts[0], index.efforts[-1])
    ]
    assert hits[0] < hits[1] <= hits[2]


@pytest.mark.parametrize(
    ("target", "effort", "recall"), [(0.6, 1, 0.6), (0.61, 2, 0.7), (0.99, 4, 0.99), (1.0, 8, 1.0)]
)
def test_the_least_effort_that_reaches_the_target_is_taken(index, target, effort, recall):
    points = clustered(600)
    for search in (0, 1):
        used = index(Misses(points.numpy(), {1: 40, 2: 30, 4: 1, 8: 0, 16: 0}))
        found = searches(points, 100, engine="faiss-hnsw", recall=target)[search]
        assert used.searched[-1] == (600, effort)
        assert (ROWS, effort * 2) not in used.searched
        assert found.approximation.recall == pytest.approx(recall)


def test_a_target_that_is_not_reached_is_said(index):
    points = clustered(400)
    for search in (0, 1):
        index(Misses(points.numpy(), {1: 4, 2: 3}))
        found = searches(points, 10, engine="faiss-hnsw", recall=0.9)[search]
        assert str(found.approximation) == "recall 0.7000 on 200 sampled rows, below the 0.9 asked for"
    assert str(Approximation(0.99, 0.99, 1000)) == "recall 0.9900 on 1,000 sampled rows"


def test_of_equally_near_ones_none_is_missed():
    class Any:
        efforts = (1,)

    nearest = np.array([[1.0, 0.5, 0.5]] * 4)
    found = np.array([[1.0, 0.5, 0.5], [1.0, 0.5, 0.25], [0.5, 0.5, 0.5], [1.0, 0.5, -np.inf]])
    assert least_effort(Any(), lambda effort: found, nearest, 0.5)[1].recall == 10 / 12


def test_where_too_few_are_proposed_all_points_are_searched_and_a_gallery_is_not(index):
    points = clustered(300)
    index(Misses(points.numpy(), {1: 16}))  # of k + 8 = 18 proposed
    among_all, in_gallery = searches(points, 10, engine="faiss-hnsw")
    exact = find_neighbours(points, 10)
    assert np.array_equal(among_all.indices, exact.indices)
    assert np.array_equal(among_all.similarities, exact.similarities)
    assert (in_gallery.indices[:, 2:] == -1).all()
    assert (in_gallery.similarities[:, 2:] == -np.inf).all()
    assert (in_gallery.indices[:, :2] >= 0).all()
    assert in_gallery.approximation.recall == 0


@pytest.mark.parametrize("engine", FAISS)
def test_as_few_rows_as_are_sampled_are_searched_exactly(index, engine):
    points = clustered(ROWS)
    index(None)
    for found, exact in zip(searches(points, 8, engine=engine), searches(points, 8), strict=True):
        assert np.array_equal(found.indices, exact.indices)
        assert found.approximation is None


@pytest.mark.parametrize("count", [3, ROWS + 1])
@pytest.mark.parametrize("engine", FAISS)
def test_without_faiss_the_extra_is_named(monkeypatch, count, engine):
    monkeypatch.setitem(sys.modules, "faiss", None)
    points = torch.eye(count)
    message = rf"search: the engine {engine} needs faiss.*pip install 'attnreid\[faiss\]'"
    with pytest.raises(UserError, match=message):
        find_neighbours(points, 2, engine=engine)
    with pytest.raises(UserError, match=message):
        find_in_gallery(points.numpy(), points.numpy(), 2, engine=engine)


def test_no_engine_and_no_recall_are_refused():
    check_engine("search", "exact", 1.0)
    with pytest.raises(ValueError, match="search: engine must be one of exact, faiss-flat, faiss-hnsw, got 'annoy'"):
        check_engine("search", "annoy", 0.9)
    for recall in (0.0, 1.01, float("nan")):
        with pytest.raises(ValueError, match="search: recall must be above 0 and at most 1, got"):
            check_engine("search", "exact", recall)
