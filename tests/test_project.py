"""The house: what imports what, pins that agree, a README whose code runs."""

import re
import tomllib
from pathlib import Path

import pytest
import torchvision
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_core_depends_on_torch_numpy_and_einops_alone():
    assert [re.split(r"[<>=]", item)[0] for item in PROJECT["dependencies"]] == ["torch", "numpy", "einops"]


def test_pre_commit_pins_what_the_checks_pin():
    pins = dict(item.split("==") for item in PROJECT["optional-dependencies"]["dev"] if "==" in item)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    revisions = {hook["id"].partition("-")[0]: repo["rev"].lstrip("v") for repo in hooks for hook in repo["hooks"]}
    assert revisions == pins


def test_the_version_stands_in_one_way_everywhere():
    import attnreid

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert attnreid.__version__ == PROJECT["version"] == citation["version"]


def test_the_readmes_code_runs(monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 1
    assert len(blocks[0].strip().splitlines()) <= 12
    scope: dict[str, object] = {}
    exec(blocks[0], scope)
    assert isinstance(scope["model"], torchvision.models.ResNet)
    assert "layer4" in capsys.readouterr().out
    assert not any(".attention." in name for name in scope["model"].state_dict())


def test_the_readme_has_no_gap_left_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    assert not re.search(r"^[A-Z_]{6,}$", text, flags=re.MULTILINE)
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("command", ["demo", "test"])
def test_the_two_commands_are_make_targets(command):
    assert f"make {command}" in (ROOT / "README.md").read_text()
    assert re.search(rf"^{command}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
