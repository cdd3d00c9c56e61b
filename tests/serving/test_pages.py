"""What the pages on what comes after training show, done for real in a miniature, and what they promise of it."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

import reference_pipelines
from attnreid import load_checkpoint, save_checkpoint
from reference_pipelines.commands.cli import main
from reference_pipelines.templates import write_page
from tests.conftest import write_image

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def miniature(run, tmp_path, monkeypatch):
    """A folder with a run, photographs and a few images, where a user's shell would be."""
    shutil.copytree(run, tmp_path / "runs" / "c2")
    names = ("a.jpg", "b.jpg", "someone.jpg", *(f"photographs/{index}.jpg" for index in range(5)))
    for seed, name in enumerate(names):
        write_image(tmp_path / name, seed)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands(page, *names):
    """Return the words of the page's commands of these names, in its order."""
    lines = re.findall(r"^attnreid-pipelines (.*)$", (DOCS / page).read_text(), re.MULTILINE)
    found = [shlex.split(line) for line in lines]
    return [words for words in found if words[0] in names]


def test_the_commands_follow_one_another(miniature, capsys):
    shown = commands("after_training.md", "extract", "search", "cluster")
    assert [words[0] for words in shown] == ["extract", "search", "cluster"]
    for words in shown:
        assert main(words) == 0, capsys.readouterr().err
    assert len(reference_pipelines.FeatureStore("features")) == 5
    assert "photographs/" in capsys.readouterr().out
    assert all((miniature / name).is_file() for name in ("found.html", "clusters.csv"))


@pytest.mark.slow
def test_the_exports_follow_one_another(miniature, capsys):
    shown = commands("after_training.md", "export")
    assert len(shown) == 2
    for words in shown:
        assert main(words) == 0, capsys.readouterr().err
    assert all((miniature / name).is_file() for name in ("model.onnx", "model.pt2"))


def test_fine_tuning_freezes_what_it_says(miniature):
    [block] = re.findall(r"^```python\n(.*?)^```$", (DOCS / "finetuning.md").read_text(), re.DOTALL | re.MULTILINE)
    scope = {}
    exec(block, scope)
    before = reference_pipelines.load("runs/c2", device="cpu")
    after = scope["network"].state_dict()
    changed = {name for name, tensor in before.model.state_dict().items() if not torch.equal(tensor, after[name])}
    assert len(before.model.state_dict()) + 1 == len(after)  # the classifier
    trained = {name for name in after if ".attention." in name} | {"neck.weight"}
    statistics = {"neck.running_mean", "neck.running_var", "neck.num_batches_tracked"}
    assert statistics | {"neck.weight"} <= changed <= trained | statistics
    assert sum(".attention." in name for name in changed) > 0.5 * sum(".attention." in name for name in after)
    assert not torch.allclose(scope["features"], before.embed(["a.jpg", "b.jpg"]), atol=1e-4)
    save_checkpoint(scope["network"], "mine.safetensors")
    before.model.set_classifier(2)
    load_checkpoint(before.model, "mine.safetensors")
    assert torch.equal(before.embed(["a.jpg", "b.jpg"]), scope["features"])


def test_a_page_is_written_with_the_names_of_files_that_are_not_unicode(tmp_path):
    write_page(tmp_path / "page.html", "<p>caf\udce9, \u884c")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "<p>caf\\xe9, \u884c"
