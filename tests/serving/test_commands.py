"""`search` and `cluster` as a user types them, on features that `extract` wrote."""

import csv
import json
import re
import shutil

import numpy as np
import pytest

import reference_pipelines
from reference_pipelines.clustering import dbscan, jaccard_graph, purity
from reference_pipelines.commands.cli import main
from reference_pipelines.features import FeatureStore
from reference_pipelines.neighbours import engines
from reference_pipelines.serving.extraction import extract
from reference_pipelines.serving.listing import list_images
from tests.conftest import says
from tests.reporting.support import check_policy


@pytest.fixture(scope="module")
def stores(run, images, tmp_path_factory):
    out = tmp_path_factory.mktemp("stores")
    model = reference_pipelines.load(run, device="cpu")
    for part in ("gallery", "query"):
        extract(model, list_images(images, part=part), out / part)
    return out


def ranking(query, gallery, k):
    products = query.astype(np.float64) @ np.asarray(gallery).astype(np.float64).T
    return np.argsort(-products, axis=1, kind="stable")[:, :k], products


def test_search_by_a_network_equals_the_sort(run, stores, capsys):
    queries, gallery = FeatureStore(stores / "query"), FeatureStore(stores / "gallery")
    paths = [str(path) for path in queries.paths[:3]]
    words = ["search", str(run), "--query", *paths, "--gallery", str(stores / "gallery"), "--top", "5"]
    assert main([*words, "--json", "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    model = reference_pipelines.load(run, device="cpu")
    order, products = ranking(model.embed(paths).numpy(), gallery.features, 5)
    assert [each["query"] for each in result["queries"]] == paths
    for row, each in enumerate(result["queries"]):
        assert [found["path"] for found in each["ranked"]] == [str(gallery.paths[i]) for i in order[row]]
        assert [found["id"] for found in each["ranked"]] == gallery.ids[order[row]].tolist()
        assert [found["camera"] for found in each["ranked"]] == gallery.cameras[order[row]].tolist()
        assert [found["rank"] for found in each["ranked"]] == [1, 2, 3, 4, 5]
        np.testing.assert_allclose([found["similarity"] for found in each["ranked"]], products[row, order[row]])


def test_search_by_features_gives_the_same_table_and_page(stores, tmp_path, capsys):
    queries, gallery = FeatureStore(stores / "query"), FeatureStore(stores / "gallery")
    page = tmp_path / "page.html"
    words = ["search", str(stores / "query"), "--gallery", str(stores / "gallery"), "--top", "4"]
    assert main([*words, "--html", str(page)]) == 0
    printed = capsys.readouterr().out
    order, products = ranking(np.asarray(queries.features), gallery.features, 4)
    first = gallery.paths[order[0, 0]]
    assert says(printed, queries.paths[0].name, str(first), "1", f"{products[0, order[0, 0]]:.4f}")
    assert sum(str(path) in printed for path in {*gallery.paths}) == len({*order.ravel().tolist()})
    text = page.read_text()
    assert text.count('<img src="data:image/jpeg;base64,') == len(queries) * 5
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    check_policy(text, scripts=False)
    assert f"1: {products[0, order[0, 0]]:.4f}" in text
    assert main([*words, "--json", "--query", str(queries.paths[2])]) == 0
    (only,) = json.loads(capsys.readouterr().out)["queries"]
    assert only["query"] == str(queries.paths[2])
    assert [found["path"] for found in only["ranked"]] == [str(gallery.paths[i]) for i in order[2]]


def test_a_picture_that_is_gone_is_said_on_the_page(stores, tmp_path):
    moved = shutil.copytree(stores / "query", tmp_path / "query")
    table = (moved / "table.csv").read_text().splitlines()
    table[1] = "/gone/<b>.jpg," + table[1].split(",", 1)[1]
    (moved / "table.csv").write_text("\n".join(table) + "\n")
    page = tmp_path / "page.html"
    assert main(["search", str(moved), "--gallery", str(moved), "--top", "2", "--html", str(page)]) == 0
    assert "&lt;b&gt;.jpg: no picture there" in page.read_text()
    assert "<b>" not in page.read_text()


def test_refusals_of_search(run, stores, tmp_path, capsys):
    def refused(*words):
        assert main(["search", *map(str, words)]) == 2
        return capsys.readouterr().err

    gallery = stores / "gallery"
    assert says(refused(run, "--gallery", gallery), "search: --query is missing")
    assert says(refused(run, "--gallery", run, "--query", "a.jpg"), "search: ", str(run), "meta.json")
    assert says(refused(stores / "query", "--gallery", gallery, "--query", "a.jpg"), "search: ", "a.jpg is none")
    assert says(refused(stores / "query", "--gallery", gallery, "--top", "0"), "--top must be at least 1, got 0")
    assert says(refused(stores / "query", "--gallery", gallery, "--html", tmp_path), "search: --html", str(tmp_path))
    assert says(refused(run, "--gallery", gallery, "--query", "a.jpg"), "cannot read the image a.jpg")
    assert says(refused(stores / "query"), "search: --gallery is missing")
    other = shutil.copytree(gallery, tmp_path / "other")
    meta = json.loads((other / "meta.json").read_text())
    meta["model"]["digest"] = "another"
    (other / "meta.json").write_text(json.dumps(meta))
    for queries in (stores / "query", run):
        error = refused(queries, "--gallery", other, "--query", FeatureStore(stores / "query").paths[0])
        assert says(error, "search: ", str(other), "differ in digest", "another")


def test_cluster_writes_the_trainings_clusters(stores, tmp_path, capsys):
    store, out = FeatureStore(stores / "gallery"), tmp_path / "labels.csv"
    words = ["cluster", str(stores / "gallery"), "--out", str(out), "--k1", "6", "--k2", "2", "--min-samples", "2"]
    assert main([*words, "--eps", "0.7"]) == 0
    printed = capsys.readouterr().out
    graph = jaccard_graph(np.array(store.features), k1=6, k2=2, max_distance=0.7)
    clusters = dbscan(graph, eps=0.7, min_samples=2)
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [str(path) for path in store.paths]
    assert [int(row["cluster"]) for row in rows] == clusters.tolist()
    assert clusters.max() > 0
    assert says(printed, f"{len(store)} images, {clusters.max() + 1} clusters", "noise", "eps 0.7, k1 6, k2 2")
    assert f"purity by person: {purity(clusters, store.ids):.3f}" in printed
    assert f"purity by camera: {purity(clusters, store.cameras):.3f}" in printed


def test_search_and_cluster_say_what_an_engine_found(stores, tmp_path, capsys, monkeypatch):
    pytest.importorskip("faiss", reason="faiss is not installed")
    monkeypatch.setattr(engines, "SAMPLED_ROWS", 5)
    query, gallery = str(stores / "query"), str(stores / "gallery")
    page = tmp_path / "page.html"
    assert main(["search", query, "--gallery", gallery, "--engine", "faiss-hnsw", "--html", str(page)]) == 0
    assert "(faiss-hnsw, recall 1.0000 on 5 sampled rows)" in capsys.readouterr().out
    assert "(faiss-hnsw, recall 1.0000 on 5 sampled rows)" in page.read_text()
    words = ["cluster", gallery, "--out", str(tmp_path / "a.csv"), "--k1", "6", "--k2", "2", "--min-samples", "2"]
    assert main([*words, "--eps", "0.7"]) == 0
    assert "recall" not in capsys.readouterr().out
    exact = (tmp_path / "a.csv").read_text()
    assert main([*words, "--eps", "0.7", "--engine", "faiss-flat"]) == 0
    assert "neighbours by faiss-flat: recall 1.0000 on 5 sampled rows" in capsys.readouterr().out
    assert (tmp_path / "a.csv").read_text() == exact
    for command in (["search", query, "--gallery", gallery], words):
        assert main([*command, "--recall", "0"]) == 2
        assert says(capsys.readouterr().err, f"{command[0]}: --recall must be above 0 and at most 1, got 0")


def test_cluster_without_ids_says_no_purity_and_no_clusters_what_to_do(stores, tmp_path, capsys):
    plain = shutil.copytree(stores / "query", tmp_path / "plain")
    lines = (plain / "table.csv").read_text().splitlines()
    (plain / "table.csv").write_text("\n".join([lines[0], *(f"{line.split(',')[0]},," for line in lines[1:])]) + "\n")
    out = tmp_path / "labels.csv"
    words = ["cluster", str(plain), "--out", str(out)]
    assert main([*words, "--k1", "4", "--k2", "2", "--min-samples", "2", "--eps", "0.9"]) == 0
    assert "purity" not in capsys.readouterr().out
    count = len(lines) - 1
    assert main([*words, "--min-samples", str(count + 1)]) == 0
    assert says(capsys.readouterr().out, f"no image has {count + 1} neighbours; lower --min-samples")
    assert {row.rpartition(",")[2] for row in out.read_text().splitlines()[1:]} == {"-1"}


def test_refusals_of_cluster(run, stores, tmp_path, capsys):
    def refused(*words):
        assert main(["cluster", *map(str, words)]) == 2
        return capsys.readouterr().err

    gallery, out = stores / "gallery", tmp_path / "labels.csv"
    assert says(refused(gallery, "--out", out, "--eps", "1"), "cluster: --eps must be above 0 and below 1, got 1")
    assert says(refused(gallery, "--out", out, "--k1", "3"), "cluster: --k2 must be at most --k1 (3), got 6")
    assert says(refused(run, "--out", out), "cluster: ", str(run), "`extract`")
    assert says(refused(gallery, "--out", tmp_path), "cluster: --out", str(tmp_path), "is a folder")
    assert says(refused(gallery, "--out", tmp_path / "no" / "l.csv"), "cluster: --out", "no folder")
    assert says(refused(gallery), "cluster: --out is missing")
    assert not out.exists()
