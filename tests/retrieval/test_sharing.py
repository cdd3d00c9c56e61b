"""Ranking, re-ranking and the nearest of a gallery on several processes: the bits of one."""

import sys
from dataclasses import fields

import numpy as np
import pytest
import torch

from reference_pipelines.config.sections import DataConfig, EvaluationConfig
from reference_pipelines.data import read
from reference_pipelines.distributed.processes import ALONE
from reference_pipelines.evaluation.evaluator import Evaluator
from reference_pipelines.neighbours import engines, gallery
from reference_pipelines.neighbours import search as neighbours
from reference_pipelines.retrieval import evaluate, evaluate_top, ranking, rerank
from tests.together import in_threads

QUERIES, GALLERY, PEOPLE = 23, 90, 7


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(ranking, "_LEAST_QUERIES", 3)
    monkeypatch.setattr(ranking, "_MOST_QUERIES", 3)
    monkeypatch.setattr(neighbours, "SEARCH_BLOCK", 19)
    monkeypatch.setattr(neighbours, "UNSETTLED_ROWS", 4)
    monkeypatch.setattr(gallery, "GALLERY_BLOCK", 32)


def sides(queries=QUERIES, seed=0):
    """Features, ids and cameras of both sides, with ties, junk, distractors and a query without a match."""
    rng = np.random.default_rng(seed)
    ids = [np.arange(queries) % PEOPLE + 1, np.arange(GALLERY) % (PEOPLE + 2) - 1]
    ids[0][1] = PEOPLE + 5
    people = rng.normal(size=(PEOPLE + 7, 12))
    features = [people[each] + 0.8 * rng.normal(size=(len(each), 12)) for each in ids]
    features[1][20:30] = features[1][30:40]
    cameras = [rng.integers(0, 3, len(each)) for each in ids]
    return [
        value
        for side in range(2)
        for value in (torch.as_tensor(features[side], dtype=torch.float32), ids[side], cameras[side])
    ]


def same(one, other):
    """Return whether two results are, in every field."""
    for field in fields(one):
        values = getattr(one, field.name), getattr(other, field.name)
        if isinstance(values[0], np.ndarray):
            assert np.array_equal(*values), field.name
        elif field.name == "ranks":
            same(*values)
        else:
            assert values[0] == values[1], field.name
    return True


@pytest.mark.parametrize("count", [2, 3, 11])
@pytest.mark.parametrize("reranked", [False, True])
def test_scores_are_those_of_one_process(count, reranked):
    given = sides()

    def scored(**options):
        distances = rerank(given[0], given[3], k1=8, k2=3, **options) if reranked else None
        return evaluate(*given, distances=distances, single_shot=5, seed=3, **options)

    expected = scored()
    assert expected.skipped == 1
    results = in_threads(count, lambda each: scored(processes=each))
    assert len(results) == count
    assert all(same(expected, found) for found in results)


def test_each_process_ranks_its_share_alone(monkeypatch):
    given, seen = sides(), []

    def rank_matches(rows, same, real=ranking.rank_matches):
        seen.append(len(rows))
        return real(rows, same)

    monkeypatch.setattr(sys.modules[evaluate.__module__], "rank_matches", rank_matches)
    in_threads(3, lambda each: evaluate(*given, processes=each))
    assert sum(seen) == QUERIES


def test_each_process_reranks_its_share_alone(monkeypatch):
    given, seen = sides(), []
    module = sys.modules[rerank.__module__]

    def shared_minima(rows, *others, real=module.shared_minima, **options):
        seen.append(rows.shape[0])
        return real(rows, *others, **options)

    def encode(*arguments, real=module.encode, processes, **options):
        sharing.append(processes.count)
        return real(*arguments, processes=processes, **options)

    sharing = []
    monkeypatch.setattr(module, "shared_minima", shared_minima)
    monkeypatch.setattr(module, "encode", encode)
    in_threads(3, lambda each: rerank(given[0], given[3], k1=8, k2=3, processes=each))
    assert sum(seen) == QUERIES
    assert sharing == [3, 3, 3]


def test_the_evaluator_shares_what_it_is_told_to(images, monkeypatch):
    data = read(images)
    rng, seen = np.random.default_rng(0), []
    features = [torch.as_tensor(rng.normal(size=(len(part), 8))) for part in (data.query, data.gallery)]

    def rank_matches(rows, same, real=ranking.rank_matches):
        seen.append(len(rows))
        return real(rows, same)

    def scored(processes):
        return Evaluator(data, DataConfig(str(images)), EvaluationConfig(), torch.device("cpu"), processes).score(
            *features
        )

    expected = scored(ALONE)
    monkeypatch.setattr(sys.modules[evaluate.__module__], "rank_matches", rank_matches)
    assert all(same(expected, found) for found in in_threads(2, scored))
    assert sum(seen) == len(data.query)


@pytest.mark.parametrize("count", [2, 3])
def test_remarks_of_equal_distances_are_those_of_one_process(count):
    given = sides()
    distances = np.random.default_rng(1).random((QUERIES, GALLERY))
    distances[[4, 9, 21]] = 0.5
    with pytest.warns(UserWarning, match="3"):
        expected = evaluate(*given, distances=distances)
    with pytest.warns(UserWarning, match="3"):
        results = in_threads(count, lambda each: evaluate(*given, distances=distances, processes=each))
    assert all(found.remarks == expected.remarks for found in results)


@pytest.mark.parametrize("engine", ["exact", "faiss-flat", "faiss-hnsw"])
@pytest.mark.parametrize("queries", [2, 40])
def test_the_nearest_are_those_of_one_process(engine, queries, monkeypatch):
    if engine != "exact":
        pytest.importorskip("faiss", reason="faiss is not installed")
    monkeypatch.setattr(engines, "SAMPLED_ROWS", 9)
    given = sides(queries)
    expected = evaluate_top(*given, k=6, engine=engine)
    for found in in_threads(3, lambda each: evaluate_top(*given, k=6, engine=engine, processes=each)):
        assert same(expected, found)


def test_more_processes_than_queries():
    given = sides(2)
    expected = evaluate(*given), evaluate_top(*given, k=4)
    for found in in_threads(
        5, lambda each: (evaluate(*given, processes=each), evaluate_top(*given, k=4, processes=each))
    ):
        assert same(expected[0], found[0])
        assert same(expected[1], found[1])
