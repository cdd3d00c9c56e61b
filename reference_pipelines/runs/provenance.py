"""What made a number: the command, the commit, the code and the versions behind it."""

import functools
import hashlib
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import attnreid


def provenance() -> dict[str, Any]:
    """Return the versions, the commit and the command behind a number."""
    return {
        "command": shlex.join(["python", "-m", "reference_pipelines", *sys.argv[1:]]),
        "commit": _commit(),
        "code": code_digest(),
        "versions": {"attnreid": attnreid.__version__, "torch": torch.__version__},
    }


def file_digest(path: Path) -> str | None:
    """Return a digest of a file's content, or None where there is no such file."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@functools.cache
def code_digest() -> str:
    """Return a digest of torch's version and of the sources of both packages."""
    digest = hashlib.sha256(torch.__version__.encode())
    for package in (Path(attnreid.__file__).parent, Path(__file__).parents[1]):
        for source in sorted(package.rglob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
