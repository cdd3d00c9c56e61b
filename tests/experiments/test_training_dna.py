"""The first steps of the recipes: the same again, told apart where they differ, and possible for every cell."""

import json
from dataclasses import replace

import pytest

from reference_pipelines.data import read
from reference_pipelines.experiments import training_dna
from reference_pipelines.experiments.training_dna import differences, first_steps, main, recipes, shrunk
from reference_pipelines.reproduction.catalogue import experiments, scales
from reference_pipelines.reproduction.cells import Plan
from tests.conftest import says
from tests.data import miniatures

MAKERS = {
    "Market-1501-v15.09.15": miniatures.market1501,
    "DukeMTMC-reID": miniatures.dukemtmc,
    "MSMT17_V1": lambda into: miniatures.msmt17(into, 1),
    "Occluded_Duke": miniatures.occluded_duke,
    "PersonX": miniatures.personx,
    "cuhk03-np": miniatures.cuhk03_np,
}


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    """The papers' data sets in miniature, under the names that they are unpacked to."""
    root = tmp_path_factory.mktemp("papers")
    for name, make in MAKERS.items():
        make(root / "archives" / name).rename(root / name)
    return root


def cells(root, out):
    """Every training of the papers' experiments at paper scale, once."""
    runs = {}
    for experiment in experiments().values():
        if experiment.kind != "cost":
            for cell in Plan(experiment, scales()["paper"], out, root=root).cells:
                assert cell.run is not None, (cell.row.name, cell.dataset, cell.reason)
                runs[cell.run.folder.name] = cell.run
    return runs


def test_every_cell_of_the_papers_has_a_recipe_and_its_data(papers, tmp_path):
    runs = cells(papers, tmp_path)
    assert len(runs) > 60
    read_as = {run.images: read(run.root).layout for run in runs.values()}
    assert read_as == {
        "Market-1501": "market1501",
        "DukeMTMC-reID": "dukemtmc",
        "MSMT17": "msmt17_v1",
        "Occluded-Duke": "occluded_duke",
        "PersonX": "personx",
        "CUHK03-NP detected": "cuhk03_np_detected",
        "CUHK03-NP labeled": "cuhk03_np_labeled",
    }
    local = {run.images for run in runs.values() if run.config.model.local_parts}
    assert local == {"CUHK03-NP detected", "CUHK03-NP labeled"}
    iterations = {run.images: run.config.iterations for run in runs.values() if run.title.startswith("MLA on")}
    assert iterations == {"Market-1501": 400, "DukeMTMC-reID": 400, "PersonX": 400, "MSMT17": 800}


@pytest.mark.slow
def test_two_steps_of_every_cell_of_the_papers(papers, tmp_path):
    for name, run in cells(papers, tmp_path).items():
        config = run.config
        size = (128, 96) if config.model.backbone == "inception_v3" else (128, 64)
        sampler = replace(config.sampler, ids=2, images=4 if config.sampler.images > 1 else 2)
        model = replace(config.model, weights="none")
        config = replace(
            config, data=replace(config.data, image_size=size, workers=0), sampler=sampler, model=model, device="cpu"
        )
        steps = first_steps(run.pipeline, config, read(run.root), 2)
        assert [step.loss > 0 and step.gradient > 0 for step in steps] == [True, True], name


@pytest.mark.parametrize("recipe", [("apnet", "demo"), ("mla", "demo")])
def test_the_same_steps_again(images, recipe):
    data = read(images)
    config = shrunk(*recipe, images)
    config = replace(config, sampler=replace(config.sampler, ids=2))
    one, two = (first_steps(recipe[0], config, data, 5) for _ in range(2))
    assert one == two
    assert len({step.batch for step in one}) == 5
    other = first_steps(recipe[0], replace(config, seed=2), data, 2)
    assert says(differences(other, [vars(step) for step in one]), "step 1", "other images")


def test_a_divergence_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training_dna, "_PEOPLE", 4)
    file = tmp_path / "dna.json"
    monkeypatch.setattr(training_dna, "_BATCH", 8)
    words = ["--out", str(file), "--steps", "3", "--only", "apnet/demo"]
    assert main(words) == 0
    assert main([*words, "--compare"]) == 0
    assert "apnet/demo: the same" in capsys.readouterr().out
    content = json.loads(file.read_text())
    content["recipes"]["apnet/demo"][1]["loss"] *= 1.5
    file.write_text(json.dumps(content))
    assert main([*words, "--compare"]) == 1
    assert says(capsys.readouterr().out, "apnet/demo", "step 2: loss is", "it was")
    assert main([*words[:-1], "apnet/dmo"]) == 2
    assert says(capsys.readouterr().err, "--only", "apnet/demo", "apnet/dmo")
    assert main(["--out", str(tmp_path / "none.json"), "--compare"]) == 2


def test_every_recipe_is_kept(request):
    kept = json.loads((request.config.rootpath / "docs" / "results" / "training_dna.json").read_text())["recipes"]
    assert set(kept) == {"/".join(recipe) for recipe in recipes()}
    assert {len(steps) for steps in kept.values()} == {20}
