"""The house: what is declared once and stands in several places agrees."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()


def lower_bounds(requirements):
    return dict(re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", item).groups() for item in requirements if ">=" in item)


def test_the_core_depends_on_torch_numpy_and_einops_alone():
    assert list(lower_bounds(PROJECT["dependencies"])) == ["torch", "numpy", "einops"]


def test_pre_commit_pins_what_the_checks_pin():
    pins = dict(item.split("==") for item in PROJECT["optional-dependencies"]["dev"] if "==" in item)
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    revisions = {hook["id"].partition("-")[0]: repo["rev"].lstrip("v") for repo in repos for hook in repo["hooks"]}
    assert revisions == pins
    (mypy,) = (hook for repo in repos for hook in repo["hooks"] if hook["id"] == "mypy")
    assert mypy["additional_dependencies"] == PROJECT["dependencies"]


def test_the_version_stands_in_one_place_and_the_citation_follows():
    import attnreid

    assert PROJECT["dynamic"] == ["version"]
    assert "version" not in PROJECT
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert attnreid.__version__ == citation["version"]


def test_the_citation_has_what_its_format_asks_for():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["license"] == PROJECT["license"]
    for entry in (citation, *citation["references"]):
        assert entry["authors"]
        assert all(author.keys() <= {"name", "family-names", "given-names"} for author in entry["authors"])
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= reference.keys()
        assert isinstance(reference["year"], int)


@pytest.mark.parametrize("name", ["bug", "number"])
def test_issues_ask_for_the_doctors_words(name):
    template = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    (asked,) = (part for part in template["body"] if "attnreid doctor" in part["attributes"]["label"])
    assert asked["validations"]["required"] is True


def test_one_package_has_one_lower_bound():
    bounds: dict[str, set[str]] = {}
    for requirements in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        for name, version in lower_bounds(requirements).items():
            bounds.setdefault(name, set()).add(version)
    assert {name: versions for name, versions in bounds.items() if len(versions) > 1} == {}


def test_the_readme_names_the_lowest_torch_that_is_declared():
    bounds = lower_bounds([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["pipelines"]])
    rows = re.findall(r"^\| (3\.\d+) \| ([\d.]+) \| ([\d.]+) \|", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert [python for python, *_ in rows] == ["3.11", "3.12", "3.13", "3.14"]
    assert PROJECT["requires-python"] == f">={rows[0][0]}"
    assert rows[0][1:] == (f"{bounds['torch']}.0", f"{bounds['torchvision']}.0")


@pytest.mark.parametrize("command", ["demo", "test"])
def test_the_two_commands_are_make_targets(command):
    assert f"make {command}" in (ROOT / "README.md").read_text()
    assert re.search(rf"^{command}:", MAKEFILE, flags=re.MULTILINE)


def test_the_workflow_runs_targets_that_there_are_on_every_python():
    jobs = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]
    ran = {
        name: re.findall(r"make ([\w-]+)", step["run"])
        for name, job in jobs.items()
        for step in job["steps"]
        if "run" in step
    }
    assert ran == {
        "newest": ["test"],
        "oldest": ["test-oldest"],
        "core": ["test-core"],
        "docs": ["test-docs"],
        "site": ["docs"],
    }
    for targets in ran.values():
        assert re.search(rf"^{targets[0]}:", MAKEFILE, flags=re.MULTILINE)
    assert jobs["newest"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]


def test_the_scripts_are_the_programs():
    import attnreid.__main__
    import reference_pipelines.__main__

    assert PROJECT["scripts"] == {
        "attnreid": f"{attnreid.__main__.__name__}:{attnreid.__main__.run.__name__}",
        "attnreid-pipelines": f"{reference_pipelines.__main__.__name__}:{reference_pipelines.__main__.run.__name__}",
    }


def test_the_release_is_built_with_locked_tools_an_sbom_and_an_audit():
    locked = (ROOT / ".github" / "release-tools.txt").read_text()
    wanted = (ROOT / ".github" / "release-tools.in").read_text().split()
    entries = [entry for entry in re.split(r"\n(?=\S)", locked) if not entry.startswith("#")]
    assert all("--hash=sha256:" in entry and "==" in entry.split()[0] for entry in entries)
    names = {entry.split("==")[0] for entry in entries}
    assert {re.split("[>=]", name)[0] for name in wanted} <= names
    steps = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]["build"]["steps"]
    commands = " ".join(step.get("run", "") for step in steps)
    for word in ("--require-hashes", "--no-isolation", "pip-audit", "cyclonedx-py environment", "sbom.cdx.json"):
        assert word in commands


def test_a_release_is_published_without_a_secret():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    assert jobs["publish"]["needs"] == "build"
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    kept = {
        step["with"]["name"] for job in jobs.values() for step in job["steps"] if "artifact" in step.get("uses", "")
    }
    assert kept == {"packages"}
    assert "secrets." not in (ROOT / ".github" / "workflows" / "release.yml").read_text()


def test_what_a_language_model_is_told_names_pages_that_are_there():
    text = (ROOT / "docs" / "llms.txt").read_text()
    pages = re.findall(r"\]\(([\w/]+)\.html\)", text)
    assert len(pages) > 8
    for page in pages:
        assert (ROOT / "docs" / f"{page}.md").is_file(), page
