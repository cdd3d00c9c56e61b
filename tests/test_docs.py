"""What README and docs show: Python runs, commands are ones that the programs understand, links lead somewhere."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torchvision

from attnreid.__main__ import main as library
from attnreid.command_line import read_options
from reference_pipelines.commands.cli import COMMANDS
from reference_pipelines.commands.cli import main as pipelines
from tests.conftest import write_image

ROOT = Path(__file__).parents[1]
FENCE = re.DOTALL | re.MULTILINE
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def fenced(page):
    """Return language and text of each fenced block of a page."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def blocks(language):
    return [
        pytest.param(text, id=f"{page.name} {number}")
        for page in PAGES
        for number, (kind, text) in enumerate(fenced(page))
        if kind == language
    ]


def shown(*programs):
    """Return the words of each command that calls one of the programs, without what is optional or left out.

    Commands stand in blocks, and in table cells that hold nothing else.
    """
    lines = [
        (page, line.removeprefix("$ "))
        for page in PAGES
        for kind, text in fenced(page)
        if kind != "python"
        for line in text.replace("\\\n", " ").splitlines()
    ]
    for page in PAGES:
        lines += [(page, code) for code in re.findall(r"\| `([^`]+)` \|$", page.read_text(), re.MULTILINE)]
    found = []
    for page, line in lines:
        called = next((program for program in programs if line.startswith(f"{program} ")), None)
        if called is not None:
            words = shlex.split(re.sub(r"\[[^\]]*\](\.\.\.)?", "", line), comments=True)
            found.append(pytest.param(words[len(called.split()) :], id=f"{page.name}: {' '.join(words)}"))
    return found


@pytest.mark.parametrize("block", blocks("python"))
def test_python_runs(block, request, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "runs/c2" in block:  # a trained run, and images to use it on
        shutil.copytree(request.getfixturevalue("trained_run"), tmp_path / "runs" / "c2")
        for seed, name in enumerate(("a.jpg", "b.jpg", "photographs/c.jpg", "photographs/d.jpg", "photographs/e.jpg")):
            write_image(tmp_path / name, seed)
    exec(block, {})
    capsys.readouterr()


def test_the_readmes_first_code_is_short_and_leaves_no_trace(capsys):
    block = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)[0]
    assert len(block.strip().splitlines()) <= 12
    scope: dict[str, object] = {}
    exec(block, scope)
    assert isinstance(scope["model"], torchvision.models.ResNet)
    assert "layer4" in capsys.readouterr().out
    assert not any(".attention." in name for name in scope["model"].state_dict())


LIBRARY = shown("attnreid", "python -m attnreid")
PIPELINES = shown("attnreid-pipelines", "python -m reference_pipelines")


def test_there_are_commands_to_look_at():
    assert len(LIBRARY) >= 2
    assert len(PIPELINES) >= 10


@pytest.mark.parametrize("words", LIBRARY)
def test_the_librarys_commands_run(words, capsys):
    assert library(words) == 0, capsys.readouterr().err


@pytest.mark.parametrize("words", PIPELINES)
def test_the_pipelines_understand_the_commands(words, capsys):
    name = next(name for name in COMMANDS if name.split() == words[: len(name.split())])
    if COMMANDS[name].options is not None:
        read_options(name, COMMANDS[name].options, words[len(name.split()) :], see="--help")
        return
    # Training shows what it would take; a run that is gone on with is looked for, and is not there.
    more = {"train": ["--print_config"], "resume": []}[name]
    status = pipelines([*words, *more])
    assert status == 0 or (name == "resume" and "must hold a checkpoint, got none" in capsys.readouterr().err)


@pytest.mark.parametrize("words", shown("make"))
def test_make_has_the_targets(words):
    assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_no_gap_is_left(page):
    text = page.read_text()
    assert not re.search(r"^[A-Z_]{6,}$", text, flags=re.MULTILINE)
    prose = re.sub(r"^```.*?^```$", "", text, flags=FENCE)
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)", prose):
        place = page.parent / target if target else page
        assert place.exists(), target
        if anchor:
            assert anchor in anchors(place), f"{target}#{anchor}"


def anchors(page):
    """Return the anchors of a page's headings, as the site and its readers elsewhere name them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=FENCE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_an_anchor_that_is_not_there_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A `b` c: d\n\n```\n# none\n```\n")
    assert anchors(page) == {"a-b-c-d"}
