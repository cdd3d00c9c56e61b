"""The figures of heat maps in miniature: from the catalogue's kind to picture, numbers and what made them."""

import base64
import csv
import json
import re

import numpy as np
import pytest
from PIL import Image

from reference_pipelines.data import read
from reference_pipelines.errors import UserError
from reference_pipelines.reproduction import running
from reference_pipelines.reproduction.catalogue import Experiment, find_experiment, scales
from reference_pipelines.reproduction.cells import Plan
from reference_pipelines.reproduction.maps import MOST_PEOPLE, maps_of, pairs_of
from reference_pipelines.reproduction.running import run_plan
from reference_pipelines.runs.provenance import file_digest
from tests.conftest import says
from tests.reporting.support import check_policy
from tests.reproduction.miniature import PLAIN, PYRAMID, SCALE, run_here

FIGURE = Experiment("apnet.figure6", "A miniature", (PLAIN, PYRAMID), ("Market-1501",), ("on_person",), kind="maps")


@pytest.mark.slow
def test_a_figure_is_of_the_rows_networks_over_the_same_images(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "run_jobs", run_here([]))
    run_plan(Plan(FIGURE, SCALE, tmp_path))
    plan = Plan(FIGURE, SCALE, tmp_path, seeds=2)  # the second seed is not trained
    maps = maps_of(plan)
    assert len(maps.queries) == 4
    people = {path.name[:4] for path in maps.queries}
    assert len(people) == 4
    for query, other in zip(maps.queries, maps.partners, strict=True):
        assert query.name[:4] == other.name[:4]
        assert query.name[4:7] != other.name[4:7]  # the camera
    text = maps.as_text()
    assert says(text, "APNet_0", "1", "layer4, the stage")
    assert says(text, "APNet-C_2", "layer4, level 2")
    assert says(text, "not run: APNet-C_2, seed 2")

    written = {path.name: path for path in maps.write()}
    assert set(written) == {
        "apnet.figure6.png",
        *(f"apnet.figure6-layer{n}.png" for n in (1, 2, 3)),
        *(f"apnet.figure6.{ending}" for ending in ("csv", "json", "html")),
    }
    picture = np.asarray(Image.open(written["apnet.figure6-layer1.png"]).convert("RGB"))
    assert picture.shape[0] > 4 * 192
    assert picture.std() > 20
    page = written["apnet.figure6.html"].read_text()
    check_policy(page, scripts=0)
    shown = [base64.b64decode(each) for each in re.findall(r'src="data:image/png;base64,([^"]*)"', page)]
    assert sorted(shown) == sorted(path.read_bytes() for name, path in written.items() if name.endswith(".png"))

    lines = list(csv.DictReader(written["apnet.figure6.csv"].open()))
    assert [(line["row"], line["site"], line["level"]) for line in lines] == [
        *(("APNet_0", f"layer{n}", "after the stage") for n in (1, 2, 3, 4)),
        *(
            ("APNet-C_2", f"layer{n}", each)
            for n in (1, 2, 3, 4)
            for each in ("before its attention", "level1", "level2")
        ),
    ]
    told = json.loads(written["apnet.figure6.json"].read_text())
    assert told["images"] == {"name": "rendered mall", "fingerprint": maps.data.fingerprint(), "people": 4}
    assert told["code"]
    for line, number in zip(lines, told["numbers"], strict=True):
        folder = tmp_path / "mini" / "runs" / line["run"]
        assert number["weights"] == line["weights"] == file_digest(folder / "model.safetensors")
        assert 0.05 < number["covers"] < 0.7
        if number["low"] is not None:
            assert number["low"] <= number["on_person"] <= number["high"] <= 1
        assert number["silent"] <= 4
    first = maps.found[0][1]
    known = first.on_person()["layer2", "after the stage"]
    number = next(each for each in maps.numbers if (each.row, each.site) == ("APNet_0", "layer2"))
    assert number.on_person == pytest.approx(np.nanmean(known))
    assert number.silent == np.isnan(known).sum()


def test_nothing_trained_is_told(tmp_path):
    with pytest.raises(UserError, match="apnet.figure6 needs a network that is trained"):
        maps_of(Plan(FIGURE, SCALE, tmp_path))


def test_one_query_a_person_and_no_more_than_wanted(images, monkeypatch):
    data = read(images)
    queries, partners = pairs_of(data)
    assert len({path.name[:4] for path in queries}) == len(queries) == len(partners) == 4
    monkeypatch.setattr("reference_pipelines.reproduction.maps.MOST_PEOPLE", 2)
    assert pairs_of(data)[0] == (queries[0], queries[-1])
    assert MOST_PEOPLE == 200


@pytest.mark.parametrize(("name", "rows"), [("apnet.figure6", 3), ("mla.figure5", 6)])
def test_the_papers_figures_train_nothing_that_their_tables_do_not(name, rows, tmp_path):
    figure = Plan(find_experiment(name), scales()["demo"], tmp_path)
    table = Plan(find_experiment("apnet.table2" if rows == 3 else "mla.table6"), scales()["demo"], tmp_path)
    assert len(figure.runs) == rows
    assert {run.folder for run in figure.runs} <= {run.folder for run in table.runs}
