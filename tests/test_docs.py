"""What README and docs show: Python runs, commands are ones that the programs understand, links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
import torchvision

import attnreid.__main__
from reference_pipelines.cli import build_parser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language):
    return [
        pytest.param(block, id=f"{page.name} {number}")
        for page in PAGES
        for number, block in enumerate(re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.M), 1)
    ]


def commands():
    lines = [
        (page, line.partition("#")[0].strip().removeprefix("$ "))
        for page in PAGES
        for block in re.findall(r"^```(?:|console|sh|bash|shell)\n(.*?)^```", page.read_text(), re.DOTALL | re.M)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [
        pytest.param(line, id=f"{page.name}: {line}")
        for page, line in lines
        if re.search(r"-m attnreid |-m reference_pipelines ", line)
    ]
