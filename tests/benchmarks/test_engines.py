"""The table of engines: every effort counts what it misses, and an index that was kept is not built again."""

import numpy as np
import pytest

from benchmarks import engines as program
from benchmarks.clustering import K1, make_features
from reference_pipelines.neighbours import engines

COUNT, DIM = 3000, 64


@pytest.fixture(autouse=True)
def faiss():
    return pytest.importorskip("faiss", reason="the extra 'faiss' is not installed")


@pytest.fixture
def few_efforts(monkeypatch):
    monkeypatch.setattr(engines._Graph, "efforts", (4, 64))  # 4: no more than the candidates asked for


def test_the_recall_is_that_of_sorting_everything(few_efforts, monkeypatch):
    monkeypatch.setattr(program, "_SEARCHED", 50)
    vectors = make_features(COUNT, DIM).numpy().astype(float)
    rows = np.random.default_rng(0).choice(COUNT, 50, replace=False)
    true = np.argsort(-(vectors[rows] @ vectors.T), axis=1)[:, :K1]
    graph = engines.build_index("faiss-hnsw", vectors.astype(np.float32))
    tried = list(program.try_engine("faiss-hnsw", COUNT, DIM))
    assert [row.effort for row in tried] == [4, 64]
    assert tried[0].recall < min(1, tried[1].recall)
    for row in tried:
        found = graph.search(vectors[rows].astype(np.float32), K1 + engines.SPARE, row.effort)
        hits = np.mean([len({*a} & {*b}) / K1 for a, b in zip(found, true, strict=True)])
        assert row.recall == pytest.approx(hits, abs=0.01)  # two graphs of several threads differ
    [flat] = program.try_engine("faiss-flat", COUNT, DIM)
    assert flat.recall == 1


def test_noise_is_of_unit_length_and_without_order(few_efforts):
    noise = program.make_noise(COUNT, DIM)
    assert np.allclose(noise.norm(dim=1), 1)
    assert abs(noise.mean(dim=0)).max() < 0.01
    people, apart = ([*program.try_engine("faiss-hnsw", COUNT, DIM, noise=given)] for given in (False, True))
    assert apart[0].recall < people[0].recall


def test_what_is_not_found_is_no_neighbour_and_the_time_is_that_of_all_rows(monkeypatch):
    class Nothing:
        efforts = (1,)

        def search(self, query, width, effort):
            return np.full((len(query), width), -1)

    monkeypatch.setattr(engines, "build_index", lambda engine, vectors: Nothing())
    monkeypatch.setattr(program, "_SEARCHED", 50)
    clock = iter([0.0, 3.0, 10.0, 12.0])
    monkeypatch.setattr(program.time, "process_time", lambda: next(clock))
    [row] = program.try_engine("faiss-flat", 100, DIM)
    assert (row.recall, row.building, row.searching) == (0, 3.0, 4.0)  # 50 rows took 2 s


def test_an_index_that_was_kept_is_not_built_again(tmp_path, few_efforts, monkeypatch):
    first = list(program.try_engine("faiss-hnsw", COUNT, DIM, tmp_path))
    monkeypatch.setattr(engines, "build_index", lambda engine, vectors: pytest.fail("built again"))
    again = list(program.try_engine("faiss-hnsw", COUNT, DIM, tmp_path))
    assert [row.recall for row in again] == [row.recall for row in first]
    assert again[0].building == first[0].building > 0


def test_the_table(capsys, monkeypatch):
    def tried(engine, count, dim, keep, *, noise):
        assert not noise
        yield program.Tried(engine, count, 64, 1.25, 10.0 * count, 0.5)

    monkeypatch.setattr(program, "try_engine", tried)
    assert program.main(["--points", "200", "100", "--engine", "faiss-hnsw"]) == 0
    _header, _rule, *rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows] == [
        ["100", "faiss-hnsw", "64", "1.2", "1000.0", "1001.2", "0.5000"],
        ["200", "faiss-hnsw", "64", "1.2", "2000.0", "2001.2", "0.5000"],
    ]


@pytest.mark.parametrize("wrong", [("--points", "30"), ("--dim", "0")])
def test_a_wrong_size_is_refused(wrong, capsys):
    assert program.main(wrong) == 2
    assert "points must be more than 30 x 1" in capsys.readouterr().err
